/**
 * Where the units of a demand may go: nodes that could hold one, best first; the nodes of a placement group; nowhere yet; or never.
 */
import type { GroupInfo } from '../net/gen/mesh.ts'
import type { Resources, Shape } from '../net/gen/node.ts'
import { Candidates } from './candidates.ts'
import type { ClusterView, KnownNode } from './cluster-view.ts'
import type { RoutedDemand } from './lease-router.ts'
import { UNKNOWN_GROUP_MS } from './node-tables.ts'
import { covers, feasible, unitsThatFit } from './policy.ts'
import { formatResources } from './resources.ts'
import { wishText } from './wish-text.ts'

/** The view may be behind: how long a node that it does not name may be one that joins. */
const UNKNOWN_NODE_MS = 2_000
/** Kinds of demands that are remembered at a time. */
const LISTS_MAX = 10_000

export type Where =
  | { readonly kind: 'nodes'; readonly candidates: Candidates }
  | { readonly kind: 'bundles'; readonly nodes: readonly KnownNode[]; readonly capacity: readonly number[] }
  | { readonly kind: 'wait'; readonly reason: string }
  | { readonly kind: 'never'; readonly wanted: string; readonly has: string; readonly waits: boolean }

interface Listed {
  members: number
  offers: number
  candidates: Candidates
}

export class LeasePlaces {
  readonly #self: string
  readonly #growable: boolean
  readonly #view: ClusterView
  /** Candidates by what decides about them. */
  readonly #lists: Map<string, Listed> = new Map()

  constructor(self: string, view: ClusterView, growable: boolean) {
    this.#self = self
    this.#view = view
    this.#growable = growable
  }

  of(demand: RoutedDemand, nowMs: number): Where {
    const { shape, resources, wish } = demand
    if (shape !== undefined && shape.placementGroup !== '') return this.#inGroup(demand, shape, nowMs)
    let listed = this.#lists.get(demand.routeKey)
    if (listed === undefined || listed.members !== this.#view.members) {
      listed = { members: this.#view.members, offers: this.#view.offers, candidates: this.#candidates(demand) }
      if (this.#lists.size >= LISTS_MAX) this.#lists.clear()
      this.#lists.set(demand.routeKey, listed)
    } else if (listed.offers !== this.#view.offers) {
      listed.offers = this.#view.offers
      listed.candidates.refill()
    }
    if (listed.candidates.feasible.length > 0) return { kind: 'nodes', candidates: listed.candidates }
    const gone = wish.node !== '' && !wish.soft && !this.#view.nodes.has(wish.node)
    if (gone && nowMs - demand.sinceMs < UNKNOWN_NODE_MS) return { kind: 'wait', reason: `node ${wish.node} is not known (yet)` }
    const has = [...this.#view.nodes.values()].filter(({ state }) => state === 'ALIVE').slice(0, 10)
    const names = has.map(({ node, total }) => `${formatResources(total)} on node ${node}`).join('; ')
    const wanted = `${formatResources(resources)}${wishText(wish)}`
    const fixed = wish.node !== '' && !wish.soft
    return { kind: 'never', wanted, has: gone ? `no node ${wish.node} (it is gone)` : names || 'no node', waits: this.#growable && !fixed }
  }

  #candidates(demand: RoutedDemand): Candidates {
    const { resources, wish } = demand
    const all = [...this.#view.nodes.values()].filter((node) => feasible(node, resources, wish))
    const own = all.filter((node) => node.node === wish.node)
    const allowed = wish.node === '' || (wish.soft && own.length === 0) ? all : own
    // Nodes that decide at the same moment begin at different places.
    const at = this.#self === '' ? 0 : startOf(this.#self) % Math.max(1, allowed.length)
    return new Candidates([...allowed.slice(at), ...allowed.slice(0, at)], resources, wish, this.#self)
  }

  #inGroup(demand: RoutedDemand, shape: Shape, nowMs: number): Where {
    const wanted = `${formatResources(demand.resources)} in placement group ${shape.placementGroup}${shape.bundle < 0 ? '' : `, bundle ${shape.bundle}`}`
    const group = this.#view.groups.get(shape.placementGroup)
    if (group === undefined) {
      if (nowMs - demand.sinceMs < UNKNOWN_GROUP_MS) return { kind: 'wait', reason: `placement group ${shape.placementGroup} is not created yet` }
      return { kind: 'never', wanted, has: 'no such placement group (it was removed, or is of another cluster run)', waits: false }
    }
    if (group.state === 'PENDING') return { kind: 'wait', reason: `placement group ${group.group} is not created yet` }
    const fitting = bundlesFor(group, shape, demand.resources)
    if (fitting.length === 0) {
      const all = group.bundles.map((bundle, index) => `bundle ${index}: ${formatResources(bundle)}`)
      return { kind: 'never', wanted, has: `a group of ${all.join('; ')}`, waits: false }
    }
    const capacity = new Map<KnownNode, number>()
    for (const index of fitting) {
      const node = this.#view.nodes.get(group.nodes[index] ?? '')
      if (node?.state !== 'ALIVE') continue
      capacity.set(node, (capacity.get(node) ?? 0) + unitsThatFit(group.bundles[index] as Resources, demand.resources, 1_000))
    }
    if (capacity.size === 0) return { kind: 'wait', reason: `placement group ${group.group} lost a node; its bundles are placed again` }
    return { kind: 'bundles', nodes: [...capacity.keys()], capacity: [...capacity.values()] }
  }
}

function bundlesFor(group: GroupInfo, shape: Shape, wanted: Resources): number[] {
  const indices = shape.bundle < 0 ? [...group.bundles.keys()] : [shape.bundle]
  return indices.filter((index) => {
    const bundle = group.bundles[index]
    return bundle !== undefined && covers(bundle, wanted)
  })
}

/** Where a node begins in the list of all. */
function startOf(node: string): number {
  let hash = 0
  for (let i = 0; i < node.length; i++) hash = (Math.imul(hash, 31) + node.charCodeAt(i)) >>> 0
  return hash
}
