/**
 * Tasks at their owner: from arguments to results, with retries, time limits and cancellation.
 *
 * Cost of a task without references: one record, one entry, one Push and one Done message; no message to the node
 * while a lease is at hand.
 */
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import { debug } from '../debug.ts'
import { nodeOf } from '../net/endpoint.ts'
import type { Failure, LeaseGranted, Shape } from '../net/gen/node.ts'
import type { Done, Item, Push, TakenBack, Value } from '../net/gen/peer.ts'
import { encodeInline } from '../objects/codec.ts'
import type { ActorClient } from './actors.ts'
import { ItemStream, STREAM_ITEMS_MAX } from './item-stream.ts'
import { extrasOf } from './lineage.ts'
import { ObjectEntry, type Stored } from './object-entry.ts'
import type { Peer } from './peers.ts'
import type { Runtime } from './runtime.ts'
import { runningTask } from './running-task.ts'
import { type Lease, type ShapePort, ShapeQueue } from './shape-queue.ts'
import { type CallTemplate, type Dependency, TaskRecord } from './task-record.ts'
import { fromInline } from './values.ts'
import { decodeError, wireError } from './wire-error.ts'

const EMPTY = new Uint8Array(0)
/** After so long, every node has said which leases it takes for held. */
const LEASES_SAID_MS = 10_000
const NO_ENTRIES: readonly ObjectEntry[] = []
const NO_DEPENDENCIES: readonly Dependency[] = []
const log = debug('core')

/** What the node is asked for, for the tasks of a queue. */
interface Demand {
  readonly shape: Shape
  readonly exclusive: boolean
  readonly label: string
}

interface HeldLease {
  readonly lease: Lease
  readonly queue: ShapeQueue
}

/** Arguments as a record keeps them. */
interface EncodedArguments {
  readonly args: Uint8Array
  readonly stored: Promise<ObjectEntry> | ObjectEntry | undefined
  readonly dependencies: readonly Dependency[]
}

export class Submitter implements ShapePort {
  readonly #runtime: Runtime
  /** By key. */
  readonly #queues = new Map<number, ShapeQueue>()
  #nextKey = 0
  readonly #queueByShape = new Map<string, ShapeQueue>()
  readonly #demands = new Map<ShapeQueue, Demand>()
  readonly #leases = new Map<number, HeldLease>()
  readonly #pumping = new Set<ShapeQueue>()
  readonly #wakes = new Map<ShapeQueue, { readonly timer: NodeJS.Timeout; readonly due: number }>()
  #pumpScheduled = false
  /** Attempts of calls that were begun because one before was lost or failed. */
  retries = 0
  /** Finished calls that were begun again to bring their results back. */
  reconstructions = 0
  /** Leases that were returned since this process is attached to another node, for a while. */
  #returned: Set<number> | undefined
  #lost: Error | undefined

  constructor(runtime: Runtime) {
    this.#runtime = runtime
  }

