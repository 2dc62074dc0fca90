/**
 * What users hold: an immutable description of rows. Methods that transform return a new dataset at once; methods that consume
 * (`take`, `count`, `iterBatches`, `writeParquet`) run the plan on the cluster.
 */
import { BeamlineError } from '@beamline/runtime'
import { type DataType, Field, type RecordBatch, Schema } from 'apache-arrow'
import { type BatchFormat, type BatchLike, type ColumnBatch, type ColumnTypes, fromRows, type Row, toRows, toUserBatch } from './batch.ts'
import { compact, concat, emptyBatch } from './block.ts'
import { type Delivery, execute, type Progress } from './exec/executor.ts'
import { runtimeCluster } from './exec/runtime-cluster.ts'
import type { BatchProcessor } from './exec/stages.ts'
import { Expr } from './expr/expression.ts'
import { OutputDirectory, type WriteMode } from './io/output-directory.ts'
import { CODECS, type Codec, type ParquetWriteOptions, type WrittenFile } from './io/parquet.ts'
import { explainLogical, explainPhysical } from './plan/explain.ts'
import { ANY_WORKER, type AnyFunction, type Compute, type LogicalPlan, type Stage } from './plan/logical.ts'
import { optimize } from './plan/optimize.ts'
import { blockRowsFor, countRows, type FooterCache, planPhysical, planSchema } from './plan/physical.ts'
import { ProgressLine } from './progress.ts'

/** Options of {@link Dataset.readParquet}. */
export interface ReadParquetOptions {
  /** Top-level columns to read, in this order. Default: all. */
  readonly columns?: readonly string[]
}

/** What a task of the step holds while it runs. */
export interface ComputeOptions {
  /** For a function: tasks at once at most; default: bounded by the cluster. For a class: workers; default: one per CPU. */
  readonly concurrency?: number
  /** Default: 1 for functions; 0 for classes, whose number is bounded by `concurrency`. */
  readonly cpus?: number
  readonly gpus?: number
  /** Bytes. */
  readonly memory?: number
  readonly resources?: Readonly<Record<string, number>>
}

/** Options of {@link Dataset.mapBatches}. */
export interface MapBatchesOptions extends ComputeOptions {
  /** Rows per batch, filled across blocks; only the last batch is shorter. Default: batches as the blocks come. */
  readonly batchSize?: number
  /** Default 'columns'. */
  readonly batchFormat?: BatchFormat
  /** For a class: arguments of its constructor, in each worker. */
  readonly constructorArgs?: readonly unknown[]
  /** Arrow types of returned columns that are plain arrays, where the inferred type is not wanted. */
  readonly types?: ColumnTypes
}

/** Options of the steps that take and give rows. */
export interface RowOptions extends ComputeOptions {
  /** Arrow types of returned columns, where the inferred type is not wanted. */
  readonly types?: ColumnTypes
}

/** Options of every call that runs a plan. */
export interface RunOptions {
  /** Stops the run, and everything that it started, when it is aborted. */
  readonly signal?: AbortSignal
  /** Default: on when standard error is a terminal. */
  readonly progress?: boolean
}

/** Options of {@link Dataset.iterBatches}. */
export interface IterBatchesOptions extends RunOptions {
  /** Rows per batch; only the last one is shorter. Default: batches as the blocks come. */
  readonly batchSize?: number
  /** Leave out a last batch that is shorter. Default false. */
  readonly dropLast?: boolean
}

/** Options of {@link Dataset.writeParquet}. */
export interface WriteParquetOptions extends RunOptions {
  /** What to do when the directory holds files already. Default 'error'. */
  readonly mode?: WriteMode
  /** Default 'snappy'. */
  readonly compression?: Codec
  /** Default 1,048,576. */
  readonly rowGroupRows?: number
}

/** What {@link Dataset.writeParquet} wrote. */
export interface WriteResult {
  readonly rows: number
  readonly bytes: number
  readonly files: readonly WrittenFile[]
}

/** A class for {@link Dataset.mapBatches}. */
export type BatchProcessorClass = abstract new (...args: never[]) => BatchProcessor

