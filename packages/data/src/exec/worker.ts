/**
 * What runs inside worker processes: one exported function for tasks, one class for pools. Workers import this module; blocks arrive as
 * packed values (views of shared memory) and leave the same way. No state of its own at the top level, so that its text can travel too where
 * a bundler or test runner has taken the module apart.
 */
import { currentTask } from '@beamline/runtime'
import type { RecordBatch } from 'apache-arrow'
import type { Stage } from '../plan/logical.ts'
import type { SourceTask } from '../plan/physical.ts'
import { type PackedBlock, packBlock, unpackBlock } from '../transfer.ts'
import { sourceBatch } from './operators/source.ts'
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
  return run(new StageChain(spec.stages), spec, blocks, currentTask()?.signal)
}

/** A worker of a pool: keeps the instances of the user's classes between tasks. */
export class StageWorker {
  readonly #chain: StageChain
  readonly #cancelled = new AbortController()

  constructor(stages: readonly Stage[]) {
    this.#chain = new StageChain(stages)
  }

  /** Yields the info, then the block. */
  async *run(spec: TaskSpec, ...blocks: PackedBlock[]): AsyncGenerator<OutputInfo | PackedBlock | undefined> {
    yield* await run(this.#chain, spec, blocks, this.#cancelled.signal)
  }

  /** Ends the calls that run or wait, for good: the pool is about to stop. Runs beside them. */
  cancel(): void {
    this.#cancelled.abort(new Error('the run was cancelled'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#chain[Symbol.asyncDispose]()
  }
}

async function run(chain: StageChain, spec: TaskSpec, blocks: readonly PackedBlock[], signal: AbortSignal | undefined): Promise<TaskResult> {
  const input = spec.source === undefined || spec.source.kind === 'items' ? slicesOf(spec, blocks) : [await sourceBatch(spec.source)]
  const { info, batch } = await untilAborted(signal, () => chain.run(input, spec.part, signal))
  return [info, batch && packBlock(batch)]
}

function slicesOf({ slices }: TaskSpec, blocks: readonly PackedBlock[]): RecordBatch[] {
  return slices.map(([offset, rows], i) => unpackBlock(blocks[i] as PackedBlock).slice(offset, offset + rows))
}

/** A cancelled task ends at once and frees its worker, also when the user's function waits for something that never comes. */
async function untilAborted<T>(signal: AbortSignal | undefined, run: () => Promise<T>): Promise<T> {
  if (signal === undefined) return run()
  signal.throwIfAborted()
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([run(), promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
