/**
 * What exists once per cluster: its nodes (membership.ts), actors (actor-table.ts), placement groups (group-table.ts) and jobs (job-table.ts), at the
 * head. Pure: events in, instructions out. Orders to nodes come back as reports of those nodes. Workers and leases are not here: node-state.ts.
 *
 * What must survive the head is told as `persist` before everything that follows from it. A head that begins with the records of an earlier one
 * waits for the nodes that it knows: what they still have goes on, the rest is lost with the grace.
 */
import type { Register } from '../net/gen/mesh.ts'
import type { Failure, Resources } from '../net/gen/node.ts'
import { recordOf } from './actor.ts'
import { ActorPlaces } from './actor-places.ts'
import { ActorTable } from './actor-table.ts'
import { nodeLost } from './cluster-view.ts'
import type { ControlEvent, ControlInstruction, Job, View } from './events.ts'
import { GroupTable, type PlacementGroup } from './group-table.ts'
import { type JobRecord, JobTable } from './job-table.ts'
import { type Member, Membership } from './membership.ts'
import { decodeActor, decodeRecord, encodeActor, encodeRecord, type GroupRecord, type NodeRecord } from './records.ts'
import { parseResources } from './resources.ts'

export interface ControlConfig {
  /** Node of this head. */
  readonly self: string
  /** Nodes may join: what does not fit waits for them, and nodes are told what the others are. */
  readonly growable: boolean
  /** A node that was not heard of for so long is dead. */
  readonly leaseMs: number
  /** Records are wanted. */
  readonly persists: boolean
}

interface Attached {
  readonly node: string
  readonly driver: boolean
}

/** What changed is told to the nodes at most so often, except what decides where work can go. */
const VIEW_MS = 100
/** Drivers whose daemon was killed have so long to find another one on their machine. */
const MOVE_MS = 5_000
const NONE: Resources = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }

export class ControlState {
  readonly config: ControlConfig
  readonly nodes: Membership
  readonly actors: ActorTable
  readonly groups: GroupTable
  readonly jobs: JobTable
  /** Until nodes from before a restart are back or given up. */
  restoring = false
  #restored = false
  /** Job of each attached driver and of each worker that was given one. */
  readonly #jobOf: Map<string, Job> = new Map()
  readonly #attached: Map<string, Attached> = new Map()
  /** Records to write, as they are at the end of the event. */
  readonly #dirty: Map<string, { readonly make: () => string | undefined; readonly later: boolean }> = new Map()
  readonly #news = { nodes: new Set<string>(), groups: new Set<string>(), jobs: new Set<string>(), urgent: false, soon: false }
  #nowMs = 0
  #toldMs = 0
  #graceEndsMs: number | undefined
  /** Nodes whose daemons were killed while drivers of them may still come to another one. */
  readonly #replaced: Map<string, { readonly reason: string; readonly untilMs: number }> = new Map()
  #out: ControlInstruction[] = []

