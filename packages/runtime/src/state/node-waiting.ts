/**
 * Those who get nothing now: why they wait, who is asked to give leases back for them, and what can never be.
 */
import type { Resources } from '../net/gen/node.ts'
import { matches } from './labels.ts'
import { type Entry, type Lease, type NodeTables, placementKey, poolsOf, send, UNKNOWN_GROUP_MS } from './node-tables.ts'
import { covers } from './policy.ts'
import { formatResources, Pool } from './resources.ts'
import { wishText } from './wish-text.ts'

export type WorkEntry = Exclude<Entry, { kind: 'bundles' }>

/** Room of one pass: what it set aside for workers in start and for those who waited long. */
export interface Pass {
  readonly undo: (() => void)[]
  /** starting workers that this pass counts on, by start key */
  readonly claimed: Map<string, number>
  /** Amounts that reclaimed leases will bring back, by pool; counted when somebody waits for them. */
  incoming: Map<Pool, Resources> | undefined
}

/** Says why the entry waits, asks others for what it needs, and keeps it from later ones when it has waited long. */
export function waitForPool(node: NodeTables, entry: Entry, pool: Pool, wanted: Resources, pass: Pass): void {
  const missing = pool.shortage(wanted)
  if (missing === undefined) {
    entry.reason = `needs ${formatResources(wanted)} on free devices that do not exist together now`
    return
  }
  // The words are for people, who do not look more often than that.
  if (entry.toldMs !== node.nowMs || !entry.reason.startsWith('needs')) {
    entry.reason = `needs ${formatResources(wanted)}; free now: ${formatResources(pool.available())} of ${formatResources(pool.total)}`
    entry.toldMs = node.nowMs
  }
  pass.incoming ??= incoming(node)
  const coming = pass.incoming.get(pool)
  if (coming === undefined || !covers(coming, missing)) {
    // Once in vain is enough until the next tick: what others hold changes with every lease that ends.
    if (entry.askedMs !== node.nowMs && !askBack(node, entry, pool, subtract(missing, coming))) entry.askedMs = node.nowMs
  } else pass.incoming.set(pool, subtract(coming, missing))
  if (node.nowMs - entry.sinceMs >= node.config.reserveAfterMs && leasesAreEnough(node, pool, wanted)) pass.undo.push(pool.reserve(wanted))
}

// Would it fit if every lease came back? If actors or groups hold too much, holding back others would help nobody.
function leasesAreEnough(node: NodeTables, pool: Pool, wanted: Resources): boolean {
  const empty = new Pool(pool.name, pool.total, new Map([...pool.devices].map(([index, device]) => [index, device.total])))
  for (const placement of node.placements.values()) if (placement.allocation?.pool === pool) empty.take(placement.allocation.resources)
  for (const group of node.groups.values()) for (const { carved } of group.bundles.values()) if (carved.pool === pool) empty.take(carved.resources)
  return empty.shortage(wanted) === undefined
}

function incoming(node: NodeTables): Map<Pool, Resources> {
  const sums = new Map<Pool, Resources>()
  for (const lease of node.leases.values()) {
    if (!lease.reclaiming && lease.worker.state !== 'stopping') continue
    const { pool, resources } = lease.allocation
    const sum = sums.get(pool) ?? { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }
    const custom = { ...sum.custom }
    for (const [name, amount] of Object.entries(resources.custom)) custom[name] = (custom[name] ?? 0) + amount
    sums.set(pool, {
      cpus: sum.cpus + (lease.blocked ? 0 : resources.cpus),
      gpus: sum.gpus + resources.gpus,
      memoryBytes: sum.memoryBytes + resources.memoryBytes,
      custom,
    })
  }
  return sums
}

function subtract(from: Resources, minus: Resources | undefined): Resources {
  if (minus === undefined) return from
  return {
    cpus: Math.max(0, from.cpus - minus.cpus),
    gpus: Math.max(0, from.gpus - minus.gpus),
    memoryBytes: Math.max(0, from.memoryBytes - minus.memoryBytes),
    custom: Object.fromEntries(Object.entries(from.custom).map(([name, amount]) => [name, Math.max(0, amount - (minus.custom[name] ?? 0))])),
  }
}

const helps = (lease: Lease, need: Resources): boolean => {
  const { resources } = lease.allocation
  return (
    (need.cpus > 0 && resources.cpus > 0 && !lease.blocked) ||
    (need.gpus > 0 && resources.gpus > 0) ||
    (need.memoryBytes > 0 && resources.memoryBytes > 0) ||
    Object.entries(need.custom).some(([name, amount]) => amount > 0 && (resources.custom[name] ?? 0) > 0)
  )
}

