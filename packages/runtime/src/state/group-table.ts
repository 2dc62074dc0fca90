/**
 * Placement groups of the cluster: PENDING → CREATED ⇄ RESCHEDULING, and REMOVED. Bundles are reserved in two phases: every chosen node prepares (or
 * holds the request until it can), and only when all have are they committed. Nodes that keep others waiting longer than `PREPARE_MS` lose: what was
 * prepared is returned and tried anew, so that two groups never hold halves of each other's nodes.
 *
 * A node that dies takes its bundles with it: only those are placed again, before the bundles of new groups. Pure: ControlState feeds events.
 */
import type { GroupInfo } from '../net/gen/mesh.ts'
import type { Failure, GroupCreate, GroupState, Resources } from '../net/gen/node.ts'
import type { ControlInstruction } from './events.ts'
import type { Labels } from './labels.ts'
import { type BundleNode, placeBundles, STRATEGIES, type Strategy } from './placement.ts'
import type { GroupRecord } from './records.ts'
import { formatResources, parseResources } from './resources.ts'

export interface PlacementGroup {
  readonly id: string
  readonly name: string
  readonly strategy: string
  readonly bundles: readonly Resources[]
  /** Labels that the node of bundle i must have. */
  readonly selectors: readonly Labels[]
  readonly detached: boolean
  /** The store has, or is to have, a record of it. */
  recorded: boolean
  readonly owner: string
  readonly watchers: Set<string>
  state: 'PENDING' | 'CREATED' | 'RESCHEDULING' | 'REMOVED'
  /** Bundle -> node; "" while not placed. */
  readonly nodes: string[]
  /** Bundles that are usable. */
  readonly committed: Set<number>
  /** Nodes that prepared in this attempt. */
  readonly prepared: Set<string>
  attempt: number
  sinceMs: number
  /** Why it waits, in words. */
  reason: string
  cause: Failure | undefined
}

export interface GroupPort {
  readonly out: (instruction: ControlInstruction) => void
  readonly nodes: () => readonly BundleNode[]
  /** Bundles are sent to a node, or taken back when `units` is negative. */
  readonly book: (node: string, wanted: Resources, units: number) => void
  /** The record is to be made durable and the nodes are to be told. */
  readonly changed: (group: PlacementGroup) => void
  /** Nodes may join: what does not fit waits. */
  readonly growable: boolean
}

/** A group over several nodes gives up an attempt after so long. */
const PREPARE_MS = 1_000
/** Removed groups that are remembered. */
const REMOVED_MAX = 1_000

export class GroupTable {
  readonly groups: Map<string, PlacementGroup> = new Map()
  /** All and only those with bundles to place or to prepare; the ones that had them before come first. */
  readonly #unfinished: Set<PlacementGroup> = new Set()
  readonly #removed: string[] = []
  #nowMs = 0
  readonly #port: GroupPort

  constructor(port: GroupPort) {
    this.#port = port
  }

  /** A second creation with the same id only subscribes the sender. */
  create(process: string, create: GroupCreate): void {
    const known = this.groups.get(create.group)
    if (known !== undefined) {
      known.watchers.add(process)
      this.#tell(process, known)
      return
    }
    const bundles = create.bundles.map(parseResources)
    const group: PlacementGroup = {
      id: create.group,
      name: create.name,
      strategy: create.strategy,
      bundles: bundles.filter((bundle) => bundle !== undefined),
      selectors: create.selectors.map(({ labels }) => labels),
      detached: create.detached,
      recorded: false,
      owner: process,
      watchers: new Set([process]),
      state: 'PENDING',
      nodes: create.bundles.map(() => ''),
      committed: new Set(),
      prepared: new Set(),
      attempt: 0,
      sinceMs: this.#nowMs,
      reason: '',
      cause: undefined,
    }
    this.groups.set(group.id, group)
    const invalid = (what: string, got: string, expected: string): void =>
      this.#remove(group, { code: 'INVALID_ARGUMENT', detailsJson: JSON.stringify({ what, got, expected }) })
    if (!STRATEGIES.includes(group.strategy as Strategy))
      return invalid('the strategy of a placement group', JSON.stringify(group.strategy), STRATEGIES.join(', '))
    if (bundles.length === 0) return invalid('bundles', 'an empty list', 'at least one bundle')
    if (group.bundles.length < bundles.length) return invalid('bundles', JSON.stringify(create.bundles), 'whole, not negative amounts')
    this.#tell(process, group)
    this.#unfinished.add(group)
    this.#place(group)
  }

  /** The sender hears of the end in any case: it may ask again, or a head that knew nothing of it. */
  remove(process: string, id: string): void {
    const group = this.groups.get(id)
    if (group === undefined) return this.#port.out(stateOf(process, { group: id, state: 'REMOVED', cause: undefined, nodes: [] }))
    group.watchers.add(process)
    if (group.state === 'REMOVED') this.#tell(process, group)
    else this.#remove(group, undefined)
  }