/**
 * Rows in files or in memory, and what is to become of them. Lazy, immutable, ordered.
 *
 * @example
 * const result = await Dataset.readParquet('in/*.parquet')
 *   .filter((row) => row.label !== null)
 *   .mapBatches(Classifier, { batchSize: 64, concurrency: 2 })
 *   .writeParquet('out')
 */
export class Dataset<R extends Row = Row> {
  /** Only for the type system: a row. */
  declare readonly row: R
  readonly #plan: LogicalPlan

  private constructor(plan: LogicalPlan) {
    this.#plan = plan
  }

  /**
   * Rows of Parquet files.
   *
   * @param paths - files, globs and directories (searched for `*.parquet`); relative ones from the working directory. Read when the dataset is consumed
   * @throws when consumed: BeamlineError `FILES_NOT_FOUND`; `FILE_UNREADABLE`; `SCHEMA_MISMATCH` when a file differs from the first one; `COLUMN_NOT_FOUND`
   */
  static readParquet<R extends Row = Row>(paths: string | URL | readonly (string | URL)[], options: ReadParquetOptions = {}): Dataset<R> {
    checkOptions('readParquet', options, ['columns'])
    return new Dataset({
      kind: 'readParquet',
      paths: typeof paths === 'string' || paths instanceof URL ? [paths] : [...paths],
      columns: options.columns,
      limit: undefined,
      conditions: [],
    })
  }

  /**
   * Rows of an array. Items that are no plain objects become rows `{ item }`.
   *
   * Numbers are float64, bigints int64; give `types` for others. The rows are copied into columns now.
   *
   * @throws BeamlineError `BATCH_INVALID` naming the column and the value that does not fit
   */
  static fromItems<T>(items: readonly T[], options: { readonly types?: ColumnTypes } = {}): Dataset<T extends Row ? T : { item: T }> {
    checkOptions('fromItems', options, ['types'])
    const rows = items.every(isRow) ? items : items.map((item) => ({ item }))
    const input = emptyBatch(new Schema(Object.entries(options.types ?? {}).map(([name, type]) => new Field(name, type as DataType, true))))
    const batch = rows.length === 0 ? input : fromRows(rows as readonly Row[], { what: 'Dataset.fromItems', input: input.schema, types: options.types })
    return new Dataset({ kind: 'items', batch, blockRows: blockRowsFor(batch.numRows) })
  }

  /** The integers from 0 to `count` − 1 as the int64 column `id`. */
  static range(count: number): Dataset<{ id: bigint }> {
    whole('Dataset.range(count)', count, 0)
    return new Dataset({ kind: 'range', count, blockRows: blockRowsFor(count) })
  }

  /**
   * One row for each row.
   *
   * A column keeps its type under its name; new ones get the type of their values (number → float64, bigint → int64, string → utf8, …).
   */
  map<O extends Row>(fn: (row: R) => O | Promise<O>, options: RowOptions = {}): Dataset<O> {
    checkOptions('map', options, [...COMPUTE_OPTIONS, 'types'])
    return this.#transform({ kind: 'map', name: nameOf(fn), fn: fn as AnyFunction, types: options.types }, computeOf('tasks', options))
  }

  /**
   * The rows for which an expression is true, or for which a function gives a true value; all columns keep their exact types.
   *
   * An expression is evaluated column by column, and row groups whose statistics rule it out are not read; a function is called once per row.
   *
   * @throws when consumed: BeamlineError `COLUMN_NOT_FOUND` and `EXPRESSION_INVALID` before any task runs; `EXPRESSION_FAILED` for a value that cannot be evaluated
   * @example
   * ds.filter(col('label').isNotNull().and(col('score').gt(0.5)))
   */
  filter(condition: Expr | ((row: R) => unknown), options: ComputeOptions = {}): Dataset<R> {
    checkOptions('filter', options, COMPUTE_OPTIONS)
    const stage: Stage =
      condition instanceof Expr ? { kind: 'where', condition: condition.node } : { kind: 'filter', name: nameOf(condition), fn: condition as AnyFunction }
    return this.#transform(stage, computeOf('tasks', options))
  }

