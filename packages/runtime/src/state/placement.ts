/**
 * On which nodes the bundles of a placement group go: a pure function over what the nodes have.
 *
 * A plan for what is free now is preferred; if there is none, a plan for what the nodes have in total, which then waits on those nodes.
 * Bundles are placed largest first. Counter-example to doing it in order: nodes of 4 and 2 cpus, PACK of bundles [2, 4]: in order, the
 * first bundle would take half of the only node that fits the second.
 */
import type { Resources } from '../net/gen/node.ts'
import { type Labels, matches } from './labels.ts'
import { sumResources } from './resources.ts'

export type Strategy = 'PACK' | 'SPREAD' | 'STRICT_PACK' | 'STRICT_SPREAD'
export const STRATEGIES: readonly Strategy[] = ['PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD']

export interface BundleNode {
  readonly node: string
  readonly total: Resources
  readonly available: Resources
  readonly labels?: Labels
}

export interface Constraints {
  /** Node of bundle i where it is there already and stays; "" for those to place. */
  readonly fixed: readonly string[]
  /** Labels that the node of bundle i must have. */
  readonly selectors: readonly Labels[]
}

const FREE: Constraints = { fixed: [], selectors: [] }

/** `nodes[i]` is for bundle i. `now`: fits into what is free. */
export type Plan = { readonly kind: 'placed'; readonly nodes: readonly string[]; readonly now: boolean } | { readonly kind: 'never'; readonly reason: string }

export function placeBundles(strategy: Strategy, bundles: readonly Resources[], nodes: readonly BundleNode[], constraints: Constraints = FREE): Plan {
  for (const now of [true, false]) {
    const chosen = assign(
      strategy,
      bundles,
      nodes.map((view) => ({ node: view.node, labels: view.labels ?? {}, free: copy(now ? view.available : view.total) })),
      constraints,
    )
    if (chosen !== undefined) return { kind: 'placed', nodes: chosen, now }
  }
  const count = `${nodes.length} node${nodes.length === 1 ? '' : 's'}`
  if (strategy === 'STRICT_SPREAD' && bundles.length > nodes.length) {
    return { kind: 'never', reason: `STRICT_SPREAD of ${bundles.length} bundles needs as many nodes and the cluster has ${count}` }
  }
  return { kind: 'never', reason: `the bundles do not fit on ${count}` }
}

interface Room {
  readonly node: string
  readonly labels: Labels
  readonly free: { cpus: number; gpus: number; memoryBytes: number; custom: Record<string, number> }
}

const copy = (resources: Resources): Room['free'] => ({ ...resources, custom: { ...resources.custom } })

function fits(room: Room, wanted: Resources): boolean {
  const { free } = room
  return (
    wanted.cpus <= Math.max(0, free.cpus) &&
    wanted.gpus <= free.gpus &&
    wanted.memoryBytes <= free.memoryBytes &&
    Object.entries(wanted.custom).every(([name, amount]) => amount <= (free.custom[name] ?? 0))
  )
}

function take(room: Room, wanted: Resources): void {
  room.free.cpus -= wanted.cpus
  room.free.gpus -= wanted.gpus
  room.free.memoryBytes -= wanted.memoryBytes
  for (const [name, amount] of Object.entries(wanted.custom)) room.free.custom[name] = (room.free.custom[name] ?? 0) - amount
}

function assign(strategy: Strategy, bundles: readonly Resources[], rooms: Room[], { fixed, selectors }: Constraints): string[] | undefined {
  const chosen: string[] = bundles.map((_, index) => fixed[index] ?? '')
  const used = new Map<string, number>()
  for (const node of chosen) if (node !== '') used.set(node, (used.get(node) ?? 0) + 1)
  const allowed = (room: Room, index: number): boolean => matches(room.labels, selectors[index] ?? {})
  const order = bundles.map((bundle, index) => ({ bundle, index })).filter(({ index }) => chosen[index] === '')
  if (strategy === 'STRICT_PACK') {
    const sum = sumResources(order.map(({ bundle }) => bundle))
    const room = rooms.find(
      (candidate) => fits(candidate, sum) && (used.size === 0 || used.has(candidate.node)) && order.every(({ index }) => allowed(candidate, index)),
    )
    return room === undefined ? undefined : bundles.map(() => room.node)
  }
  order.sort((a, b) => size(b.bundle) - size(a.bundle) || a.index - b.index)
  for (const { bundle, index } of order) {
    const candidates = rooms.filter((room) => fits(room, bundle) && allowed(room, index) && (strategy !== 'STRICT_SPREAD' || !used.has(room.node)))
    const wish = strategy === 'PACK' ? -1 : 1
    // PACK: the node with most bundles so far; SPREAD: with fewest. The order of the list decides among equals.
    const room = candidates.reduce<Room | undefined>(
      (best, candidate) => (best === undefined || wish * (used.get(candidate.node) ?? 0) < wish * (used.get(best.node) ?? 0) ? candidate : best),
      undefined,
    )
    if (room === undefined) return undefined
    take(room, bundle)
    used.set(room.node, (used.get(room.node) ?? 0) + 1)
    chosen[index] = room.node
  }
  return chosen
}

const size = (resources: Resources): number =>
  resources.gpus * 1_000 + resources.cpus + resources.memoryBytes / 1e9 + Object.values(resources.custom).reduce((a, b) => a + b, 0)
