/**
 * On which node something runs: pure functions over what the nodes offer.
 *
 * The hybrid policy packs until a node is half used and spreads from there on. Nodes that could never hold the request are skipped, nodes with room
 * come before others, and work without GPUs goes to nodes with GPUs only when no other has room. The score of a node is the use of its scarcest
 * resource, 0 below one half. The preferred node is taken when none has a better score; else one of the best 20 %, in turn, so that many who
 * decide at the same moment on the same knowledge do not all choose the same node.
 */
import type { Resources, Shape } from '../net/gen/node.ts'
import { type Labels, matches } from './labels.ts'

/** Use below which all nodes count as equally good. */
export const SPREAD_THRESHOLD = 0.5
/** Part of the nodes that the choice is made among. */
export const TOP_FRACTION = 0.2

export interface Amounts {
  cpus: number
  gpus: number
  memoryBytes: number
  readonly custom: Record<string, number>
}

export interface NodeOffer {
  readonly node: string
  /** ALIVE | DRAINING | DEAD: only the first gets work. */
  readonly state: string
  readonly total: Resources
  readonly available: Resources
  readonly labels: Labels
  /** What waits there. */
  readonly queued: number
}

/** Where something may run, besides the amounts. */
export type Wish = Pick<Shape, 'spread' | 'node' | 'soft' | 'labels' | 'prefers'>

export const ANYWHERE: Wish = { spread: false, node: '', soft: false, labels: {}, prefers: '' }

export const covers = (free: Resources, wanted: Resources): boolean => {
  if (wanted.cpus > 0 && wanted.cpus > free.cpus) return false
  if (wanted.gpus > free.gpus || wanted.memoryBytes > free.memoryBytes) return false
  for (const name in wanted.custom) if ((wanted.custom[name] ?? 0) > (free.custom[name] ?? 0)) return false
  return true
}

/** How many such units fit into what is free; `most` at most. */
export function unitsThatFit(free: Resources, wanted: Resources, most: number): number {
  let count = most
  const limit = (have: number, need: number): void => {
    if (need > 0) count = Math.min(count, Math.floor(have / need))
  }
  limit(free.cpus, wanted.cpus)
  limit(free.gpus, wanted.gpus)
  limit(free.memoryBytes, wanted.memoryBytes)
  for (const name in wanted.custom) limit(free.custom[name] ?? 0, wanted.custom[name] ?? 0)
  return Math.max(0, count)
}

export function take(free: Amounts, wanted: Resources, units: number = 1): void {
  free.cpus -= wanted.cpus * units
  free.gpus -= wanted.gpus * units
  free.memoryBytes -= wanted.memoryBytes * units
  for (const name in wanted.custom) free.custom[name] = (free.custom[name] ?? 0) - (wanted.custom[name] ?? 0) * units
}

export const copyAmounts = (from: Resources): Amounts => ({
  cpus: from.cpus,
  gpus: from.gpus,
  memoryBytes: from.memoryBytes,
  custom: { ...from.custom },
})

/** Use of the scarcest resource after one more such unit would run there, 0 below the threshold. Above 1: more is asked for than there is. */
export function score(total: Resources, free: Resources, wanted: Resources): number {
  let most = 0
  const use = (all: number, left: number, more: number): void => {
    if (all > 0) most = Math.max(most, (all - left + more) / all)
  }
  use(total.cpus, free.cpus, wanted.cpus)
  use(total.gpus, free.gpus, wanted.gpus)
  use(total.memoryBytes, free.memoryBytes, wanted.memoryBytes)
  for (const name in wanted.custom) use(total.custom[name] ?? 0, free.custom[name] ?? 0, wanted.custom[name] ?? 0)
  return most <= SPREAD_THRESHOLD ? 0 : most
}

/** May it ever run there, affinity aside? */
export const feasible = (node: Pick<NodeOffer, 'state' | 'total' | 'labels'>, wanted: Resources, wish: Wish): boolean =>
  node.state === 'ALIVE' && covers(node.total, wanted) && matches(node.labels, wish.labels)

/** Work without GPUs is kept off this node while others can. */
export const reserved = (node: Pick<NodeOffer, 'total'>, wanted: Resources): boolean => wanted.gpus === 0 && node.total.gpus > 0

/** Of so many nodes, the choice is made among so many. */
export const topCount = (nodes: number): number => Math.max(1, Math.floor(nodes * TOP_FRACTION))

/**
 * One node for one unit; undefined when no node could ever hold it.
 *
 * @param preferred - node of whoever asks
 * @param turn - counts choices; decides among equals
 */
export function chooseNode(
  nodes: readonly NodeOffer[],
  wanted: Resources,
  wish: Wish,
  preferred: string,
  turn: number,
): { readonly node: string; readonly now: boolean } | undefined {
  const able = nodes.filter((node) => feasible(node, wanted, wish))
  if (wish.node !== '') {
    const own = able.find((node) => node.node === wish.node)
    if (own !== undefined) return { node: own.node, now: covers(own.available, wanted) }
    if (!wish.soft) return undefined
  }
  if (able.length === 0) return undefined
  const free = able.filter((node) => covers(node.available, wanted))
  if (free.length === 0) return { node: leastQueued(able, turn).node, now: false }
  const near = free.find((node) => node.node === wish.prefers)
  if (near !== undefined) return { node: near.node, now: true }
  if (wish.spread) return { node: (free[turn % free.length] as NodeOffer).node, now: true }
  const open = free.filter((node) => !reserved(node, wanted))
  const scored = (open.length > 0 ? open : free).map((node) => ({ node: node.node, score: score(node.total, node.available, wanted) }))
  scored.sort((a, b) => a.score - b.score)
  const best = scored[0]?.score ?? 0
  if (scored.some((each) => each.node === preferred && each.score <= best)) return { node: preferred, now: true }
  return { node: (scored[turn % topCount(scored.length)] as { node: string }).node, now: true }
}

function leastQueued(nodes: readonly NodeOffer[], turn: number): NodeOffer {
  const start = turn % nodes.length
  let best = nodes[start] as NodeOffer
  for (let i = 1; i < nodes.length; i++) {
    const node = nodes[(start + i) % nodes.length] as NodeOffer
    if (node.queued < best.queued) best = node
  }
  return best
}
