/** The leases of one machine: what processes demand there, and what comes back. Part of node-state.ts; who gets what is in node-scheduling.ts. */
import type { NodeEvent } from './events.ts'
import { poolReleased } from './node-bundles.ts'
import { type Demand, type Entry, FRESH, type Lease, type NodeTables, parseShape, send, settleWorker } from './node-tables.ts'
import { infeasible, refuse } from './node-waiting.ts'

export function demandLeases(tables: NodeTables, event: Extract<NodeEvent, { kind: 'lease-demand' }>): void {
  const process = tables.processes.get(event.process)
  if (process === undefined) return
  const index = tables.queue.findIndex((entry) => entry.kind === 'demand' && entry.process === process && entry.key === event.key)
  const known = tables.queue[index] as Demand | undefined
  // A grant that crossed this message is not wanted again.
  const unseen = event.remote === true ? Math.max(0, (process.grants.get(event.key) ?? 0) - (event.seen ?? 0)) : 0
  const wanted = Math.min(Math.max(0, (Math.trunc(event.wanted) || 0) - unseen), 1_000_000)
  if (wanted === 0) {
    if (index >= 0) tables.queue.splice(index, 1)
    return
  }
  if (known !== undefined) {
    known.wanted = wanted
    known.backlog = event.backlog
    known.refused = false
    return refuseInfeasible(tables, known)
  }
  const job = process.job ?? tables.workers.get(process.id)?.job
  if (job === undefined) return
  const shape = parseShape(tables, job, event.shape)
  if (shape === undefined) {
    const details = { what: `"${event.label}"`, got: JSON.stringify(event.shape?.resources), expected: 'whole, not negative amounts' }
    send(tables, process.id, {
      $case: 'infeasible',
      value: { key: event.key, text: 'amounts that are no amounts', detailsJson: JSON.stringify({ code: 'INVALID_ARGUMENT', ...details }), waits: false },
    })
    return
  }
  const { key, label, backlog } = event
  const entry: Demand = { kind: 'demand', process, key, job, shape, wanted, backlog, label, sinceMs: tables.nowMs, ...FRESH, refused: false }
  tables.queue.push(entry)
  refuseInfeasible(tables, entry)
}

export function refuseInfeasible(tables: NodeTables, entry: Exclude<Entry, { kind: 'bundles' }>): void {
  const never = infeasible(tables, entry)
  if (never === undefined) return
  const what = entry.kind === 'actor' ? `actor ${entry.label}` : `"${entry.label}"`
  refuse(tables, entry, 'INFEASIBLE', { what, ...never }, `${what} asks for ${never.wanted}, which this cluster can never give: it has ${never.has}`)
}

export function releaseLease(tables: NodeTables, lease: Lease, workerIsDead: boolean = false): void {
  if (!tables.leases.delete(lease.id)) return
  lease.worker.leases.delete(lease)
  tables.processes.get(lease.process)?.leases.delete(lease)
  lease.allocation.pool.give(lease.allocation)
  poolReleased(tables, lease.allocation.pool)
  if (!workerIsDead) settleWorker(tables, lease.worker)
}

export function leaseBlocked(tables: NodeTables, sender: string, id: number, blocked: boolean): void {
  if (id === 0) {
    const placement = tables.workers.get(sender)?.placement
    if (placement?.allocation === undefined) return
    placement.blocked = blocked
    placement.allocation.pool.lendCpus(placement.allocation, blocked)
    return
  }
  const lease = tables.leases.get(id)
  if (lease === undefined || (lease.worker.id !== sender && lease.process !== sender)) return
  lease.blocked = blocked
  lease.allocation.pool.lendCpus(lease.allocation, blocked)
  settleWorker(tables, lease.worker)
}