  prepared(node: string, id: string, attempt: number): void {
    const group = this.groups.get(id)
    const open = group !== undefined && this.#unfinished.has(group) && group.attempt === attempt && this.#openOn(group, node).length > 0
    if (!open) {
      // An answer to an attempt that was given up, whose bundles were returned, or a second one: the node hears again what holds.
      const mine = group === undefined ? [] : [...group.committed].filter((index) => group.nodes[index] === node)
      if (group !== undefined && mine.length > 0) this.#order(node, { kind: 'bundles-commit', group: id, attempt })
      else if (group === undefined || group.attempt <= attempt) this.#return(id, node, [], 'the group was removed')
      return
    }
    group.prepared.add(node)
    const waiting = new Set(group.nodes.filter((_, index) => !group.committed.has(index)))
    if ([...waiting].some((each) => !group.prepared.has(each))) return
    for (const each of waiting) this.#order(each, { kind: 'bundles-commit', group: id, attempt })
    for (const index of group.bundles.keys()) group.committed.add(index)
    group.prepared.clear()
    this.#unfinished.delete(group)
    this.#created(group)
  }

  refused(node: string, id: string, attempt: number, reason: string): void {
    const group = this.groups.get(id)
    if (group === undefined || group.attempt !== attempt || this.#openOn(group, node).length === 0) return
    if (this.#port.growable) return this.#giveUp(group, reason)
    this.#remove(group, this.#never(group, reason))
  }

  processLost(process: string): void {
    for (const group of this.groups.values()) {
      group.watchers.delete(process)
      if (group.owner === process && !group.detached && group.state !== 'REMOVED') this.#remove(group, undefined)
    }
  }

  /** The bundles there are lost, or must go: `returned` says that the node is there to give them back. */
  nodeLost(node: string, returned: boolean): void {
    for (const group of this.groups.values()) if (group.state !== 'REMOVED') this.#loseBundles(group, node, group.nodes, returned)
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs
    for (const group of this.#unfinished) {
      const open = new Set(group.nodes.filter((_, index) => !group.committed.has(index)))
      if (open.has('')) this.#place(group)
      else if (open.size > 1 && nowMs - group.sinceMs >= PREPARE_MS) this.#giveUp(group, 'another attempt')
    }
  }

  /** A node came, or has other things than before: those that wait for one may fit now. */
  nodesChanged(): void {
    for (const group of this.#unfinished) if (group.nodes.includes('')) this.#place(group)
  }

  restored(record: GroupRecord): void {
    const { id, name, strategy, bundles, selectors, detached, owner, nodes, attempt } = record
    const group: PlacementGroup = {
      ...{ id, name, strategy, bundles, selectors, detached, owner, attempt },
      recorded: true,
      watchers: new Set([owner]),
      state: record.state as PlacementGroup['state'],
      nodes: [...nodes],
      committed: new Set(record.committed),
      prepared: new Set(),
      sinceMs: this.#nowMs,
      reason: '',
      cause: undefined,
    }
    this.groups.set(id, group)
    if (record.state !== 'CREATED') this.#unfinished.add(group)
  }

  /** What a node has that came back to a head that may not know it. */
  reconcile(node: string, here: ReadonlyMap<string, { readonly bundles: readonly number[]; readonly committed: readonly number[] }>): void {
    for (const [id, { bundles, committed }] of here) {
      const group = this.groups.get(id)
      const living = group !== undefined && group.state !== 'REMOVED'
      // Usable there, or usable for this head, which did not live to say so.
      const kept = living ? bundles.filter((index) => group.nodes[index] === node && (committed.includes(index) || group.committed.has(index))) : []
      const others = bundles.filter((index) => !kept.includes(index))
      if (others.length > 0) this.#return(id, node, others, 'the head does not know it')
      if (living && kept.some((index) => !committed.includes(index))) this.#order(node, { kind: 'bundles-commit', group: id, attempt: group.attempt })
      for (const index of kept) group?.committed.add(index)
    }
    for (const group of this.groups.values()) {
      if (group.state === 'REMOVED') continue
      const has = here.get(group.id)?.bundles ?? []
      const gone = group.nodes.map((each, index) => (each === node && !(has.includes(index) && group.committed.has(index)) ? node : ''))
      this.#loseBundles(group, node, gone, true)
      if (group.committed.size === group.bundles.length && this.#unfinished.delete(group)) this.#created(group)
    }
  }

  infoOf(group: PlacementGroup): GroupInfo {
    const nodes = group.nodes.map((node, index) => (group.committed.has(index) ? node : ''))
    return { group: group.id, state: group.state, nodes, bundles: [...group.bundles] }
  }

  recordOf(group: PlacementGroup): GroupRecord {
    const { id, name, strategy, bundles, selectors, detached, owner, state, nodes, attempt } = group
    return { id, name, strategy, bundles, selectors, detached, owner, state, nodes, committed: [...group.committed], attempt }
  }

  // ---------------------------------------------------------------- placing

  #openOn(group: PlacementGroup, node: string): number[] {
    return [...group.bundles.keys()].filter((index) => group.nodes[index] === node && !group.committed.has(index))
  }

  #place(group: PlacementGroup): void {
    const fixed = group.nodes.map((node, index) => (group.committed.has(index) ? node : ''))
    const plan = placeBundles(group.strategy as Strategy, group.bundles, this.#port.nodes(), { fixed, selectors: group.selectors })
    if (plan.kind === 'never') {
      // Bundles that it had once can be placed again when a node joins, also where nothing else waits for one.
      if (!this.#port.growable && group.committed.size === 0) return this.#remove(group, this.#never(group, plan.reason))
      group.reason = plan.reason
      return
    }
    group.attempt++
    group.sinceMs = this.#nowMs
    group.reason = ''
    group.prepared.clear()
    const parts = new Map<string, Map<number, Resources>>()
    for (const [index, bundle] of group.bundles.entries()) {
      if (group.committed.has(index)) continue
      const node = plan.nodes[index] as string
      group.nodes[index] = node
      const part = parts.get(node) ?? new Map<number, Resources>()
      part.set(index, bundle)
      parts.set(node, part)
      this.#port.book(node, bundle, 1)
    }
    this.#port.changed(group)
    for (const [node, bundles] of parts) this.#order(node, { kind: 'bundles-prepare', group: group.id, attempt: group.attempt, bundles })
  }

  #created(group: PlacementGroup): void {
    group.state = 'CREATED'
    group.reason = ''
    this.#port.changed(group)
    this.#tellAll(group)
  }

  #giveUp(group: PlacementGroup, reason: string): void {
    this.#returnOpen(group, reason)
    this.#place(group)
  }

  /** What is sent out and not committed comes back. */
  #returnOpen(group: PlacementGroup, reason: string): void {
    const open = new Set(group.nodes.filter((node, index) => node !== '' && !group.committed.has(index)))
    for (const node of open) {
      const indices = this.#openOn(group, node)
      this.#return(group.id, node, indices, reason)
      for (const index of indices) this.#free(group, index)
    }
    group.prepared.clear()
  }

  #free(group: PlacementGroup, index: number): void {
    const node = group.nodes[index] ?? ''
    if (node !== '') this.#port.book(node, group.bundles[index] as Resources, -1)
    group.nodes[index] = ''
    group.committed.delete(index)
  }

