/**
 * Actors of the cluster, from creation to death: PENDING → STARTING → ALIVE → (RESTARTING → STARTING → ALIVE)* → DEAD.
 *
 * PENDING and RESTARTING actors wait for a worker at a node, or for a node that could have them; STARTING ones run their constructor. The calls
 * themselves never pass here. Each order to place one has a number (`attempt`), and a report about an earlier one changes nothing.
 * Pure: ControlState feeds events and passes the instructions on.
 */
import type { ActorHere } from '../net/gen/mesh.ts'
import type { ActorCreate, ActorStarted, ActorStop, Failure, Shape } from '../net/gen/node.ts'
import { type Actor, actorOf, type ActorPort, concerns, lossText, NOTHING, restartDelay } from './actor.ts'
import type { Job, MessageBody, NodeReport } from './events.ts'
import type { ActorRecord } from './records.ts'

/** Watched before it was created. */
interface Unknown {
  readonly watchers: Set<string>
  readonly sinceMs: number
  /** Process that said that it will create it. */
  creator: string
}

/** An actor that waits at a node without room moves to one with room after so long. */
const MOVE_AFTER_MS = 500
/** Dead actors that are remembered, so that late watchers learn why. */
const DEAD_MAX = 10_000
/** A watcher may overtake the creation, which travels on another stream. */
const UNKNOWN_MS = 1_000

const nameKey = (namespace: string, name: string): string => JSON.stringify([namespace, name])

export class ActorTable {
  readonly actors: Map<string, Actor> = new Map()
  /** All and only living actors with a name. */
  readonly names: Map<string, string> = new Map()
  readonly unknownWatches: Map<string, Unknown> = new Map()
  /** Other ids of actors, see {@link Actor.aliases}. */
  readonly #aliases: Map<string, Actor> = new Map()
  #dead: string[] = []
  /** Those that wait: for a node, or at one. */
  readonly #waiting: Set<Actor> = new Set()
  /** Those that nobody knows how they are, after a restart of the head: they end once their node has said so. */
  readonly #askedToEnd: Map<Actor, ActorStop> = new Map()
  #nowMs = 0
  readonly #port: ActorPort

  constructor(port: ActorPort) {
    this.#port = port
  }

