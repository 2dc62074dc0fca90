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
import type { ActorStart, TaskEvent } from '../net/gen/node.ts'
import { Creation, type ItemsConsumed, type Push, type TakeBack, type Template, type Value } from '../net/gen/peer.ts'
import { Deque } from './deque.ts'
import { Executable, FunctionCache } from './executable.ts'
import type { Extras, ObjectEntry, Stored } from './object-entry.ts'
import type { Peer } from './peers.ts'
import { RunningTask, runAs, whileBlocked } from './running-task.ts'
import type { Runtime } from './runtime.ts'
import { encodePrimitive } from './values.ts'
import { encodeError, taskError } from './wire-error.ts'
import { decode } from '../objects/codec.ts'

const EMPTY = new Uint8Array(0)
const log = debug('exec')

/** A call that arrived. */
interface Call {
  readonly peer: Peer
  readonly executable: Executable
  readonly push: Push
  running: RunningTask | undefined
  /** Items of a stream that its consumer took. */
  consumed: number
  stopped: boolean
  wake: (() => void) | undefined
}

/** Calls that run one after the other (tasks of a lease) or `limit` at once (a concurrency group of the actor). */
class Lane {
  readonly queue: Deque<Call> = new Deque()
  readonly running: Set<Call> = new Set()
  limit: number
  scheduled = false
  /** The running task waits and its queue was given back. */
  blocked = false

  constructor(limit: number) {
    this.limit = limit
  }
}

interface Argument {
  readonly values: unknown[]
  /** What was held while the call runs. */
  readonly entries: ObjectEntry[]
  readonly extras: Extras[]
}

export class Executor {
  readonly #runtime: Runtime
  readonly #functions: FunctionCache
  readonly #lanes = new Map<number, Lane>()
  readonly #groups = new Map<string, Lane>()
  #calls = new Map<string, Call>()
  /** References in results, until their owner has borrowed them. */
  readonly #unreceived = new Map<string, Extras[]>()
  #actor: { readonly id: string; readonly instance: Record<string, unknown>; readonly name: string } | undefined
  #events: TaskEvent[] = []
  #eventsDropped = 0
  #eventTimer: NodeJS.Timeout | undefined
  #retiring = false
  /** Calls of the actor, its constructor included, that wait for objects; when all of them do, its CPUs are lent. */
  #actorWaits = 0
  #isConstructing = false
  #actorLends = false
  /** Told when the last running call of an actor that shall end is done. */
  #actorIdle: (() => void) | undefined

  constructor(runtime: Runtime) {
    this.#runtime = runtime
    this.#functions = new FunctionCache(runtime.values)
  }

  // ---------------------------------------------------------------- messages

