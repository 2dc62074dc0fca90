/**
 * Runs stages on batches, one after the other, as a chain of generators: a batch is through all of them before the next one starts.
 * Pure of processes: the same code runs in workers and in tests.
 */
import { join } from 'node:path'
import { BeamlineError } from '@beamline/runtime'
import type { RecordBatch } from 'apache-arrow'
import { type BatchFormat, type ColumnTypes, fromRows, fromUserBatch, type Row, toRows, toUserBatch } from '../batch.ts'
import { concat, filterRows, infoOf } from '../block.ts'
import { reshape } from '../columns.ts'
import { bindCondition } from '../expr/bind.ts'
import { evaluateCondition } from '../expr/evaluate.ts'
import { type WrittenFile, writeParquetFile } from '../io/parquet.ts'
import type { AnyFunction, Stage } from '../plan/logical.ts'

/** What a task tells the driver about its output. */
export interface OutputInfo {
  readonly rows: number
  readonly bytes: number
  /** Column names and type texts. */
  readonly columns: readonly (readonly [name: string, type: string])[]
  /** The task wrote its rows, and has no block. */
  readonly written: boolean
  /** The file that a writing task made; undefined when it had nothing to write. */
  readonly file: WrittenFile | undefined
}

export interface Output {
  readonly info: OutputInfo
  /** undefined after writing. */
  readonly batch: RecordBatch | undefined
}

/** A class for `mapBatches`: one instance per worker. */
export interface BatchProcessor {
  /** Awaited once before the first batch: load models, open connections. */
  setup?(): unknown
  /** Makes the batch that goes on: columns, rows or an Arrow batch. May be async. */
  // biome-ignore lint/suspicious/noExplicitAny: the batch has the format that the user asked for
  call(batch: any): unknown
  /** Called in the worker after the last batch. */
  [Symbol.asyncDispose]?(): PromiseLike<void>
  /** The same, where nothing has to be awaited. */
  [Symbol.dispose]?(): void
}

type Each = (
  batches: AsyncIterable<RecordBatch>,
  fn: (batch: RecordBatch) => RecordBatch | Promise<RecordBatch>,
  always?: boolean,
) => AsyncIterable<RecordBatch>

/** Stages whose classes have instances. */
export class StageChain {
  readonly #stages: readonly Stage[]
  readonly #processors = new Map<Stage, BatchProcessor>()
  #ready: Promise<void> | undefined

  constructor(stages: readonly Stage[]) {
    this.#stages = stages
  }

  /** Makes the instances of the user's classes; later calls give the same promise. */
  setup(): Promise<void> {
    this.#ready ??= this.#setup()
    return this.#ready
  }

  async #setup(): Promise<void> {
    for (const stage of this.#stages) {
      if (stage.kind !== 'mapBatches' || !stage.isClass) continue
      const processor = new (stage.fn as new (...args: unknown[]) => BatchProcessor)(...stage.constructorArgs)
      this.#processors.set(stage, processor)
      await processor.setup?.()
    }
  }

  /**
   * @param part - number of the task, which becomes the number of a written file
   * @param signal - looked at between batches
   * @throws what the user's function throws; {@link BeamlineError} `BATCH_INVALID` and `SCHEMA_MISMATCH` for what it returns
   */
  async run(input: readonly RecordBatch[], part: number, signal?: AbortSignal): Promise<Output> {
    await this.setup()
    let batches: AsyncIterable<RecordBatch> = from(input)
    const each: Each = (upstream, fn, always) => mapped(upstream, fn, always, signal)
    let write: Extract<Stage, { kind: 'write' }> | undefined
    for (const stage of this.#stages) {
      if (stage.kind === 'write') write = stage
      else batches = this.#apply(stage, batches, each)
    }
    const results: RecordBatch[] = []
    for await (const batch of batches) results.push(batch)
    sameSchema(results, this.#stages)
    const batch = concat(results)
    const info = { ...infoOf(batch), written: write !== undefined, file: undefined }
    if (write === undefined) return { info, batch }
    // The first file is written even without rows, so that an empty dataset keeps its schema.
    const empty = batch.numRows === 0 && part > 0
    const path = join(write.directory, `part-${String(part).padStart(5, '0')}.parquet`)
    return { info: { ...info, bytes: 0, file: empty ? undefined : await writeParquetFile(path, batch, write.options) }, batch: undefined }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const processor of this.#processors.values()) {
      await processor[Symbol.asyncDispose]?.()
      processor[Symbol.dispose]?.()
    }
  }

  #apply(stage: Stage, batches: AsyncIterable<RecordBatch>, each: Each): AsyncIterable<RecordBatch> {
    switch (stage.kind) {
      case 'map':
        return each(batches, async (batch) => {
          const rows: Row[] = []
          for (const row of toRows(batch)) rows.push((await stage.fn(row)) as Row)
          return fromRows(rows, { what: `map(${stage.name})`, input: batch.schema, types: stage.types })
        })
      case 'filter':
        return each(batches, async (batch) => {
          const keep = new Uint8Array(batch.numRows)
          for (const [index, row] of toRows(batch).entries()) if (await stage.fn(row)) keep[index] = 1
          return filterRows(batch, keep)
        })
      case 'where':
        return each(batches, (batch) => filterRows(batch, evaluateCondition(bindCondition(stage.condition, batch.schema, 'filter'), batch)), true)
      case 'select':
      case 'drop':
      case 'rename':
      case 'withColumns':
        return each(batches, (batch) => reshape(batch, stage), true)
      case 'mapBatches': {
        const processor = this.#processors.get(stage)
        const fn: AnyFunction = processor === undefined ? (stage.fn as AnyFunction) : (batch) => processor.call(batch)
        return each(rebatch(batches, stage.batchSize), (batch) => callBatch(fn, batch, stage))
      }
      case 'write':
        return batches
    }
  }
}