  /** The queue of a shape. Tasks that may not be started twice have queues of their own. */
  queueFor(shape: Shape, exclusive: boolean, label: string, base?: ShapeQueue): ShapeQueue {
    const id = shapeId(shape, exclusive)
    let queue = this.#queueByShape.get(id)
    if (!queue) {
      queue = new ShapeQueue(this.#nextKey++, this, exclusive ? 1 : undefined, base)
      this.#queues.set(queue.key, queue)
      this.#queueByShape.set(id, queue)
      this.#demands.set(queue, { shape, exclusive, label })
    }
    return queue
  }

  /** The queue for a task whose arguments are ready: where most of their bytes lie, when that is another node. */
  #queueNear(record: TaskRecord, { base }: ShapeQueue): ShapeQueue {
    const { node: own } = this.#runtime
    const demand = this.#demands.get(base)
    if (own === '' || !demand || demand.shape.node !== '' || demand.shape.placementGroup !== '') return base
    const node = record.nodeOfMost(own)
    if (node === own) return base
    if (this.#queues.size >= LIMITS.taskQueuesMax && !this.#queueByShape.has(shapeId({ ...demand.shape, prefers: node }, demand.exclusive))) return base
    return this.queueFor({ ...demand.shape, prefers: node }, demand.exclusive, demand.label, base)
  }

  /** Queues for tasks that prefer a node go when they are not used. */
  #dropIdle(queue: ShapeQueue): void {
    const demand = this.#demands.get(queue)
    if (!demand || queue.base === queue || queue.outstanding > 0 || queue.leases.size > 0 || queue.demanded > 0) return
    clearTimeout(this.#wakes.get(queue)?.timer)
    this.#wakes.delete(queue)
    this.#demands.delete(queue)
    this.#queues.delete(queue.key)
    this.#queueByShape.delete(shapeId(demand.shape, demand.exclusive))
  }

  // ---------------------------------------------------------------- submitting

  /** Takes a task; the caller holds its outputs, which are pending. */
  submit(template: CallTemplate, args: readonly unknown[], queue: ShapeQueue): TaskRecord {
    const record = this.#record(template, args, queue)
    this.#begin(record)
    return record
  }

  /** Takes a call of an actor, whose lifetime it holds until it is done. */
  submitCall(template: CallTemplate, args: readonly unknown[], client: ActorClient, lifetime: ObjectEntry | undefined): TaskRecord {
    const record = this.#record(template, args, undefined)
    record.keeps = lifetime?.hold()
    this.#runtime.actors.enqueue(client, record)
    this.#begin(record)
    return record
  }

  #record(template: CallTemplate, args: readonly unknown[], queue: ShapeQueue | undefined): TaskRecord {
    const encoded = this.#encodeArguments(args, template)
    const { references } = this.#runtime
    let number: number
    let outputs: readonly ObjectEntry[] = NO_ENTRIES
    let stream: ItemStream | undefined
    if (template.streaming) {
      number = references.reserve(STREAM_ITEMS_MAX + 1)
      stream = new ItemStream(template.itemsMax, (count, stop) => this.#itemsConsumed(record, count, stop))
    } else {
      number = references.reserve(Math.max(1, template.returns))
      outputs = template.returns === 1 ? [references.create(number)] : Array.from({ length: template.returns }, (_, i) => references.create(number + i))
    }
    const { dependencies } = encoded
    const record: TaskRecord = new TaskRecord({ template, number, outputs, stream, args: encoded.args, storedArgs: encoded.stored, dependencies, queue })
    // A stream that nobody takes from may be held up for ever: there, those who wait for items keep the process.
    if (!stream) this.#runtime.keepAlive.add()
    for (const output of outputs) output.producer = record
    for (const { entry } of dependencies) {
      entry.hold()
      references.want(entry)
    }
    runningTask()?.addChild(record)
    return record
  }

  #begin(record: TaskRecord): void {
    if (record.storedArgs instanceof Promise) {
      record.storedArgs.then(
        (entry) => {
          record.storedArgs = entry
          if (record.phase === 'done') entry.unhold()
          else this.#start(record)
        },
        (error: unknown) => {
          record.storedArgs = undefined
          this.fail(record, error as Error)
          this.#runtime.actors.ready(record)
        },
      )
    } else this.#start(record)
  }