/** @returns false when nobody was asked */
function askBack(node: NodeTables, entry: Entry, pool: Pool, missing: Resources): boolean {
  let need = missing
  return reclaim(node, entry, (lease) => {
    if (lease.allocation.pool !== pool || !helps(lease, need)) return false
    const { resources } = lease.allocation
    need = subtract(need, { ...resources, cpus: lease.blocked ? 0 : resources.cpus })
    return true
  })
}

/** Ask holders for leases that `useful` accepts, at most `countMax`. Those who have nothing more to push on a lease are asked first. */
export function reclaim(node: NodeTables, entry: Entry, useful: (lease: Lease) => boolean, countMax: number = Number.POSITIVE_INFINITY): boolean {
  const held = new Map<string, number>()
  const holder = (process: string, key: number): string => `${process} ${key}`
  for (const lease of node.leases.values()) {
    held.set(lease.process, (held.get(lease.process) ?? 0) + 1)
    held.set(holder(lease.process, lease.key), (held.get(holder(lease.process, lease.key)) ?? 0) + 1)
  }
  const busy = new Set<string>()
  for (const other of node.queue) if (other.kind === 'demand' && other.wanted > 0) busy.add(holder(other.process.id, other.key))
  const mine = entry.kind === 'demand' ? (held.get(entry.process.id) ?? 0) : 0
  const mineOfKey = entry.kind === 'demand' ? (held.get(holder(entry.process.id, entry.key)) ?? 0) : 0
  const fair = (lease: Lease): boolean => {
    if (entry.kind !== 'demand') return true
    if (lease.process !== entry.process.id) return mine === 0 || (held.get(lease.process) ?? 0) > mine + 1
    if (lease.key === entry.key) return false
    return mineOfKey === 0 || (held.get(holder(lease.process, lease.key)) ?? 0) > mineOfKey + 1
  }
  const candidates = [...node.leases.values()].filter((lease) => !lease.reclaiming && lease.worker.state !== 'stopping' && fair(lease))
  const rank = (lease: Lease): number => (busy.has(holder(lease.process, lease.key)) ? 1 : 0)
  candidates.sort((a, b) => rank(a) - rank(b) || (held.get(b.process) ?? 0) - (held.get(a.process) ?? 0) || b.id - a.id)
  let count = 0
  for (const lease of candidates) {
    if (count >= countMax) break
    if (!useful(lease)) continue
    count++
    lease.reclaiming = true
    send(node, lease.process, { $case: 'leaseReclaim', value: { lease: lease.id } })
  }
  return count > 0
}

// ---------------------------------------------------------------- never

/** What no waiting can give, in words: undefined when the entry may be met some day. */
export function infeasible(node: NodeTables, entry: WorkEntry): { wanted: string; has: string } | undefined {
  const { shape } = entry
  const wanted =
    formatResources(shape.resources) + (shape.group === '' ? '' : ` in placement group ${shape.group}${shape.bundle < 0 ? '' : `, bundle ${shape.bundle}`}`)
  if (shape.group === '') {
    const place = wishText(shape.wish)
    const allowed = (shape.wish.node === '' || shape.wish.soft || shape.wish.node === node.config.node) && matches(node.labels, shape.wish.labels)
    if (allowed && node.root.couldFit(shape.resources)) return undefined
    return { wanted: `${wanted}${place}`, has: `${formatResources(node.root.total)}${allowed ? '' : ` on node ${node.config.node}`}` }
  }
  const pools = poolsOf(node, shape)
  if (pools === undefined) {
    const known = [...(node.groups.get(shape.group)?.bundles.values() ?? [])].some(({ state }) => state !== 'returning')
    const waiting = node.queue.some((other) => other.kind === 'bundles' && other.group === shape.group)
    if (known || waiting || node.nowMs - entry.sinceMs < UNKNOWN_GROUP_MS) return undefined
    return { wanted, has: 'no such placement group (it was removed, or is of another cluster run)' }
  }
  if (pools.some((pool) => pool.couldFit(shape.resources))) return undefined
  const group = node.groups.get(shape.group)
  const all = [...(group?.bundles ?? [])].map(([index, { pool }]) => `bundle ${index}: ${formatResources(pool.total)}`)
  return { wanted, has: `a group of ${all.join('; ')}` }
}

/** Who asked is told that this cannot be; a demand stays in the queue until it is changed. */
export function refuse(node: NodeTables, entry: WorkEntry, code: string, details: Record<string, string>, text: string): void {
  if (entry.kind === 'demand') {
    if (entry.refused) return
    entry.refused = true
    entry.reason = text
    send(node, entry.process.id, { $case: 'infeasible', value: { key: entry.key, text, detailsJson: JSON.stringify({ code, ...details }), waits: false } })
    return
  }
  node.queue.splice(node.queue.indexOf(entry), 1)
  const { actor, attempt } = entry.placement
  node.placements.delete(placementKey(actor, attempt))
  node.out.push({ kind: 'actor-unplaceable', node: node.config.node, actor, attempt, failure: { code, detailsJson: JSON.stringify(details) } })
}