  /** Bundles i with `nodes[i]` === `node` are lost. */
  #loseBundles(group: PlacementGroup, node: string, nodes: readonly string[], returned: boolean): void {
    const lost = [...group.bundles.keys()].filter((index) => nodes[index] === node && group.nodes[index] === node)
    if (lost.length === 0) return
    if (returned) this.#return(group.id, node, lost, 'the bundle moves to another node')
    for (const index of lost) this.#free(group, index)
    // An attempt in which that node took part cannot succeed any more.
    this.#returnOpen(group, 'another attempt')
    if (group.state === 'CREATED') {
      group.state = 'RESCHEDULING'
      group.reason = `node ${node} is gone`
      const others = [...this.#unfinished]
      this.#unfinished.clear()
      for (const each of [group, ...others]) this.#unfinished.add(each)
      this.#tellAll(group)
    }
    this.#port.changed(group)
  }

  #never(group: PlacementGroup, reason: string): Failure {
    const wanted = `${group.strategy} of ${group.bundles.map(formatResources).join(' + ')}`
    const all = this.#port.nodes().slice(0, 10)
    const has = `${all.map((view) => formatResources(view.total)).join(' + ')} (${reason})`
    const what = `placement group ${group.name === '' ? group.id : `"${group.name}"`}`
    return { code: 'INFEASIBLE', detailsJson: JSON.stringify({ what, wanted, has }) }
  }

  #remove(group: PlacementGroup, cause: Failure | undefined): void {
    const reason = cause === undefined ? 'the group was removed' : 'the group cannot be placed'
    for (const node of new Set(group.nodes)) if (node !== '') this.#return(group.id, node, [], reason)
    for (const index of group.bundles.keys()) this.#free(group, index)
    this.#unfinished.delete(group)
    group.prepared.clear()
    group.state = 'REMOVED'
    group.cause = cause
    this.#port.changed(group)
    this.#tellAll(group)
    this.#removed.push(group.id)
    if (this.#removed.length > REMOVED_MAX) for (const id of this.#removed.splice(0, REMOVED_MAX / 10)) this.groups.delete(id)
  }

  #return(group: string, node: string, bundles: readonly number[], reason: string): void {
    this.#order(node, { kind: 'bundles-return', group, bundles, reason })
  }

  #order(node: string, order: Extract<ControlInstruction, { kind: 'order' }>['order']): void {
    this.#port.out({ kind: 'order', node, order })
  }

  #tellAll(group: PlacementGroup): void {
    for (const process of group.watchers) this.#tell(process, group)
  }

  #tell(process: string, group: PlacementGroup): void {
    const nodes = group.nodes.includes('') ? [] : [...group.nodes]
    this.#port.out(stateOf(process, { group: group.id, state: group.state, cause: group.cause, nodes }))
  }
}

function stateOf(process: string, value: GroupState): ControlInstruction {
  return { kind: 'send', process, message: { $case: 'groupState', value } }
}
