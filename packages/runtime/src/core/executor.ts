/**
 * The worker's side of tasks and actor calls: queues per lease, the run itself, its results on their way back.
 *
 * Tasks of one lease run one after the other; a lease whose task waits for objects gives the others back. An actor
 * runs its calls in order of arrival, as many at once as its concurrency allows.
 */
import { types } from 'node:util'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { ItemsConsumed, Place, Push, TakeBack, Template, Value } from '../net/gen/peer.ts'
import { ActorHost } from './actor-host.ts'
import { CallArguments } from './call-arguments.ts'
import { Executable, FunctionCache } from './executable.ts'
import { type Call, Lane } from './lane.ts'
import type { Extras, Stored } from './object-entry.ts'
import type { Peer } from './peers.ts'
import type { Pin } from './pins.ts'
import { RunningTask, runAs, whileBlocked } from './running-task.ts'
import type { Runtime } from './runtime.ts'
import { TaskEventBuffer } from './task-event-buffer.ts'
import { encodePrimitive } from './values.ts'
import { encodeError, taskError } from './wire-error.ts'

const EMPTY = new Uint8Array(0)
const log = debug('exec')

export class Executor {
  readonly #runtime: Runtime
  readonly #functions: FunctionCache
  /** The actor of this worker, when it has one. */
  readonly actor: ActorHost
  readonly events: TaskEventBuffer
  /** By lease. */
  readonly #lanes = new Map<number, Lane>()
  readonly #calls = new Map<string, Call>()
  /** References in results, until their owner has borrowed them. */
  readonly #unreceived = new Map<string, Extras[]>()
  #retiring = false