  /**
   * A column with the values of an expression: in place of the one of that name, else after all others.
   *
   * @throws when consumed: BeamlineError `COLUMN_NOT_FOUND` and `EXPRESSION_INVALID` before any task runs; `EXPRESSION_FAILED` for a value that cannot be evaluated
   * @example
   * ds.withColumn('y', col('a').mul(col('c')).add(col('b')))
   */
  withColumn<N extends string, T>(name: N, value: Expr<T>): Dataset<Omit<R, N> & { [K in N]: T }> {
    return this.withColumns({ [name]: value } as { [K in N]: Expr<T> }) as unknown as Dataset<Omit<R, N> & { [K in N]: T }>
  }

  /** As `withColumn`, several at once; each sees the columns as they were before. */
  withColumns<C extends Readonly<Record<string, Expr>>>(columns: C): Dataset<Omit<R, keyof C> & { [K in keyof C]: C[K]['value'] }> {
    for (const [name, value] of Object.entries(columns))
      if (!(value instanceof Expr)) throw invalid(`column "${name}" of withColumns`, value, 'an expression, such as col("a") or lit(1)')
    return this.#transform({ kind: 'withColumns', columns: Object.entries(columns).map(([name, { node }]) => [name, node] as const) }, ANY_WORKER)
  }

  /** All columns but these. */
  drop<K extends keyof R & string>(...columns: K[]): Dataset<Omit<R, K>> {
    return this.#transform({ kind: 'drop', columns }, ANY_WORKER)
  }

  /**
   * The same columns under other names.
   *
   * @throws when consumed: BeamlineError `INVALID_ARGUMENT` when two columns would have one name
   * @example
   * ds.rename({ img: 'image', lbl: 'label' })
   */
  rename<const M extends { readonly [K in keyof R & string]?: string }>(names: M): Dataset<{ [K in keyof R as K extends keyof M ? M[K] & string : K]: R[K] }> {
    return this.#transform({ kind: 'rename', names: Object.entries(names) as [string, string][] }, ANY_WORKER)
  }

  /**
   * A function of whole batches: it gets columns (or rows, or an Arrow batch) and returns any of those, with any number of rows.
   *
   * A class is made once in each of `concurrency` workers of its own: its `setup()` is awaited first, `call(batch)` is called per batch,
   * `[Symbol.asyncDispose]()` at the end.
   *
   * @example
   * ds.mapBatches(({ image }: { image: Tensor }) => ({ mean: Float32Array.from({ length: image.shape[0] }, (_, i) => meanOf(image, i)) }))
   */
  // biome-ignore lint/suspicious/noExplicitAny: users type the batch that they expect
  mapBatches<O extends Row = Row>(fn: ((batch: any) => BatchLike | Promise<BatchLike>) | BatchProcessorClass, options: MapBatchesOptions = {}): Dataset<O> {
    checkOptions('mapBatches', options, [...COMPUTE_OPTIONS, 'batchSize', 'batchFormat', 'constructorArgs', 'types'])
    if (options.batchSize !== undefined) whole('batchSize of mapBatches', options.batchSize, 1)
    const isClass = /^class\b/.test(Function.prototype.toString.call(fn))
    const stage: Stage = {
      kind: 'mapBatches',
      name: nameOf(fn),
      fn: fn as AnyFunction,
      isClass,
      constructorArgs: options.constructorArgs ?? [],
      batchSize: options.batchSize,
      format: options.batchFormat ?? 'columns',
      types: options.types,
    }
    return this.#transform(stage, computeOf(isClass ? 'pool' : 'tasks', options))
  }

  /** These columns, in this order. Directly after reading, others are never read. */
  select<K extends keyof R & string>(...columns: K[]): Dataset<Pick<R, K>> {
    return this.#transform({ kind: 'select', columns }, ANY_WORKER)
  }

