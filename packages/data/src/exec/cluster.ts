/**
 * The executor's view of where tasks run. One implementation starts them on the runtime; tests have one that runs them in process.
 */
import type { RecordBatch } from 'apache-arrow'
import type { Compute, Stage } from '../plan/logical.ts'
import type { OutputInfo } from './stages.ts'
import type { TaskSpec } from './worker.ts'

/** A block that lives in the cluster. */
export type BlockHandle = object

export interface Call {
  readonly result: Promise<{ readonly info: OutputInfo; readonly block: BlockHandle | undefined }>
  cancel(): void
}

/** Where the tasks of one operator run. */
export interface OperatorHost {
  /** @param worker - of the pool; -1 outside one */
  run(spec: TaskSpec, worker: number, blocks: readonly BlockHandle[]): Call
  /** No more calls; stops the pool. */
  close(): Promise<void>
}

export interface Cluster {
  readonly cpus: number
  readonly gpus: number
  /** Capacity of the object store. */
  readonly storeBytes: number
  open(name: string, stages: readonly Stage[], compute: Compute, workers: number): OperatorHost
  put(batch: RecordBatch): Promise<BlockHandle>
  read(block: BlockHandle): Promise<RecordBatch>
  release(block: BlockHandle): void
}
