/**
 * A selection of columns moves to the file reader, past limits, and merges with an earlier selection: pages of other columns are never read.
 * It stays where a function of the user comes first, which may look at any column.
 */
import { type LogicalPlan, withInput } from '../logical.ts'

export function projectionPushdown(plan: LogicalPlan): LogicalPlan {
  if (plan.kind !== 'transform') return plan
  const [first, ...rest] = plan.stages
  if (first?.kind !== 'select') return plan
  const pushed = push(plan.input, first.columns)
  if (pushed === undefined) return plan
  return rest.length === 0 ? pushed : { ...plan, input: pushed, stages: rest }
}

/** `plan` giving just these columns, or undefined where that is not possible. Unknown columns are left to fail where they are named. */
function push(plan: LogicalPlan, columns: readonly string[]): LogicalPlan | undefined {
  switch (plan.kind) {
    case 'readParquet':
      return plan.columns === undefined || columns.every((name) => plan.columns?.includes(name)) ? { ...plan, columns } : undefined
    case 'limit': {
      const input = push(plan.input, columns)
      return input && withInput(plan, input)
    }
    case 'transform': {
      const last = plan.stages.at(-1)
      if (last?.kind !== 'select' || !columns.every((name) => last.columns.includes(name))) return undefined
      const stages = [...plan.stages.slice(0, -1), { ...last, columns }]
      return { ...plan, stages }
    }
    default:
      return undefined
  }
}