  constructor(config: ControlConfig) {
    this.config = config
    const out = (instruction: ControlInstruction): void => void this.#out.push(instruction)
    this.nodes = new Membership(config)
    this.jobs = new JobTable(
      (id) => this.#record(`job/${id}`, () => this.#jobText(id)),
      (id) => {
        this.#news.jobs.add(id)
        this.#news.urgent = true
      },
    )
    const places = new ActorPlaces({
      self: config.self,
      growable: config.growable,
      nodes: this.nodes,
      groups: () => this.groups,
      nowMs: () => this.#nowMs,
      restoring: () => this.restoring,
      nodeOf: (process) => this.#attached.get(process)?.node,
    })
    this.actors = new ActorTable({
      out,
      self: config.self,
      choose: (actor) => places.place(actor),
      book: (node, shape, units) => this.#bookActor(node, parseResources(shape?.resources) ?? NONE, shape?.placementGroup ?? '', units),
      nodeOf: (process) => this.#nodeOf(process),
      changed: (id) => this.#record(`actor/${id}`, () => this.#actorText(id)),
      born: (job) => this.jobs.actorBorn(job),
      died: (job) => this.jobs.actorDied(job),
    })
    this.groups = new GroupTable({
      out: (instruction) => out(instruction.kind === 'send' ? this.#addressed(instruction) : instruction),
      nodes: () => [...this.nodes.members.values()].filter(({ state }) => state === 'ALIVE'),
      book: (node, wanted, units) => this.nodes.book(node, wanted, units),
      changed: (group) => this.#groupChanged(group),
      growable: config.growable,
    })
  }

  /** What is free on a node, for placement. Freshness is a hint only: nodes decide when they prepare. */
  view(node: string, available: Resources, queued: number): void {
    if (this.nodes.heard(node, available, queued, this.nodes.members.get(node)?.info.storeUsedBytes ?? 0, this.#nowMs)) this.#news.nodes.add(node)
  }

  /** The only mutator besides the hint above. Unknown ids are ignored or answered with a failure. */
  handle(event: ControlEvent): ControlInstruction[] {
    this.#apply(event)
    this.#tellView()
    const out = this.#out
    this.#out = []
    if (this.#dirty.size === 0) return out
    const records: ControlInstruction[] = []
    for (const [key, { make, later }] of this.#dirty) records.push({ kind: 'persist', key, value: make(), ...(later && { later }) })
    this.#dirty.clear()
    return [...records, ...out]
  }

  #apply(event: ControlEvent): void {
    // What a process asked for just before it was lost must not outlive it.
    if ('process' in event && event.kind !== 'process-attached' && !this.#attached.has(event.process)) return
    switch (event.kind) {
      case 'process-attached':
        return this.#processAttached(event)
      case 'process-lost':
        return this.#processLost(event.process, event.clean === false ? 'its driver was killed, or ended without shutdown()' : '')
      case 'worker-bound':
        this.#jobOf.set(event.worker, event.job)
        return
      case 'tick':
        return this.#tick(event.nowMs)
      case 'actor-create': {
        const job = this.#jobOf.get(event.process)
        if (job !== undefined) this.actors.create(event.process, event.create, job)
        return
      }
      case 'actor-started':
        return this.actors.started(event.process, event.started)
      case 'actor-watch':
        return this.actors.watch(event.process, event.actor, event.creates ?? false)
      case 'actor-stop':
        return this.actors.stop(event.stop)
      case 'actor-lookup': {
        const job = this.#jobOf.get(event.process)
        return this.actors.lookup(event.process, event.request, event.name, event.namespace || job?.config.namespace || job?.id || '')
      }
      case 'actor-placed':
        return this.actors.placed(event)
      case 'actor-unplaceable':
        return this.actors.unplaceable(event)
      case 'actor-worker-lost':
        return this.actors.workerLost(event)
      case 'group-create':
        return this.groups.create(event.process, event.create)
      case 'group-remove':
        return this.groups.remove(event.process, event.group)
      case 'bundles-prepared':
        this.groups.prepared(event.node, event.group, event.attempt)
        return
      case 'bundles-refused':
        return this.groups.refused(event.node, event.group, event.attempt, event.reason)
      case 'node-registered':
        return this.#registered(event.register)
      case 'node-heartbeat':
        return this.#heard(event)
      case 'node-drain':
        return this.#drain(event.node, event.reason || 'it drains')
      case 'node-left':
        return event.replaced === true ? this.#nodeReplaced(event.node, event.reason) : this.#nodeDead(event.node, event.reason)
      case 'restore':
        return this.#restore(event.records)
      default:
        event satisfies never
    }
  }

  // ---------------------------------------------------------------- processes

  #processAttached(event: Extract<ControlEvent, { kind: 'process-attached' }>): void {
    const { process, node = this.config.self, processKind, pid, job, jobId = '' } = event
    const ended = this.jobs.jobs.get(process)
    // Its daemon was gone for so long that it counts as dead: its actors are, and others do not hear it any more.
    if (processKind === 'driver' && ended !== undefined && ended.state !== 'RUNNING') {
      const cause: Failure = { code: 'NODE_DIED', detailsJson: JSON.stringify({ reason: `this program was declared dead: ${ended.reason}` }) }
      this.#out.push({ kind: 'send', process, ...(node !== this.config.self && { node }), message: { $case: 'processLost', value: { process, cause } } })
      return
    }
    this.#attached.set(process, { node, driver: processKind === 'driver' })
    if (job === undefined) return
    const id = processKind === 'driver' ? process : jobId
    if (id === '') return
    this.#jobOf.set(process, { id, config: job })
    if (processKind === 'driver') this.jobs.started({ id, config: job }, node, this.nodes.members.get(node)?.info.host ?? '', pid, this.#nowMs)
  }

  #processLost(process: string, failure: string): void {
    const attached = this.#attached.get(process)
    this.#attached.delete(process)
    this.#jobOf.delete(process)
    this.actors.processLost(process)
    this.groups.processLost(process)
    if (attached?.driver === true) this.jobs.driverGone(process, failure, this.#nowMs)
  }

  #nodeOf(process: string): string {
    const node = this.#attached.get(process)?.node ?? ''
    return node === this.config.self ? '' : node
  }

  #addressed(send: Extract<ControlInstruction, { kind: 'send' }>): ControlInstruction {
    const node = this.#nodeOf(send.process)
    return node === '' ? send : { ...send, node }
  }

  // ---------------------------------------------------------------- nodes

  #registered({ node: info, processes, actors, groups }: Register): void {
    if (info === undefined) return
    const { node } = info
    if (this.nodes.tombstones.has(node)) {
      const { reason } = this.nodes.tombstones.get(node) as { reason: string }
      this.#out.push({ kind: 'node-refused', node, code: 'NODE_LOST', reason })
      return
    }
    if (this.nodes.numberTaken(info)) {
      this.#out.push({ kind: 'node-refused', node, code: 'NODE_LOST', reason: `its number ${info.number} is another node's by now` })
      return
    }
    const known = this.nodes.members.get(node)
    const drains = known?.state === 'DRAINING' || known?.info.state === 'DRAINING'
    const first = known === undefined || known.state === 'AWAY'
    const member = this.nodes.put(info)
    if (drains) this.nodes.drain(node)
    this.#recordNode(member)
    this.#news.nodes.add(node)
    this.#news.urgent = true
    // A former head listened where this one does: it is gone.
    if (node === this.config.self && info.address !== '')
      for (const other of [...this.nodes.members.values()])
        if (other !== member && other.info.address === info.address) this.#nodeReplaced(other.node, 'another head listens at its address')
    if (node !== this.config.self) this.#out.push({ kind: 'node-accepted', node, number: member.number })
    if (first) {
      for (const { process, kind, pid, address, job, jobId } of processes)
        this.#processAttached({ kind: 'process-attached', process, node, processKind: kind as 'driver' | 'worker', pid, address, job, jobId })
      // What is here counts as sent there.
      for (const { actor } of actors) if (this.actors.actors.get(actor)?.node === node) member.actors++
      this.actors.reconcile(node, actors)
      const here = groups.map(({ group, bundles, committed }) => [group, { bundles: Object.keys(bundles).map(Number), committed }] as const)
      this.groups.reconcile(node, new Map(here))
      if (drains) this.#leaves(node, 'it drains')
    }
    if (node !== this.config.self && this.config.growable) this.#out.push({ kind: 'view', to: node, view: this.#wholeView(), urgent: true })
    this.#roomMayBe()
  }

  #heard(event: Extract<ControlEvent, { kind: 'node-heartbeat' }>): void {
    const { node, available, queued, storeUsedBytes, nowMs } = event
    const tombstone = this.nodes.tombstones.get(node)
    if (tombstone !== undefined) return void this.#out.push({ kind: 'node-refused', node, code: 'NODE_LOST', reason: tombstone.reason })
    this.#nowMs = Math.max(this.#nowMs, nowMs)
    if (this.nodes.heard(node, available, queued, storeUsedBytes, nowMs)) this.#news.nodes.add(node)
  }

  #drain(node: string, reason: string): void {
    if (!this.nodes.drain(node)) return
    this.#recordNode(this.nodes.members.get(node) as Member)
    this.#news.nodes.add(node)
    this.#news.urgent = true
    if (this.nodes.members.get(node)?.state !== 'AWAY') this.#leaves(node, reason)
    this.#roomMayBe()
  }

