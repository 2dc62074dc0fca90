/**
 * Splits what the processes of this node demand over the nodes of the cluster: each unit of a demand waits at one node, and that node's own queue
 * decides when it is granted. Level-triggered on both sides: a share is told as "so many in all", never as "more" or "fewer".
 *
 * A unit goes where there is room by the policy, else it waits where the least is lost; units that wait at a node without room are moved when
 * another has room, not before they waited `MOVE_AFTER_MS`. What no node could ever hold stays here until a node comes that can. Grants that cross
 * a withdrawal are told apart by counts (`seen`). Pure; the units of one demand at all nodes are never more than it wants.
 */
import type { Resources, Shape } from '../net/gen/node.ts'
import { type ClusterView, type KnownNode, type LostNode } from './cluster-view.ts'
import type { NodeEvent, Send, ToNode } from './events.ts'
import { LeasePlaces, type Where } from './lease-places.ts'
import { ANYWHERE, type Wish } from './policy.ts'
import { parseResources } from './resources.ts'

/** How long a unit waits at a node without room before it may move, and at one that has room but does not grant it. */
const MOVE_AFTER_MS = 300
const MOVE_ANYWAY_MS = 5_000
/** In a placement group nobody but the node knows how full a bundle is: units take turns. */
const TURN_MS = 500
/** Most nodes that the waiting units of one demand are spread over at one time. */
const WAITING_NODES_MAX = 32

export type LeaseDemandEvent = Extract<NodeEvent, { kind: 'lease-demand' }>
export type RouterInstruction = Send | ToNode | LeaseDemandEvent

interface Share {
  readonly node: KnownNode
  units: number
  /** Grants of this node for this demand that arrived. */
  seen: number
  /** The last of them: ids of one node grow. */
  lastLease: number
  /** Since when its units wait without a grant. */
  sinceMs: number
}

export interface RoutedDemand {
  readonly process: string
  readonly key: number
  readonly shape: Shape | undefined
  readonly resources: Resources
  readonly wish: Wish
  readonly routeKey: string
  wanted: number
  backlog: number
  label: string
  /** By node id. */
  readonly shares: Map<string, Share>
  placed: number
  sinceMs: number
  /** The process was told that this cannot be, or that it waits for nodes to join. */
  told: boolean
  refused: boolean
  /** Why units are at no node. */
  reason: string
}

export class LeaseRouter {
  readonly demands: Map<string, Map<number, RoutedDemand>> = new Map()
  readonly #self: string
  readonly #view: ClusterView
  readonly #places: LeasePlaces
  /** Demands with units at no node. */
  readonly #unplaced: Set<RoutedDemand> = new Set()
  /** Demands with units that wait at nodes. */
  readonly #waiting: Set<RoutedDemand> = new Set()
  readonly #changed: Map<RoutedDemand, Set<Share>> = new Map()
  #turn = 0
  #nowMs = 0
  #members = 0
  #out: RouterInstruction[] = []

  /** @param growable - nodes may join: what no node can hold waits */
  constructor(self: string, view: ClusterView, growable: boolean) {
    this.#self = self
    this.#view = view
    this.#places = new LeasePlaces(self, view, growable)
  }

  demand(event: LeaseDemandEvent): RouterInstruction[] {
    const { process, key, shape } = event
    const wanted = Math.min(Math.max(0, Math.trunc(event.wanted) || 0), 1_000_000)
    const keys = this.demands.get(process) ?? new Map<number, RoutedDemand>()
    let demand = keys.get(key)
    if (demand === undefined) {
      if (wanted === 0) return []
      const resources = parseResources(shape?.resources)
      // The node of the process says what is wrong with it.
      if (resources === undefined) return [event]
      const wish = shape ?? ANYWHERE
      const routeKey = JSON.stringify([resources, wish.spread, wish.node, wish.soft, wish.labels, wish.prefers])
      demand = {
        process,
        key,
        shape,
        resources,
        wish,
        routeKey,
        wanted: 0,
        backlog: 0,
        label: event.label,
        shares: new Map(),
        placed: 0,
        sinceMs: this.#nowMs,
        told: false,
        refused: false,
        reason: '',
      }
      keys.set(key, demand)
      this.demands.set(process, keys)
    }
    if (demand.wanted === 0) demand.sinceMs = this.#nowMs
    demand.wanted = wanted
    demand.backlog = event.backlog
    demand.label = event.label
    demand.refused = false
    if (wanted === 0) demand.told = false
    this.#settle(demand)
    return this.#flush()
  }

  /** A node granted one unit. */
  granted(process: string, key: number, node: string, lease: number): RouterInstruction[] {
    const demand = this.demands.get(process)?.get(key)
    const share = demand?.shares.get(node)
    if (demand === undefined || share === undefined || lease <= share.lastLease) return []
    share.lastLease = lease
    share.seen++
    share.sinceMs = this.#nowMs
    demand.wanted = Math.max(0, demand.wanted - 1)
    if (share.units > 0) {
      share.units--
      demand.placed--
    }
    this.#settle(demand)
    return this.#flush()
  }

