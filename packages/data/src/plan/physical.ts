/**
 * The physical plan: a chain of operators, each a number of tasks over blocks. Made of an optimised logical plan and of file footers;
 * making it reads footers and nothing else.
 */
import { availableParallelism } from 'node:os'
import { Field, Int64, type RecordBatch, Schema } from 'apache-arrow'
import { checkSchema, type Footer, type RowGroupInfo, readFooter, schemaOf } from '../io/footer.ts'
import type { ParquetPart } from '../io/parquet.ts'
import { listFiles } from '../io/paths.ts'
import { schemaAfter } from '../columns.ts'
import { textOf } from '../expr/node.ts'
import { unknownColumn } from '../unknown-column.ts'
import { ANY_WORKER, type Compute, keepsRows, knowsColumns, type LogicalPlan, type Stage } from './logical.ts'
import { mayHold } from './statistics.ts'

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

export const RANGE_SCHEMA: Schema = new Schema([new Field('id', new Int64(), false)])

/** Footers by what a reader was given to read: read once for all that one run asks of them. */
export type FooterCache = Map<readonly (string | URL)[], Promise<readonly Footer[]>>

/**
 * @throws {@link BeamlineError} `FILES_NOT_FOUND`, `FILE_UNREADABLE`, `SCHEMA_MISMATCH`, `COLUMN_NOT_FOUND`
 */
export async function planPhysical(plan: LogicalPlan, footers: FooterCache = new Map(), signal?: AbortSignal): Promise<PhysicalPlan> {
  signal?.throwIfAborted()
  switch (plan.kind) {
    case 'count':
      return planPhysical(plan.input, footers, signal)
    case 'limit': {
      const { operators, rows } = await planPhysical(plan.input, footers, signal)
      return {
        operators: [...operators, { kind: 'limit', name: `Limit(${plan.rows})`, rows: plan.rows }],
        rows: rows === undefined ? undefined : Math.min(rows, plan.rows),
      }
    }
    case 'transform': {
      const input = await planPhysical(plan.input, footers, signal)
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
      const files = await footersOf(plan, footers, signal)
      for (const file of files) checkSchema(files[0] as Footer, file, plan.columns)
      const groups = files.reduce((sum, { rowGroups }) => sum + rowGroups.length, 0)
      const tasks = limited(neededParts(files, plan), plan.limit)
      const read = tasks.reduce((sum, task) => sum + (task.kind === 'parquet' ? task.part.rowGroups.length : 0), 0)
      const columns = plan.columns === undefined ? '' : `, columns: ${plan.columns.join(', ')}`
      const where = plan.conditions.length === 0 ? '' : `, ${read} of ${groups} row groups may hold ${plan.conditions.map(textOf).join(' and ')}`
      const limit = plan.limit === undefined ? '' : `, limit: ${plan.limit}`
      return source(`ReadParquet(${files.length} ${files.length === 1 ? 'file' : 'files'}${columns}${where}${limit})`, tasks, undefined)
    }
  }
}

/** The number of rows, when footers or the plan alone tell; undefined when rows must be counted by running. */
export async function countRows(plan: LogicalPlan, footers: FooterCache = new Map(), signal?: AbortSignal): Promise<number | undefined> {
  if (plan.kind === 'count') return countRows(plan.input, footers, signal)
  if (plan.kind === 'limit') {
    const rows = await countRows(plan.input, footers, signal)
    return rows === undefined ? undefined : Math.min(rows, plan.rows)
  }
  if (plan.kind === 'transform') return plan.stages.every(keepsRows) ? countRows(plan.input, footers, signal) : undefined
  return (await planPhysical(plan, footers, signal)).rows
}

/**
 * The schema, when it is known before anything runs: behind functions of the user it is not. Every name and expression up to there is checked against the
 * first file; that others agree in what is read of them is for {@link planPhysical} to see.
 *
 * @throws {@link BeamlineError} as {@link planPhysical}, and `EXPRESSION_INVALID`
 */
