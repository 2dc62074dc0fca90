/**
 * Bundles of placement groups on one node: prepared (resources are set aside) → committed (usable) → returning (what ran there ends) → gone.
 * What runs in a bundle that moves to another node may finish, as long as this node is there; the end of a group ends it at once.
 */
import type { NodeOrder } from './events.ts'
import { carve } from './node-scheduling.ts'
import { emptyRoot, FRESH, type Group, type NodeTables, reclaimLease, stopWorker } from './node-tables.ts'
import { refuse } from './node-waiting.ts'
import type { Pool } from './resources.ts'

/** Carves the bundles out of the node, at once or when there is room. */
export function prepareBundles(tables: NodeTables, event: Extract<NodeOrder, { kind: 'bundles-prepare' }>): void {
  const { group, attempt, bundles } = event
  const here = tables.groups.get(group)?.bundles
  const mine = [...bundles.keys()].every((index) => here?.get(index)?.attempt === attempt)
  // Asked twice: the answer may have been lost with the head that asked.
  if (mine) return void tables.out.push({ kind: 'bundles-prepared', node: tables.config.node, group, attempt })
  // What an earlier attempt left here goes first.
  const old = [...(here ?? [])].filter(([index, bundle]) => bundles.has(index) && bundle.attempt < attempt).map(([index]) => index)
  if (old.length > 0) returnBundles(tables, group, old, 'another attempt', true)
  tables.queue = tables.queue.filter((entry) => entry.kind !== 'bundles' || entry.group !== group || entry.attempt >= attempt)
  if (tables.queue.some((entry) => entry.kind === 'bundles' && entry.group === group)) return
  if (carve(emptyRoot(tables.config), group, attempt, bundles) === undefined) {
    tables.out.push({ kind: 'bundles-refused', node: tables.config.node, group, attempt, reason: 'the bundles are more than the node has' })
    return
  }
  tables.queue.push({ kind: 'bundles', group, attempt, bundles, label: `placement group ${group}`, sinceMs: tables.nowMs, ...FRESH })
}

/**
 * The bundles take nothing new, and are given back when what runs in them has ended.
 *
 * @param only - bundles; empty: all
 * @param kill - what runs in them ends now
 */
export function returnBundles(tables: NodeTables, id: string, only: readonly number[], reason: string, kill: boolean): void {
  const named = (index: number): boolean => only.length === 0 || only.includes(index)
  tables.queue = tables.queue.filter((entry) => entry.kind !== 'bundles' || entry.group !== id || ![...entry.bundles.keys()].some(named))
  const group = tables.groups.get(id)
  if (group === undefined) return
  const pools = new Set<Pool>()
  for (const [index, bundle] of group.bundles) {
    if (!named(index)) continue
    bundle.state = 'returning'
    pools.add(bundle.pool)
  }
  for (const lease of tables.leases.values()) {
    if (!pools.has(lease.allocation.pool)) continue
    if (kill) stopWorker(tables, lease.worker, true, reason)
    else reclaimLease(tables, lease)
  }
  for (const placement of tables.placements.values()) {
    if (kill && placement.worker !== undefined && placement.allocation !== undefined && pools.has(placement.allocation.pool))
      stopWorker(tables, placement.worker, true, reason)
  }
  finishReturn(tables, group)
  if (only.length > 0) return
  for (const entry of [...tables.queue]) {
    if (entry.kind === 'bundles' || entry.shape.group !== id) continue
    const details = {
      what: entry.kind === 'actor' ? `actor ${entry.label}` : `"${entry.label}"`,
      wanted: `a place in placement group ${id}`,
      has: `removed that group (${reason})`,
    }
    refuse(tables, entry, 'INFEASIBLE', details, `placement group ${id} was removed: ${reason}`)
  }
}

/** A holder gave back what it had of the pool. */
export function poolReleased(tables: NodeTables, pool: Pool): void {
  if (pool === tables.root) return
  for (const group of tables.groups.values()) {
    if ([...group.bundles.values()].some((bundle) => bundle.pool === pool && bundle.state === 'returning')) return finishReturn(tables, group)
  }
}

function finishReturn(tables: NodeTables, group: Group): void {
  const used = new Set<Pool>()
  for (const lease of tables.leases.values()) used.add(lease.allocation.pool)
  for (const placement of tables.placements.values()) if (placement.allocation !== undefined) used.add(placement.allocation.pool)
  for (const [index, bundle] of group.bundles) {
    if (bundle.state !== 'returning' || used.has(bundle.pool)) continue
    group.bundles.delete(index)
    bundle.carved.pool.give(bundle.carved)
  }
  if (group.bundles.size === 0) tables.groups.delete(group.id)
}