  template(peer: Peer, template: Template): void {
    peer.received.set(template.id, new Executable(template, this.#functions, this.#runtime.values))
  }

  templateForget(peer: Peer, id: number): void {
    peer.received.get(id)?.release()
    peer.received.delete(id)
  }

  push(peer: Peer, push: Push): void {
    const executable = peer.received.get(push.template)
    if (!executable) throw new BeamlineError('INTERNAL', { what: `${peer.process} pushed a call with the unknown template ${push.template}` })
    const call: Call = { peer, executable, push, running: undefined, consumed: 0, stopped: false, wake: undefined }
    if (push.lease === 0) this.#enqueue(this.#groupOf(executable.template), call)
    else {
      let lane = this.#lanes.get(push.lease)
      if (!lane) {
        lane = new Lane(1)
        this.#lanes.set(push.lease, lane)
      }
      if (lane.blocked || this.#retiring) this.#giveBack(peer, push.lease, [push.task], !this.#retiring, this.#retiring)
      else this.#enqueue(lane, call)
    }
  }

  #groupOf(template: Template): Lane {
    return this.#groups.get(template.concurrencyGroup) ?? this.#groups.get('') ?? new Lane(1)
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
    const back = queue?.remove(() => at++ >= keep) ?? []
    for (const call of back) this.#calls.delete(key(call))
    this.#giveBack(
      peer,
      lease,
      back.map((call) => call.push.task),
      false,
      false,
    )
  }

  #giveBack(peer: Peer, lease: number, tasks: number[], blocked: boolean, retiring: boolean): void {
    peer.link.send({ body: { $case: 'takenBack', value: { lease, tasks, blocked, retiring } } })
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
    for (const lane of [...this.#lanes.values(), ...this.#groups.values()]) lane.queue.remove((other) => other === call)
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
        for (const lane of [...this.#lanes.values(), ...this.#groups.values()]) lane.queue.remove((other) => other === call)
        this.#calls.delete(id)
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
      if (this.#actorLends) this.#lendOfActor()
      const pending = this.#execute(call, lane)
      if (pending) {
        pending.then(
          () => {
            lane.running.delete(call)
            if (this.#actorWaits > 0) this.#lendOfActor()
            this.#run(lane)
            if (this.#actorIdle && !this.#actorRuns()) this.#actorIdle()
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
    const running = new RunningTask({ name, owner: peer.process, number: push.task, lease: push.lease, attempt: push.attempt, startedAt }, (blocked) =>
      this.#blockNotice(call, lane, blocked),
    )
    call.running = running
    executable.calls++
    const target = this.#target(executable)
    const held: Argument = { values: [], entries: [], extras: [] }
    let ready: Promise<unknown> | undefined
    try {
      ready = this.#arguments(push, held)
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

  #target(executable: Executable): Function | Promise<Function> {
    const { template } = executable
    if (template.actor === '') return executable.function
    const instance = this.#actor?.instance
    const method = instance?.[template.method]
    if (typeof method === 'function') return method.bind(instance) as Function
    return Promise.reject(new TypeError(`actor ${this.#actor?.name ?? template.actor} has no method "${template.method}"`))
  }

  /** Fills in the arguments; returns a promise when some of them need time. */
  #arguments(push: Push, held: Argument): Promise<unknown> | undefined {
    const waits: Promise<unknown>[] = []
    const assign = (loaded: unknown, use: (value: unknown) => void): void => {
      if (loaded instanceof Promise) waits.push(loaded.then(use))
      else use(loaded)
    }
    const resolve = (): void => {
      for (const { index, value } of push.resolved) {
        if (value)
          assign(this.#take(value, held), (loaded) => {
            held.values[index] = loaded
          })
      }
    }
    if (push.storedArgs) {
      const list = this.#take(push.storedArgs, held)
      if (list instanceof Promise) {
        waits.push(
          list.then(async (values) => {
            held.values.push(...(values as unknown[]))
            const before = waits.length
            resolve()
            await Promise.all(waits.slice(before))
          }),
        )
        return Promise.all(waits)
      }
      held.values.push(...(list as unknown[]))
    } else if (push.args.length > 0) held.values.push(...(decode(push.args) as unknown[]))
    resolve()
    return waits.length > 0 ? Promise.all(waits) : undefined
  }

  /** A value that came with a call. What it refers to is held until the call is done, views of it for longer. */
  #take(value: Value, held: Argument): unknown {
    const { references, values } = this.#runtime
    const stored = values.fromWire(value)
    if (stored.kind === 'bytes' || stored.kind === 'place') {
      if (stored.extras) held.extras.push(stored.extras)
    }
    if (stored.kind !== 'place' || !stored.place.object) return values.load(stored, undefined)
    const entry = references.borrow(stored.place.object).hold()
    held.entries.push(entry)
    return values.load(stored, entry)
  }

  #release(held: Argument): void {
    for (const entry of held.entries) entry.unhold()
    for (const extras of held.extras) this.#runtime.values.letGo(extras)
  }

  #invoke(call: Call, fn: Function, held: Argument): Promise<void> | undefined {
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
      const item = { task: push.task, index, value: this.#runtime.values.toWire(stored) }
      this.#keepForOwner(call, [stored])
      this.#runtime.references.whenBorrowed(peer.process, () => peer.link.send({ body: { $case: 'item', value: item } }))
      index++
    }
  }

  #store(call: Call, value: unknown, number: number, what: string): Stored | Promise<Stored> {
    const { process, address } = call.peer
    return this.#runtime.values.store(value, what, () => ({ owner: process, address, object: number }))
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

  #succeeded(call: Call, held: Argument, result: unknown, items: number): Promise<void> | undefined {
    const { executable, push } = call
    const { returns, name } = executable.template
    let stored: Stored | Promise<Stored> | (Stored | Promise<Stored>)[]
    try {
      if (returns === 1) stored = this.#store(call, result, push.task, `the result of "${name}"`)
      else {
        if (!Array.isArray(result) || result.length !== returns) {
          const got = Array.isArray(result) ? `an array of ${result.length}` : typeof result
          throw new BeamlineError('INVALID_ARGUMENT', { what: `the result of "${name}"`, got, expected: `an array of ${returns} values (option returns)` })
        }
        stored = result.map((value, i) => this.#store(call, value, push.task + i, `result ${i} of "${name}"`))
      }
    } catch (error) {
      return this.#failed(call, held, error)
    }
    if (!Array.isArray(stored) && !(stored instanceof Promise)) {
      this.#release(held)
      this.#finish(call, { results: [stored], items, execMs: this.#elapsed(call) })
      return undefined
    }
    return Promise.all(Array.isArray(stored) ? stored : [stored]).then(
      (results) => {
        this.#release(held)
        this.#finish(call, { results, items, execMs: this.#elapsed(call) })
      },
      (error: unknown) => this.#failed(call, held, error),
    )
  }

  #elapsed(call: Call): number {
    return performance.now() - (call.running?.startedAt ?? 0)
  }

  async #failed(call: Call, held: Argument, thrown: unknown): Promise<void> {
    this.#release(held)
    const { template } = call.executable
    const cancelled = call.running?.cancelled ?? false
    // What the runtime itself refuses (an argument, a result) is reported as it is; user code's errors are wrapped.
    const own =
      BeamlineError.is(thrown) && ['NOT_SERIALIZABLE', 'INVALID_ARGUMENT', 'STORE_FULL', 'OBJECT_LOST', 'OWNER_DIED', 'STORE_UNAVAILABLE'].includes(thrown.code)
    const error = own ? (thrown as BeamlineError) : taskError(thrown, template.name, this.#runtime.process)
    const retry = !cancelled && (await call.executable.retries(thrown))
    this.#finish(call, { error, retry, cancelled, execMs: this.#elapsed(call) })
  }

  #finish(call: Call, outcome: { results?: readonly Stored[]; error?: Error; retry?: boolean; cancelled?: boolean; items?: number; execMs: number }): void {
    const { peer, push, executable } = call
    this.#calls.delete(key(call))
    const { results, error, retry = false, cancelled = false, items = 0, execMs } = outcome
    const [only] = results ?? []
    let value: Uint8Array = EMPTY
    let values: Value[] = []
    if (error) values = [{ inline: EMPTY, place: undefined, error: encodeError(error), refs: [], functions: [], handles: [] }]
    else if (results?.length === 1 && only?.kind === 'primitive') value = encodePrimitive(only.value)
    else if (results?.length === 1 && only?.kind === 'bytes' && !only.extras) value = only.bytes
    else if (results) {
      values = results.map((stored) => this.#runtime.values.toWire(stored))
      this.#keepForOwner(call, results)
    }
    const send = (): void => {
      peer.link.send({ body: { $case: 'done', value: { task: push.task, value, values, execMs, retry, cancelled, items } } })
    }
    this.#runtime.references.whenBorrowed(peer.process, send)
    this.#record(call, error, cancelled)
    if (executable.template.maxCalls > 0 && executable.calls >= executable.template.maxCalls && push.lease !== 0) this.#retire(call)
  }

  #retire(call: Call): void {
    this.#retiring = true
    for (const [lease, lane] of this.#lanes) {
      const back = lane.queue.remove(() => true)
      for (const other of back) this.#calls.delete(key(other))
      this.#giveBack(
        call.peer,
        lease,
        back.map((other) => other.push.task),
        false,
        true,
      )
    }
  }

  #blockNotice(call: Call, lane: Lane, blocked: boolean): void {
    const { lease } = call.push
    if (lease === 0) return this.#actorNotice(blocked)
    lane.blocked = blocked
    log(() => `"${call.executable.template.name}" ${blocked ? 'waits for objects and lends its CPU' : 'goes on'}`)
    this.#runtime.sendToNode({ body: { $case: 'leaseBlocked', value: { lease, blocked } } })
    if (!blocked) return
    const back = lane.queue.remove(() => true)
    for (const other of back) this.#calls.delete(key(other))
    this.#giveBack(
      call.peer,
      lease,
      back.map((other) => other.push.task),
      true,
      false,
    )
  }

  // ---------------------------------------------------------------- the actor

  #actorNotice(waits: boolean): void {
    this.#actorWaits += waits ? 1 : -1
    this.#lendOfActor()
  }

