/**
 * Runs operators on the runtime: tasks for functions, actors for pools. The only file of the executor that knows both.
 *
 * A task returns its info and its block as two objects, an actor call streams the two, so the driver reads the info and never maps the block.
 */
import { BeamlineError, cancel, clusterInfo, type ErrorCode, get, init, isInitialized, kill, type ObjectRef, put, remote, stop } from '@beamline/runtime'
import type { Compute, Stage } from '../plan/logical.ts'
import { type PackedBlock, packBlock, unpackBlock } from '../transfer.ts'
import type { BlockHandle, Call, Cluster, OperatorHost } from './cluster.ts'
import type { OutputInfo } from './stages.ts'
import { runTask, StageWorker, type TaskSpec } from './worker.ts'

/** A worker of a pool may take so long to finish its batch and dispose its instances; then it is killed. */
const STOP_TIMEOUT_MS = 5_000
/** A crash of a worker repeats what it ran, up to so many times. */
const CRASH_RETRIES = 3

const OWN_CODES: ReadonlySet<ErrorCode> = new Set(['BATCH_INVALID', 'COLUMN_NOT_FOUND', 'FILE_UNREADABLE', 'SCHEMA_MISMATCH'])

type BlockRef = ObjectRef<PackedBlock>

/** Handles type their methods for callers that pass values; here blocks are references. */
interface WorkerHandle {
  readonly cancel: { remote(): ObjectRef<void> }
  readonly run: { remote(spec: TaskSpec, ...blocks: BlockRef[]): AsyncIterableIterator<ObjectRef<unknown>> }
}

let starting: Promise<unknown> | undefined

/** The cluster that this process is attached to; one of its own when it is not. */
export async function runtimeCluster(): Promise<Cluster> {
  if (!isInitialized()) {
    starting ??= init().finally(() => {
      starting = undefined
    })
    await starting
  }
  const { cpus, gpus, storeBytes } = clusterInfo()
  return {
    cpus: Math.max(1, Math.floor(cpus)),
    gpus,
    storeBytes,
    open: (name, stages, compute, workers) => (workers > 0 ? new PoolHost(name, stages, compute, workers) : new TaskHost(name, compute)),
    put: (batch) => Promise.resolve(put(packBlock(batch))),
    read: async (block) => unpackBlock(await get(block as BlockRef)),
    release: (block) => (block as BlockRef).release(),
  }
}

function resourcesOf({ cpus, gpus, memory, resources }: Compute): {
  cpus?: number
  gpus?: number
  memory?: number
  resources?: Readonly<Record<string, number>>
} {
  return {
    ...(cpus === undefined ? {} : { cpus }),
    ...(gpus === undefined ? {} : { gpus }),
    ...(memory === undefined ? {} : { memory }),
    ...(resources === undefined ? {} : { resources }),
  }
}

class TaskHost implements OperatorHost {
  readonly #name: string
  readonly #remote: { remote(spec: TaskSpec, ...blocks: BlockRef[]): [ObjectRef<OutputInfo>, ObjectRef<PackedBlock | undefined>] }

  constructor(name: string, compute: Compute) {
    this.#name = name
    this.#remote = remote(runTask, { ...resourcesOf(compute), name, returns: 2, maxRetries: CRASH_RETRIES, retryOn: ['STORE_FULL'] }) as never
  }

  run(spec: TaskSpec, _worker: number, blocks: readonly BlockHandle[]): Call {
    const [info, block] = this.#remote.remote(spec, ...(blocks as BlockRef[]))
    return { result: named(this.#name, settle(info, block)), cancel: () => cancel(info) }
  }

  async close(): Promise<void> {}
}

class PoolHost implements OperatorHost {
  readonly #name: string
  readonly #workers: readonly WorkerHandle[]
  /** Answers of the workers that were told to cancel. */
  #cancelling: Promise<void>[] | undefined

  constructor(name: string, stages: readonly Stage[], compute: Compute, workers: number) {
    this.#name = name
    const Worker = remote(StageWorker, {
      ...resourcesOf(compute),
      maxConcurrency: 1,
      concurrencyGroups: { control: { limit: 1, methods: ['cancel'] } },
      maxRestarts: CRASH_RETRIES,
      maxTaskRetries: CRASH_RETRIES,
      stopTimeoutMs: STOP_TIMEOUT_MS,
    })
    this.#workers = Array.from({ length: workers }, () => Worker.remote(stages) as never)
  }

  run(spec: TaskSpec, worker: number, blocks: readonly BlockHandle[]): Call {
    // The instances hold the stages; sending them again would ship the user's code with every call.
    const items = (this.#workers[worker] as WorkerHandle).run.remote({ ...spec, stages: [] }, ...(blocks as BlockRef[]))
    const cancelCall = (): void => {
      void items.return?.()
      this.#cancelAll()
    }
    return { result: named(this.#name, fromStream(items)), cancel: cancelCall }
  }

  /** Calls of a pool are only cancelled together, when nobody wants its rows any more. */
  #cancelAll(): void {
    this.#cancelling ??= this.#workers.map(async (worker) => {
      using done = worker.cancel.remote()
      await get(done, { timeoutMs: STOP_TIMEOUT_MS })
    })
  }

  async close(): Promise<void> {
    const answers = await Promise.allSettled(this.#cancelling ?? [])
    await Promise.all(
      this.#workers.map(async (worker, index) => {
        if (answers[index]?.status === 'rejected') kill(worker)
        else await stop(worker)
      }),
    )
  }
}

/** What this package itself refuses in a worker arrives as that refusal; what a function of the user throws, as the failure of its step. */
async function named(step: string, result: Call['result']): Call['result'] {
  try {
    return await result
  } catch (error) {
    if (!BeamlineError.is(error, 'TASK_FAILED')) throw error
    if (BeamlineError.is(error.cause) && OWN_CODES.has(error.cause.code)) throw error.cause
    throw new BeamlineError('TASK_FAILED', { ...error.details, task: step }, { cause: error.cause })
  }
}

async function fromStream(items: AsyncIterableIterator<ObjectRef<unknown>>): Call['result'] {
  const info = (await items.next()) as IteratorResult<ObjectRef<OutputInfo>, undefined>
  const block = (await items.next()) as IteratorResult<ObjectRef<PackedBlock | undefined>, undefined>
  await items.return?.()
  if (info.value !== undefined && block.value !== undefined) return settle(info.value, block.value)
  info.value?.release()
  throw new BeamlineError('CANCELLED', { task: 'a task of a pool', reason: 'its rows are not wanted any more' })
}

/** A block of written rows holds nothing. */
async function settle(info: ObjectRef<OutputInfo>, block: ObjectRef<PackedBlock | undefined>): Call['result'] {
  using _info = info
  try {
    const output = await get(info)
    if (!output.written) return { info: output, block }
    block.release()
    return { info: output, block: undefined }
  } catch (error) {
    block.release()
    throw error
  }
}
