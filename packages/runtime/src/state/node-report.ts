/**
 * What a node says of itself to the head: what it can take, and what it has when a head meets it.
 */
import type { ActorHere, GroupHere, ProcessInfo } from '../net/gen/mesh.ts'
import type { Resources } from '../net/gen/node.ts'
import type { NodeTables } from './node-tables.ts'
import { copyAmounts, take, unitsThatFit } from './policy.ts'
import { sumResources } from './resources.ts'

export interface Offer {
  /** Free, less what those take who wait only for a worker to start. */
  readonly available: Resources
  /** Units that wait because there is no room. */
  readonly queued: number
}

export function offerOf(node: NodeTables): Offer {
  const free = copyAmounts(node.root.available())
  let queued = 0
  if (node.draining !== '') return { available: { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }, queued: node.queue.length }
  for (const entry of node.queue) {
    const units = entry.kind === 'demand' ? entry.wanted : 1
    if (entry.kind === 'demand' && entry.refused) continue
    if (entry.kind !== 'bundles' && entry.shape.group !== '') continue
    const wanted = entry.kind === 'bundles' ? sumResources(entry.bundles.values()) : entry.shape.resources
    const fit = unitsThatFit(free, wanted, units)
    take(free, wanted, fit)
    queued += units - fit
  }
  free.cpus = Math.max(0, free.cpus)
  return { available: free, queued }
}

export interface Inventory {
  readonly processes: ProcessInfo[]
  readonly actors: ActorHere[]
  readonly groups: GroupHere[]
}

/** Processes of this node and what control placed here. */
export function inventoryOf(node: NodeTables): Inventory {
  const processes: ProcessInfo[] = []
  for (const { id, node: where, attach, kind, pid, address, job } of node.processes.values()) {
    if (where !== '') continue
    const own = job ?? node.workers.get(id)?.job
    processes.push({ process: id, kind, pid, address, job: own?.config, jobId: own?.id ?? '', attach })
  }
  const actors: ActorHere[] = []
  for (const { actor, attempt, worker, allocation, started } of node.placements.values()) {
    if (worker?.state === 'stopping') continue
    actors.push({ actor, attempt, worker: worker?.id ?? '', address: worker?.address ?? '', alive: started, gpuIndices: [...(allocation?.gpus.keys() ?? [])] })
  }
  const groups = new Map<string, GroupHere>()
  for (const { id, bundles } of node.groups.values()) {
    const living = [...bundles].filter(([, bundle]) => bundle.state !== 'returning')
    groups.set(id, {
      group: id,
      bundles: Object.fromEntries(living.map(([index, bundle]) => [index, bundle.pool.total])),
      committed: living.filter(([, bundle]) => bundle.state === 'committed').map(([index]) => index),
    })
  }
  // Those that wait for room would be prepared for nobody.
  for (const entry of node.queue) {
    if (entry.kind !== 'bundles') continue
    const { bundles = {}, committed = [] } = groups.get(entry.group) ?? {}
    groups.set(entry.group, { group: entry.group, bundles: { ...bundles, ...Object.fromEntries(entry.bundles) }, committed })
  }
  return { processes, actors, groups: [...groups.values()] }
}

/** Nothing that keeps a draining node: it may leave. */
export const isDrained = (node: NodeTables): boolean => node.draining !== '' && node.leases.size === 0 && node.placements.size === 0
