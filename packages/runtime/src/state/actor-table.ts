/**
 * Actors of the cluster, from creation to death: PENDING → STARTING → ALIVE → (RESTARTING → STARTING → ALIVE)* → DEAD.
 *
 * PENDING and RESTARTING actors wait at their node for a worker; STARTING ones run their constructor. The calls themselves never pass here.
 * Pure: ControlState feeds events and passes the instructions on.
 */
import type { ActorCreate, ActorStarted, ActorStop, Failure } from '../net/gen/node.ts'
import type { ControlInstruction, Job, MessageBody, NodeReport } from './events.ts'

export type ActorStateName = 'PENDING' | 'STARTING' | 'ALIVE' | 'RESTARTING' | 'DEAD'

export interface Actor {
  readonly id: string
  readonly name: string
  readonly namespace: string
  readonly create: ActorCreate
  /** Process whose death ends it, unless detached. */
  readonly owner: string
  readonly job: Job
  readonly node: string
  state: ActorStateName
  /** "" unless STARTING or ALIVE, or while a stopped worker ends */
  worker: string
  address: string
  /** Number of restarts so far. */
  incarnation: number
  /** Deaths since it was last ALIVE: the delay before the next try grows with it. */
  failedStarts: number
  /** RESTARTING and not placed yet: when to place it. */
  restartAtMs: number | undefined
  stopping: { readonly reason: string; readonly noRestart: boolean; readonly killAtMs: number } | undefined
  cause: Failure | undefined
  error: Uint8Array
  readonly watchers: Set<string>
  /** Ids under which `getIfExists` gave it to others, with who watches it by that id. */
  readonly aliases: Map<string, Set<string>>
}

/** Watched before it was created. */
interface Unknown {
  readonly watchers: Set<string>
  readonly sinceMs: number
  /** Process that said that it will create it. */
  creator: string
}

/** Dead actors that are remembered, so that late watchers learn why. */
const DEAD_MAX = 10_000
/** A watcher may overtake the creation, which travels on another stream. */
const UNKNOWN_MS = 1_000
const RESTART_DELAY_MS = 100
const RESTART_DELAY_MAX_MS = 10_000
const NOTHING = new Uint8Array()

const nameKey = (namespace: string, name: string): string => JSON.stringify([namespace, name])

export class ActorTable {
  readonly actors: Map<string, Actor> = new Map()
  /** All and only living actors with a name. */
  readonly names: Map<string, string> = new Map()
  readonly unknownWatches: Map<string, Unknown> = new Map()
  /** Other ids of actors, see {@link Actor.aliases}. */
  readonly #aliases: Map<string, Actor> = new Map()
  #dead: string[] = []
  #nowMs = 0
  readonly #out: (instruction: ControlInstruction) => void

  constructor(out: (instruction: ControlInstruction) => void) {
    this.#out = out
  }

