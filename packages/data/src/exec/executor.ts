/**
 * Drives the state machine: instructions become calls on the cluster, their outcomes become events. Nothing is decided here.
 */
import { BeamlineError } from '@beamline/runtime'
import type { PhysicalOperator, PhysicalPlan } from '../plan/physical.ts'
import type { BlockHandle, Call, Cluster, OperatorHost } from './cluster.ts'
import { checkColumns, type OutputInfo } from './stages.ts'
import { type Budget, type ExecutorEvent, ExecutorState, type Instruction, type OperatorSpec } from './state.ts'

/** Tasks that wait at each worker of a pool, so that it never idles between two. */
const IN_FLIGHT_PER_WORKER = 2
/** Blocks in flight may fill so much of the object store: the rest is for what users keep there. */
const STORE_SHARE = 0.4
const OUTPUT_BYTES_GUESS = 16 * 1024 * 1024

/** A stretch of a block that the consumer was given; `done` lets go of it. */
export interface Delivery {
  readonly block: BlockHandle | undefined
  readonly info: OutputInfo
  readonly offset: number
  readonly rows: number
  readonly done: () => void
}

export interface Progress {
  readonly operators: readonly { readonly name: string; readonly tasks: number; readonly tasksTotal: number | undefined; readonly rows: number }[]
}

export interface ExecuteOptions {
  readonly signal?: AbortSignal | undefined
  readonly budget?: Partial<Budget> | undefined
  readonly onProgress?: ((progress: Progress) => void) | undefined
}

interface BlockEntry {
  readonly handle: BlockHandle | undefined
  readonly info: OutputInfo
}

/**
 * Run a plan, giving its output blocks in order. Leaving the loop early, an abort, or an error stops everything that runs.
 *
 * @throws the user's error as the runtime reports it; the signal's reason after an abort
 */
export async function* execute(plan: PhysicalPlan, cluster: Cluster, options: ExecuteOptions = {}): AsyncGenerator<Delivery, void, undefined> {
  options.signal?.throwIfAborted()
  const execution = new Execution(plan, cluster, options)
  const abort = (): void => execution.abort(options.signal?.reason)
  options.signal?.addEventListener('abort', abort, { once: true })
  try {
    await execution.start()
    for (let delivery = await execution.next(); delivery !== undefined; delivery = await execution.next()) yield delivery
  } finally {
    options.signal?.removeEventListener('abort', abort)
    await execution.close()
  }
}

class Execution {
  readonly #plan: PhysicalPlan
  readonly #cluster: Cluster
  readonly #state: ExecutorState
  readonly #hosts: (OperatorHost | undefined)[]
  readonly #items: (BlockHandle | undefined)[] = []
  readonly #calls = new Map<string, Call>()
  readonly #blocks = new Map<number, BlockEntry>()
  readonly #columns: (OutputInfo['columns'] | undefined)[] = []
  readonly #closing: Promise<unknown>[] = []
  readonly #progress: { name: string; tasks: number; tasksTotal: number | undefined; rows: number }[]
  readonly #onProgress: ExecuteOptions['onProgress']
  readonly #events: ExecutorEvent[] = []
  #nextBlock = 0
  #waiting: { resolve(delivery: Delivery | undefined): void; reject(error: unknown): void } | undefined
  #failure: { error: unknown } | undefined