  constructor(runtime: Runtime) {
    this.#runtime = runtime
    this.#functions = new FunctionCache(runtime.values)
    this.actor = new ActorHost(runtime, this.#functions)
    this.events = new TaskEventBuffer((message) => runtime.sendToNode(message))
  }

  // ---------------------------------------------------------------- messages

  template(peer: Peer, template: Template): void {
    if (!peer.received.has(template.id)) peer.received.set(template.id, new Executable(template, this.#functions, this.#runtime.values))
  }

  templateForget(peer: Peer, id: number): void {
    peer.received.get(id)?.release()
    peer.received.delete(id)
  }

  push(peer: Peer, push: Push): void {
    const executable = peer.received.get(push.template)
    if (!executable) throw new BeamlineError('INTERNAL', { what: `${peer.process} pushed a call with the unknown template ${push.template}` })
    const call: Call = { peer, executable, push, pins: this.#prefetch(push), running: undefined, consumed: 0, stopped: false, wake: undefined }
    if (push.lease === 0) return this.#enqueue(this.actor.laneOf(executable.template), call)
    const lane = this.#laneOf(push.lease, peer)
    if (lane.blocked || this.#retiring) this.#giveBack(peer, push.lease, [call], this.#retiring ? 'retiring' : 'blocked')
    else this.#enqueue(lane, call)
  }

  /** Has large arguments brought here before it is the call's turn. */
  #prefetch({ storedArgs, resolved }: Push): readonly Pin[] | undefined {
    let pins: Pin[] | undefined
    const take = (place: Place | undefined): void => {
      if (!place) return
      pins ??= []
      pins.push(this.#runtime.store.pins.take(place, 'argument'))
    }
    take(storedArgs?.place)
    for (const { value } of resolved) take(value?.place)
    if (pins) void this.#runtime.store.ready().catch(() => undefined) // reported by the load
    return pins
  }

  #laneOf(lease: number, owner: Peer): Lane {
    const known = this.#lanes.get(lease)
    if (known) return known
    // Leases come and go; what an ended one left is empty.
    for (const [other, lane] of this.#lanes) if (lane.isIdle) this.#lanes.delete(other)
    const lane = new Lane(1, owner)
    this.#lanes.set(lease, lane)
    return lane
  }

  #enqueue(lane: Lane, call: Call): void {
    this.#calls.set(key(call), call)
    lane.queue.push(call)
    this.#run(lane)
  }

  takeBack(peer: Peer, { lease, count }: TakeBack): void {
    const queue = this.#lanes.get(lease)?.queue
    const keep = Math.max(0, (queue?.size ?? 0) - count)
    let at = 0
    this.#giveBack(peer, lease, queue?.remove(() => at++ >= keep) ?? [], 'asked')
  }

  #giveBack(peer: Peer, lease: number, calls: readonly Call[], why: 'asked' | 'blocked' | 'retiring'): void {
    for (const call of calls) this.#forget(call)
    const tasks = calls.map((call) => call.push.task)
    peer.send({ body: { $case: 'takenBack', value: { lease, tasks, blocked: why === 'blocked', retiring: why === 'retiring', number: peer.nextNumber() } } })
  }

  #forget(call: Call): void {
    this.#calls.delete(key(call))
    this.#unpin(call)
  }

  #unpin(call: Call): void {
    for (const pin of call.pins ?? []) pin.release()
    call.pins = undefined
  }

  cancel(peer: Peer, task: number): void {
    const call = this.#calls.get(`${peer.process}:${task}`)
    if (!call) return
    const error = new BeamlineError('CANCELLED', { task: call.executable.template.name, reason: 'by its owner' })
    if (call.running) {
      const { running } = call
      for (const child of running.children) this.#runtime.submitter.cancel(child, false, `its parent "${running.name}" was cancelled`)
      running.abort(error)
      call.stopped = true
      call.wake?.()
      return
    }
    for (const lane of [...this.#lanes.values(), ...this.actor.lanes]) lane.queue.remove((other) => other === call)
    this.#finish(call, { error, cancelled: true, execMs: 0 })
  }

  itemsConsumed(peer: Peer, { task, count, stop }: ItemsConsumed): void {
    const call = this.#calls.get(`${peer.process}:${task}`)
    if (!call) return
    call.consumed = Math.max(call.consumed, count)
    if (stop) {
      call.stopped = true
      // A producer that waits for its consumer just ends; one that is at work hears that nobody wants it.
      if (!call.wake) call.running?.abort(new BeamlineError('CANCELLED', { task: call.executable.template.name, reason: 'its stream was dropped' }))
    }
    call.wake?.()
  }

  resultReceived(peer: Peer, task: number): void {
    const id = `${peer.process}:${task}`
    for (const extras of this.#unreceived.get(id) ?? []) this.#runtime.values.letGo(extras)
    this.#unreceived.delete(id)
  }

  /** An owner is gone: nobody wants its results. */
  ownerLost(process: string): void {
    const prefix = `${process}:`
    for (const [id, call] of this.#calls) {
      if (!id.startsWith(prefix)) continue
      if (call.running) {
        call.running.abort(new BeamlineError('CANCELLED', { task: call.executable.template.name, reason: 'the process that submitted it is gone' }))
        call.stopped = true
        call.wake?.()
      } else {
        for (const lane of [...this.#lanes.values(), ...this.actor.lanes]) lane.queue.remove((other) => other === call)
        this.#forget(call)
      }
    }
    for (const [id, list] of this.#unreceived) {
      if (!id.startsWith(prefix)) continue
      for (const extras of list) this.#runtime.values.letGo(extras)
      this.#unreceived.delete(id)
    }
  }

  // ---------------------------------------------------------------- running

  #run(lane: Lane): void {
    if (lane.scheduled) return
    const sliceEnd = performance.now() + LIMITS.executorSliceMs
    while (lane.running.size < lane.limit) {
      const call = lane.queue.shift()
      if (!call) return
      lane.running.add(call)
      if (call.push.lease === 0) this.actor.runningChanged()
      const pending = this.#execute(call, lane)
      if (pending) {
        pending.then(
          () => {
            lane.running.delete(call)
            this.#run(lane)
            if (call.push.lease === 0) this.actor.runningChanged()
          },
          (error: unknown) => this.#runtime.crash(error),
        )
      } else lane.running.delete(call)
      if (lane.queue.size > 0 && performance.now() > sliceEnd) {
        lane.scheduled = true
        setImmediate(() => {
          lane.scheduled = false
          this.#run(lane)
        })
        return
      }
    }
  }

  /** Runs a call; returns a promise unless it was done at once. */
  #execute(call: Call, lane: Lane): Promise<void> | undefined {
    const { push, executable, peer } = call
    const { name } = executable.template
    const startedAt = performance.now()
    const group = executable.template.actor === '' ? executable.template.group : this.actor.group
    const running = new RunningTask({ name, owner: peer.process, number: push.task, lease: push.lease, attempt: push.attempt, startedAt, group }, (blocked) =>
      this.#blockNotice(call, lane, blocked),
    )
    call.running = running
    executable.calls++
    const target = executable.template.actor === '' ? executable.function : this.actor.method(executable.template)
    const held = new CallArguments(this.#runtime)
    const load = (): Promise<unknown> | undefined => (call.pins ? runAs(running, () => held.load(push)) : held.load(push))
    let ready: Promise<unknown> | undefined
    try {
      // The module of the function may register the classes of its arguments.
      ready = target instanceof Promise ? target.then(load) : load()
    } catch (error) {
      return this.#failed(call, held, error)
    }
    if (ready || target instanceof Promise) {
      return Promise.all([target, ready]).then(
        ([fn]) => this.#invoke(call, fn as Function, held),
        (error: unknown) => this.#failed(call, held, error),
      )
    }
    return this.#invoke(call, target, held)
  }

  #invoke(call: Call, fn: Function, held: CallArguments): Promise<void> | undefined {
    if (call.pins) this.#unpin(call) // views of the arguments have pins of their own
    const running = call.running as RunningTask
    let result: unknown
    try {
      result = runAs(running, () => fn.apply(undefined, held.values))
    } catch (error) {
      return this.#failed(call, held, error)
    }
    if (call.executable.template.streaming)
      return runAs(running, () => this.#stream(call, result)).then(
        (items) => this.#succeeded(call, held, undefined, items),
        (error: unknown) => this.#failed(call, held, error),
      )
    if (!isThenable(result)) return this.#succeeded(call, held, result, 0)
    return Promise.resolve(result).then(
      (value) => this.#succeeded(call, held, value, 0),
      (error: unknown) => this.#failed(call, held, error),
    )
  }

  async #stream(call: Call, result: unknown): Promise<number> {
    const { push, executable, peer } = call
    const source = (await result) as AsyncIterable<unknown> & Iterable<unknown>
    const iterator = (source?.[Symbol.asyncIterator]?.() ?? source?.[Symbol.iterator]?.()) as AsyncIterator<unknown> | undefined
    if (!iterator) throw new TypeError(`"${executable.template.name}" streams, but returned ${typeof source}, which cannot be iterated`)
    let index = 0
    for (;;) {
      while (index - call.consumed >= executable.template.itemsMax && !call.stopped) {
        // The consumer may need this CPU to get on.
        await whileBlocked(
          () =>
            new Promise<void>((resolve) => {
              call.wake = resolve
            }),
        )
        call.wake = undefined
      }
      if (call.stopped) {
        await iterator.return?.()
        return index
      }
      const { done, value } = await iterator.next()
      if (done) return index
      const number = push.task + 1 + index
      const stored = await this.#store(call, value, number, `item ${index} of "${executable.template.name}"`)
      if (peer.ended) {
        this.#dismiss([stored])
        await iterator.return?.()
        return index
      }
      const item = { task: push.task, index: index++, value: this.#runtime.values.toWire(stored) }
      this.#keepForOwner(call, [stored])
      this.#runtime.references.whenBorrowed(peer.process, () => {
        peer.send({ body: { $case: 'item', value: { ...item, number: peer.nextNumber() } } })
      })
    }
  }

  #store(call: Call, value: unknown, number: number, what: string): Stored | Promise<Stored> {
    const { process, address } = call.peer
    return this.#runtime.values.store(value, what, () => ({ owner: process, address, object: number }))
  }

  /** Results that reach nobody: their memory is free again, what they refer to is let go. */
  #dismiss(results: readonly (Stored | Promise<Stored>)[]): void {
    const { store, values } = this.#runtime
    const dismiss = (stored: Stored): void => {
      if (stored.kind !== 'bytes' && stored.kind !== 'place') return
      if (stored.extras) values.letGo(stored.extras)
      if (stored.kind === 'place') store.abandon(stored.place)
    }
    for (const result of results) {
      if (result instanceof Promise) result.then(dismiss, () => undefined)
      else dismiss(result)
    }
  }

