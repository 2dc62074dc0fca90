/**
 * Placement groups of the cluster: PENDING → CREATED → REMOVED. Bundles are reserved in two phases: every chosen node prepares (or holds the
 * request until it can), and only when all have is the group committed. Nodes that keep others waiting longer than `PREPARE_MS` lose: all is
 * returned and tried anew, so that two groups never hold halves of each other's nodes.
 *
 * Pure: ControlState feeds events and passes the instructions on.
 */
import type { Failure, GroupCreate, Resources } from '../net/gen/node.ts'
import type { ControlInstruction } from './events.ts'
import { type NodeView, placeBundles, STRATEGIES, type Strategy } from './placement.ts'
import { formatResources, parseResources } from './resources.ts'

export interface PlacementGroup {
  readonly id: string
  readonly name: string
  readonly strategy: string
  readonly bundles: readonly Resources[]
  readonly detached: boolean
  readonly owner: string
  readonly watchers: Set<string>
  state: 'PENDING' | 'CREATED' | 'REMOVED'
  /** Bundle -> node; empty while not placed. */
  nodes: readonly string[]
  /** Nodes that prepared. PENDING only. */
  prepared: Set<string>
  sinceMs: number
  cause: Failure | undefined
}

/** A group over several nodes gives up an attempt after so long. */
const PREPARE_MS = 1_000
/** Removed groups that are remembered. */
const REMOVED_MAX = 1_000

export class GroupTable {
  readonly groups: Map<string, PlacementGroup> = new Map()
  #removed: string[] = []
  #nowMs = 0
  readonly #out: (instruction: ControlInstruction) => void
  readonly #nodes: () => readonly NodeView[]

  constructor(out: (instruction: ControlInstruction) => void, nodes: () => readonly NodeView[]) {
    this.#out = out
    this.#nodes = nodes
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
      detached: create.detached,
      owner: process,
      watchers: new Set([process]),
      state: 'PENDING',
      nodes: [],
      prepared: new Set(),
      sinceMs: this.#nowMs,
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
    this.#place(group)
  }

  remove(id: string): void {
    const group = this.groups.get(id)
    if (group !== undefined && group.state !== 'REMOVED') this.#remove(group, undefined)
  }

  prepared(node: string, id: string): void {
    const group = this.groups.get(id)
    if (group === undefined || group.state !== 'PENDING' || !group.nodes.includes(node)) {
      // The answer came after the group was given up.
      if (group?.state !== 'CREATED') this.#out({ kind: 'order', node, order: { kind: 'bundles-return', group: id, reason: 'the group was removed' } })
      return
    }
    group.prepared.add(node)
    const nodes = new Set(group.nodes)
    if (group.prepared.size < nodes.size) return
    for (const each of nodes) this.#out({ kind: 'order', node: each, order: { kind: 'bundles-commit', group: id } })
    group.state = 'CREATED'
    this.#tellAll(group)
  }

  refused(node: string, id: string, reason: string): void {
    const group = this.groups.get(id)
    if (group === undefined || group.state !== 'PENDING' || !group.nodes.includes(node)) return
    this.#remove(group, this.#never(group, reason))
  }

  processLost(process: string): void {
    for (const group of this.groups.values()) {
      group.watchers.delete(process)
      if (group.owner === process && !group.detached && group.state !== 'REMOVED') this.#remove(group, undefined)
    }
  }

  tick(nowMs: number): void {
    this.#nowMs = nowMs
    for (const group of this.groups.values()) {
      if (group.state !== 'PENDING' || new Set(group.nodes).size < 2 || nowMs - group.sinceMs < PREPARE_MS) continue
      this.#return(group, 'another attempt')
      this.#place(group)
    }
  }

  #place(group: PlacementGroup): void {
    const plan = placeBundles(group.strategy as Strategy, group.bundles, this.#nodes())
    if (plan.kind === 'never') return this.#remove(group, this.#never(group, plan.reason))
    group.nodes = plan.nodes
    group.sinceMs = this.#nowMs
    for (const node of new Set(plan.nodes)) {
      const bundles = new Map<number, Resources>()
      for (const [index, bundle] of group.bundles.entries()) if (plan.nodes[index] === node) bundles.set(index, bundle)
      this.#out({ kind: 'order', node, order: { kind: 'bundles-prepare', group: group.id, bundles } })
    }
  }

  #never(group: PlacementGroup, reason: string): Failure {
    const wanted = `${group.strategy} of ${group.bundles.map(formatResources).join(' + ')}`
    const has = `${this.#nodes()
      .map((view) => formatResources(view.total))
      .join(' + ')} (${reason})`
    const what = `placement group ${group.name === '' ? group.id : `"${group.name}"`}`
    return { code: 'INFEASIBLE', detailsJson: JSON.stringify({ what, wanted, has }) }
  }

  #remove(group: PlacementGroup, cause: Failure | undefined): void {
    this.#return(group, cause === undefined ? 'the group was removed' : 'the group cannot be placed')
    group.state = 'REMOVED'
    group.cause = cause
    this.#tellAll(group)
    this.#removed.push(group.id)
    if (this.#removed.length > REMOVED_MAX) for (const id of this.#removed.splice(0, REMOVED_MAX / 10)) this.groups.delete(id)
  }

  #return(group: PlacementGroup, reason: string): void {
    for (const node of new Set(group.nodes)) this.#out({ kind: 'order', node, order: { kind: 'bundles-return', group: group.id, reason } })
    group.nodes = []
    group.prepared = new Set()
  }

  #tellAll(group: PlacementGroup): void {
    for (const process of group.watchers) this.#tell(process, group)
  }

  #tell(process: string, group: PlacementGroup): void {
    this.#out({
      kind: 'send',
      process,
      message: { $case: 'groupState', value: { group: group.id, state: group.state, cause: group.cause, nodes: [...group.nodes] } },
    })
  }
}
