/**
 * Prints plans: one line per node, the sink first, inputs indented below. For people; the text is not an interface.
 */
import { textOf } from '../expr/node.ts'
import type { Compute, LogicalPlan } from './logical.ts'
import { nameOf, type PhysicalPlan } from './physical.ts'

export function explainLogical(plan: LogicalPlan, indent = ''): string {
  const below = 'input' in plan ? `\n${explainLogical(plan.input, `${indent}  `)}` : ''
  return `${indent}${describe(plan)}${below}`
}

export function explainPhysical({ operators, rows }: PhysicalPlan): string {
  const lines = operators.map((operator) => {
    if (operator.kind === 'limit') return operator.name
    const where = computeText(operator.compute)
    if (operator.kind === 'transform') return `${operator.name} [${where}${operator.batchRows === undefined ? '' : `, batches of ${operator.batchRows}`}]`
    const bytes = operator.tasks.reduce((sum, task) => sum + task.bytes, 0)
    const size = bytes === 0 ? '' : `, ${(bytes / 1_048_576).toFixed(1)} MiB`
    return `${operator.name} [${where}, ${operator.tasks.length} ${operator.tasks.length === 1 ? 'block' : 'blocks'}${size}]`
  })
  const text = lines.reverse().map((line, depth) => `${'  '.repeat(depth)}${line}`)
  return rows === undefined ? text.join('\n') : `${text.join('\n')}\n${rows.toLocaleString('en-US')} rows`
}

function describe(plan: LogicalPlan): string {
  switch (plan.kind) {
    case 'readParquet': {
      const options = [
        plan.columns && `columns: ${plan.columns.join(', ')}`,
        plan.conditions.length > 0 && `where: ${plan.conditions.map(textOf).join(' and ')}`,
        plan.limit !== undefined && `limit: ${plan.limit}`,
      ].filter(Boolean)
      return `ReadParquet(${plan.paths.join(', ')}${options.map((option) => `, ${option}`).join('')})`
    }
    case 'items':
      return `Items(${plan.batch.numRows})`
    case 'range':
      return `Range(${plan.count})`
    case 'transform':
      return `${nameOf(plan.stages)}${plan.compute.kind === 'pool' ? ` [${computeText(plan.compute)}]` : ''}`
    case 'limit':
      return `Limit(${plan.rows})`
    case 'count':
      return 'Count'
  }
}

function computeText({ kind, concurrency, cpus, gpus, memory, resources }: Compute): string {
  const wishes = Object.entries({ cpus, gpus, memory, ...resources }).filter(([, amount]) => amount !== undefined)
  const where = kind === 'pool' ? `pool of ${concurrency ?? 'one worker per CPU'}` : concurrency === undefined ? 'tasks' : `at most ${concurrency} tasks`
  return [where, ...wishes.map(([name, amount]) => `${name}: ${amount}`)].join(', ')
}