export async function planSchema(plan: LogicalPlan, footers: FooterCache = new Map(), signal?: AbortSignal): Promise<Schema | undefined> {
  switch (plan.kind) {
    case 'items':
      return plan.batch.schema
    case 'range':
      return RANGE_SCHEMA
    case 'limit':
    case 'count':
      return planSchema(plan.input, footers, signal)
    case 'readParquet': {
      const [first] = await footersOf(plan, footers, signal)
      return first === undefined ? undefined : schemaOf(first, plan.columns)
    }
    case 'transform': {
      let schema = await planSchema(plan.input, footers, signal)
      for (const stage of plan.stages) schema = schema === undefined || !knowsColumns(stage) ? undefined : schemaAfter(stage, schema)
      return schema
    }
  }
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

const STEP_NAMES = { map: 'Map', filter: 'Filter', mapBatches: 'MapBatches' } as const

export function nameOf(stages: readonly Stage[]): string {
  return stages
    .map((stage) => {
      switch (stage.kind) {
        case 'where':
          return `Filter(${textOf(stage.condition)})`
        case 'select':
          return `Select(${stage.columns.join(', ')})`
        case 'drop':
          return `Drop(${stage.columns.join(', ')})`
        case 'rename':
          return `Rename(${stage.names.map(([from, to]) => `${from} as ${to}`).join(', ')})`
        case 'withColumns':
          return `WithColumns(${stage.columns.map(([name, value]) => `${name} = ${textOf(value)}`).join(', ')})`
        case 'write':
          return 'WriteParquet'
        default:
          return `${STEP_NAMES[stage.kind]}(${stage.name})`
      }
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

async function footersOf({ paths, columns }: Read, cache: FooterCache, signal: AbortSignal | undefined): Promise<readonly Footer[]> {
  const reading = cache.get(paths) ?? readFooters(paths, signal)
  cache.set(paths, reading)
  const footers = await reading
  const first = footers[0] as Footer
  for (const column of columns ?? []) {
    if (!first.columns.some(({ name }) => name === column)) {
      throw unknownColumn(
        first.path,
        column,
        first.columns.map(({ name }) => name),
      )
    }
  }
  return footers
}

async function readFooters(paths: Read['paths'], signal: AbortSignal | undefined): Promise<readonly Footer[]> {
  const files = await listFiles(paths, '.parquet', 'Dataset.readParquet')
  const footers: Footer[] = []
  for (let at = 0; at < files.length; at += FOOTERS_AT_ONCE) {
    signal?.throwIfAborted()
    footers.push(...(await Promise.all(files.slice(at, at + FOOTERS_AT_ONCE).map(readFooter))))
  }
  return footers
}

/** The reading tasks of all files; one without rows where no row group can hold what is asked for, so that the schema is not lost. */
function neededParts(files: readonly Footer[], { columns, conditions }: Read): SourceTask[] {
  const tasks = files.flatMap((file) => partsOf(file, columns, (group) => conditions.every((condition) => mayHold(condition, group))))
  if (tasks.length > 0) return tasks
  return [{ kind: 'parquet', part: { path: (files[0] as Footer).path, rowGroups: [], columns }, rows: 0, bytes: 0 }]
}

/** The reading tasks of one file. */
function partsOf({ path, rowGroups }: Footer, columns: readonly string[] | undefined, needed: (group: RowGroupInfo) => boolean): SourceTask[] {
  const tasks: { groups: number[]; rows: number; bytes: number }[] = []
  for (const [index, group] of rowGroups.entries()) {
    if (!needed(group)) continue
    const names = columns ?? Object.keys(group.columnBytes)
    const bytes = names.reduce((sum, name) => sum + (group.columnBytes[name] ?? 0), 0)
    const last = tasks.at(-1)
    if (last !== undefined && last.bytes + bytes <= TASK_BYTES_MIN && rowGroups.length > 4 * availableParallelism()) {
      last.groups.push(index)
      last.rows += group.rows
      last.bytes += bytes
    } else tasks.push({ groups: [index], rows: group.rows, bytes })
  }
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