  processLost(process: string): void {
    for (const demand of this.demands.get(process)?.values() ?? []) {
      this.#unplaced.delete(demand)
      this.#waiting.delete(demand)
    }
    this.demands.delete(process)
  }

  /** After the view changed. */
  viewed(lost: readonly LostNode[]): RouterInstruction[] {
    if (this.#view.members !== this.#members) {
      this.#members = this.#view.members
      for (const { node } of lost) {
        for (const keys of this.demands.values()) {
          for (const demand of keys.values()) {
            demand.placed -= demand.shares.get(node)?.units ?? 0
            demand.shares.delete(node)
          }
        }
      }
      for (const demand of this.#waiting) this.#leaveUnable(demand)
      for (const keys of this.demands.values()) for (const demand of keys.values()) if (demand.placed < demand.wanted) this.#settle(demand)
    }
    // A placement group was created, or its bundles are elsewhere now.
    for (const demand of this.#waiting) if (demand.shape?.placementGroup) this.#leaveUnable(demand)
    for (const demand of [...this.#unplaced]) this.#settle(demand)
    return this.#flush()
  }

  tick(nowMs: number): RouterInstruction[] {
    this.#nowMs = nowMs
    this.#view.expire(nowMs)
    for (const demand of [...this.#unplaced]) this.#settle(demand)
    const full = new Set<string>()
    for (const demand of this.#waiting) {
      if (demand.shape?.placementGroup) this.#takeTurns(demand)
      else if (!full.has(demand.routeKey) && !this.#move(demand)) full.add(demand.routeKey)
    }
    return this.#flush()
  }

  /** Demands with units at no node, for lists. */
  get unplaced(): Iterable<RoutedDemand> {
    return this.#unplaced
  }

  /** Of a demand that wants anything, where its units are, in words. */
  explain(process: string, key: number): { readonly demand: RoutedDemand; readonly where: string } | undefined {
    const demand = this.demands.get(process)?.get(key)
    if (demand === undefined || demand.wanted === 0) return undefined
    const parts = [...demand.shares.values()].filter(({ units }) => units > 0).map(({ node, units }) => `${units} at node ${node.node}`)
    const left = demand.wanted - demand.placed
    if (left > 0) parts.push(`${left} at none: ${demand.reason}`)
    return { demand, where: `waits: ${parts.join('; ')}` }
  }

  // ---------------------------------------------------------------- units

  #settle(demand: RoutedDemand): void {
    if (demand.placed > demand.wanted) this.#withdraw(demand, demand.placed - demand.wanted)
    else if (demand.placed < demand.wanted && !demand.refused) this.#place(demand)
    if (demand.placed < demand.wanted && !demand.refused) this.#unplaced.add(demand)
    else this.#unplaced.delete(demand)
    if (demand.placed > 0) this.#waiting.add(demand)
    else this.#waiting.delete(demand)
  }

  #place(demand: RoutedDemand): void {
    const where = this.#places.of(demand, this.#nowMs)
    demand.reason = ''
    switch (where.kind) {
      case 'wait':
        demand.reason = where.reason
        return
      case 'never':
        return this.#never(demand, where)
      case 'bundles':
        return this.#placeInBundles(demand, where.nodes, where.capacity)
      case 'nodes': {
        const { candidates } = where
        while (demand.placed < demand.wanted) {
          const node = candidates.take()
          if (node === undefined) break
          this.#view.book(node, demand.resources, 1, this.#nowMs)
          this.#add(demand, node, 1)
        }
        const left = demand.wanted - demand.placed
        const step = Math.ceil(left / Math.min(WAITING_NODES_MAX, Math.max(1, candidates.feasible.length)))
        while (demand.placed < demand.wanted) {
          const node = candidates.waitAt()
          if (node === undefined) return
          const units = Math.min(step, demand.wanted - demand.placed)
          node.queued += units
          this.#add(demand, node, units)
        }
      }
    }
  }

  // In turn over the nodes, as many times as units fit into the bundles there.
  #placeInBundles(demand: RoutedDemand, nodes: readonly KnownNode[], capacity: readonly number[]): void {
    const total = capacity.reduce((a, b) => a + b, 0)
    const start = this.#turn++
    for (let i = 0; i < nodes.length && demand.placed < demand.wanted; i++) {
      const at = (start + i) % nodes.length
      const left = demand.wanted - demand.placed
      const units = i === nodes.length - 1 ? left : Math.min(left, Math.max(1, Math.round((demand.wanted * (capacity[at] ?? 0)) / Math.max(1, total))))
      this.#add(demand, nodes[at] as KnownNode, units)
    }
  }

  #add(demand: RoutedDemand, node: KnownNode, units: number): void {
    let share = demand.shares.get(node.node)
    if (share === undefined) {
      share = { node, units: 0, seen: 0, lastLease: -1, sinceMs: this.#nowMs }
      demand.shares.set(node.node, share)
    }
    if (share.units === 0) share.sinceMs = this.#nowMs
    share.units += units
    demand.placed += units
    this.#touch(demand, share)
  }

  /** Units that wait longest for room go first, those of this node last. */
  #withdraw(demand: RoutedDemand, count: number): void {
    const shares = [...demand.shares.values()].filter((share) => share.units > 0)
    const rank = (share: Share): number => (share.node.node === this.#self ? 1 : 0) - (share.node.queued > 0 ? 2 : 0)
    shares.sort((a, b) => rank(a) - rank(b))
    let left = count
    for (const share of shares) {
      if (left === 0) return
      const units = Math.min(left, share.units)
      this.#remove(demand, share, units)
      left -= units
    }
  }

  #remove(demand: RoutedDemand, share: Share, units: number): void {
    share.units -= units
    demand.placed -= units
    const { node } = share
    const waited = Math.min(units, node.queued)
    node.queued -= waited
    if (units > waited && !demand.shape?.placementGroup) this.#view.book(node, demand.resources, waited - units, this.#nowMs)
    this.#touch(demand, share)
  }

  #touch(demand: RoutedDemand, share: Share): void {
    const shares = this.#changed.get(demand)
    if (shares === undefined) this.#changed.set(demand, new Set([share]))
    else shares.add(share)
  }

  #flush(): RouterInstruction[] {
    for (const [demand, shares] of this.#changed) {
      const { process, key, shape, backlog, label } = demand
      for (const { node, units, seen } of shares) {
        if (!this.#view.nodes.has(node.node)) continue
        if (node.node === this.#self) this.#out.push({ kind: 'lease-demand', process, key, shape, wanted: units, backlog, label })
        else {
          const value = { key, shape, wanted: units, backlog, label, seen }
          this.#out.push({ kind: 'to-node', node: node.node, process, message: { $case: 'leaseDemand', value } })
        }
      }
    }
    this.#changed.clear()
    const out = this.#out
    this.#out = []
    return out
  }

  // ---------------------------------------------------------------- moving

  /** False: nothing of this kind has room anywhere. */
  #move(demand: RoutedDemand): boolean {
    for (const share of demand.shares.values()) {
      const waited = this.#nowMs - share.sinceMs
      if (share.units === 0 || waited < MOVE_AFTER_MS || (share.node.queued === 0 && waited < MOVE_ANYWAY_MS)) continue
      const where = this.#places.of(demand, this.#nowMs)
      if (where.kind !== 'nodes') return true
      while (share.units > 0) {
        const node = where.candidates.take()
        if (node === undefined) return false
        // The other one has no better place than where it is.
        if (node === share.node) break
        this.#remove(demand, share, 1)
        this.#view.book(node, demand.resources, 1, this.#nowMs)
        this.#add(demand, node, 1)
      }
    }
    return true
  }

  #takeTurns(demand: RoutedDemand): void {
    const where = this.#places.of(demand, this.#nowMs)
    if (where.kind !== 'bundles' || where.nodes.length < 2) return
    for (const share of demand.shares.values()) {
      if (share.units === 0 || this.#nowMs - share.sinceMs < TURN_MS) continue
      const next = where.nodes[(where.nodes.indexOf(share.node) + 1) % where.nodes.length] as KnownNode
      const { units } = share
      this.#remove(demand, share, units)
      this.#add(demand, next, units)
      return
    }
  }

  /** Units leave nodes that drain or are not for them any more. */
  #leaveUnable(demand: RoutedDemand): void {
    const where = this.#places.of(demand, this.#nowMs)
    const able: ReadonlySet<KnownNode> = new Set(where.kind === 'nodes' ? where.candidates.feasible : where.kind === 'bundles' ? where.nodes : [])
    for (const share of demand.shares.values()) if (share.units > 0 && !able.has(share.node)) this.#remove(demand, share, share.units)
    this.#settle(demand)
  }

  #never(demand: RoutedDemand, never: Extract<Where, { kind: 'never' }>): void {
    const { wanted, has, waits } = never
    const what = `"${demand.label}"`
    demand.reason = `needs ${wanted}; the cluster has ${has}`
    if (!waits) demand.refused = true
    if (waits && demand.told) return
    demand.told = true
    const text = waits
      ? `${what} asks for ${wanted}, which no node has now: it waits for one to join (there is ${has})`
      : `${what} asks for ${wanted}, which this cluster can never give: it has ${has}`
    const detailsJson = JSON.stringify({ code: 'INFEASIBLE', what, wanted, has })
    this.#out.push({ kind: 'send', process: demand.process, message: { $case: 'infeasible', value: { key: demand.key, text, detailsJson, waits } } })
  }
}