  #lendOfActor(): void {
    let running = this.#isConstructing ? 1 : 0
    for (const lane of this.#groups.values()) running += lane.running.size
    const lends = this.#actorWaits > 0 && this.#actorWaits >= running
    if (lends === this.#actorLends) return
    this.#actorLends = lends
    this.#runtime.sendToNode({ body: { $case: 'leaseBlocked', value: { lease: 0, blocked: lends } } })
  }

  /** Makes this worker the home of an actor. */
  async startActor(start: ActorStart): Promise<void> {
    const { template, push, owner, ownerAddress, maxConcurrency, concurrencyGroups } = Creation.decode(start.creation)
    if (!template || !push) throw new BeamlineError('INTERNAL', { what: `actor ${start.actor} came without a constructor call` })
    const held: Argument = { values: [], entries: [], extras: [] }
    const running = new RunningTask({ name: template.name, owner, number: 0, lease: 0, attempt: start.incarnation, startedAt: performance.now() }, (blocked) =>
      this.#actorNotice(blocked),
    )
    this.#isConstructing = true
    try {
      const executable = new Executable(template, this.#functions, this.#runtime.values)
      const Class = (await executable.function) as new (...args: unknown[]) => Record<string, unknown>
      await this.#arguments(push, held)
      const instance = await runAs(running, async () => new Class(...held.values))
      this.#actor = { id: start.actor, instance, name: template.name }
      this.#groups.set('', new Lane(maxConcurrency))
      for (const [group, limit] of Object.entries(concurrencyGroups)) this.#groups.set(group, new Lane(limit))
      this.#runtime.sendToNode({ body: { $case: 'actorStarted', value: { actor: start.actor, error: EMPTY, errorText: '' } } })
    } catch (thrown) {
      const error = taskError(thrown, `${template.name} constructor`, this.#runtime.process)
      this.#runtime.sendToNode({
        body: { $case: 'actorStarted', value: { actor: start.actor, error: encodeError(error), errorText: error.message } },
      })
    } finally {
      this.#isConstructing = false
      this.#release(held)
      log(() => `actor ${template.name} for ${owner} at ${ownerAddress}`)
    }
  }

  /** Lets running calls finish, disposes of the actor, and resolves. */
  async stopActor(): Promise<void> {
    for (const lane of this.#groups.values()) lane.limit = 0
    if (this.#actorRuns()) {
      await new Promise<void>((resolve) => {
        this.#actorIdle = resolve
      })
    }
    await this.disposeActor()
  }

  /** Runs the actor's dispose method, whatever else runs. */
  async disposeActor(): Promise<void> {
    const instance = this.#actor?.instance as Partial<AsyncDisposable & Disposable> | undefined
    await (instance?.[Symbol.asyncDispose] ?? instance?.[Symbol.dispose])?.call(instance)
  }

  #actorRuns(): boolean {
    for (const lane of this.#groups.values()) if (lane.running.size > 0) return true
    return false
  }

  // ---------------------------------------------------------------- records

  #record(call: Call, error: Error | undefined, cancelled: boolean): void {
    const { running, push, executable, peer } = call
    if (!running) return
    if (this.#events.length >= LIMITS.taskEventsHeldMax) {
      this.#eventsDropped++
      return
    }
    this.#events.push({
      task: `${peer.process}:${push.task}`,
      name: executable.template.name,
      worker: this.#runtime.process,
      owner: peer.process,
      startMs: performance.timeOrigin + running.startedAt,
      endMs: performance.timeOrigin + performance.now(),
      state: cancelled ? 'CANCELLED' : error ? 'FAILED' : 'FINISHED',
      errorCode: BeamlineError.is(error) ? error.code : '',
    })
    this.#eventTimer ??= setTimeout(() => this.flushEvents(), LIMITS.taskEventsIntervalMs)
  }

  flushEvents(): void {
    clearTimeout(this.#eventTimer)
    this.#eventTimer = undefined
    if (this.#events.length === 0) return
    this.#runtime.sendToNode({ body: { $case: 'taskEvents', value: { events: this.#events, dropped: this.#eventsDropped } } })
    this.#events = []
    this.#eventsDropped = 0
  }

  /** Calls that wait or run here, for `list tasks`. */
  *calls(): Iterable<{
    readonly name: string
    readonly owner: string
    readonly task: number
    readonly running: boolean
    readonly startedAt: number | undefined
  }> {
    for (const { executable, peer, push, running } of this.#calls.values()) {
      yield { name: executable.template.name, owner: peer.process, task: push.task, running: running !== undefined, startedAt: running?.startedAt }
    }
  }
}

const key = (call: Call): string => `${call.peer.process}:${call.push.task}`

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return types.isPromise(value) || (typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function')
}
