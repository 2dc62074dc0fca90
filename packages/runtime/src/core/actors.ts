/**
 * Actors as their callers see them: one client per actor, which follows the actor's state at the node and sends the
 * calls of this process straight to the actor's worker, in the order in which they were made.
 */
import { randomBytes } from 'node:crypto'
import { BeamlineError } from '../errors.ts'
import type { ActorState, Failure, ProcessMessage, Shape } from '../net/gen/node.ts'
import { Creation, type Done, Handle, type Push } from '../net/gen/peer.ts'
import { decode, encodeInline } from '../objects/codec.ts'
import { Deque } from './deque.ts'
import { type HeldHandle, type ObjectEntry, type Stored } from './object-entry.ts'
import type { Peer } from './peers.ts'
import type { Runtime } from './runtime.ts'
import type { CallTemplate, TaskRecord } from './task-record.ts'
import { decodeError, wireError } from './wire-error.ts'

/** How a method is called; callers read it from the handle. */
export interface MethodInfo {
  readonly streaming: boolean
  readonly concurrencyGroup: string
}

/** What a handle knows of its actor, on every process that has one. */
export interface ActorDescription {
  readonly actor: string
  readonly className: string
  readonly name: string
  readonly methods: Readonly<Record<string, MethodInfo>>
  readonly maxTaskRetries: number
  /** 0: no limit. */
  readonly maxPendingCalls: number
}

export interface ActorCreation {
  readonly template: CallTemplate
  readonly args: readonly unknown[]
  readonly shape: Shape
  readonly name: string
  readonly namespace: string
  readonly detached: boolean
  readonly getIfExists: boolean
  readonly maxRestarts: number
  readonly maxConcurrency: number
  readonly concurrencyGroups: Readonly<Record<string, number>>
  readonly stopTimeoutMs: number
  readonly description: Omit<ActorDescription, 'actor'>
}

type ClientState = 'PENDING' | 'STARTING' | 'ALIVE' | 'RESTARTING' | 'DEAD'

/** One actor at one caller. */
export class ActorClient {
  readonly id: string
  readonly description: ActorDescription
  state: ClientState = 'PENDING'
  worker = ''
  address = ''
  incarnation = 0
  cause: Error | undefined = undefined
  /** How its last worker died. */
  crash: BeamlineError | undefined = undefined
  /** The node does not know it yet: its constructor's arguments are not ready. */
  announced = true
  /** What keeps the actor that `getIfExists` found in its stead alive. */
  found: ObjectEntry | undefined = undefined
  /** No handle of it is left. */
  dropped = false
  /** Calls in the order in which they were made; the first may still wait for arguments. */
  readonly queue: Deque<TaskRecord> = new Deque()
  readonly inFlight: Map<number, TaskRecord> = new Map()
  readonly #whenDead: (() => void)[] = []
  readonly #whenSettled: (() => void)[] = []

  constructor(id: string, description: ActorDescription) {
    this.id = id
    this.description = description
  }

  get pending(): number {
    return this.queue.size + this.inFlight.size
  }

  /** Resolves when the actor is dead. */
  dead(): Promise<void> {
    return new Promise((resolve) => {
      if (this.state === 'DEAD') resolve()
      else this.#whenDead.push(resolve)
    })
  }

