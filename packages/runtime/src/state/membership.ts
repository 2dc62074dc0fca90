/**
 * The nodes of a cluster, as its head sees them: AWAY ⇄ ALIVE → DRAINING → DEAD. AWAY is known from before a restart of the head and has not come back yet.
 *
 * A node that was not heard of for a lease is dead for ever: its id is kept (a tombstone) and refused. Numbers are given once.
 */
import type { NodeInfo } from '../net/gen/mesh.ts'
import type { Failure, Resources } from '../net/gen/node.ts'
import { nodeLost } from './cluster-view.ts'
import { HOST_LABEL, NODE_LABEL } from './labels.ts'
import { type Amounts, copyAmounts, type NodeOffer, take } from './policy.ts'
import type { NodeRecord } from './records.ts'

/** One living node. As a {@link NodeOffer}, `available` is what is left after what was sent there since its last heartbeat. */
export interface Member extends NodeOffer {
  readonly node: string
  readonly number: number
  info: NodeInfo
  state: string
  readonly total: Resources
  available: Amounts
  queued: number
  lastSeenMs: number
  /** How long it may act when it is not heard of. */
  readonly leaseMs: number
  /** Actors that were sent there. */
  actors: number
}

/** A lease of a node; the head's own node needs none. */
export interface MembershipConfig {
  readonly self: string
  readonly leaseMs: number
}

/** Tombstones that are kept: dead nodes of longer ago have ended themselves many times over. */
const TOMBSTONES_MAX = 10_000
/** Nodes end their workers at most so long before their lease is over (fence.ts): a larger step of the clock must not count. */
const LATE_MS = 2_000
const NONE: Resources = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }

export class Membership {
  readonly members: Map<string, Member> = new Map()
  /** Dead nodes, why, and since when. */
  readonly tombstones: Map<string, { readonly number: number; readonly reason: string; readonly diedMs: number }> = new Map()
  nextNumber = 0
  readonly #config: MembershipConfig
  #nowMs = 0

  constructor(config: MembershipConfig) {
    this.#config = config
  }

  /** Its number is another node's: leases that it granted could not be told from that one's. */
  numberTaken(info: NodeInfo): boolean {
    if (info.number === 0 || this.members.has(info.node)) return false
    for (const { number } of this.members.values()) if (number === info.number) return true
    for (const { number } of this.tombstones.values()) if (number === info.number) return true
    return false
  }

  /** A node that is there now. Its number is its own, when it has one from an earlier head, or the next. */
  put(info: NodeInfo): Member {
    return this.#put(info, this.members.get(info.node)?.number ?? (info.number > 0 ? info.number : this.nextNumber), this.#config.leaseMs)
  }

  #put(info: NodeInfo, number: number, leaseMs: number): Member {
    const known = this.members.get(info.node)
    this.nextNumber = Math.max(this.nextNumber, number + 1)
    const state = known?.state === 'DRAINING' ? 'DRAINING' : 'ALIVE'
    const total = info.total ?? NONE
    const available = copyAmounts(info.available ?? total)
    const { node, queued } = info
    const labels = { ...info.labels, [NODE_LABEL]: node, [HOST_LABEL]: info.host }
    const fresh = { ...info, number, labels, state, cause: undefined, available: info.available ?? total }
    const actors = known?.actors ?? 0
    const member: Member = { node, number, info: fresh, state, total, labels, available, queued, lastSeenMs: this.#nowMs, leaseMs, actors }
    this.members.set(node, member)
    return member
  }

  /** From a durable record: it may come back. */
  remember({ info, state, leaseMs }: NodeRecord): void {
    const member = this.#put(info, info.number, Math.max(leaseMs, this.#config.leaseMs))
    member.state = 'AWAY'
    member.info = { ...member.info, state: state === 'DRAINING' ? 'DRAINING' : 'AWAY' }
  }