  create(process: string, create: ActorCreate, job: Job, node: string): void {
    const namespace = create.namespace === '' ? job.config.namespace || job.id : create.namespace
    const refuse = (code: string, details: object): void =>
      this.#send(process, {
        $case: 'actorCreated',
        value: { request: create.request, actor: create.actor, handle: NOTHING, failure: { code, detailsJson: JSON.stringify(details) } },
      })
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
      node,
      state: 'PENDING',
      worker: '',
      address: '',
      incarnation: 0,
      failedStarts: 0,
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
    for (const process of watchers) this.#tell(process, actor, id)
  }

  watch(process: string, id: string, creates: boolean): void {
    const actor = this.actors.get(id) ?? this.#aliases.get(id)
    if (actor !== undefined) {
      ;(actor.aliases.get(id) ?? actor.watchers).add(process)
      this.#tell(process, actor, id)
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
    if (actor === undefined || (actor.state !== 'PENDING' && actor.state !== 'RESTARTING')) return
    actor.worker = report.worker
    actor.address = report.address
    actor.state = 'STARTING'
    const { create, incarnation } = actor
    this.#send(report.worker, { $case: 'actorStart', value: { actor: actor.id, creation: create.creation, incarnation, gpuIndices: report.gpuIndices } })
    this.#tellWatchers(actor)
  }

  unplaceable(report: Extract<NodeReport, { kind: 'actor-unplaceable' }>): void {
    const actor = this.actors.get(report.actor)
    if (actor !== undefined) this.#die(actor, report.failure)
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
    actor.failedStarts = 0
    actor.cause = undefined
    actor.state = 'ALIVE'
    this.#tellWatchers(actor)
  }

  workerLost(report: Extract<NodeReport, { kind: 'actor-worker-lost' }>): void {
    const actor = this.actors.get(report.actor)
    if (actor === undefined) return
    for (const process of new Set([actor.watchers, ...actor.aliases.values()].flatMap((watchers) => [...watchers]))) {
      this.#send(process, { $case: 'workerLost', value: { worker: report.worker, leases: [], cause: report.failure } })
    }
    if (actor.state === 'DEAD') return
    const { stopping } = actor
    actor.stopping = undefined
    const max = actor.create.maxRestarts
    if (stopping?.noRestart !== true && (max < 0 || actor.incarnation < max)) {
      if (actor.state === 'STARTING') actor.failedStarts++
      actor.worker = ''
      actor.address = ''
      actor.incarnation++
      actor.cause = report.failure
      actor.state = 'RESTARTING'
      this.#tellWatchers(actor)
      const delay = actor.failedStarts === 0 ? 0 : Math.min(RESTART_DELAY_MS * 2 ** (actor.failedStarts - 1), RESTART_DELAY_MAX_MS)
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
    if (actor.state === 'PENDING' || actor.state === 'RESTARTING') {
      if (!stop.noRestart && stop.force) return
      this.#release(actor, true, reason)
      this.#die(actor, this.#diedOf(actor, reason))
      return
    }
    if (!stop.force && actor.stopping !== undefined) return
    const noRestart = stop.noRestart || !stop.force || actor.stopping?.noRestart === true
    actor.stopping = { reason, noRestart, killAtMs: stop.force ? Number.POSITIVE_INFINITY : this.#nowMs + actor.create.stopTimeoutMs }
    if (stop.force) this.#release(actor, true, reason)
    else this.#send(actor.worker, { $case: 'actorTerminate', value: { actor: actor.id, reason } })
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
      if (actor.state === 'RESTARTING' && actor.restartAtMs !== undefined && actor.restartAtMs <= nowMs) this.#place(actor)
      if (actor.stopping !== undefined && actor.stopping.killAtMs <= nowMs) {
        actor.stopping = { ...actor.stopping, killAtMs: Number.POSITIVE_INFINITY }
        this.#release(actor, true, `${actor.stopping.reason}, and it did not end in ${actor.create.stopTimeoutMs} ms`)
      }
    }
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

  #place(actor: Actor): void {
    actor.restartAtMs = undefined
    const { create } = actor
    const label = create.name === '' ? create.className : `${create.className} "${create.name}"`
    this.#out({ kind: 'order', node: actor.node, order: { kind: 'actor-place', actor: actor.id, job: actor.job, shape: create.shape, label } })
  }

  #release(actor: Actor, force: boolean, reason: string): void {
    this.#out({ kind: 'order', node: actor.node, order: { kind: 'actor-release', actor: actor.id, force, reason } })
  }

  #die(actor: Actor, cause: Failure): void {
    if (actor.state === 'DEAD') return
    actor.state = 'DEAD'
    actor.cause = cause
    actor.stopping = undefined
    actor.restartAtMs = undefined
    if (actor.name !== '') this.names.delete(nameKey(actor.namespace, actor.name))
    this.#tellWatchers(actor)
    actor.worker = ''
    actor.address = ''
    this.#dead.push(actor.id)
    if (this.#dead.length <= DEAD_MAX) return
    for (const id of this.#dead.splice(0, DEAD_MAX / 10)) {
      for (const alias of this.actors.get(id)?.aliases.keys() ?? []) this.#aliases.delete(alias)
      this.actors.delete(id)
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
    this.#out({ kind: 'send', process, message })
  }
}

function lossText(failure: Failure): string {
  const { how, stderr } = JSON.parse(failure.detailsJson) as { how: string; stderr: string }
  return `its worker ${how}${stderr === '' ? '' : `; its last lines on stderr:\n${stderr}`}`
}
