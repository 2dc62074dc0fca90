/**
 * What must hold in a node and in the control of a cluster after every event. For tests, and for daemons with BEAMLINE_VALIDATE=1.
 */
import { BeamlineError } from '../errors.ts'
import type { ControlState } from './control-state.ts'
import type { LeaseRouter } from './lease-router.ts'
import type { NodeState } from './node-state.ts'
import type { Allocation, Pool } from './resources.ts'

function check(holds: boolean, what: string): void {
  if (!holds) throw new BeamlineError('INTERNAL', { what: `a broken invariant: ${what}` })
}

/** @throws BeamlineError INTERNAL that names the invariant */
export function checkNode(node: NodeState): void {
  const { tables } = node
  const held: Allocation[] = []
  for (const lease of tables.leases.values()) {
    held.push(lease.allocation)
    check(tables.workers.get(lease.worker.id) === lease.worker, `lease ${lease.id} is on a worker that exists`)
    check(lease.worker.state !== 'starting' && lease.worker.state !== 'idle' && lease.worker.state !== 'actor', `the worker of lease ${lease.id} is leased`)
    check(lease.worker.leases.has(lease), `worker ${lease.worker.id} knows lease ${lease.id}`)
    check(tables.processes.get(lease.process)?.leases.has(lease) === true, `the holder of lease ${lease.id} is attached and knows it`)
    check(lease.blocked === lease.allocation.cpusLent, `lease ${lease.id} lends its cpus exactly while blocked`)
  }
  for (const placement of tables.placements.values()) {
    const waiting = tables.queue.some((entry) => entry.kind === 'actor' && entry.placement === placement)
    check(waiting === (placement.worker === undefined), `actor ${placement.actor} either waits or has a worker`)
    if (placement.worker === undefined) continue
    check(placement.worker.placement === placement && tables.workers.has(placement.worker.id), `actor ${placement.actor} is on a worker that knows it`)
    check(placement.allocation !== undefined, `actor ${placement.actor} holds its resources`)
    if (placement.allocation !== undefined) held.push(placement.allocation)
  }
  for (const group of tables.groups.values()) for (const { carved } of group.bundles.values()) held.push(carved)
  checkPool(tables.root, held)
  for (const group of tables.groups.values()) for (const { pool } of group.bundles.values()) checkPool(pool, held)
  for (const worker of tables.workers.values()) {
    const { id, state } = worker
    for (const lease of worker.leases) check(tables.leases.get(lease.id) === lease, `worker ${id} has living leases only`)
    if (state === 'idle' || state === 'starting') check(worker.leases.size === 0 && worker.placement === undefined, `${state} worker ${id} has no work`)
    if (state === 'starting') check(worker.job === undefined, `starting worker ${id} has no job`)
    if (state === 'leased')
      check(
        [...worker.leases].some((lease) => !lease.blocked),
        `leased worker ${id} runs something`,
      )
    if (state === 'blocked') check(worker.leases.size > 0 && [...worker.leases].every((lease) => lease.blocked), `blocked worker ${id} only waits`)
    if (state === 'actor') check(worker.placement !== undefined && worker.leases.size === 0, `actor worker ${id} has an actor`)
  }
  for (const entry of tables.queue) {
    if (entry.kind !== 'demand') continue
    check(tables.processes.get(entry.process.id) === entry.process, `demand ${entry.key} is of an attached process`)
    check(entry.wanted > 0, `demand ${entry.key} wants something`)
    check(entry.reason !== '', `demand ${entry.key} of ${entry.process.id} waits for a reason`)
  }
  const keys = tables.queue.filter((entry) => entry.kind === 'demand').map((entry) => `${entry.process.id} ${entry.key}`)
  check(new Set(keys).size === keys.length, 'one demand per process and key')
}

function checkPool(pool: Pool, all: readonly Allocation[]): void {
  const held = all.filter((allocation) => allocation.pool === pool)
  const cpus = held.reduce((sum, { resources, cpusLent }) => sum + (cpusLent ? 0 : resources.cpus), 0)
  check(pool.cpus + cpus === pool.total.cpus, `free and held cpus of ${pool.name} are its total (${pool.cpus} + ${cpus} of ${pool.total.cpus})`)
  const memory = held.reduce((sum, { resources }) => sum + resources.memoryBytes, 0)
  check(pool.memoryBytes + memory === pool.total.memoryBytes && pool.memoryBytes >= 0, `free and held memory of ${pool.name} are its total`)
  for (const [name, free] of pool.custom) {
    const sum = held.reduce((total, { resources }) => total + (resources.custom[name] ?? 0), 0)
    check(free + sum === (pool.total.custom[name] ?? 0) && free >= 0, `free and held "${name}" of ${pool.name} are its total`)
  }
  for (const [index, device] of pool.devices) {
    const sum = held.reduce((total, { gpus }) => total + (gpus.get(index) ?? 0), 0)
    check(device.free + sum === device.total && device.free >= 0, `gpu ${index} of ${pool.name} is not given twice`)
  }
}

/** @throws BeamlineError INTERNAL that names the invariant */
export function checkControl(control: ControlState): void {
  const names = new Set<string>()
  for (const actor of control.actors.actors.values()) {
    const running = actor.state === 'STARTING' || actor.state === 'ALIVE'
    check(running === (actor.worker !== ''), `actor ${actor.id} (${actor.state}) has a worker exactly while it runs`)
    check((actor.state === 'DEAD') <= (actor.cause !== undefined), `dead actor ${actor.id} has a cause`)
    if (actor.name === '' || actor.state === 'DEAD') continue
    const key = JSON.stringify([actor.namespace, actor.name])
    check(!names.has(key), `one living actor is named ${key}`)
    check(control.actors.names.get(key) === actor.id, `the name ${key} leads to its actor`)
    names.add(key)
  }
  check(names.size === control.actors.names.size, 'names lead to living actors only')
  for (const group of control.groups.groups.values()) {
    if (group.state === 'CREATED')
      check(group.nodes.length === group.bundles.length && !group.nodes.includes(''), `every bundle of group ${group.id} has a node`)
  }
}

/** @throws BeamlineError INTERNAL that names the invariant */
export function checkRouter(router: LeaseRouter): void {
  for (const keys of router.demands.values()) {
    for (const demand of keys.values()) {
      let sum = 0
      for (const { units, node } of demand.shares.values()) {
        check(units >= 0, `a share of ${demand.process} at ${node.node} is not negative`)
        sum += units
      }
      check(sum === demand.placed, `the units of demand ${demand.key} of ${demand.process} are counted`)
      check(sum <= demand.wanted, `no more units of demand ${demand.key} of ${demand.process} wait than are wanted`)
    }
  }
}