  /** The first `rows` rows. */
  limit(rows: number): Dataset<R> {
    whole('limit', rows, 0)
    return new Dataset({ kind: 'limit', input: this.#plan, rows })
  }

  /** The first `rows` rows (default 20) as plain objects; work beyond them is not started, or cancelled. */
  async take(rows = 20, options: RunOptions = {}): Promise<R[]> {
    whole('take', rows, 0)
    const taken: R[] = []
    for await (const batch of blocksOf({ kind: 'limit', input: this.#plan, rows }, options)) {
      // Copied, so that a few rows that are kept do not keep a whole block in shared memory.
      if (batch.numRows > 0) for (const row of toRows(compact([batch]))) taken.push(row as R)
    }
    return taken
  }

  /** The number of rows; from file footers alone where no step can change it. */
  async count(options: RunOptions = {}): Promise<number> {
    const plan: LogicalPlan = { kind: 'count', input: this.#plan }
    const footers: FooterCache = new Map()
    await planSchema(plan, footers, options.signal)
    const known = await countRows(optimize(plan), footers, options.signal)
    if (known !== undefined) return known
    let rows = 0
    for await (const delivery of run(plan, options, footers)) {
      rows += delivery.rows
      delivery.done()
    }
    return rows
  }

  /**
   * The rows in batches, in order, while later ones are being made. Leaving the loop stops the run.
   *
   * @example
   * for await (const { image, label } of ds.iterBatches({ batchSize: 128 })) train(image, label)
   */
  iterBatches(options: IterBatchesOptions & { readonly batchFormat: 'rows' }): AsyncGenerator<R[], void, undefined>
  iterBatches(options: IterBatchesOptions & { readonly batchFormat: 'arrow' }): AsyncGenerator<RecordBatch, void, undefined>
  iterBatches(options?: IterBatchesOptions & { readonly batchFormat?: 'columns' }): AsyncGenerator<ColumnBatch, void, undefined>
  async *iterBatches(options: IterBatchesOptions & { readonly batchFormat?: BatchFormat } = {}): AsyncGenerator<unknown, void, undefined> {
    checkOptions('iterBatches', options, ['signal', 'progress', 'batchSize', 'dropLast', 'batchFormat'])
    const { batchSize, dropLast = false, batchFormat = 'columns' } = options
    if (batchSize !== undefined) whole('batchSize of iterBatches', batchSize, 1)
    let pending: RecordBatch[] = []
    let rows = 0
    for await (const block of blocksOf(this.#plan, options)) {
      let rest = block
      while (batchSize !== undefined && rows + rest.numRows >= batchSize) {
        const taken = batchSize - rows
        yield toUserBatch(concat([...pending, rest.slice(0, taken)]), batchFormat)
        rest = rest.slice(taken)
        pending = []
        rows = 0
      }
      if (rest.numRows === 0) continue
      if (batchSize === undefined) yield toUserBatch(rest, batchFormat)
      else {
        pending.push(rest)
        rows += rest.numRows
      }
    }
    if (pending.length > 0 && !dropLast) yield toUserBatch(concat(pending), batchFormat)
  }

  /**
   * Write the rows as Parquet files `part-00000.parquet`, …, one per block, in the order of the rows. Workers write; the files appear together
   * when all are complete. No file is empty, unless the dataset is: then one file keeps the schema.
   *
   * @param directory - created where it is missing, with its parents
   * @throws BeamlineError `OUTPUT_EXISTS`; then nothing was run
   */
  async writeParquet(directory: string, options: WriteParquetOptions = {}): Promise<WriteResult> {
    checkOptions('writeParquet', options, ['signal', 'progress', 'mode', 'compression', 'rowGroupRows'])
    const { mode = 'error', compression = 'snappy', rowGroupRows = 1_048_576 } = options
    oneOf('mode of writeParquet', mode, ['error', 'overwrite'])
    oneOf('compression of writeParquet', compression, CODECS)
    whole('rowGroupRows of writeParquet', rowGroupRows, 1)
    const output = await OutputDirectory.open(directory, mode)
    try {
      const writing: ParquetWriteOptions = { compression, rowGroupRows }
      const stage: Stage = { kind: 'write', directory: output.staging, options: writing }
      const files: WrittenFile[] = []
      for await (const { info, done } of run({ kind: 'transform', input: this.#plan, stages: [stage], compute: ANY_WORKER }, options)) {
        if (info.file !== undefined) files.push(info.file)
        done()
      }
      const full = files.filter(({ rows }) => rows > 0)
      const placed = await output.commit(full.length > 0 ? full : files.slice(0, 1))
      return { rows: placed.reduce((sum, file) => sum + file.rows, 0), bytes: placed.reduce((sum, file) => sum + file.bytes, 0), files: placed }
    } catch (error) {
      await output.discard()
      throw error
    }
  }

  /**
   * The columns and their Arrow types; from files or memory alone where possible, else from the first block.
   */
  async schema(options: RunOptions = {}): Promise<Schema> {
    const footers: FooterCache = new Map()
    const known = await planSchema(this.#plan, footers, options.signal)
    if (known !== undefined) {
      await planPhysical(optimize(this.#plan), footers, options.signal)
      return known
    }
    for await (const batch of blocksOf({ kind: 'limit', input: this.#plan, rows: 1 }, options)) return batch.schema
    throw new BeamlineError('INTERNAL', { what: 'a run gave no block' })
  }

  /** The plan as it was built, as the rules leave it, and as operators over tasks; reads file footers, runs nothing. */
  async explain(): Promise<string> {
    await planSchema(this.#plan)
    const optimized = optimize(this.#plan)
    const sections = [
      ['Logical plan', explainLogical(this.#plan)],
      ['Optimized plan', explainLogical(optimized)],
      ['Physical plan', explainPhysical(await planPhysical(optimized))],
    ]
    return sections.map(([title, text]) => `${title}\n${text?.replace(/^/gm, '  ')}`).join('\n')
  }

  #transform<O extends Row>(stage: Stage, compute: Compute): Dataset<O> {
    return new Dataset({ kind: 'transform', input: this.#plan, stages: [stage], compute })
  }
}

const COMPUTE_OPTIONS = ['concurrency', 'cpus', 'gpus', 'memory', 'resources']

async function* run(
  plan: LogicalPlan,
  { signal, progress = process.stderr.isTTY === true }: RunOptions,
  footers: FooterCache = new Map(),
): AsyncGenerator<Delivery, void, undefined> {
  // As the user wrote it: what the rules leave out is checked too.
  await planSchema(plan, footers, signal)
  const physical = await planPhysical(optimize(plan), footers, signal)
  const line = progress ? new ProgressLine(process.stderr) : undefined
  try {
    yield* execute(physical, await runtimeCluster(), { signal, onProgress: line && ((state: Progress) => line.update(state)) })
  } finally {
    line?.end()
  }
}

/** Blocks as batches of this process; their memory is let go with the batch, the object in the store at once. */
async function* blocksOf(plan: LogicalPlan, options: RunOptions): AsyncGenerator<RecordBatch, void, undefined> {
  const cluster = await runtimeCluster()
  for await (const { block, offset, rows, done } of run(plan, options)) {
    try {
      const batch = await cluster.read(block as object)
      yield batch.slice(offset, offset + rows)
    } finally {
      done()
    }
  }
}

function computeOf(kind: Compute['kind'], { concurrency, cpus, gpus, memory, resources }: ComputeOptions): Compute {
  if (concurrency !== undefined) whole('concurrency', concurrency, 1)
  return { kind, concurrency, cpus, gpus, memory, resources }
}

function nameOf(fn: { readonly name: string }): string {
  return fn.name || 'anonymous'
}

function isRow(item: unknown): item is Row {
  return typeof item === 'object' && item !== null && Object.getPrototypeOf(item) === Object.prototype
}

function invalid(what: string, got: unknown, expected: string): BeamlineError {
  return new BeamlineError('INVALID_ARGUMENT', { what, got: typeof got === 'string' ? JSON.stringify(got) : String(got), expected })
}

function whole(what: string, value: unknown, min: number): void {
  if (!Number.isSafeInteger(value) || (value as number) < min) throw invalid(what, value, `a whole number of at least ${min}`)
}

function oneOf(what: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) throw invalid(what, value, `one of ${allowed.join(', ')}`)
}

/** A misspelt option would silently do nothing. */
function checkOptions(what: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) if (!known.includes(name)) throw invalid(`option "${name}" of ${what}`, 'unknown', `one of ${known.join(', ')}`)
}
