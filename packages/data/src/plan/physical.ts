/**
 * The physical plan: a chain of operators, each a number of tasks over blocks. Made of an optimised logical plan and of file footers;
 * making it reads footers and nothing else.
 */
import { availableParallelism } from 'node:os'
import { BeamlineError } from '@beamline/runtime'
import type { RecordBatch, Schema } from 'apache-arrow'
import { checkSchema, type Footer, readFooter, schemaOf } from '../io/footer.ts'
import type { ParquetPart } from '../io/parquet.ts'
import { listFiles } from '../io/paths.ts'
import { ANY_WORKER, type Compute, keepsRows, type LogicalPlan, type Stage } from './logical.ts'

/** What one task of a source makes. */
export type SourceTask =
  | { readonly kind: 'parquet'; readonly part: ParquetPart; readonly rows: number; readonly bytes: number }
  | { readonly kind: 'range'; readonly from: number; readonly to: number; readonly rows: number; readonly bytes: number }
  | { readonly kind: 'items'; readonly from: number; readonly to: number; readonly rows: number; readonly bytes: number }

export type PhysicalOperator =
  | {
      readonly kind: 'source'
      readonly name: string
      readonly tasks: readonly SourceTask[]
      readonly batch: RecordBatch | undefined
      readonly stages: readonly Stage[]
      readonly compute: Compute
    }
  | { readonly kind: 'transform'; readonly name: string; readonly stages: readonly Stage[]; readonly compute: Compute; readonly batchRows: number | undefined }
  | { readonly kind: 'limit'; readonly name: string; readonly rows: number }

export interface PhysicalPlan {
  readonly operators: readonly PhysicalOperator[]
  /** Rows that will come out, where the plan alone tells. */
  readonly rows: number | undefined
}

/** Row groups of one file are read together up to this decoded size, so that many tiny ones do not become many tasks. */
const TASK_BYTES_MIN = 1024 * 1024
const FOOTERS_AT_ONCE = 16

/**
 * @throws {@link BeamlineError} `FILES_NOT_FOUND`, `FILE_UNREADABLE`, `SCHEMA_MISMATCH`, `COLUMN_NOT_FOUND`
 */
export async function planPhysical(plan: LogicalPlan, signal?: AbortSignal): Promise<PhysicalPlan> {
  signal?.throwIfAborted()
  switch (plan.kind) {
    case 'count':
      return planPhysical(plan.input, signal)
    case 'limit': {
      const { operators, rows } = await planPhysical(plan.input, signal)
      return {
        operators: [...operators, { kind: 'limit', name: `Limit(${plan.rows})`, rows: plan.rows }],
        rows: rows === undefined ? undefined : Math.min(rows, plan.rows),
      }
    }
    case 'transform': {
      const input = await planPhysical(plan.input, signal)
      const rows = plan.stages.every(keepsRows) ? input.rows : undefined
      const last = input.operators.at(-1)
      if (last !== undefined && fusesIntoTasks(last, plan)) {
        const fused = { ...last, name: `${last.name} → ${nameOf(plan.stages)}`, stages: [...last.stages, ...plan.stages] }
        return { operators: [...input.operators.slice(0, -1), fused], rows }
      }
      const operator: PhysicalOperator = {
        kind: 'transform',
        name: nameOf(plan.stages),
        stages: plan.stages,
        compute: plan.compute,
        batchRows: batchRowsOf(plan.stages),
      }
      return { operators: [...input.operators, operator], rows }
    }
    case 'range': {
      const tasks = cut(plan.count, plan.blockRows).map(([from, to]) => ({ kind: 'range' as const, from, to, rows: to - from, bytes: (to - from) * 8 }))
      return source(`Range(${plan.count})`, tasks, undefined)
    }
    case 'items': {
      const tasks = cut(plan.batch.numRows, plan.blockRows).map(([from, to]) => ({ kind: 'items' as const, from, to, rows: to - from, bytes: 0 }))
      return source(`Items(${plan.batch.numRows})`, tasks, plan.batch)
    }
    case 'readParquet': {
      const footers = await footersOf(plan, signal)
      const tasks = limited(
        footers.flatMap((footer) => partsOf(footer, plan.columns)),
        plan.limit,
      )
      const columns = plan.columns === undefined ? '' : `, columns: ${plan.columns.join(', ')}`
      const limit = plan.limit === undefined ? '' : `, limit: ${plan.limit}`
      return source(`ReadParquet(${footers.length} ${footers.length === 1 ? 'file' : 'files'}${columns}${limit})`, tasks, undefined)
    }
  }
}

/** The number of rows, when footers or the plan alone tell; undefined when rows must be counted by running. */
export async function countRows(plan: LogicalPlan, signal?: AbortSignal): Promise<number | undefined> {
  if (plan.kind === 'count') return countRows(plan.input, signal)
  if (plan.kind === 'limit') {
    const rows = await countRows(plan.input, signal)
    return rows === undefined ? undefined : Math.min(rows, plan.rows)
  }
  if (plan.kind === 'transform') return plan.stages.every(keepsRows) ? countRows(plan.input, signal) : undefined
  return (await planPhysical(plan, signal)).rows
}