  #leaves(node: string, reason: string): void {
    this.actors.nodeDrains(node, `node ${node} drains: ${reason}`)
    this.groups.nodeLost(node, true)
  }

  /** Nodes that hear of the death must know where its drivers are by then, or they take them for dead too. */
  #nodeReplaced(node: string, reason: string): void {
    if (!this.jobs.mayMove(node, this.config.self)) return this.#nodeDead(node, reason)
    if (!this.#replaced.has(node)) this.#replaced.set(node, { reason, untilMs: this.#nowMs + MOVE_MS })
  }

  #nodeDead(node: string, reason: string): void {
    this.#replaced.delete(node)
    const member = this.nodes.members.get(node)
    if (member === undefined) return
    const cause: Failure = nodeLost(node, reason)
    const diedMs = this.#nowMs
    for (const old of this.nodes.bury(node, reason, diedMs)) this.#record(`node/${old}`, () => undefined)
    const { info, leaseMs } = member
    this.#record(`node/${node}`, () => encodeRecord({ info: { ...info, state: 'DEAD', diedMs }, state: 'DEAD', reason, leaseMs } satisfies NodeRecord))
    this.#out.push({ kind: 'node-lost', node, number: member.number, cause })
    this.#news.nodes.add(node)
    this.#news.urgent = true
    this.actors.nodeLost(node, cause)
    this.groups.nodeLost(node, false)
    for (const [process, attached] of [...this.#attached]) if (attached.node === node) this.#processLost(process, `its node is gone: ${reason}`)
    this.#roomMayBe()
  }

  #roomMayBe(): void {
    this.groups.nodesChanged()
    this.actors.retry()
  }

  #tick(nowMs: number): void {
    this.#nowMs = nowMs
    if (this.restoring) this.#graceEndsMs ??= nowMs + Math.max(this.config.leaseMs, ...[...this.nodes.members.values()].map(({ leaseMs }) => leaseMs))
    for (const member of this.nodes.tick(nowMs)) {
      const what = member.state === 'AWAY' ? 'it did not come back after the head was started again' : `it was not heard of for ${member.leaseMs} ms`
      this.#nodeDead(member.node, what)
    }
    for (const [node, { reason, untilMs }] of this.#replaced) if (nowMs >= untilMs || !this.jobs.mayMove(node, this.config.self)) this.#nodeDead(node, reason)
    if (this.restoring) this.#endGrace(nowMs)
    this.groups.tick(nowMs)
    this.actors.tick(nowMs)
  }

  // ---------------------------------------------------------------- placement

  #bookActor(node: string, wanted: Resources, group: string, units: number): void {
    const member = this.nodes.members.get(node)
    if (member === undefined) return
    member.actors = Math.max(0, member.actors + units)
    if (group === '') this.nodes.book(node, wanted, units)
  }

  // ---------------------------------------------------------------- the view

  #tellView(): void {
    const { nodes, groups, jobs } = this.#news
    if (!this.config.growable || nodes.size + groups.size + jobs.size === 0) return
    const { urgent, soon } = this.#news
    const sinceMs = this.#nowMs - this.#toldMs
    // Negative: the clock was set.
    if (!urgent && !soon && sinceMs >= 0 && sinceMs < VIEW_MS) return
    const view: View = {
      all: false,
      nodes: [...nodes].map((node) => this.nodes.infoOf(node)).filter((info) => info !== undefined),
      groups: [...groups].map((id) => this.#groupInfo(id)),
      jobsEnded: [...jobs],
    }
    nodes.clear()
    groups.clear()
    jobs.clear()
    this.#news.urgent = this.#news.soon = false
    this.#toldMs = this.#nowMs
    this.#out.unshift({ kind: 'view', to: undefined, view, urgent })
  }

  #wholeView(): View {
    return {
      all: true,
      nodes: [...this.nodes.members.values()].map(({ info }) => info),
      groups: [...this.groups.groups.values()].filter(({ state }) => state !== 'REMOVED').map((group) => this.groups.infoOf(group)),
      jobsEnded: [],
    }
  }

  #groupInfo(id: string): View['groups'][number] {
    const group = this.groups.groups.get(id)
    return group === undefined ? { group: id, state: 'REMOVED', nodes: [], bundles: [] } : this.groups.infoOf(group)
  }

  #groupChanged(group: PlacementGroup): void {
    this.#news.groups.add(group.id)
    const { id, state } = group
    if (state === 'RESCHEDULING') this.#news.urgent = true
    if (state === 'CREATED') {
      this.#news.soon = true
      this.actors.retry()
    }
    // The owner of one that ends with it asks again for what it was not answered, and says again what it removed.
    if (!group.detached && !group.recorded && state !== 'CREATED') return
    group.recorded = state !== 'REMOVED'
    const make = (): string | undefined => {
      const now = this.groups.groups.get(id)
      return now === undefined || now.state === 'REMOVED' ? undefined : encodeRecord(this.groups.recordOf(now))
    }
    this.#record(`group/${id}`, make, state === 'REMOVED' && !group.detached)
  }

  // ---------------------------------------------------------------- records

  /** @param later - nothing that follows depends on it */
  #record(key: string, make: () => string | undefined, later: boolean = false): void {
    if (this.config.persists) this.#dirty.set(key, { make, later: later && this.#dirty.get(key)?.later !== false })
  }

  #recordNode({ info, node, leaseMs }: Member): void {
    // The head's own node ends with the head.
    this.#record(`node/${node}`, () =>
      encodeRecord({ info, state: info.state === 'DRAINING' ? 'DRAINING' : 'ALIVE', reason: '', leaseMs } satisfies NodeRecord),
    )
    this.#record('counters', () => encodeRecord({ nextNumber: this.nodes.nextNumber }))
  }

  #actorText(id: string): string | undefined {
    const actor = this.actors.actors.get(id)
    return actor === undefined ? undefined : encodeActor(recordOf(actor))
  }

  #jobText(id: string): string | undefined {
    const job = this.jobs.jobs.get(id)
    return job === undefined ? undefined : encodeRecord(job)
  }

  #restore(records: ReadonlyMap<string, string>): void {
    if (this.#restored) return
    this.#restored = true
    const { nextNumber = 0 } = decodeRecord<{ nextNumber: number }>(records.get('counters') ?? '') ?? {}
    this.nodes.nextNumber = Math.max(this.nodes.nextNumber, nextNumber)
    const nodes: NodeRecord[] = []
    for (const [key, text] of records) {
      const [kind] = key.split('/', 1)
      if (kind === 'node') {
        const record = decodeRecord<NodeRecord>(text)
        if (record !== undefined) nodes.push(record)
      } else if (kind === 'actor') {
        const record = decodeActor(text)
        if (record !== undefined) this.actors.restored(record)
      } else if (kind === 'group') {
        const record = decodeRecord<GroupRecord>(text)
        if (record !== undefined) this.groups.restored(record)
      } else if (kind === 'job') {
        const record = decodeRecord<JobRecord>(text)
        if (record !== undefined) this.jobs.restored(record)
      }
    }
    for (const record of nodes) {
      const { info, state, reason } = record
      if (state === 'DEAD') this.nodes.addTombstone(info.node, info.number, reason, info.diedMs ?? 0)
      else if (info.node !== this.config.self) this.nodes.remember(record)
    }
    this.restoring = records.size > 0
    // The head may have ended between the record of a node's death and those of what that meant.
    const used = new Set([...this.actors.actors.values()].map(({ node }) => node))
    for (const { nodes } of this.groups.groups.values()) for (const node of nodes) used.add(node)
    for (const node of used) {
      if (node === '' || this.nodes.members.has(node)) continue
      this.actors.nodeLost(node, this.nodes.causeOf(node))
      this.groups.nodeLost(node, false)
    }
  }

  /** All are back, or those that are not are given up: then what they owned goes too. */
  #endGrace(nowMs: number): void {
    const away = [...this.nodes.members.values()].some(({ state }) => state === 'AWAY')
    if (away && nowMs < (this.#graceEndsMs ?? 0)) return
    this.restoring = false
    this.#graceEndsMs = undefined
    const owners = new Set<string>()
    for (const { create, owner, state } of this.actors.actors.values()) if (!create.detached && state !== 'DEAD') owners.add(owner)
    for (const { detached, owner, state } of this.groups.groups.values()) if (!detached && state !== 'REMOVED') owners.add(owner)
    for (const { job, state } of this.jobs.jobs.values()) if (state === 'RUNNING') owners.add(job.id)
    for (const owner of owners) {
      if (this.#attached.has(owner)) continue
      this.#processLost(owner, '')
      this.jobs.driverGone(owner, 'its driver did not come back after the head was started again', nowMs)
    }
  }
}