  /** @returns false when nothing changed that others must know */
  heard(node: string, available: Resources, queued: number, storeUsedBytes: number, nowMs: number): boolean {
    const member = this.members.get(node)
    if (member === undefined || member.state === 'AWAY') return false
    member.lastSeenMs = Math.max(member.lastSeenMs, nowMs)
    member.available = copyAmounts(available)
    const { info } = member
    if (sameOffer(info, available, queued) && info.storeUsedBytes === storeUsedBytes) return false
    member.queued = queued
    member.info = { ...info, available, queued, storeUsedBytes }
    return true
  }

  /** Something is sent there, or taken back when negative. */
  book(node: string, wanted: Resources, units: number = 1): void {
    const member = this.members.get(node)
    if (member !== undefined) take(member.available, wanted, units)
  }

  drain(node: string): boolean {
    const member = this.members.get(node)
    if (member === undefined || member.info.state === 'DRAINING') return false
    // One that is away has yet to say what it has.
    if (member.state !== 'AWAY') member.state = 'DRAINING'
    member.info = { ...member.info, state: 'DRAINING' }
    return true
  }

  /**
   * Nodes whose lease is over. A tick that comes late says that this process slept, and then nobody's heartbeat was read; or that the clock was set, as one
   * that comes before the last one does.
   */
  tick(nowMs: number): Member[] {
    const slept = this.#nowMs === 0 ? 0 : nowMs - this.#nowMs
    const late = slept < 0 || slept > Math.min(LATE_MS, this.#config.leaseMs / 2)
    this.#nowMs = nowMs
    const over: Member[] = []
    for (const member of this.members.values()) {
      if (member.node === this.#config.self) continue
      if (late || member.lastSeenMs === 0) member.lastSeenMs = nowMs
      else if (nowMs - member.lastSeenMs > member.leaseMs) over.push(member)
    }
    return over
  }

  /** It is dead. @returns tombstones that are forgotten for it */
  bury(node: string, reason: string, nowMs: number): string[] {
    const member = this.members.get(node)
    if (member === undefined) return []
    this.members.delete(node)
    return this.addTombstone(node, member.number, reason, nowMs)
  }

  addTombstone(node: string, number: number, reason: string, diedMs: number): string[] {
    this.tombstones.set(node, { number, reason, diedMs })
    this.nextNumber = Math.max(this.nextNumber, number + 1)
    const forgotten: string[] = []
    for (const old of this.tombstones.keys()) {
      if (this.tombstones.size <= TOMBSTONES_MAX) break
      this.tombstones.delete(old)
      forgotten.push(old)
    }
    return forgotten
  }

  /** As the view names a node, also a dead one. */
  infoOf(node: string): NodeInfo | undefined {
    const member = this.members.get(node)
    if (member !== undefined) return member.info
    const tombstone = this.tombstones.get(node)
    if (tombstone === undefined) return undefined
    const { number, diedMs } = tombstone
    return { ...NO_INFO, node, number, state: 'DEAD', cause: this.causeOf(node), diedMs }
  }

  causeOf(node: string): Failure {
    return nodeLost(node, this.tombstones.get(node)?.reason ?? 'the head does not know it')
  }
}

const NO_INFO: NodeInfo = {
  node: '',
  number: 0,
  address: '',
  bulkAddress: '',
  host: '',
  total: undefined,
  available: undefined,
  labels: {},
  state: '',
  cause: undefined,
  queued: 0,
  storeBytes: 0,
  storeUsedBytes: 0,
  pid: 0,
  head: false,
}

function sameOffer(info: NodeInfo, available: Resources, queued: number): boolean {
  const before = info.available
  if (before === undefined || info.queued !== queued) return false
  if (before.cpus !== available.cpus || before.gpus !== available.gpus || before.memoryBytes !== available.memoryBytes) return false
  for (const name in available.custom) if (available.custom[name] !== before.custom[name]) return false
  return true
}
