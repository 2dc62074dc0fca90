/**
 * Nodes for the units of one shape, best first, without looking at all nodes for each unit.
 *
 * Nodes with room lie in buckets by score; a choice looks at the buckets in order, and a node that got a unit moves to the bucket of its new score.
 * What changes elsewhere is noticed when a node comes up: its bucket is checked then. After a new view the buckets are filled again.
 */
import type { Resources } from '../net/gen/node.ts'
import { covers, reserved, score, SPREAD_THRESHOLD, topCount, type Wish } from './policy.ts'
import type { KnownNode } from './cluster-view.ts'

const STEPS = 16

/** 0: below the threshold; the last ones: nodes with GPUs, for work without. */
const BUCKETS = 2 * (STEPS + 1)

export class Candidates {
  /** Every node that could hold a unit, in the order of the view, from another start at each node of the cluster. */
  readonly feasible: readonly KnownNode[]
  readonly #wanted: Resources
  readonly #wish: Wish
  readonly #own: KnownNode | undefined
  /** Named by affinity or by the place of the arguments: asked first. */
  readonly #near: readonly KnownNode[]
  #buckets: KnownNode[][] = []
  #open = 0
  #turn = 0

  constructor(feasible: readonly KnownNode[], wanted: Resources, wish: Wish, preferred: string) {
    this.feasible = feasible
    this.#wanted = wanted
    this.#wish = wish
    this.#own = feasible.find((node) => node.node === preferred)
    this.#near = [wish.node, wish.prefers].flatMap((id) => feasible.filter((node) => id !== '' && node.node === id))
    this.refill()
  }

  /** After the nodes' offers changed. */
  refill(): void {
    this.#buckets = Array.from({ length: BUCKETS }, () => [])
    this.#open = 0
    for (const node of this.feasible) this.#insert(node)
  }

  /** A node with room for one unit: the caller books it there. Undefined: none has room. */
  take(): KnownNode | undefined {
    for (const near of this.#near) if (covers(near.free, this.#wanted)) return near
    if (this.#wish.spread) return this.#next()
    const own = this.#own !== undefined && covers(this.#own.free, this.#wanted) ? this.#own : undefined
    for (;;) {
      // The preferred node needs no lottery when none is better.
      if (own !== undefined && (this.#open === 0 || this.#bucketOf(own) <= this.#first())) return own
      const top = this.#top()
      if (top === undefined) return undefined
      const [bucket, index] = top
      const list = this.#buckets[bucket] as KnownNode[]
      const node = list[index] as KnownNode
      const now = this.#bucketOf(node)
      if (now === bucket) return node
      list[index] = list[list.length - 1] as KnownNode
      list.pop()
      this.#open--
      if (now >= 0) this.#insert(node)
    }
  }

  /** Where a unit waits when none has room: in turn, so that whoever becomes free first has one. */
  waitAt(): KnownNode | undefined {
    return this.#near[0] ?? this.feasible[this.#turn++ % Math.max(1, this.feasible.length)]
  }

  #next(): KnownNode | undefined {
    for (let i = 0; i < this.feasible.length; i++) {
      const node = this.feasible[this.#turn++ % this.feasible.length] as KnownNode
      if (covers(node.free, this.#wanted)) return node
    }
    return undefined
  }

  #first(): number {
    return this.#buckets.findIndex((list) => list.length > 0)
  }

  #top(): [bucket: number, index: number] | undefined {
    if (this.#open === 0) return undefined
    let skip = this.#turn++ % topCount(this.#open)
    for (const [bucket, list] of this.#buckets.entries()) {
      if (skip < list.length) return [bucket, skip]
      skip -= list.length
    }
    return undefined
  }

  #insert(node: KnownNode): void {
    const bucket = this.#bucketOf(node)
    if (bucket < 0) return
    this.#buckets[bucket]?.push(node)
    this.#open++
  }

  #bucketOf(node: KnownNode): number {
    if (!covers(node.free, this.#wanted)) return -1
    const use = score(node.total, node.free, this.#wanted)
    const step = use === 0 ? 0 : Math.min(STEPS, 1 + Math.floor(((use - SPREAD_THRESHOLD) / (1 - SPREAD_THRESHOLD)) * STEPS))
    return reserved(node, this.#wanted) ? STEPS + 1 + step : step
  }
}
