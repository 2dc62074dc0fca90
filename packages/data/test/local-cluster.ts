/**
 * A cluster in this process: tasks are promises, blocks are held in a set that tests look at. Tasks start when the gate lets them.
 */
import type { RecordBatch } from 'apache-arrow'
import type { BlockHandle, Call, Cluster, OperatorHost } from '../src/exec/cluster.ts'
import { runTask, StageWorker, type TaskSpec } from '../src/exec/worker.ts'
import { type PackedBlock, packBlock, unpackBlock } from '../src/transfer.ts'

export class LocalCluster implements Cluster {
  readonly cpus = 2
  readonly gpus = 0
  readonly storeBytes = 1e9
  readonly blocks: Set<BlockHandle> = new Set()
  running = 0
  started = 0
  cancelled = 0
  openHosts = 0
  /** Awaited before each task. */
  gate: (spec: TaskSpec) => unknown = () => undefined

  open(...[, stages, , workers]: Parameters<Cluster['open']>): OperatorHost {
    this.openHosts++
    const pool = Array.from({ length: workers }, () => new StageWorker(stages))
    return {
      run: (spec, worker, handles) => this.#call(spec, pool[worker], handles),
      close: async () => {
        this.openHosts--
        for (const worker of pool) await worker[Symbol.asyncDispose]()
      },
    }
  }

  async put(batch: RecordBatch): Promise<BlockHandle> {
    const block = packBlock(batch)
    this.blocks.add(block)
    return block
  }

  async read(block: BlockHandle): Promise<RecordBatch> {
    if (!this.blocks.has(block)) throw new Error('read after release')
    return unpackBlock(block as PackedBlock)
  }

  release(block: BlockHandle): void {
    if (!this.blocks.delete(block)) throw new Error('released twice')
  }

  #call(spec: TaskSpec, worker: StageWorker | undefined, handles: readonly BlockHandle[]): Call {
    const cancelled = Promise.withResolvers<never>()
    cancelled.promise.catch(() => undefined)
    const run = async (): Promise<Awaited<Call['result']>> => {
      this.running++
      this.started++
      try {
        for (const handle of handles) if (!this.blocks.has(handle)) throw new Error('used after release')
        await Promise.race([this.gate(spec), cancelled.promise])
        const [info, block] =
          worker === undefined
            ? await runTask(spec, ...(handles as PackedBlock[]))
            : ((await fromAsync(worker.run({ ...spec, stages: [] }, ...(handles as PackedBlock[])))) as never)
        if (block !== undefined) this.blocks.add(block)
        return { info, block }
      } finally {
        this.running--
      }
    }
    return {
      result: run(),
      cancel: () => {
        this.cancelled++
        cancelled.reject(new Error('cancelled'))
      },
    }
  }
}

async function fromAsync<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}
