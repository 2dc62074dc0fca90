/**
 * What a node knows of the others: what the head said last, less what this node has handed out since.
 */
import type { GroupInfo, NodeInfo } from '../net/gen/mesh.ts'
import type { Failure, Resources } from '../net/gen/node.ts'
import type { View } from './events.ts'
import type { Labels } from './labels.ts'
import { type Amounts, copyAmounts, take } from './policy.ts'

export interface KnownNode {
  readonly node: string
  readonly number: number
  info: NodeInfo
  state: string
  total: Resources
  labels: Labels
  /** What it offers, less what this node asked it for since it said so. */
  free: Amounts
  /** Units that wait there for room, as it said. */
  queued: number
  /** When this node asked it for something last, since it said what it offers. */
  bookedAtMs: number
}

export interface LostNode {
  readonly node: string
  readonly number: number
  readonly cause: Failure
}

/** How long a node may take to say what it offers after it was asked for something. */
const BOOKED_MS = 2_000
const NONE: Resources = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }

export const nodeLost = (node: string, reason: string): Failure => ({ code: 'NODE_LOST', detailsJson: JSON.stringify({ node, reason }) })

export class ClusterView {
  readonly nodes: Map<string, KnownNode> = new Map()
  readonly groups: Map<string, GroupInfo> = new Map()
  /** By the first half of the ids of their workers, which is the first half of their own. */
  readonly #byPrefix: Map<string, KnownNode> = new Map()
  readonly #byNumber: Map<number, KnownNode> = new Map()
  readonly #booked: Set<KnownNode> = new Set()
  /** Grows when a node comes, goes, or can be given other things than before. */
  members = 0
  /** Grows when any node offers something else. */
  offers = 0

  /** This node asks `node` for so many units, or fewer than before when negative. */
  book(node: KnownNode, wanted: Resources, units: number, nowMs: number): void {
    take(node.free, wanted, units)
    node.bookedAtMs = nowMs
    this.#booked.add(node)
    if (units < 0) this.offers++
  }

  /** What a node granted and got back before it said anything to the head changed nothing that the head would tell: what it said last holds again. */
  expire(nowMs: number): void {
    for (const node of this.#booked) {
      if (nowMs - node.bookedAtMs < BOOKED_MS) continue
      this.#booked.delete(node)
      node.free = copyAmounts(node.info.available ?? NONE)
      this.offers++
    }
  }

  /** What this node itself offers, without asking the head. */
  own(node: string, available: Resources, queued: number): void {
    const known = this.nodes.get(node)
    if (known === undefined) return
    known.free = copyAmounts(available)
    known.queued = queued
    this.#booked.delete(known)
  }

  /** @returns nodes that are lost */
  apply(view: View): LostNode[] {
    const lost: LostNode[] = []
    const named = new Set<string>()
    for (const info of view.nodes) {
      named.add(info.node)
      if (info.state !== 'DEAD') this.#put(info)
      else this.#drop(info.node, info.cause ?? nodeLost(info.node, 'the head says so'), lost)
    }
    if (view.all) {
      for (const node of [...this.nodes.keys()]) if (!named.has(node)) this.#drop(node, nodeLost(node, 'the head does not know it'), lost)
      this.groups.clear()
    }
    for (const group of view.groups) {
      if (group.state === 'REMOVED') this.groups.delete(group.group)
      else this.groups.set(group.group, group)
    }
    return lost
  }

  byNumber(number: number): KnownNode | undefined {
    return this.#byNumber.get(number)
  }

  /** The node of a worker. */
  ofWorker(worker: string): KnownNode | undefined {
    return this.#byPrefix.get(worker.slice(0, 8))
  }

  #put(info: NodeInfo): void {
    const known = this.nodes.get(info.node)
    const free = copyAmounts(info.available ?? NONE)
    this.offers++
    if (known === undefined) {
      const { node, number, state, labels, total = NONE, queued } = info
      const fresh: KnownNode = { node, number, info, state, total, labels, free, queued, bookedAtMs: 0 }
      this.nodes.set(node, fresh)
      this.#byPrefix.set(node.slice(0, 8), fresh)
      this.#byNumber.set(number, fresh)
      this.members++
      return
    }
    if (known.state !== info.state || changed(known.labels, info.labels) || changed(known.total, info.total)) this.members++
    known.info = info
    known.state = info.state
    known.total = info.total ?? NONE
    known.labels = info.labels
    known.free = free
    known.queued = info.queued
    this.#booked.delete(known)
  }

  #drop(node: string, cause: Failure, lost: LostNode[]): void {
    const known = this.nodes.get(node)
    if (known === undefined) return
    this.nodes.delete(node)
    this.#booked.delete(known)
    this.#byPrefix.delete(node.slice(0, 8))
    this.#byNumber.delete(known.number)
    this.members++
    lost.push({ node, number: known.number, cause })
  }
}

const changed = (a: unknown, b: unknown): boolean => JSON.stringify(a) !== JSON.stringify(b)