  constructor(plan: PhysicalPlan, cluster: Cluster, { budget, onProgress }: ExecuteOptions) {
    this.#plan = plan
    this.#cluster = cluster
    this.#onProgress = onProgress
    const specs = plan.operators.map((operator) => specOf(operator, cluster.cpus))
    checkFits(plan, specs, cluster)
    this.#state = new ExecutorState(specs, {
      bytesMax: STORE_SHARE * cluster.storeBytes,
      outputsMax: 4 * cluster.cpus + 4,
      tasksMax: 2 * cluster.cpus,
      probesMax: cluster.cpus,
      ...budget,
    })
    this.#hosts = plan.operators.map((operator, op) =>
      operator.kind === 'limit' ? undefined : cluster.open(operator.name, operator.stages, operator.compute, (specs[op] as OperatorSpec).workers),
    )
    this.#progress = plan.operators.map((operator) => ({
      name: operator.name,
      tasks: 0,
      tasksTotal: operator.kind === 'source' ? operator.tasks.length : undefined,
      rows: 0,
    }))
  }

  async start(): Promise<void> {
    for (const [op, operator] of this.#plan.operators.entries()) {
      if (operator.kind === 'source' && operator.batch !== undefined) this.#items[op] = await this.#cluster.put(operator.batch)
    }
    this.#send({ kind: 'start' })
  }

  async next(): Promise<Delivery | undefined> {
    if (this.#failure !== undefined) throw this.#failure.error
    const { promise, resolve, reject } = Promise.withResolvers<Delivery | undefined>()
    this.#waiting = { resolve, reject }
    this.#send({ kind: 'pull' })
    return promise
  }

  abort(reason: unknown): void {
    this.#send({ kind: 'stop' })
    this.#fail(reason)
  }

  /** Resolves when nothing of this run is left but the blocks that the consumer still holds. */
  async close(): Promise<void> {
    this.#send({ kind: 'stop' })
    await Promise.allSettled([...this.#calls.values()].map(({ result }) => result))
    await Promise.all(this.#closing)
    for (const items of this.#items) if (items !== undefined) this.#cluster.release(items)
  }

  /** Events that arise while instructions are carried out wait until those are done. */
  #send(event: ExecutorEvent): void {
    this.#events.push(event)
    if (this.#events.length > 1) return
    for (let next = this.#events[0]; next !== undefined; next = this.#events[0]) {
      for (const instruction of this.#state.handle(next)) this.#act(instruction)
      if (process.env.BEAMLINE_VALIDATE === '1') this.#state.checkInvariants()
      this.#events.shift()
    }
  }

  #act(instruction: Instruction): void {
    switch (instruction.kind) {
      case 'run':
        this.#run(instruction)
        break
      case 'cancel':
        this.#calls.get(`${instruction.op}:${instruction.task}`)?.cancel()
        break
      case 'release': {
        const { handle } = this.#blocks.get(instruction.block) as BlockEntry
        this.#blocks.delete(instruction.block)
        if (handle !== undefined) this.#cluster.release(handle)
        break
      }
      case 'deliver': {
        const { block, offset, rows } = instruction.slice
        const { handle, info } = this.#blocks.get(block) as BlockEntry
        this.#waiting?.resolve({ block: handle, info, offset, rows, done: () => this.#send({ kind: 'consumed', block }) })
        this.#waiting = undefined
        break
      }
      case 'retire': {
        const host = this.#hosts[instruction.op]
        if (host !== undefined) this.#closing.push(this.#afterCalls(instruction.op, () => host.close()))
        break
      }
      case 'end':
        this.#waiting?.resolve(undefined)
        this.#waiting = undefined
        break
      case 'fail':
        this.#fail(instruction.error)
    }
  }

  #run({ op, task, worker, inputs }: Extract<Instruction, { kind: 'run' }>): void {
    const operator = this.#plan.operators[op] as Exclude<PhysicalOperator, { kind: 'limit' }>
    const source = operator.kind === 'source' ? operator.tasks[task] : undefined
    const items = source?.kind === 'items' ? this.#items[op] : undefined
    const blocks = items === undefined ? inputs.map(({ block }) => (this.#blocks.get(block) as BlockEntry).handle as BlockHandle) : [items]
    const slices = source?.kind === 'items' ? [[source.from, source.rows] as const] : inputs.map(({ offset, rows }) => [offset, rows] as const)
    const call = (this.#hosts[op] as OperatorHost).run({ part: task, source, stages: operator.stages, slices }, worker, blocks)
    const key = `${op}:${task}`
    this.#calls.set(key, call)
    call.result.then(
      ({ info, block: handle }) => {
        this.#calls.delete(key)
        const block = this.#nextBlock++
        this.#blocks.set(block, { handle, info })
        try {
          this.#check(op, task, info)
        } catch (error) {
          this.#send({ kind: 'failed', op, task, error })
          this.#send({ kind: 'finished', op, task, block, rows: info.rows, bytes: info.bytes })
          return
        }
        const progress = this.#progress[op] as { tasks: number; rows: number }
        progress.tasks++
        progress.rows += info.rows
        this.#send({ kind: 'finished', op, task, block, rows: info.rows, bytes: info.bytes })
        this.#onProgress?.({ operators: this.#progress })
      },
      (error: unknown) => {
        this.#calls.delete(key)
        this.#send({ kind: 'failed', op, task, error })
      },
    )
  }

  /** Blocks of one operator must agree on their columns; those without rows may come from before a function. */
  #check(op: number, task: number, { rows, columns }: OutputInfo): void {
    if (rows === 0) return
    const expected = this.#columns[op]
    if (expected === undefined) this.#columns[op] = columns
    else checkColumns(expected, columns, `block ${task} of ${this.#plan.operators[op]?.name}`, 'an earlier block')
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#waiting?.reject(this.#failure.error)
    this.#waiting = undefined
  }

  /** Cancelled calls may still be running in a pool: its workers are let go when they have answered. */
  async #afterCalls(op: number, close: () => Promise<void>): Promise<void> {
    const calls = [...this.#calls].filter(([key]) => key.startsWith(`${op}:`)).map(([, { result }]) => result)
    await Promise.allSettled(calls)
    await close()
  }
}

/** Pools hold what they ask for until the end, so it must all be there at once, with room for one task beside them. */
function checkFits({ operators }: PhysicalPlan, specs: readonly OperatorSpec[], cluster: Cluster): void {
  for (const resource of ['cpus', 'gpus'] as const) {
    let pools = 0
    let task = 0
    for (const [op, operator] of operators.entries()) {
      if (operator.kind === 'limit') continue
      const { workers } = specs[op] as OperatorSpec
      const wanted = operator.compute[resource]
      if (workers > 0) pools += workers * (wanted ?? 0)
      else task = Math.max(task, wanted ?? (resource === 'cpus' ? 1 : 0))
    }
    if (pools === 0 || pools + task <= cluster[resource]) continue
    const names = operators.filter((_, op) => (specs[op] as OperatorSpec).workers > 0).map(({ name }) => name)
    const wanted = `${pools} ${resource} for its workers and ${task} for a task beside them`
    throw new BeamlineError('INFEASIBLE', { what: names.join(', '), wanted, has: `${cluster[resource]} ${resource}; lower concurrency or ${resource}` })
  }
}

function specOf(operator: PhysicalOperator, cpus: number): OperatorSpec {
  if (operator.kind === 'limit') return { kind: 'limit', tasks: 0, tasksMax: 0, workers: 0, batchRows: undefined, rows: operator.rows, outputBytes: 0 }
  const { compute } = operator
  const workers = compute.kind === 'pool' ? (compute.concurrency ?? cpus) : 0
  const tasks = operator.kind === 'source' ? operator.tasks.length : 0
  const sourceBytes = operator.kind === 'source' ? operator.tasks.reduce((sum, { bytes }) => sum + bytes, 0) / Math.max(1, tasks) : 0
  return {
    kind: operator.kind,
    tasks,
    tasksMax: workers > 0 ? workers * IN_FLIGHT_PER_WORKER : (compute.concurrency ?? Number.POSITIVE_INFINITY),
    workers,
    batchRows: operator.kind === 'transform' ? operator.batchRows : undefined,
    rows: 0,
    outputBytes: sourceBytes || OUTPUT_BYTES_GUESS,
  }
}
