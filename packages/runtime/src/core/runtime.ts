/**
 * One process of the cluster (driver or worker): wires its parts together and hands each message to the part that it
 * is for. Holds no logic of its own beyond attaching and letting go.
 */
import { EventEmitter, once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import { ship } from '../functions/index.ts'
import { LIMITS } from '../limits.ts'
import { formatEndpoint } from '../net/endpoint.ts'
import type { Link } from '../net/link.ts'
import { listen, type Server } from '../net/listen.ts'
import type {
  Failure,
  JobConfig,
  LogLines,
  NodeLost,
  NodeMessage,
  ObjectsMoved,
  PackageStored,
  ProcessMessage,
  Query,
  Welcome,
  WorkerLost,
} from '../net/gen/node.ts'
import type { PeerMessage, Place, Value } from '../net/gen/peer.ts'
import type { Tls } from '../net/tls.ts'
import { Actors } from './actors.ts'
import { Executor } from './executor.ts'
import { Groups } from './groups.ts'
import { KeepAlive } from './keep-alive.ts'
import { Lineage, Unrepeatable } from './lineage.ts'
import { type Extras, isSamePlace, type ObjectEntry, type Stored } from './object-entry.ts'
import { NodeConnection, type Successor } from './node-connection.ts'
import { ObjectStore } from './object-store.ts'
import { type Peer, type PeerPort, Peers, whenCollected } from './peers.ts'
import { type ReferencePort, References } from './references.ts'
import { type LocalReport, report } from './report.ts'
import { Submitter } from './submitter.ts'
import type { CallTemplate } from './task-record.ts'
import type { ExternalKinds } from './external.ts'
import { Values } from './values.ts'
import { wireError } from './wire-error.ts'

const log = debug('core')
const KILLED = 'its daemon was killed'
const PUT = 'put() stored it, and only results of tasks can be made again: put it again, or make it in a task'

export interface AttachOptions {
  readonly kind: 'driver' | 'worker'
  readonly process: string
  /** Where this process listens for others of its machine: `unix:/…`. */
  readonly address: string
  readonly nodeAddress: string
  /** Where it listens for those of other machines; undefined in a cluster of one. */
  readonly network?: { readonly node: string; readonly host: string; readonly tls: Tls | undefined } | undefined
  readonly token: string
  /** Drivers only. */
  readonly job: JobConfig | undefined
  readonly kinds: ExternalKinds
  /** Called before the first message is handled: the node may have work for a worker at once. */
  readonly prepare?: (runtime: Runtime) => void
}

/** What the runtime tells its process. */
export interface RuntimeEvents {
  assign: [Extract<NonNullable<NodeMessage['body']>, { $case: 'assign' }>['value']]
  exit: [string]
  terminate: [string]
  logLines: [LogLines]
  packageStored: [PackageStored]
  warning: [string]
  /** The connection to the node is gone, with the reason; undefined when this process ended it. */
  closed: [Error | undefined]
}

export class Runtime implements ReferencePort, PeerPort {
  readonly kind: 'driver' | 'worker'
  readonly process: string
  /** How others reach this process. */
  address: string
  /** The node of this process; "" in a cluster of one. */
  node: string
  readonly kinds: ExternalKinds
  readonly references: References
  readonly store: ObjectStore
  readonly values: Values
  readonly peers: Peers
  readonly submitter: Submitter
  readonly lineage: Lineage
  readonly actors: Actors
  readonly groups: Groups
  readonly executor: Executor
  readonly keepAlive: KeepAlive = new KeepAlive()
  /** Here and not imported by the API: a program that only imports the package loads no parser. */
  readonly ship: typeof ship = ship
  readonly events: EventEmitter<RuntimeEvents> = new EventEmitter()
  readonly #node: NodeConnection
  #server: Server | undefined
  #closing = false
  /** Set once the node is gone. */
  lost: Error | undefined
  readonly #reported = new Map<string, WorkerLost>()
  /** Nodes that are gone, and why. */
  readonly #lostNodes = new Map<string, string>()
  /** Drivers that are attached elsewhere by now, though their addresses name nodes that are gone. */
  readonly #survivors = new Set<string>()
  /** By worker: the last of its lines that came. */
  readonly #printed = new Map<string, number>()
  /** Processes that were just declared dead. */
  readonly #whyLost = new Map<string, string>()
  /** Namespace of named actors in this process. */
  namespace = ''
  #queries = new Map<number, { readonly message: ProcessMessage; readonly resolve: (json: string) => void }>()
  #nextQuery = 1

  private constructor(options: AttachOptions) {
    this.kind = options.kind
    this.process = options.process
    this.address = options.address
    this.kinds = options.kinds
    this.references = new References(this)
    this.store = new ObjectStore((message) => this.sendToNode(message))
    this.values = new Values(this.references, this.store, options.kinds, (entry, lost) => {
      this.references.lost(entry, lost)
      return this.ready(entry)
    })
    this.node = options.network?.node ?? ''
    this.peers = new Peers(options.token, options.network?.tls, this)
    this.submitter = new Submitter(this)
    this.lineage = new Lineage(
      {
        findCopy: (entry, place) =>
          void this.store.findCopy(place, this.references.toRef(entry), entry.producer?.label ?? '').then((found) => this.lineage.copyFound(entry, found)),
        own: (place, entry, label) => this.store.own(place, entry.number, label),
        rerun: (record) => this.submitter.rerun(record),
        hurry: (record) => this.submitter.hurry(record),
        discard: (entry, stored) => this.discard(entry, stored),
        borrowAgain: (entry) => this.references.borrow(this.references.toRef(entry)),
        whyDead: (node) => this.#lostNodes.get(node),
        name: (entry) => this.references.name(entry),
      },
      LIMITS.lineageBytesMax,
    )
    this.actors = new Actors(this)
    this.groups = new Groups(this)
    this.executor = new Executor(this)
    this.#node = new NodeConnection(options.nodeAddress, options.token, {
      message: (message) => this.#nodeMessage(message),
      detached: (welcome, withinMs) => this.#detached(welcome, withinMs),
      attached: (welcome, again) => {
        if (again) this.#attachedAgain(welcome)
        else this.store.node = welcome.node
      },
      lost: (error) => this.#nodeLost(error),
    })
  }

  /** Joins the node at `nodeAddress`. */
  static async attach(options: AttachOptions): Promise<Runtime> {
    const runtime = new Runtime(options)
    options.prepare?.(runtime)
    const { process: id, kind, job, network } = options
    const addresses = network ? [options.address, `${network.host}:0`] : [options.address]
    const handlers = { peer: (link: Link<PeerMessage, PeerMessage>) => runtime.peers.accept(link) }
    runtime.#server = await listen(addresses, options.token, handlers, { background: true, tls: network?.tls, identity: id })
    const [unix = '', tcp = ''] = runtime.#server.addresses
    runtime.address = formatEndpoint({ unix, node: runtime.node, tcp })
    const hello = { process: id, kind, pid: process.pid, address: runtime.address, job, attach: 1 }
    await runtime.keepAlive.during(runtime.#node.attach(hello))
    if (job) runtime.namespace = job.namespace
    return runtime
  }

  /** From now on this driver goes on when its daemon is killed. */
  outlive(successor: Successor): void {
    this.#node.successor = successor
  }

  /** Facts of the cluster that this process belongs to. */
  get cluster(): Welcome {
    return this.#node.welcome as Welcome
  }

  sendToNode(message: ProcessMessage): void {
    this.#node.send(message)
  }

  send(process: string, address: string, message: PeerMessage): void {
    if (this.#closing) return
    const peer = this.peers.get(process, address)
    const { body } = message
    if (body?.$case === 'borrowAdd' || body?.$case === 'borrowRemove') body.value.number = peer.nextNumber()
    peer.send(message)
  }

  // ---------------------------------------------------------------- values

  /** What a function captured is let go when neither its handle nor an unfinished call is left. */
  whenUnused(template: CallTemplate, extras: Extras): void {
    whenCollected(template, () => this.values.letGo(extras))
  }

  toWire(stored: Stored): Value {
    return this.values.toWire(stored)
  }

  fromWire(value: Value): Stored {
    return this.values.fromWire(value)
  }

  discard(entry: ObjectEntry, stored: Stored): void {
    if (stored.kind !== 'bytes' && stored.kind !== 'place') return
    if (stored.extras) this.values.letGo(stored.extras)
    if (stored.kind === 'place' && entry.owner === undefined) this.store.disown(stored.place)
  }

  staysNeeded(entry: ObjectEntry): boolean {
    return this.lineage.dropped(entry)
  }

  wanted(entry: ObjectEntry): void {
    this.lineage.want(entry)
  }

  bytesLost(entry: ObjectEntry, place: Place): void {
    this.lineage.lost(entry, place)
  }

  /** Stores a value as an object of this process; the entry is held for the caller. Synchronous unless it is large. */
  storeOwned(value: unknown, what: string, label: string, inlineMax?: number): ObjectEntry | Promise<ObjectEntry> {
    const entry = this.references.create().hold()
    const settle = (stored: Stored): ObjectEntry => {
      if (stored.kind === 'place') this.store.own(stored.place, entry.number, label)
      entry.settle(stored)
      if (stored.kind === 'place') entry.producer = new Unrepeatable(label, PUT)
      return entry
    }
    try {
      const stored = this.values.store(value, what, () => this.references.toRef(entry), inlineMax)
      if (!(stored instanceof Promise)) return settle(stored)
      const settled = stored.then(settle, (error: unknown) => {
        entry.unhold()
        throw error
      })
      return this.keepAlive.during(settled)
    } catch (error) {
      entry.unhold()
      throw error
    }
  }

  /** Resolves when the entry is ready, with a value or an error. */
  ready(entry: ObjectEntry): Promise<void> {
    if (entry.stored) return Promise.resolve()
    return this.keepAlive.during(new Promise((resolve) => entry.addWaiter({ entryReady: () => resolve() })))
  }

  // ---------------------------------------------------------------- messages

  message(peer: Peer, { body }: PeerMessage): void {
    if (!body) return
    switch (body.$case) {
      case 'push':
        return peer.isNew(body.value) ? this.executor.push(peer, body.value) : undefined
      case 'done':
        return this.submitter.done(peer, body.value)
      case 'template':
        return this.executor.template(peer, body.value)
      case 'templateForget':
        return this.executor.templateForget(peer, body.value.id)
      case 'item':
        return peer.isNew(body.value) ? this.submitter.item(peer, body.value) : undefined
      case 'itemsConsumed':
        return this.executor.itemsConsumed(peer, body.value)
      case 'cancel':
        return this.executor.cancel(peer, body.value.task)
      case 'takeBack':
        return peer.isNew(body.value) ? this.executor.takeBack(peer, body.value) : undefined
      case 'takenBack':
        return peer.isNew(body.value) ? this.submitter.leases.takenBack(body.value) : undefined
      case 'objectRequest':
        return this.references.objectsRequested(body.value.objects, body.value.lost, (object, value) =>
          peer.send({ body: { $case: 'objectReply', value: { object, value } } }),
        )
      case 'objectReply':
        if (body.value.value) this.references.objectArrived(peer.process, body.value.object, body.value.value)
        return
      case 'borrowAdd':
        if (!peer.isNew(body.value)) return
        this.references.borrowAdded(peer.process, body.value.objects)
        peer.send({ body: { $case: 'borrowAdded', value: { number: peer.nextNumber() } } })
        return
      case 'borrowAdded':
        return peer.isNew(body.value) ? this.references.borrowConfirmed(peer.process) : undefined
      case 'borrowRemove':
        return peer.isNew(body.value) ? this.references.borrowRemoved(peer.process, body.value.objects) : undefined
      case 'resultReceived':
        return this.executor.resultReceived(peer, body.value.task)
      case 'introduce':
        return
    }
  }

  #nodeMessage({ body }: NodeMessage): void {
    if (!body) return
    switch (body.$case) {
      case 'leaseGranted':
        return this.submitter.leases.granted(body.value)
      case 'leaseReclaim':
        return this.submitter.leases.reclaim(body.value.lease)
      case 'workerLost':
        return this.#workerLost(body.value)
      case 'actorCreated':
        return this.actors.created(body.value.request, body.value.actor, body.value.handle, body.value.failure)
      case 'actorStart':
        void this.executor.actor.start(body.value)
        return
      case 'actorState':
        return this.actors.stateChanged(body.value)
      case 'actorFound':
        return this.actors.found(body.value.request, body.value.actor, body.value.handle)
      case 'actorTerminate':
        this.events.emit('terminate', body.value.reason)
        return
      case 'groupState':
        return this.groups.stateChanged(body.value)
      case 'segmentGrant':
        return this.store.granted(body.value)
      case 'blocksFreed':
        return this.store.blocksFreed(body.value)
      case 'objectPinned':
        return this.store.pins.pinned(body.value)
      case 'objectRecovered':
        return this.store.recovered(body.value)
      case 'objectsMoved':
        return this.#objectsMoved(body.value)
      case 'processLost':
        return this.#processLost(body.value.process, body.value.cause)
      case 'nodeLost':
        return this.#nodeDied(body.value)
      case 'controlLost':
        return this.#controlLost(body.value.lost)
      case 'releaseMemory':
        void this.#releaseMemory()
        return
      case 'infeasible': {
        this.events.emit('warning', body.value.text)
        // Nodes may join: what is queued stays queued.
        if (body.value.waits) return
        const { code, ...details } = JSON.parse(body.value.detailsJson) as { code: string }
        return this.submitter.infeasible(body.value.key, wireError({ code, detailsJson: JSON.stringify(details) }))
      }
      case 'logLines':
        if (body.value.number <= (this.#printed.get(body.value.worker) ?? 0)) return
        this.#printed.set(body.value.worker, body.value.number)
        this.events.emit('logLines', body.value)
        return
      case 'packageStored':
        this.events.emit('packageStored', body.value)
        return
      case 'query':
        void this.#answer(body.value)
        return
      case 'queryReply':
        this.#queries.get(body.value.request)?.resolve(body.value.json)
        this.#queries.delete(body.value.request)
        return
      case 'assign':
        this.namespace = body.value.namespace
        this.events.emit('assign', body.value)
        return
      case 'exit':
        this.events.emit('exit', body.value.reason)
        return
      default:
        return
    }
  }

  /** What this process knows that the node does not: its calls and small objects. */
  report(limit: number): LocalReport {
    return report(this, limit)
  }

  /** Asks the node for a list of its state; null when it is gone. */
  async query(what: string, limit: number): Promise<unknown> {
    if (this.lost) return null
    const request = this.#nextQuery++
    const message: ProcessMessage = { body: { $case: 'query', value: { request, what, limit } } }
    this.sendToNode(message)
    return JSON.parse(await this.keepAlive.during(new Promise<string>((resolve) => this.#queries.set(request, { message, resolve }))))
  }

  /** @param query - `owned` is asked of an idle worker that may end: it must not live for references that nobody has any more */
  async #answer({ request, what, limit }: Query): Promise<void> {
    if (what === 'owned' && this.references.owned > 0) await this.#collect()
    this.sendToNode({ body: { $case: 'queryReply', value: { request, json: JSON.stringify(this.report(limit)), silent: [] } } })
  }

  async #releaseMemory(): Promise<void> {
    this.lineage.releaseStored()
    await this.#collect()
    this.store.releaseEmpty()
  }

  async #collect(): Promise<void> {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    collect()
    await nextTurn() // finalizers run between turns
    await nextTurn()
  }

  /** The node of these objects drains: they lie elsewhere now. */
  #objectsMoved({ objects, from }: ObjectsMoved): void {
    for (const { segment, offset, bytes, object, node, label } of objects) {
      const entry = this.references.find(object)
      const place: Place = { path: '', segment, offset, bytes, object: { owner: this.process, address: this.address, object }, node }
      const { stored } = entry ?? {}
      if (stored?.kind === 'place' && isSamePlace(stored.place, place)) continue
      if (entry && stored?.kind === 'place' && stored.place.node === from) entry.stored = { ...stored, place }
      else {
        this.store.own(place, object, label)
        this.store.disown(place)
      }
    }
  }

  // ---------------------------------------------------------------- losses

  isDead(process: string, node: string): boolean {
    return this.#lostNodes.has(node) && !this.#survivors.has(process)
  }

  suspect(process: string, node: string): void {
    this.sendToNode({ body: { $case: 'processSuspect', value: { process, node } } })
  }

  #processLost(process: string, cause: Failure | undefined): void {
    const why = cause ? wireError(cause).message : 'its node says that it is dead'
    // Nobody hears this one any more, and its actors are gone.
    if (process === this.process) return this.#nodeLost(cause && wireError(cause))
    this.#survivors.delete(process)
    log(() => `process ${process} lost: ${why}`)
    this.#whyLost.set(process, why)
    this.peers.processDied(process, why)
  }

  /** A node is gone with all that was on it. What lay in its store is looked for when somebody needs it. */
  #nodeDied({ node, cause, survivors }: NodeLost): void {
    const why = cause ? wireError(cause).message : 'it is gone'
    log(() => `node ${node} lost: ${why}`)
    this.#lostNodes.set(node, why)
    for (const process of survivors) this.#survivors.add(process)
    this.submitter.nodeLost(node, why)
    const there = new Set([...this.peers.at(node), ...this.references.ownersAt(node)])
    for (const process of there) if (!this.#survivors.has(process)) this.#processLost(process, cause)
  }

  /** The daemon was killed, and its workers with it. What runs elsewhere goes on. */
  #detached({ node }: Welcome, withinMs: number): void {
    this.submitter.nodeLost(node, KILLED)
    this.events.emit(
      'warning',
      `the node daemon was killed; this program goes on with another one of its cluster if one starts on this machine within ${withinMs} ms`,
    )
  }

  #attachedAgain({ node }: Welcome): void {
    const gone = this.store.node
    log(() => `attached to node ${node} in place of ${gone}`)
    this.node = node
    this.#lostNodes.set(gone, KILLED)
    const stored = [...this.references.stored()]
    const elsewhere = stored.flatMap(({ entry, place }) => {
      const { segment, offset, bytes, node } = place
      return node === gone ? [] : [{ segment, offset, bytes, node, object: entry.number, label: entry.producer?.label ?? '' }]
    })
    this.store.attachedAgain(node, elsewhere)
    for (const { entry, place } of stored) if (this.store.wroteBefore(place)) this.lineage.lost(entry, place)
    for (const { message } of this.#queries.values()) this.sendToNode(message)
    this.submitter.leases.attachedAgain()
    this.#controlLost(false)
    this.events.emit('warning', `attached to node ${node} in place of ${gone}`)
  }

  #controlLost(lost: boolean): void {
    if (lost) return // requests wait
    this.actors.controlBack()
    this.groups.controlBack()
    this.executor.actor.controlBack()
  }

  #workerLost(message: WorkerLost): void {
    log(() => `worker ${message.worker} lost: ${message.cause?.code} ${message.cause?.detailsJson}`)
    this.#reported.set(message.worker, message)
    this.submitter.workerLost(message.worker, message.cause)
    this.actors.workerLost(message.worker, message.cause)
    this.references.processLost(message.worker, message.cause && wireError(message.cause).message)
    this.executor.ownerLost(message.worker)
  }

  /** A link to another process closed. */
  linkLost(process: string, node: string): void {
    const elsewhere = node !== '' && node !== this.node
    this.references.processLost(process, this.#whyLost.get(process) ?? (elsewhere ? `it ended, on node ${node}` : undefined))
    this.#whyLost.delete(process)
    this.executor.ownerLost(process)
    if (this.#reported.delete(process)) return
    // The node knows why, and says so in a moment.
    setTimeout(() => {
      if (!this.#reported.delete(process)) this.submitter.workerLost(process, undefined)
    }, LIMITS.lossNoticeMs).unref()
  }

  #nodeLost(error: Error | undefined): void {
    if (this.#closing) {
      this.events.emit('closed', undefined)
      return
    }
    if (this.lost) return
    const { stopReason } = this.#node
    this.lost = BeamlineError.is(error)
      ? error
      : new BeamlineError('NODE_DIED', {
          reason: stopReason === undefined ? (error?.message ?? 'it closed the connection') : `it stopped: ${stopReason}`,
        })
    for (const { resolve } of this.#queries.values()) resolve('null')
    this.#queries.clear()
    this.submitter.failAll(this.lost)
    this.actors.failAll(this.lost)
    this.groups.failAll(this.lost)
    this.references.failAll(this.lost)
    this.store.fail(this.lost)
    this.events.emit('closed', this.lost)
  }

  /** A defect of this process: it must not go on with half a state. */
  crash(error: unknown): void {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
    process.exit(70)
  }

  /** Leaves the cluster. With `shutdown` the node and all that it started ends too; resolves when it has. */
  async close(shutdown: boolean, reason: string): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    const error = new BeamlineError('NODE_DIED', { reason })
    this.submitter.failAll(error)
    this.actors.failAll(error)
    this.groups.failAll(error)
    this.references.failAll(error)
    this.store.fail(error)
    this.executor.events.flush()
    this.peers.close()
    if (!this.lost) {
      const closed = once(this.events, 'closed')
      this.sendToNode({ body: { $case: 'shutdown', value: { reason, cluster: false } } })
      // A node that stops closes the link when all its workers are gone and what they printed is here.
      if (!shutdown) this.#node.close()
      const late = new Promise((resolve) => setTimeout(resolve, LIMITS.shutdownMs).unref())
      await this.keepAlive.during(Promise.race([closed, late]))
    }
    this.store.close()
    await this.#server?.close()
    this.keepAlive.close()
  }
}