  #encodeArguments(args: readonly unknown[], template: CallTemplate): EncodedArguments {
    if (args.length === 0) return { args: EMPTY, stored: undefined, dependencies: NO_DEPENDENCIES }
    let dependencies: Dependency[] | undefined
    let list: unknown[] | undefined
    let simple = true
    for (let index = 0; index < args.length; index++) {
      const value = args[index]
      if (value === null || (typeof value !== 'object' && typeof value !== 'function' && (typeof value !== 'string' || value.length < 1024))) continue
      const entry = this.#runtime.kinds.entryOf(value as object)
      if (entry) {
        list ??= [...args]
        list[index] = undefined
        dependencies ??= []
        dependencies.push({ index, entry })
      } else simple = false
    }
    const what = `the arguments of "${template.name}"`
    if (simple) return { args: encodeInline(list ?? args, what), stored: undefined, dependencies: dependencies ?? NO_DEPENDENCIES }
    const stored = this.#runtime.storeOwned(list ?? args, what, template.name)
    return { args: EMPTY, stored, dependencies: dependencies ?? NO_DEPENDENCIES }
  }

  #start(record: TaskRecord): void {
    if (record.phase === 'done') return
    if (this.#lost) return this.fail(record, this.#lost)
    record.phase = 'waiting'
    for (const { entry } of record.dependencies) this.#runtime.references.want(entry)
    record.awaitDependencies(this.#dependenciesReady)
  }

  readonly #dependenciesReady = (record: TaskRecord): void => {
    const failed = record.failedDependency()
    if (failed) {
      this.fail(record, failed)
      this.#runtime.actors.ready(record)
    } else if (record.queue) {
      if (record.dependencies.length > 0 || record.storedArgs) record.queue = this.#queueNear(record, record.queue)
      record.queue.enqueue(record)
      this.#pumpSoon(record.queue)
    } else {
      record.phase = 'queued'
      this.#runtime.actors.ready(record)
    }
  }

  #pumpSoon(queue: ShapeQueue): void {
    this.#pumping.add(queue)
    if (this.#pumpScheduled) return
    this.#pumpScheduled = true
    queueMicrotask(() => {
      this.#pumpScheduled = false
      const queues = [...this.#pumping]
      this.#pumping.clear()
      for (const each of queues) each.pump()
    })
  }

  /** Ends a call with an error in place of its results. */
  fail(record: TaskRecord, error: Error): void {
    this.#finish(record, error, () => {
      if (!record.rebuilding) return record.fail(error)
      for (const output of record.outputs) this.#runtime.lineage.superseded(output)
      return record.fail(this.#runtime.lineage.rerunFailed(record, error))
    })
  }

  /** Ends a call: `settle` makes its outputs ready, then what it held is let go, or kept for when they are lost. */
  #finish(record: TaskRecord, error: Error | undefined, settle: () => unknown): void {
    if (record.phase === 'done') return
    record.phase = 'done'
    if (!record.stream) this.#runtime.keepAlive.done()
    clearTimeout(record.timer)
    settle()
    if (!record.atWorker) this.#release(record)
    if (record.kept) this.#runtime.lineage.ended(record, error)
    else record.rebuilding = false
  }

  /** The record is no longer at a worker, which may have been reading its arguments until now. */
  left(record: TaskRecord): void {
    record.atWorker = false
    if (record.phase === 'done') this.#release(record)
  }

  #release(record: TaskRecord): void {
    record.keeps?.unhold()
    record.keeps = undefined
    if (record.kept && this.#runtime.lineage.shelve(record)) return
    for (const { entry } of record.dependencies) entry.unhold()
    if (!(record.storedArgs instanceof Promise)) record.storedArgs?.unhold()
  }

  /** Runs a finished call again, whose results were lost. Returns why it cannot. */
  rerun(record: TaskRecord): string | undefined {
    if (this.#lost) return this.#lost.message
    if (!record.queue) {
      const why = this.#runtime.actors.enqueueAgain(record)
      if (why !== undefined) return why
    }
    if (!record.stream) this.#runtime.keepAlive.add()
    this.reconstructions++
    record.attempt++
    record.firstAttempt = record.attempt
    record.lease = undefined
    record.phase = 'waiting'
    this.#start(record)
    return undefined
  }

  /** An argument was lost after the call was ready: it waits again. */
  notReady(record: TaskRecord): void {
    this.#start(record)
  }

  // ---------------------------------------------------------------- the port of the queues

  now(): number {
    return performance.now()
  }

  push(lease: Lease, record: TaskRecord): void {
    const peer = this.#runtime.peers.get(lease.worker, lease.address)
    this.pushTo(peer, record, lease.id)
    const { timeoutMs } = record.template
    if (timeoutMs !== undefined) record.timer = setTimeout(() => this.#timedOut(record, timeoutMs), Math.min(timeoutMs, LIMITS.timerMsMax))
  }

  /** Sends a call to the worker that runs it, for tasks and actor calls alike. */
  pushTo(peer: Peer, record: TaskRecord, lease: number): void {
    const { values } = this.#runtime
    const template = peer.templateId(record.template)
    const resolved = record.dependencies.map(({ index, entry }) => ({ index, value: values.toWire(entry.stored as Stored) }))
    const storedArgs = record.storedArgs && values.toWire((record.storedArgs as ObjectEntry).stored as Stored)
    const push: Push = { template, task: record.number, lease, args: record.args, storedArgs, resolved, attempt: record.attempt, number: peer.nextNumber() }
    peer.send({ body: { $case: 'push', value: push } })
    // All items are made again; those that are not lost are dropped as they come.
    if (record.rebuilding) this.hurry(record)
    else record.stream?.started()
  }

  takeBack(lease: Lease, count: number): void {
    const peer = this.#runtime.peers.get(lease.worker, lease.address)
    peer.send({ body: { $case: 'takeBack', value: { lease: lease.id, count, number: peer.nextNumber() } } })
  }

  demand(queue: ShapeQueue, wanted: number, backlog: number): void {
    const known = this.#demands.get(queue)
    if (!known) return
    this.#runtime.sendToNode({ body: { $case: 'leaseDemand', value: { key: queue.key, shape: known.shape, wanted, backlog, label: known.label, seen: 0 } } })
    if (wanted === 0) this.#dropIdle(queue)
  }

  returnLease(lease: Lease, retire: boolean): void {
    const queue = this.#leases.get(lease.id)?.queue
    this.#leases.delete(lease.id)
    this.#returned?.add(lease.id)
    this.#runtime.sendToNode({ body: { $case: 'leaseReturn', value: { lease: lease.id, retire } } })
    if (queue) this.#dropIdle(queue)
  }

  wake(queue: ShapeQueue, ms: number): void {
    const due = this.now() + ms
    const known = this.#wakes.get(queue)
    // An earlier wake looks again and asks for the next one; so a busy queue does not set a timer per task.
    if (known && known.due <= due) return
    clearTimeout(known?.timer)
    const timer = setTimeout(() => {
      this.#wakes.delete(queue)
      queue.pump()
    }, ms + 1).unref()
    this.#wakes.set(queue, { timer, due })
  }

  // ---------------------------------------------------------------- from the node

  granted({ key, lease: id, worker, address, again }: LeaseGranted): void {
    // Their node says what this process holds there, or held until a moment ago.
    if (again && this.#leases.has(id)) return
    const queue = this.#queues.get(key)
    if (!queue || this.#lost || (again && this.#returned?.has(id))) {
      this.#runtime.sendToNode({ body: { $case: 'leaseReturn', value: { lease: id, retire: false } } })
      return
    }
    log(() => `lease ${id} on ${worker} for queue ${key}`)
    queue.granted(id, worker, address)
    const lease = queue.leases.get(id)
    if (lease) this.#leases.set(id, { lease, queue })
  }

  reclaim(id: number): void {
    this.#leases.get(id)?.queue.reclaim(id)
  }

  /** The node can never grant such leases: what is queued fails. */
  infeasible(key: number, error: Error): void {
    const queue = this.#queues.get(key)
    if (!queue) return
    for (const record of queue.queue.remove(() => true)) this.fail(record, error)
    queue.pump()
  }

  /** Leases on a worker that is gone. */
  workerLost(worker: string, cause: Failure | undefined): void {
    for (const [id, { lease, queue }] of this.#leases) {
      if (lease.worker !== worker) continue
      this.#leases.delete(id)
      const ran = queue.lost(lease)
      if (ran) this.#attemptFailed(ran, this.lossError(cause, ran.template.name, worker))
    }
  }

  /** A node is gone, with all workers on it. */
  nodeLost(node: string, reason: string): void {
    for (const [id, { lease, queue }] of this.#leases) {
      if (nodeOf(lease.address) !== node) continue
      this.#leases.delete(id)
      const ran = queue.lost(lease)
      if (ran) this.#attemptFailed(ran, new BeamlineError('NODE_LOST', { task: ran.template.name, node, reason }))
    }
  }

  /** The daemon of this process is another one: what was asked for is asked for again. */
  attachedAgain(): void {
    for (const queue of this.#demands.keys()) if (queue.demanded > 0) this.demand(queue, queue.demanded, queue.queue.size)
    // Nodes say in a moment which leases they take for held: returns may have been lost, and later ones cross those messages.
    const returned = new Set<number>()
    this.#returned = returned
    setTimeout(() => {
      if (this.#returned === returned) this.#returned = undefined
    }, LEASES_SAID_MS).unref()
  }

  lossError(cause: Failure | undefined, task: string, worker: string): BeamlineError {
    if (!cause) return new BeamlineError('WORKER_CRASHED', { task, worker, pid: 0, how: 'is gone and the node does not know why', stderr: '' })
    const details = JSON.parse(cause.detailsJson || '{}') as Record<string, unknown>
    return wireError({ code: cause.code, detailsJson: JSON.stringify({ ...details, task }) })
  }

  // ---------------------------------------------------------------- from workers

  done(peer: Peer, message: Done): void {
    const held = this.#heldBy(peer.process, message.task)
    if (held) {
      const record = held.queue.done(held.lease, message.task, message.execMs)
      if (record) this.completed(peer, record, message)
      this.#pumpSoon(held.queue)
    } else this.#runtime.actors.done(peer, message)
  }

  #heldBy(worker: string, task: number): HeldLease | undefined {
    for (const held of this.#leases.values()) if (held.lease.worker === worker && held.lease.inFlight.has(task)) return held
    return undefined
  }

  /** The worker answered. */
  completed(peer: Peer, record: TaskRecord, message: Done): void {
    const failure = message.values[0]?.error
    if (record.phase === 'done') {
      for (const value of message.values) this.#dismiss(value)
      this.#confirm(peer, record, message)
      return
    }
    if (message.cancelled) return this.fail(record, new BeamlineError('CANCELLED', { task: record.template.name, reason: 'its worker dropped it' }))
    if (failure && failure.length > 0) {
      const error = decodeError(failure)
      if (message.retry && this.#mayRetry(record)) this.#retry(record)
      else this.fail(record, error)
      return
    }
    this.#finish(record, undefined, () => {
      if (record.stream) record.stream.end(message.items)
      else if (message.values.length === 0) this.#settle(record, record.outputs[0] as ObjectEntry, fromInline(message.value))
      else message.values.forEach((value, i) => this.#settle(record, record.outputs[i] as ObjectEntry, this.#runtime.values.fromWire(value)))
    })
    this.#confirm(peer, record, message)
  }

  // The worker keeps what its results refer to until this process has borrowed it.
  #confirm(peer: Peer, record: TaskRecord, message: Done): void {
    if (!record.stream && !message.values.some((value) => value.refs.length > 0 || value.handles.length > 0)) return
    this.#runtime.references.whenBorrowed(peer.process, () => peer.send({ body: { $case: 'resultReceived', value: { task: message.task } } }))
  }

  /** A value that nobody wants: what came with it is let go. */
  #dismiss(value: Value): void {
    const { references, store, values } = this.#runtime
    const stored = values.fromWire(value)
    if (stored.kind === 'place') store.own(stored.place, stored.place.object?.object ?? 0, 'dismissed')
    this.#runtime.discard(new ObjectEntry(0, references), stored)
  }

  /** Makes an owned entry ready with what arrived; lets it go at once when nobody holds it any more. */
  #settle(record: TaskRecord, entry: ObjectEntry, stored: Stored): void {
    const { lineage, references, store } = this.#runtime
    const isWanted = entry.stored === undefined && (entry.isHeld || lineage.needs(entry))
    if (stored.kind === 'place') {
      if (isWanted) references.toRef(entry)
      store.own(stored.place, entry.number, record.template.name)
    }
    lineage.superseded(entry)
    entry.settle(stored)
    if (!isWanted) return this.#runtime.discard(entry, stored)
    if (stored.kind === 'place' || extrasOf(stored)) lineage.made(record, entry)
    if (!entry.isHeld) lineage.dropped(entry)
  }

  takenBack(message: TakenBack): void {
    const held = this.#leases.get(message.lease)
    if (!held) return
    if (message.retiring) this.#leases.delete(message.lease)
    held.queue.takenBack(held.lease, message.tasks, message.blocked, message.retiring)
  }

  item(peer: Peer, message: Item): void {
    const held = this.#heldBy(peer.process, message.task)
    const record = held?.lease.inFlight.get(message.task) ?? this.#runtime.actors.inFlight(message.task)
    if (!message.value) return
    const number = message.task + 1 + message.index
    // Made again because it was lost, or because another attempt runs.
    const lost = record?.kept?.results.get(number)
    if (record && lost && lost.stored === undefined) this.#settle(record, lost, this.#runtime.values.fromWire(message.value))
    else if (!record?.stream?.accepts(message.index)) this.#dismiss(message.value)
    else {
      const entry = this.#runtime.references.create(number)
      record.stream.add(message.index, entry)
      this.#settle(record, entry, this.#runtime.values.fromWire(message.value))
    }
  }

  /** Its producer goes on to the end, whatever of it is taken. */
  hurry(record: TaskRecord): void {
    if (record.stream) this.#itemsConsumed(record, STREAM_ITEMS_MAX, false)
  }

  #itemsConsumed(record: TaskRecord, count: number, stop: boolean): void {
    if (stop && record.phase !== 'pushed') {
      this.cancel(record, false, 'its stream was dropped')
      return
    }
    const worker = record.lease ?? this.#runtime.actors.workerOf(record)
    if (record.phase === 'pushed' && worker) {
      const peer = this.#runtime.peers.get(worker.worker, worker.address)
      peer.send({ body: { $case: 'itemsConsumed', value: { task: record.number, count, stop } } })
    }
  }

  // ---------------------------------------------------------------- failing, retrying, cancelling

  #mayRetry(record: TaskRecord): boolean {
    const { maxRetries } = record.template
    return maxRetries < 0 || record.attempt - record.firstAttempt < maxRetries
  }

  #attemptFailed(record: TaskRecord, error: BeamlineError): void {
    if (record.phase === 'done') return
    clearTimeout(record.timer)
    if (error.retry && this.#mayRetry(record)) this.#retry(record, error)
    else this.fail(record, error)
  }

  #retry(record: TaskRecord, error?: BeamlineError): void {
    const short = BeamlineError.is(error, 'OUT_OF_MEMORY') && error.details.memory !== undefined
    const [first, most] = short ? [LIMITS.memoryRetryDelayMs, LIMITS.memoryRetryDelayMaxMs] : [LIMITS.retryDelayMs, LIMITS.retryDelayMaxMs]
    const delay = Math.min(first * 2 ** (record.attempt - record.firstAttempt), most)
    this.retries++
    record.attempt++
    record.phase = 'delayed'
    record.lease = undefined
    clearTimeout(record.timer)
    record.timer = setTimeout(() => this.#start(record), delay)
  }

  #timedOut(record: TaskRecord, timeoutMs: number): void {
    if (record.phase !== 'pushed') return
    const error = new BeamlineError('TASK_TIMEOUT', { task: record.template.name, timeoutMs })
    this.#stop(record, error, true)
  }

  /** Results fail at once; the worker is told, and killed when it does not let go in time (or at once, by force). */
  #stop(record: TaskRecord, error: BeamlineError, killLater: boolean): void {
    const { lease } = record
    this.fail(record, error)
    if (!lease) return
    this.#sendCancel(lease.worker, lease.address, record.number)
    if (!killLater) return
    setTimeout(() => {
      if (lease.inFlight.has(record.number)) this.kill(lease.worker, `"${record.template.name}" did not stop: ${error.message}`)
    }, LIMITS.cancelGraceMs).unref()
  }

  #sendCancel(worker: string, address: string, task: number): void {
    this.#runtime.peers.get(worker, address).send({ body: { $case: 'cancel', value: { task, recursive: true } } })
  }

  kill(worker: string, reason: string): void {
    this.#runtime.sendToNode({ body: { $case: 'workerKill', value: { worker, reason } } })
  }

  /** Ends a call whatever it does now. Running code sees its signal abort; by force its worker is killed. */
  cancel(record: TaskRecord, force: boolean, reason: string): void {
    if (record.phase === 'done') return
    const error = new BeamlineError('CANCELLED', { task: record.template.name, reason })
    const { lease, phase } = record
    if (phase === 'waiting') for (const { entry } of record.dependencies) if (!entry.stored) entry.removeWaiter(record)
    if (phase === 'pushed' && !lease) {
      const worker = this.#runtime.actors.workerOf(record)
      this.fail(record, error)
      if (worker) this.#sendCancel(worker.worker, worker.address, record.number)
      return
    }
    this.#stop(record, error, false)
    if (!record.queue) this.#runtime.actors.ready(record)
    else if (phase === 'queued') {
      record.queue.queue.remove((other) => other === record)
      this.#pumpSoon(record.queue)
    }
    if (force && lease) {
      const [running] = lease.inFlight.keys()
      if (running === record.number) this.kill(lease.worker, `cancel of "${record.template.name}" by force`)
    }
  }

  /** The node is gone: everything pending fails. */
  failAll(error: Error): void {
    this.#lost = error
    for (const { timer } of this.#wakes.values()) clearTimeout(timer)
    for (const queue of this.#queues.values()) for (const record of queue.drain()) this.fail(record, error)
    this.#leases.clear()
  }

  /** Calls that wait or run, for `list tasks`. */
  *pending(): Iterable<TaskRecord> {
    for (const queue of this.#queues.values()) {
      yield* queue.queue
      for (const lease of queue.leases.values()) yield* lease.inFlight.values()
    }
  }

  shapeOf(queue: ShapeQueue): Shape | undefined {
    return this.#demands.get(queue)?.shape
  }
}

const shapeId = (shape: Shape, exclusive: boolean): string => JSON.stringify([shape, exclusive])
