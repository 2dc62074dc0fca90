/**
 * Tasks at their owner: from arguments to results, with retries, time limits and cancellation.
 *
 * Cost of a task without references: one record, one entry, one Push and one Done message; no message to the node
 * while a lease is at hand.
 */
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import { nodeOf } from '../net/endpoint.ts'
import type { Failure } from '../net/gen/node.ts'
import type { Done, Item, Push, Value } from '../net/gen/peer.ts'
import { encodeInline } from '../objects/codec.ts'
import type { ActorClient } from './actors.ts'
import { ItemStream, STREAM_ITEMS_MAX } from './item-stream.ts'
import { extrasOf } from './lineage.ts'
import { ObjectEntry, type Stored } from './object-entry.ts'
import type { Peer } from './peers.ts'
import type { Runtime } from './runtime.ts'
import { runningTask } from './running-task.ts'
import type { Lease, ShapeQueue } from './shape-queue.ts'
import { TaskLeases } from './task-leases.ts'
import { type CallTemplate, type Dependency, TaskRecord } from './task-record.ts'
import { fromInline } from './values.ts'
import { decodeError, wireError } from './wire-error.ts'

const EMPTY = new Uint8Array(0)
const NO_ENTRIES: readonly ObjectEntry[] = []
const NO_DEPENDENCIES: readonly Dependency[] = []

/** Arguments as a record keeps them. */
interface EncodedArguments {
  readonly args: Uint8Array
  readonly stored: Promise<ObjectEntry> | ObjectEntry | undefined
  readonly dependencies: readonly Dependency[]
}

export class Submitter {
  readonly #runtime: Runtime
  readonly leases: TaskLeases
  /** Attempts of calls that were begun because one before was lost or failed. */
  retries = 0
  /** Finished calls that were begun again to bring their results back. */
  reconstructions = 0
  #lost: Error | undefined

  constructor(runtime: Runtime) {
    this.#runtime = runtime
    this.leases = new TaskLeases(runtime, {
      push: (lease, record) => this.#push(lease, record),
      notReady: (record) => this.notReady(record),
      left: (record) => this.left(record),
    })
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
      if (record.dependencies.length > 0 || record.storedArgs) record.queue = this.leases.queueNear(record, record.queue)
      record.queue.enqueue(record)
      this.leases.pumpSoon(record.queue)
    } else {
      record.phase = 'queued'
      this.#runtime.actors.ready(record)
    }
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

  // ---------------------------------------------------------------- to workers

  #push(lease: Lease, record: TaskRecord): void {
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

  // ---------------------------------------------------------------- from the node

  /** The node can never grant such leases: what is queued fails. */
  infeasible(key: number, error: Error): void {
    const queue = this.leases.queueOf(key)
    if (!queue) return
    for (const record of queue.queue.remove(() => true)) this.fail(record, error)
    queue.pump()
  }

  /** Leases on a worker that is gone. */
  workerLost(worker: string, cause: Failure | undefined): void {
    for (const ran of this.leases.lost((lease) => lease.worker === worker)) this.#attemptFailed(ran, this.lossError(cause, ran.template.name, worker))
  }

  /** A node is gone, with all workers on it. */
  nodeLost(node: string, reason: string): void {
    for (const ran of this.leases.lost(({ address }) => nodeOf(address) === node)) {
      this.#attemptFailed(ran, new BeamlineError('NODE_LOST', { task: ran.template.name, node, reason }))
    }
  }

  lossError(cause: Failure | undefined, task: string, worker: string): BeamlineError {
    if (!cause) return new BeamlineError('WORKER_CRASHED', { task, worker, pid: 0, how: 'is gone and the node does not know why', stderr: '' })
    const details = JSON.parse(cause.detailsJson || '{}') as Record<string, unknown>
    return wireError({ code: cause.code, detailsJson: JSON.stringify({ ...details, task }) })
  }

  // ---------------------------------------------------------------- from workers

  done(peer: Peer, message: Done): void {
    const held = this.leases.heldBy(peer.process, message.task)
    if (held) {
      const record = held.queue.done(held.lease, message.task, message.execMs)
      if (record) this.completed(peer, record, message)
      this.leases.pumpSoon(held.queue)
    } else this.#runtime.actors.done(peer, message)
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

  item(peer: Peer, message: Item): void {
    const held = this.leases.heldBy(peer.process, message.task)
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
      this.leases.pumpSoon(record.queue)
    }
    if (force && lease) {
      const [running] = lease.inFlight.keys()
      if (running === record.number) this.kill(lease.worker, `cancel of "${record.template.name}" by force`)
    }
  }

  /** The node is gone: everything pending fails. */
  failAll(error: Error): void {
    this.#lost = error
    for (const record of this.leases.end()) this.fail(record, error)
  }
}