/** The schema, when it is known before anything runs. */
export async function planSchema(plan: LogicalPlan): Promise<Schema | undefined> {
  if (plan.kind === 'items') return plan.batch.schema
  if (plan.kind === 'limit') return planSchema(plan.input)
  if (plan.kind !== 'readParquet') return undefined
  const [first] = await footersOf(plan, undefined)
  return first === undefined ? undefined : schemaOf(first, plan.columns)
}

function source(name: string, tasks: readonly SourceTask[], batch: RecordBatch | undefined): PhysicalPlan {
  return { operators: [{ kind: 'source', name, tasks, batch, stages: [], compute: ANY_WORKER }], rows: tasks.reduce((sum, task) => sum + task.rows, 0) }
}

/** Steps that any worker may run join the tasks of the operator before them, unless they need batches filled across blocks. */
function fusesIntoTasks(
  last: PhysicalOperator,
  plan: { stages: readonly Stage[]; compute: Compute },
): last is Extract<PhysicalOperator, { kind: 'source' | 'transform' }> {
  if (last.kind === 'limit' || last.compute.kind !== 'tasks' || plan.compute.kind !== 'tasks') return false
  const writes = plan.stages.every((stage) => stage.kind === 'write')
  if (writes) return true
  return (
    last.kind === 'source' && last.stages.length === 0 && JSON.stringify(plan.compute) === JSON.stringify(ANY_WORKER) && batchRowsOf(plan.stages) === undefined
  )
}

/** The batch size that the executor must honour: that of the first sized step, if the rows arrive there as they come in. */
function batchRowsOf(stages: readonly Stage[]): number | undefined {
  for (const stage of stages) {
    if (stage.kind === 'mapBatches') return stage.batchSize
    if (!keepsRows(stage)) return undefined
  }
  return undefined
}

export function nameOf(stages: readonly Stage[]): string {
  return stages
    .map((stage) => {
      if (stage.kind === 'select') return `Select(${stage.columns.join(', ')})`
      if (stage.kind === 'write') return 'WriteParquet'
      return `${stage.kind === 'map' ? 'Map' : stage.kind === 'filter' ? 'Filter' : 'MapBatches'}(${stage.name})`
    })
    .join(' → ')
}

function cut(rows: number, blockRows: number): [from: number, to: number][] {
  const blocks = Math.max(1, Math.ceil(rows / blockRows))
  return Array.from({ length: blocks }, (_, i) => [Math.floor((rows * i) / blocks), Math.floor((rows * (i + 1)) / blocks)])
}

/** Rows per block of generated data: a few blocks per CPU, so that work spreads, but none so small that tasks cost more than they do. */
export function blockRowsFor(rows: number): number {
  return Math.min(1_000_000, Math.max(1_000, Math.ceil(rows / (4 * availableParallelism()))))
}

type Read = Extract<LogicalPlan, { kind: 'readParquet' }>

async function footersOf({ paths, columns }: Read, signal: AbortSignal | undefined): Promise<Footer[]> {
  const files = await listFiles(paths, '.parquet', 'Dataset.readParquet')
  const footers: Footer[] = []
  for (let at = 0; at < files.length; at += FOOTERS_AT_ONCE) {
    signal?.throwIfAborted()
    footers.push(...(await Promise.all(files.slice(at, at + FOOTERS_AT_ONCE).map(readFooter))))
  }
  const first = footers[0] as Footer
  for (const column of columns ?? []) {
    if (!first.columns.some(({ name }) => name === column)) {
      throw new BeamlineError('COLUMN_NOT_FOUND', { what: first.path, column, columns: first.columns.map(({ name }) => name).join(', ') })
    }
  }
  for (const footer of footers) checkSchema(first, footer, columns)
  return footers
}

/** The reading tasks of one file; a file without row groups is one task, so that its schema is not lost. */
function partsOf({ path, rowGroups }: Footer, columns: readonly string[] | undefined): SourceTask[] {
  const tasks: { groups: number[]; rows: number; bytes: number }[] = []
  for (const [index, group] of rowGroups.entries()) {
    const names = columns ?? Object.keys(group.columnBytes)
    const bytes = names.reduce((sum, name) => sum + (group.columnBytes[name] ?? 0), 0)
    const last = tasks.at(-1)
    if (last !== undefined && last.bytes + bytes <= TASK_BYTES_MIN && rowGroups.length > 4 * availableParallelism()) {
      last.groups.push(index)
      last.rows += group.rows
      last.bytes += bytes
    } else tasks.push({ groups: [index], rows: group.rows, bytes })
  }
  if (tasks.length === 0) tasks.push({ groups: [], rows: 0, bytes: 0 })
  return tasks.map(({ groups, rows, bytes }) => ({ kind: 'parquet', part: { path, rowGroups: groups, columns }, rows, bytes }))
}

/** The first tasks that together hold `limit` rows; the last one stops early. */
function limited(tasks: readonly SourceTask[], limit: number | undefined): SourceTask[] {
  if (limit === undefined) return [...tasks]
  const chosen: SourceTask[] = []
  let left = limit
  for (const task of tasks) {
    if (left <= 0 && chosen.length > 0) break
    const rows = Math.min(left, task.rows)
    chosen.push(rows < task.rows && task.kind === 'parquet' ? { ...task, rows, part: { ...task.part, limit: rows } } : task)
    left -= rows
  }
  return chosen
}