async function callBatch(
  fn: AnyFunction,
  batch: RecordBatch,
  stage: { name: string; format: BatchFormat; types?: ColumnTypes | undefined },
): Promise<RecordBatch> {
  const result = await fn(toUserBatch(batch, stage.format))
  return fromUserBatch(result, { what: `mapBatches(${stage.name})`, input: batch.schema, types: stage.types })
}

/** Functions of the user never see a batch without rows; its schema goes on as it is. */
async function* mapped(
  batches: AsyncIterable<RecordBatch>,
  fn: (batch: RecordBatch) => RecordBatch | Promise<RecordBatch>,
  always = false,
  signal?: AbortSignal,
): AsyncGenerator<RecordBatch> {
  for await (const batch of batches) {
    signal?.throwIfAborted()
    yield batch.numRows === 0 && !always ? batch : await fn(batch)
  }
}

/** Batches of exactly `size` rows, a shorter one at the end; undefined: as they come. */
async function* rebatch(batches: AsyncIterable<RecordBatch>, size: number | undefined): AsyncGenerator<RecordBatch> {
  if (size === undefined) {
    yield* batches
    return
  }
  let pending: RecordBatch[] = []
  let rows = 0
  for await (const batch of batches) {
    let rest = batch
    while (rows + rest.numRows >= size && size - rows <= rest.numRows && rest.numRows > 0) {
      const taken = size - rows
      yield concat([...pending, rest.slice(0, taken)])
      rest = rest.slice(taken)
      pending = []
      rows = 0
    }
    if (rest.numRows > 0 || (pending.length === 0 && batch.numRows === 0)) {
      pending.push(rest)
      rows += rest.numRows
    }
  }
  if (pending.length > 0) yield concat(pending)
}

function sameSchema(batches: readonly RecordBatch[], stages: readonly Stage[]): void {
  const full = batches.filter((batch) => batch.numRows > 0)
  const [first, ...others] = full
  if (first === undefined) return
  for (const batch of others) checkColumns(infoOf(first).columns, infoOf(batch).columns, `a batch of ${stageNames(stages)}`, 'an earlier batch')
}

function stageNames(stages: readonly Stage[]): string {
  return stages.map((stage) => ('name' in stage ? stage.name : stage.kind)).join(' → ')
}

type Columns = OutputInfo['columns']

/** @throws {@link BeamlineError} `SCHEMA_MISMATCH` naming the first column that differs */
export function checkColumns(expected: Columns, found: Columns, where: string, reference: string): void {
  for (const [name, type] of expected) {
    const other = found.find(([candidate]) => candidate === name)?.[1] ?? 'missing'
    if (other !== type) throw new BeamlineError('SCHEMA_MISMATCH', { where, column: name, found: other, expected: type, reference })
  }
  for (const [name, type] of found) {
    if (!expected.some(([candidate]) => candidate === name))
      throw new BeamlineError('SCHEMA_MISMATCH', { where, column: name, found: type, expected: 'missing', reference })
  }
}

async function* from(batches: readonly RecordBatch[]): AsyncGenerator<RecordBatch> {
  yield* batches
}