  #keepForOwner(call: Call, results: readonly Stored[]): void {
    for (const stored of results) {
      if (stored.kind !== 'bytes' && stored.kind !== 'place') continue
      if (!stored.extras) continue
      const { refs, handles } = stored.extras
      if (refs.length === 0 && handles.length === 0) continue
      const id = key(call)
      const list = this.#unreceived.get(id) ?? []
      list.push(stored.extras)
      this.#unreceived.set(id, list)
    }
  }

  #succeeded(call: Call, held: CallArguments, result: unknown, items: number): Promise<void> | undefined {
    const { executable, push } = call
    const { returns, name } = executable.template
    const stored: (Stored | Promise<Stored>)[] = []
    try {
      if (returns === 1) stored.push(this.#store(call, result, push.task, `the result of "${name}"`))
      else {
        if (!Array.isArray(result) || result.length !== returns) {
          const got = Array.isArray(result) ? `an array of ${result.length}` : typeof result
          throw new BeamlineError('INVALID_ARGUMENT', { what: `the result of "${name}"`, got, expected: `an array of ${returns} values (option returns)` })
        }
        for (const [i, value] of result.entries()) stored.push(this.#store(call, value, push.task + i, `result ${i} of "${name}"`))
      }
    } catch (error) {
      this.#dismiss(stored)
      return this.#failed(call, held, error)
    }
    if (returns === 1 && !(stored[0] instanceof Promise)) {
      held.release()
      this.#finish(call, { results: stored as Stored[], items, execMs: this.#elapsed(call) })
      return undefined
    }
    return Promise.all(stored).then(
      (results) => {
        held.release()
        this.#finish(call, { results, items, execMs: this.#elapsed(call) })
      },
      (error: unknown) => {
        this.#dismiss(stored)
        return this.#failed(call, held, error)
      },
    )
  }

  #elapsed(call: Call): number {
    return performance.now() - (call.running?.startedAt ?? 0)
  }

  async #failed(call: Call, held: CallArguments, thrown: unknown): Promise<void> {
    held.release()
    const { template } = call.executable
    const cancelled = call.running?.cancelled ?? false
    // What the runtime itself refuses (an argument, a result) is reported as it is; user code's errors are wrapped.
    const own =
      BeamlineError.is(thrown) &&
      ['NOT_SERIALIZABLE', 'INVALID_ARGUMENT', 'STORE_FULL', 'OBJECT_LOST', 'OWNER_DIED', 'STORE_UNAVAILABLE', 'ENVIRONMENT_INVALID'].includes(thrown.code)
    const error = own ? (thrown as BeamlineError) : taskError(thrown, template.name, this.#runtime.process)
    const retry = !cancelled && (await call.executable.retries(thrown))
    this.#finish(call, { error, retry, cancelled, execMs: this.#elapsed(call) })
  }

  #finish(call: Call, outcome: { results?: readonly Stored[]; error?: Error; retry?: boolean; cancelled?: boolean; items?: number; execMs: number }): void {
    const { peer, push, executable } = call
    this.#forget(call)
    const { results, error, retry = false, cancelled = false, items = 0, execMs } = outcome
    const [only] = results ?? []
    let value: Uint8Array = EMPTY
    let values: Value[] = []
    if (peer.ended) this.#dismiss(results ?? [])
    else if (error) values = [{ inline: EMPTY, place: undefined, error: encodeError(error), refs: [], functions: [], handles: [] }]
    else if (results?.length === 1 && only?.kind === 'primitive') value = encodePrimitive(only.value)
    else if (results?.length === 1 && only?.kind === 'bytes' && !only.extras) value = only.bytes
    else if (results) {
      values = results.map((stored) => this.#runtime.values.toWire(stored))
      this.#keepForOwner(call, results)
    }
    const send = (): void => {
      peer.send({ body: { $case: 'done', value: { task: push.task, value, values, execMs, retry, cancelled, items } } })
    }
    this.#runtime.references.whenBorrowed(peer.process, send)
    this.#record(call, error, cancelled)
    const isSpent = executable.template.maxCalls > 0 && executable.calls >= executable.template.maxCalls
    // What it misses may be there for the next worker.
    const isUnusable = BeamlineError.is(error, 'ENVIRONMENT_INVALID') && this.#lanes.get(push.lease)?.queue.size === 0
    if (push.lease !== 0 && (isSpent || isUnusable)) this.#retire()
  }

  #retire(): void {
    this.#retiring = true
    for (const [lease, lane] of this.#lanes) {
      const { owner } = lane
      if (!owner) continue
      this.#giveBack(
        owner,
        lease,
        lane.queue.remove(() => true),
        'retiring',
      )
    }
  }

  #blockNotice(call: Call, lane: Lane, blocked: boolean): void {
    const { lease } = call.push
    if (lease === 0) return this.actor.waits(blocked)
    lane.blocked = blocked
    log(() => `"${call.executable.template.name}" ${blocked ? 'waits for objects and lends its CPU' : 'goes on'}`)
    this.#runtime.sendToNode({ body: { $case: 'leaseBlocked', value: { lease, blocked } } })
    if (blocked) {
      this.#giveBack(
        call.peer,
        lease,
        lane.queue.remove(() => true),
        'blocked',
      )
    }
  }

  // ---------------------------------------------------------------- records

  #record(call: Call, error: Error | undefined, cancelled: boolean): void {
    const { running, push, executable, peer } = call
    if (!running) return
    this.events.add({
      task: `${peer.process}:${push.task}`,
      name: executable.template.name,
      worker: this.#runtime.process,
      owner: peer.process,
      startMs: performance.timeOrigin + running.startedAt,
      endMs: performance.timeOrigin + performance.now(),
      state: cancelled ? 'CANCELLED' : error ? 'FAILED' : 'FINISHED',
      errorCode: BeamlineError.is(error) ? error.code : '',
    })
  }
}

const key = (call: Call): string => `${call.peer.process}:${call.push.task}`

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return types.isPromise(value) || (typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function')
}