  create(process: string, create: ActorCreate, job: Job): void {
    const namespace = create.namespace === '' ? job.config.namespace || job.id : create.namespace
    const refuse = (code: string, details: object): void =>
      this.#send(process, {
        $case: 'actorCreated',
        value: { request: create.request, actor: create.actor, handle: NOTHING, failure: { code, detailsJson: JSON.stringify(details) } },
      })
    const same = this.actors.get(create.actor) ?? this.#aliases.get(create.actor)
    if (same !== undefined && (same.owner === process || same.id !== create.actor)) {
      // Asked again: the answer was lost with the head that gave it.
      const { id: actor, create: first } = same
      return this.#send(process, { $case: 'actorCreated', value: { request: create.request, actor, handle: first.handle, failure: undefined } })
    }
    if (create.name !== '') {
      const existing = this.actors.get(this.names.get(nameKey(namespace, create.name)) ?? '')
      if (existing !== undefined && create.getIfExists) {
        this.#alias(create.actor, existing)
        this.#send(process, {
          $case: 'actorCreated',
          value: { request: create.request, actor: existing.id, handle: existing.create.handle, failure: undefined },
        })
        return
      }
      if (existing !== undefined) return refuse('ACTOR_NAME_TAKEN', { name: create.name, namespace })
    }
    if (create.actor === '' || this.actors.has(create.actor)) {
      return refuse('INVALID_ARGUMENT', { what: 'the id of a new actor', got: JSON.stringify(create.actor), expected: 'an id that is not in use' })
    }
    const actor: Actor = {
      id: create.actor,
      name: create.name,
      namespace,
      create,
      owner: process,
      job,
      node: '',
      attempt: 0,
      sinceMs: this.#nowMs,
      placedAtMs: 0,
      reason: '',
      ran: false,
      unheard: false,
      state: 'PENDING',
      worker: '',
      address: '',
      incarnation: 0,
      restarts: 0,
      failedStarts: 0,
      memoryEnds: 0,
      restartAtMs: undefined,
      stopping: undefined,
      cause: undefined,
      error: NOTHING,
      watchers: this.unknownWatches.get(create.actor)?.watchers ?? new Set(),
      aliases: new Map(),
    }
    this.unknownWatches.delete(create.actor)
    this.actors.set(actor.id, actor)
    if (actor.name !== '') this.names.set(nameKey(namespace, actor.name), actor.id)
    this.#port.born(job.id)
    this.#port.changed(actor.id)
    this.#send(process, { $case: 'actorCreated', value: { request: create.request, actor: actor.id, handle: create.handle, failure: undefined } })
    this.#tellWatchers(actor)
    this.#place(actor)
  }

  /** Handles were made with `id` before it turned out that the name has an actor. */
  #alias(id: string, actor: Actor): void {
    if (id === '' || this.actors.has(id) || this.#aliases.has(id)) return
    const watchers = this.unknownWatches.get(id)?.watchers ?? new Set()
    this.unknownWatches.delete(id)
    actor.aliases.set(id, watchers)
    this.#aliases.set(id, actor)
    this.#port.changed(actor.id)
    for (const process of watchers) this.#tell(process, actor, id)
  }

  watch(process: string, id: string, creates: boolean): void {
    const actor = this.actors.get(id) ?? this.#aliases.get(id)
    if (actor !== undefined) {
      ;(actor.aliases.get(id) ?? actor.watchers).add(process)
      if (!actor.unheard) this.#tell(process, actor, id)
      return
    }
    const unknown = this.unknownWatches.get(id) ?? { watchers: new Set<string>(), sinceMs: this.#nowMs, creator: '' }
    unknown.watchers.add(process)
    if (creates) unknown.creator = process
    this.unknownWatches.set(id, unknown)
  }

  lookup(process: string, request: number, name: string, namespace: string): void {
    const actor = this.actors.get(this.names.get(nameKey(namespace, name)) ?? '')
    this.#send(process, { $case: 'actorFound', value: { request, actor: actor?.id ?? '', handle: actor?.create.handle ?? NOTHING } })
  }

  placed(report: Extract<NodeReport, { kind: 'actor-placed' }>): void {
    const actor = this.actors.get(report.actor)
    if (actor === undefined || actor.state === 'DEAD' || !concerns(actor, report)) {
      const { node, attempt } = report
      const order = { kind: 'actor-release', actor: report.actor, attempt, force: true, reason: 'it was placed elsewhere meanwhile' } as const
      return this.#port.out({ kind: 'order', node, order })
    }
    if (actor.state !== 'PENDING' && actor.state !== 'RESTARTING') return
    this.#runs(actor, report.worker, report.address)
    actor.state = 'STARTING'
    const { create, incarnation } = actor
    this.#sendTo(actor, { $case: 'actorStart', value: { actor: actor.id, creation: create.creation, incarnation, gpuIndices: report.gpuIndices } })
    this.#tellWatchers(actor)
  }

  #runs(actor: Actor, worker: string, address: string): void {
    this.#waiting.delete(actor)
    actor.worker = worker
    actor.address = address
    actor.unheard = false
    if (actor.ran) return
    actor.ran = true
    this.#port.changed(actor.id)
  }

  unplaceable(report: Extract<NodeReport, { kind: 'actor-unplaceable' }>): void {
    const actor = this.actors.get(report.actor)
    if (actor !== undefined && concerns(actor, report)) this.#die(actor, report.failure)
  }

  started(process: string, started: ActorStarted): void {
    const actor = this.actors.get(started.actor)
    if (actor === undefined || actor.worker !== process || actor.state !== 'STARTING') return
    if (started.error.length > 0 || started.errorText !== '') {
      actor.error = started.error
      this.#die(actor, this.#diedOf(actor, `its constructor threw ${started.errorText}`))
      this.#release(actor, false, 'its constructor threw')
      return
    }
    this.#alive(actor)
  }

  #alive(actor: Actor): void {
    actor.failedStarts = 0
    actor.cause = undefined
    actor.state = 'ALIVE'
    this.#tellWatchers(actor)
  }

  workerLost(report: Extract<NodeReport, { kind: 'actor-worker-lost' }>): void {
    const actor = this.actors.get(report.actor)
    if (actor === undefined || !concerns(actor, report) || (actor.state !== 'DEAD' && actor.worker !== report.worker)) return
    for (const process of new Set([actor.watchers, ...actor.aliases.values()].flatMap((watchers) => [...watchers]))) {
      this.#send(process, { $case: 'workerLost', value: { worker: report.worker, leases: [], cause: report.failure } })
    }
    if (actor.state === 'DEAD') return
    const { stopping } = actor
    actor.stopping = undefined
    const max = actor.create.maxRestarts
    const moves = stopping?.moves === true
    if (stopping?.noRestart !== true && (moves || max < 0 || actor.restarts < max)) {
      if (actor.state === 'STARTING' && !moves) actor.failedStarts++
      this.#leave(actor)
      actor.incarnation++
      if (!moves) actor.restarts++
      actor.cause = report.failure
      actor.state = 'RESTARTING'
      this.#port.changed(actor.id)
      this.#waiting.add(actor)
      this.#tellWatchers(actor)
      const delay = restartDelay(actor, report.failure)
      actor.restartAtMs = this.#nowMs + delay
      if (delay === 0) this.#place(actor)
      return
    }
    this.#die(actor, this.#diedOf(actor, stopping?.reason ?? lossText(report.failure), report.failure, stopping === undefined))
  }

  stop(stop: ActorStop): void {
    const actor = this.actors.get(stop.actor) ?? this.#aliases.get(stop.actor)
    const reason = stop.reason || 'it was stopped'
    if (actor === undefined) return this.#neverCreated(stop.actor, reason)
    if (actor.state === 'DEAD') return
    if (actor.unheard) {
      if (this.#askedToEnd.get(actor)?.noRestart !== true) this.#askedToEnd.set(actor, stop)
      return
    }
    // It began again before it was killed.
    if (!stop.noRestart && stop.force && actor.incarnation > (stop.incarnation ?? actor.incarnation)) return
    if (actor.state === 'PENDING' || actor.state === 'RESTARTING') {
      if (!stop.noRestart && stop.force) return
      this.#release(actor, true, reason)
      this.#die(actor, this.#diedOf(actor, reason))
      return
    }
    if (!stop.force && actor.stopping !== undefined && !actor.stopping.moves) return
    const noRestart = stop.noRestart || !stop.force || actor.stopping?.noRestart === true
    const killAtMs = stop.force ? Number.POSITIVE_INFINITY : this.#nowMs + actor.create.stopTimeoutMs
    actor.stopping = { reason, noRestart, killAtMs, moves: false }
    if (stop.force) this.#release(actor, true, reason)
    else this.#sendTo(actor, { $case: 'actorTerminate', value: { actor: actor.id, reason } })
  }

  /** Of actors whose node has said how they are, or is dead. */
  #stopHeard(): void {
    for (const [actor, stop] of this.#askedToEnd) {
      if (actor.unheard) continue
      this.#askedToEnd.delete(actor)
      this.stop(stop)
    }
  }

  /** Actors that it owned end with it; what it watched is forgotten. */
  processLost(process: string): void {
    for (const actor of this.actors.values()) {
      actor.watchers.delete(process)
      for (const watchers of actor.aliases.values()) watchers.delete(process)
      if (actor.state === 'DEAD' || actor.create.detached || actor.owner !== process) continue
      const reason = `its owner, process ${process}, is gone`
      this.#release(actor, true, reason)
      this.#die(actor, this.#diedOf(actor, reason))
    }
    for (const [id, unknown] of this.unknownWatches) {
      unknown.watchers.delete(process)
      if (unknown.creator === process) this.#neverCreated(id, `its owner, process ${process}, is gone`)
    }
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs
    for (const actor of this.actors.values()) {
      if (actor.stopping !== undefined && actor.stopping.killAtMs <= nowMs) {
        actor.stopping = { ...actor.stopping, killAtMs: Number.POSITIVE_INFINITY }
        this.#release(actor, true, `${actor.stopping.reason}, and it did not end in ${actor.create.stopTimeoutMs} ms`)
      }
    }
    this.retry()
    for (const [id, { sinceMs, creator }] of this.unknownWatches) {
      if (creator === '' && nowMs - sinceMs >= UNKNOWN_MS)
        this.#neverCreated(id, 'this cluster does not know it (it died long ago, or is of another cluster run)')
    }
  }

  #neverCreated(id: string, reason: string): void {
    const unknown = this.unknownWatches.get(id)
    if (unknown === undefined) return
    this.unknownWatches.delete(id)
    const cause = { code: 'ACTOR_DIED', detailsJson: JSON.stringify({ actor: id, className: '', reason }) }
    for (const process of unknown.watchers) {
      this.#send(process, { $case: 'actorState', value: { actor: id, state: 'DEAD', worker: '', address: '', incarnation: 0, cause, error: NOTHING } })
    }
  }

  /** Those that wait for a node may find one, and those that wait at a full one may find another. */
  retry(): void {
    // Of many that want the same, one is enough to see that nothing has room.
    const full = new Set<Shape | undefined>()
    for (const actor of this.#waiting) {
      if (actor.unheard || (actor.restartAtMs !== undefined && actor.restartAtMs > this.#nowMs)) continue
      if (actor.node === '') {
        this.#place(actor)
        continue
      }
      if (this.#nowMs - actor.placedAtMs < MOVE_AFTER_MS || full.has(actor.create.shape)) continue
      const place = this.#port.choose(actor)
      if (place.kind !== 'node' || !place.now) full.add(actor.create.shape)
      else if (place.node !== actor.node) {
        this.#release(actor, true, 'another node has room')
        this.#leave(actor)
        this.#place(actor)
      }
    }
  }

  /** What ran there ends; what waited there waits elsewhere. */
  nodeLost(node: string, failure: Failure): void {
    for (const actor of [...this.actors.values()]) {
      if (actor.node !== node || actor.state === 'DEAD') continue
      actor.unheard = false
      if (!actor.ran) {
        this.#leave(actor)
        continue
      }
      const { id, attempt, worker } = actor
      this.workerLost({ kind: 'actor-worker-lost', node, actor: id, attempt, worker, failure })
    }
    this.#stopHeard()
  }

  /** Nothing new runs there: what waits goes elsewhere, and so does what may be begun again; the rest stays until the node leaves. */
  nodeDrains(node: string, reason: string): void {
    for (const actor of this.actors.values()) {
      if (actor.node !== node || actor.state === 'DEAD' || actor.unheard) continue
      if (this.#waiting.has(actor)) {
        this.#release(actor, true, reason)
        this.#leave(actor)
      } else if (actor.create.maxRestarts !== 0 && actor.stopping === undefined) {
        actor.stopping = { reason, noRestart: false, killAtMs: this.#nowMs + actor.create.stopTimeoutMs, moves: true }
        this.#sendTo(actor, { $case: 'actorTerminate', value: { actor: actor.id, reason } })
      }
    }
  }

  restored(record: ActorRecord): void {
    const actor = actorOf(record, this.#nowMs)
    const { id, namespace, job } = actor
    this.actors.set(id, actor)
    for (const alias of record.aliases) this.#aliases.set(alias, actor)
    if (record.dead) {
      this.#dead.push(id)
      return
    }
    this.#port.born(job.id)
    if (actor.name !== '') this.names.set(nameKey(namespace, actor.name), id)
    this.#waiting.add(actor)
  }

  /** What a node has that came back to a head that may not know it. */
  reconcile(node: string, here: readonly ActorHere[]): void {
    const kept = new Set<string>()
    for (const { actor: id, attempt, worker, address, alive, gpuIndices } of here) {
      const actor = this.actors.get(id)
      if (actor === undefined || actor.state === 'DEAD' || actor.node !== node || actor.attempt !== attempt) {
        const order = { kind: 'actor-release', actor: id, attempt, force: true, reason: 'the head does not know it' } as const
        this.#port.out({ kind: 'order', node, order })
        continue
      }
      kept.add(id)
      actor.unheard = false
      if (worker === '') this.#tellWatchers(actor)
      else if (!alive) this.placed({ kind: 'actor-placed', node, actor: id, attempt, worker, address, gpuIndices })
      else if (actor.worker !== worker || actor.state !== 'ALIVE') {
        this.#runs(actor, worker, address)
        this.#alive(actor)
      }
    }
    for (const actor of [...this.actors.values()]) {
      if (actor.node !== node || actor.state === 'DEAD' || kept.has(actor.id)) continue
      actor.unheard = false
      if (!actor.ran) {
        // The order was lost with the head that gave it.
        this.#leave(actor)
        this.#place(actor)
        continue
      }
      const { id, attempt } = actor
      this.workerLost({ kind: 'actor-worker-lost', node, actor: id, attempt, worker: actor.worker, failure: this.#lostUnheard(actor) })
    }
    this.#stopHeard()
  }

  #lostUnheard(actor: Actor): Failure {
    const details = { task: '', worker: actor.worker, pid: 0, how: 'ended while no head was there', stderr: '' }
    return { code: 'WORKER_CRASHED', detailsJson: JSON.stringify(details) }
  }

  #place(actor: Actor): void {
    actor.restartAtMs = undefined
    this.#waiting.add(actor)
    const place = this.#port.choose(actor)
    if (place.kind === 'never') return this.#die(actor, place.failure)
    actor.reason = place.kind === 'wait' ? place.reason : ''
    if (place.kind === 'wait') return
    actor.node = place.node
    actor.attempt++
    actor.placedAtMs = this.#nowMs
    const { create, id, attempt, job } = actor
    this.#port.book(actor.node, create.shape, 1)
    this.#port.changed(id)
    const label = create.name === '' ? create.className : `${create.className} "${create.name}"`
    this.#port.out({ kind: 'order', node: actor.node, order: { kind: 'actor-place', actor: id, attempt, job, shape: create.shape, label } })
  }

  #release(actor: Actor, force: boolean, reason: string): void {
    const { id, attempt, node } = actor
    if (node !== '') this.#port.out({ kind: 'order', node, order: { kind: 'actor-release', actor: id, attempt, force, reason } })
  }

  /** It is at no node from here on. */
  #leave(actor: Actor): void {
    if (actor.node !== '') this.#port.book(actor.node, actor.create.shape, -1)
    actor.node = ''
    actor.worker = ''
    actor.address = ''
    actor.ran = false
  }

  #die(actor: Actor, cause: Failure): void {
    if (actor.state === 'DEAD') return
    actor.state = 'DEAD'
    actor.unheard = false
    this.#waiting.delete(actor)
    this.#askedToEnd.delete(actor)
    actor.cause = cause
    actor.stopping = undefined
    actor.restartAtMs = undefined
    if (actor.name !== '') this.names.delete(nameKey(actor.namespace, actor.name))
    this.#tellWatchers(actor)
    actor.worker = ''
    actor.address = ''
    if (actor.node !== '') this.#port.book(actor.node, actor.create.shape, -1)
    this.#port.changed(actor.id)
    this.#port.died(actor.job.id)
    this.#dead.push(actor.id)
    if (this.#dead.length <= DEAD_MAX) return
    for (const id of this.#dead.splice(0, DEAD_MAX / 10)) {
      for (const alias of this.actors.get(id)?.aliases.keys() ?? []) this.#aliases.delete(alias)
      this.actors.delete(id)
      this.#port.changed(id)
    }
  }

  // A crash keeps its own code, so that people see how the worker died; everything else is ACTOR_DIED.
  #diedOf(actor: Actor, reason: string, failure?: Failure, crashed: boolean = false): Failure {
    if (crashed && failure?.code === 'OUT_OF_MEMORY') return failure
    return { code: 'ACTOR_DIED', detailsJson: JSON.stringify({ actor: actor.id, className: actor.create.className, reason }) }
  }

  #tellWatchers(actor: Actor): void {
    for (const process of actor.watchers) this.#tell(process, actor, actor.id)
    for (const [id, watchers] of actor.aliases) for (const process of watchers) this.#tell(process, actor, id)
  }

  #tell(process: string, actor: Actor, id: string): void {
    const { state, worker, address, incarnation, cause, error } = actor
    this.#send(process, { $case: 'actorState', value: { actor: id, state, worker, address, incarnation, cause, error } })
  }

  #send(process: string, message: MessageBody): void {
    const node = this.#port.nodeOf(process)
    this.#port.out(node === '' ? { kind: 'send', process, message } : { kind: 'send', process, node, message })
  }

  /** To its worker. */
  #sendTo(actor: Actor, message: MessageBody): void {
    const { worker: process, node } = actor
    this.#port.out(node === this.#port.self ? { kind: 'send', process, message } : { kind: 'send', process, node, message })
  }
}
