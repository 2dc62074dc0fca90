/**
 * What runs inside worker processes: one exported function for tasks, one class for pools. Workers import this module; blocks arrive as
 * packed values (views of shared memory) and leave the same way.
 */
import { Field, Int64, makeData, type RecordBatch, Schema } from 'apache-arrow'
import { fromColumns } from '../block.ts'
import { readParquetPart } from '../io/parquet.ts'
import type { Stage } from '../plan/logical.ts'
import type { SourceTask } from '../plan/physical.ts'
import { type PackedBlock, packBlock, unpackBlock } from '../transfer.ts'
import { type OutputInfo, StageChain } from './stages.ts'

/** One task: where its rows come from, and what happens to them. */
export interface TaskSpec {
  readonly part: number
  /** undefined: the rows are in the blocks. */
  readonly source: SourceTask | undefined
  readonly stages: readonly Stage[]
  /** Offset and rows in each block, in the order of the blocks. */
  readonly slices: readonly (readonly [offset: number, rows: number])[]
}

/** Two values, so that the driver can look at the first without mapping the second. */
export type TaskResult = [info: OutputInfo, block: PackedBlock | undefined]

export async function runTask(spec: TaskSpec, ...blocks: PackedBlock[]): Promise<TaskResult> {
  return run(new StageChain(spec.stages), spec, blocks)
}

/** A worker of a pool: keeps the instances of the user's classes between tasks. */
export class StageWorker {
  readonly #chain: StageChain

  constructor(stages: readonly Stage[]) {
    this.#chain = new StageChain(stages)
  }

  /** Yields the info, then the block. */
  async *run(spec: TaskSpec, ...blocks: PackedBlock[]): AsyncGenerator<OutputInfo | PackedBlock | undefined> {
    yield* await run(this.#chain, spec, blocks)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chain[Symbol.asyncDispose]()
  }
}

async function run(chain: StageChain, spec: TaskSpec, blocks: readonly PackedBlock[]): Promise<TaskResult> {
  const input = spec.source === undefined || spec.source.kind === 'items' ? slicesOf(spec, blocks) : [await sourceBatch(spec.source)]
  const { info, batch } = await chain.run(input, spec.part)
  return [info, batch && packBlock(batch)]
}

function slicesOf({ slices }: TaskSpec, blocks: readonly PackedBlock[]): RecordBatch[] {
  return slices.map(([offset, rows], i) => unpackBlock(blocks[i] as PackedBlock).slice(offset, offset + rows))
}

async function sourceBatch(source: Exclude<SourceTask, { kind: 'items' }>): Promise<RecordBatch> {
  if (source.kind === 'parquet') return readParquetPart(source.part)
  const data = BigInt64Array.from({ length: source.rows }, (_, i) => BigInt(source.from + i))
  return fromColumns(RANGE_SCHEMA, [makeData({ type: new Int64(), length: source.rows, nullCount: 0, data })], source.rows)
}

const RANGE_SCHEMA = new Schema([new Field('id', new Int64(), false)])