  /** Resolves when its constructor is done, or it is dead. */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      if (this.state === 'ALIVE' || this.state === 'DEAD') resolve()
      else this.#whenSettled.push(resolve)
    })
  }

  notify(): void {
    if (this.state === 'ALIVE' || this.state === 'DEAD') for (const resolve of this.#whenSettled.splice(0)) resolve()
    if (this.state === 'DEAD') for (const resolve of this.#whenDead.splice(0)) resolve()
  }
}

export class Actors {
  readonly #runtime: Runtime
  readonly #clients = new Map<string, ActorClient>()
  readonly #callers = new Map<TaskRecord, ActorClient>()
  readonly #byNumber = new Map<number, ActorClient>()
  /** By request. */
  readonly #creating = new Map<number, { readonly client: ActorClient; readonly message: ProcessMessage }>()
  /** Creations of named actors that wait for arguments: who looks for the name meanwhile waits too. */
  readonly #naming = new Map<string, Set<Promise<void>>>()
  readonly #lookups = new Map<number, { message: ProcessMessage; resolve: (found: HeldHandle | undefined) => void; reject: (error: Error) => void }>()
  /** Actors that were asked to end and are not known to have ended, with the asking. */
  readonly #stopping = new Map<string, ProcessMessage>()
  #nextRequest = 1

  constructor(runtime: Runtime) {
    this.#runtime = runtime
  }

  // ---------------------------------------------------------------- creating and finding

  /** Starts to create an actor; its handle is usable at once. */
  create(creation: ActorCreation): { held: HeldHandle; client: ActorClient } {
    const actor = randomBytes(8).toString('hex')
    const description: ActorDescription = { actor, ...creation.description }
    const client = this.#client(description)
    const lifetime = creation.detached ? undefined : this.#lifetime(client)
    const held: HeldHandle = { description: encodeInline(description, 'an actor handle'), lifetime }
    client.announced = false
    this.#watch(actor, true)
    const prepared = this.#prepare(creation, actor).then(
      ({ bytes, keep }) => {
        if (this.#runtime.lost || client.state === 'DEAD') {
          for (const entry of keep) entry.unhold()
          this.#died(client, this.#runtime.lost)
          return
        }
        client.announced = true
        const request = this.#nextRequest++
        void client.dead().then(() => {
          for (const entry of keep) entry.unhold()
        })
        const { name, namespace, detached, getIfExists, maxRestarts, shape, stopTimeoutMs } = creation
        const message: ProcessMessage = {
          body: {
            $case: 'actorCreate',
            value: {
              actor,
              name,
              namespace,
              className: description.className,
              detached,
              getIfExists,
              maxRestarts,
              shape,
              creation: bytes,
              request,
              handle: this.#handleBytes(held),
              stopTimeoutMs,
            },
          },
        }
        this.#creating.set(request, { client, message })
        this.#runtime.sendToNode(message)
      },
      (error: unknown) => {
        this.#died(client, error as Error)
        this.stop(client, `its arguments failed: ${(error as Error).message}`)
      },
    )
    if (creation.name !== '') this.#nameSoon(JSON.stringify([creation.namespace, creation.name]), prepared)
    return { held, client }
  }

  // The entry that handles hold: when the last one is gone, everywhere, the actor is asked to stop.
  #lifetime(client: ActorClient): ObjectEntry {
    const { references } = this.#runtime
    const home = {
      dropped: (entry: ObjectEntry): void => {
        references.dropped(entry)
        client.dropped = true
        if (client.found) client.found.unhold()
        else if (!this.#isAsked(client)) this.stop(client, 'no handle of it is left')
      },
    }
    return references.create(references.reserve(1), home)
  }

  /** Waits for the constructor's arguments and encodes class and call; `keep` is held until the actor is dead. */
  async #prepare(creation: ActorCreation, actor: string): Promise<{ bytes: Uint8Array; keep: ObjectEntry[] }> {
    const { values, references, process, address } = this.#runtime
    const keep: ObjectEntry[] = []
    const args = [...creation.args]
    const resolved: Push['resolved'] = []
    try {
      for (const [index, arg] of args.entries()) {
        const entry = typeof arg === 'object' && arg !== null ? this.#runtime.kinds.entryOf(arg) : undefined
        if (!entry) continue
        args[index] = undefined
        keep.push(entry.hold())
        references.want(entry)
        await this.#runtime.ready(entry)
        const stored = entry.stored as Stored
        if (stored.kind === 'error') throw stored.error
        if (stored.kind === 'place' && creation.detached) {
          throw new BeamlineError('INVALID_ARGUMENT', {
            what: `argument ${index} of the detached actor ${creation.template.name}`,
            got: 'a reference to a large object of this process, which may end before the actor',
            expected: 'the value itself',
          })
        }
        resolved.push({ index, value: values.toWire(stored) })
      }
      const argsEntry = await this.#runtime.storeOwned(
        args,
        `the arguments of ${creation.template.name}`,
        creation.template.name,
        creation.detached ? Number.POSITIVE_INFINITY : undefined,
      )
      keep.push(argsEntry)
      const push: Push = {
        template: 1,
        task: 0,
        lease: 0,
        args: new Uint8Array(0),
        storedArgs: values.toWire(argsEntry.stored as Stored),
        resolved,
        attempt: 0,
        number: 0,
      }
      const { template, maxConcurrency, concurrencyGroups } = creation
      const { name, hash, returns, streaming, itemsMax, method, concurrencyGroup, retryOn, maxCalls, group } = template
      const bytes = Creation.encode({
        template: { id: 1, hash, function: template.function, name, returns, streaming, itemsMax, actor, method, concurrencyGroup, retryOn, maxCalls, group },
        push,
        owner: process,
        ownerAddress: address,
        maxConcurrency,
        concurrencyGroups,
      }).finish()
      return { bytes, keep }
    } catch (error) {
      for (const entry of keep) entry.unhold()
      throw error
    }
  }

  #handleBytes(held: HeldHandle): Uint8Array {
    const lifetime = held.lifetime && this.#runtime.references.toRef(held.lifetime)
    return Handle.encode({ description: held.description, lifetime }).finish()
  }

  #handleFrom(bytes: Uint8Array): HeldHandle {
    const { description, lifetime } = Handle.decode(bytes)
    return { description, lifetime: lifetime && this.#runtime.references.borrow(lifetime) }
  }

  #nameSoon(key: string, prepared: Promise<void>): void {
    const all = this.#naming.get(key) ?? new Set()
    this.#naming.set(key, all.add(prepared))
    void prepared.then(() => {
      all.delete(prepared)
      if (all.size === 0) this.#naming.delete(key)
    })
  }

  /** Its creation is on its way: the node has not said yet which actor it is. */
  #isAsked(client: ActorClient): boolean {
    for (const creating of this.#creating.values()) if (creating.client === client) return true
    return false
  }

  #watch(actor: string, creates: boolean): void {
    this.#runtime.sendToNode({ body: { $case: 'actorWatch', value: { actor, creates } } })
  }

  /** @param handle - of the actor: of another one when `getIfExists` found it; then the node knows both ids */
  created(request: number, actor: string, handle: Uint8Array, failure: Failure | undefined): void {
    const client = this.#creating.get(request)?.client
    this.#creating.delete(request)
    if (!client) return
    if (failure) {
      this.#died(client, wireError(failure))
      return
    }
    if (actor === client.id) {
      if (client.dropped) this.stop(client, 'no handle of it is left')
      return
    }
    client.found = this.#handleFrom(handle).lifetime?.hold()
    if (client.dropped) client.found?.unhold()
  }

  /** The handle of a named actor; undefined when there is none. */
  async lookup(name: string, namespace: string): Promise<HeldHandle | undefined> {
    const naming = this.#naming.get(JSON.stringify([namespace, name]))
    if (naming) await this.#runtime.keepAlive.during(Promise.all(naming))
    const request = this.#nextRequest++
    const message: ProcessMessage = { body: { $case: 'actorLookup', value: { request, name, namespace } } }
    this.#runtime.sendToNode(message)
    const { promise, resolve, reject } = Promise.withResolvers<HeldHandle | undefined>()
    if (this.#runtime.lost) reject(this.#runtime.lost)
    else this.#lookups.set(request, { message, resolve, reject })
    return await this.#runtime.keepAlive.during(promise)
  }

  found(request: number, actor: string, handle: Uint8Array): void {
    this.#lookups.get(request)?.resolve(actor === '' ? undefined : this.#handleFrom(handle))
    this.#lookups.delete(request)
  }

  /** The client behind a handle; starts to follow the actor when this process did not know it. */
  clientOf(held: HeldHandle): ActorClient {
    const description = decode(held.description) as ActorDescription
    const known = this.#clients.get(description.actor)
    if (known) return known
    const client = this.#client(description)
    this.#watch(description.actor, false)
    return client
  }

  #client(description: ActorDescription): ActorClient {
    const client = new ActorClient(description.actor, description)
    this.#clients.set(client.id, client)
    return client
  }

  // ---------------------------------------------------------------- calling

  /** Puts a new call in its place among the calls of this process. */
  enqueue(client: ActorClient, record: TaskRecord): void {
    this.#callers.set(record, client)
    this.#byNumber.set(record.number, client)
    client.queue.push(record)
  }

  /** The arguments of a call are there. */
  ready(record: TaskRecord): void {
    const client = this.#callers.get(record)
    if (client) this.#pump(client)
  }

  #pump(client: ActorClient): void {
    for (let record = client.queue.peek(); record; record = client.queue.peek()) {
      if (record.phase === 'done') {
        client.queue.shift()
        this.#forget(record)
      } else if (client.state === 'DEAD') {
        client.queue.shift()
        this.#fail(record, this.#deathError(client))
      } else if (client.state === 'ALIVE' && record.phase === 'queued') {
        if (record.lacksArgument) return this.#runtime.submitter.notReady(record)
        client.queue.shift()
        record.phase = 'pushed'
        record.atWorker = true
        record.pushedAt = performance.now()
        client.inFlight.set(record.number, record)
        this.#runtime.submitter.pushTo(this.#runtime.peers.get(client.worker, client.address), record, 0)
      } else return
    }
  }

  #forget(record: TaskRecord): void {
    this.#callers.delete(record)
    this.#byNumber.delete(record.number)
  }

  #fail(record: TaskRecord, error: Error): void {
    this.#forget(record)
    this.#runtime.submitter.fail(record, error)
  }

  /** A finished call runs again, whose result was lost: behind those that wait. Returns why it cannot. */
  enqueueAgain(record: TaskRecord): string | undefined {
    const client = this.#clients.get(record.template.actor)
    if (!client || client.state === 'DEAD') return `its actor ${record.template.actor} is dead`
    this.enqueue(client, record)
    return undefined
  }

  done(peer: Peer, message: Done): void {
    const client = this.#byNumber.get(message.task)
    const record = client?.inFlight.get(message.task)
    if (!client || !record) return
    client.inFlight.delete(message.task)
    this.#runtime.submitter.left(record)
    this.#forget(record)
    this.#runtime.submitter.completed(peer, record, message)
    if (record.phase === 'delayed') {
      this.#callers.set(record, client)
      this.#byNumber.set(record.number, client)
      client.queue.push(record)
    }
  }

  inFlight(number: number): TaskRecord | undefined {
    return this.#byNumber.get(number)?.inFlight.get(number)
  }

  /** Where a call runs or will run; undefined while its actor is not alive. */
  workerOf(record: TaskRecord): { worker: string; address: string } | undefined {
    const client = this.#byNumber.get(record.number)
    return client?.state === 'ALIVE' ? { worker: client.worker, address: client.address } : undefined
  }

  clientOfCall(record: TaskRecord): ActorClient | undefined {
    return this.#callers.get(record)
  }

  // ---------------------------------------------------------------- following

  stateChanged(message: ActorState): void {
    if (message.state === 'DEAD') this.#stopping.delete(message.actor)
    const client = this.#clients.get(message.actor)
    if (!client) return
    const restarted = client.incarnation !== message.incarnation
    const stopping = this.#stopping.get(client.id)
    const cause = message.error.length > 0 ? decodeError(message.error) : message.cause && wireError(message.cause)
    client.cause = cause ?? client.cause
    client.state = message.state as ClientState
    client.worker = message.worker
    client.address = message.address
    client.incarnation = message.incarnation
    // It has ended, as it was asked to, and begun again: a head that comes back must not end it once more.
    if (restarted && stopping?.body?.$case === 'actorStop' && !stopping.body.value.noRestart) this.#stopping.delete(client.id)
    if (client.state === 'DEAD') this.#died(client, cause)
    else {
      if (client.state === 'RESTARTING' || (restarted && client.inFlight.size > 0)) this.#interrupted(client)
      this.#pump(client)
      client.notify()
    }
  }

  /** A worker is gone; the state of its actor follows. */
  workerLost(worker: string, cause: Failure | undefined): void {
    for (const client of this.#clients.values()) if (client.worker === worker && cause) client.crash = wireError(cause)
  }

  // Calls that were on their way when the actor died: repeated where the user allows it, in their order.
  #interrupted(client: ActorClient): void {
    const { maxTaskRetries } = client.description
    const repeated: TaskRecord[] = []
    for (const record of client.inFlight.values()) {
      this.#runtime.submitter.left(record)
      if (record.phase === 'done') this.#forget(record)
      else if (maxTaskRetries < 0 || record.attempt - record.firstAttempt < maxTaskRetries) {
        this.#runtime.submitter.retries++
        record.attempt++
        record.phase = 'queued'
        repeated.push(record)
      } else {
        const { id, description } = client
        const reason = client.cause?.message ?? 'its worker is gone'
        this.#fail(record, new BeamlineError('ACTOR_UNAVAILABLE', { actor: id, className: description.className, reason }, { cause: client.cause }))
      }
    }
    client.inFlight.clear()
    client.queue.unshift(repeated)
  }

  #deathError(client: ActorClient): Error {
    const { cause, id, description } = client
    if (BeamlineError.is(cause) && ['ACTOR_NAME_TAKEN', 'INFEASIBLE', 'NODE_DIED', 'NOT_SERIALIZABLE', 'INVALID_ARGUMENT'].includes(cause.code)) return cause
    if (BeamlineError.is(cause, 'ACTOR_DIED')) {
      const crashed = client.crash !== undefined && cause.details.reason.startsWith(`its worker ${(client.crash.details as { how?: string }).how}`)
      return crashed ? new BeamlineError('ACTOR_DIED', cause.details, { cause: client.crash }) : cause
    }
    return new BeamlineError('ACTOR_DIED', { actor: id, className: description.className, reason: cause?.message ?? 'it ended' }, cause ? { cause } : undefined)
  }

  #died(client: ActorClient, cause: Error | undefined): void {
    client.state = 'DEAD'
    client.cause = cause ?? client.cause
    const error = this.#deathError(client)
    for (const record of client.inFlight.values()) {
      this.#runtime.submitter.left(record)
      this.#fail(record, error)
    }
    client.inFlight.clear()
    this.#clients.delete(client.id)
    for (let record = client.queue.shift(); record; record = client.queue.shift()) this.#fail(record, error)
    client.notify()
  }

  /** Asks an actor to finish what it runs, dispose and end. */
  stop(client: ActorClient, reason: string): void {
    this.#end(client, false, true, reason)
  }

  kill(client: ActorClient, noRestart: boolean): void {
    this.#end(client, true, noRestart, 'killed by kill()')
  }

  #end(client: ActorClient, force: boolean, noRestart: boolean, reason: string): void {
    if (client.state === 'DEAD' || (!client.announced && !noRestart)) return
    // By force nothing that this process calls from now on may reach it.
    if (!client.announced || (force && noRestart)) {
      this.#died(client, new BeamlineError('ACTOR_DIED', { actor: client.id, className: client.description.className, reason }))
    }
    const incarnation = noRestart || client.state === 'PENDING' ? undefined : client.incarnation
    const message: ProcessMessage = { body: { $case: 'actorStop', value: { actor: client.id, force, noRestart, reason, incarnation } } }
    if (client.announced) this.#stopping.set(client.id, message)
    this.#runtime.sendToNode(message)
  }

  /** A head is back that may not know what it was asked and told before. Everything here may be asked twice. */
  controlBack(): void {
    for (const client of this.#clients.values()) this.#watch(client.id, !client.announced || this.#isAsked(client))
    for (const { message } of this.#creating.values()) this.#runtime.sendToNode(message)
    for (const { message } of this.#lookups.values()) this.#runtime.sendToNode(message)
    for (const [actor, message] of this.#stopping) {
      if (!this.#clients.has(actor)) this.#watch(actor, false)
      this.#runtime.sendToNode(message)
    }
  }

  failAll(error: Error): void {
    for (const client of this.#clients.values()) if (client.state !== 'DEAD') this.#died(client, error)
    for (const { reject } of this.#lookups.values()) reject(error)
    this.#lookups.clear()
  }

  /** Calls that wait or run, for `list tasks`. */
  pending(): Iterable<TaskRecord> {
    return this.#callers.keys()
  }
}
