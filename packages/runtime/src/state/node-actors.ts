/** Actors that the control placed on one machine: each waits for a worker of its own, and keeps it. Part of node-state.ts. */
import type { NodeEvent } from './events.ts'
import { poolReleased } from './node-bundles.ts'
import { refuseInfeasible } from './node-leases.ts'
import { type ActorWaiting, FRESH, type NodeTables, parseShape, type Placement, placementKey, stopWorker } from './node-tables.ts'

export function placeActor(tables: NodeTables, event: Extract<NodeEvent, { kind: 'actor-place' }>): void {
  const { actor, attempt, job, label } = event
  if (tables.placements.has(placementKey(actor, attempt))) return
  const shape = parseShape(tables, job, event.shape)
  if (shape === undefined) {
    const detailsJson = JSON.stringify({ what: `actor ${label}`, got: JSON.stringify(event.shape?.resources), expected: 'whole, not negative amounts' })
    tables.out.push({ kind: 'actor-unplaceable', node: tables.config.node, actor, attempt, failure: { code: 'INVALID_ARGUMENT', detailsJson } })
    return
  }
  const placement: Placement = {
    actor,
    attempt,
    label,
    retriable: shape.retriable,
    sinceMs: 0,
    worker: undefined,
    allocation: undefined,
    blocked: false,
    started: false,
  }
  const entry: ActorWaiting = { kind: 'actor', placement, job, shape, label, sinceMs: tables.nowMs, ...FRESH }
  tables.placements.set(placementKey(actor, attempt), placement)
  tables.queue.push(entry)
  refuseInfeasible(tables, entry)
}

export function releaseActor(tables: NodeTables, event: Extract<NodeEvent, { kind: 'actor-release' }>): void {
  const { actor, attempt, force, reason } = event
  const own = tables.placements.get(placementKey(actor, attempt))
  const released = attempt === 0 ? [...tables.placements.values()].filter((placement) => placement.actor === actor) : own === undefined ? [] : [own]
  for (const placement of released) {
    if (placement.worker !== undefined) {
      stopWorker(tables, placement.worker, force, reason)
      continue
    }
    tables.queue = tables.queue.filter((entry) => entry.kind !== 'actor' || entry.placement !== placement)
    tables.placements.delete(placementKey(actor, placement.attempt))
  }
}

export function dropPlacement(tables: NodeTables, placement: Placement): void {
  tables.placements.delete(placementKey(placement.actor, placement.attempt))
  const { allocation } = placement
  if (allocation === undefined) return
  allocation.pool.give(allocation)
  poolReleased(tables, allocation.pool)
}
