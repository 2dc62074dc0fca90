/**
 * Who of the waiting gets what: one pass over the queue of a node.
 *
 * Who holds least comes first, then who came first; one unit per entry and round, so that a process with a long queue does not shut out others. An entry that is
 * short of something lets later ones pass until it has waited `reserveAfterMs`; then what becomes free is kept for it, unless actors
 * or groups hold so much that waiting for leases cannot help. Leases of others are asked back (LeaseReclaim) when the one who waits holds nothing, or
 * clearly less than they: 2 CPUs, A holds both for 1,000,000 short tasks, B arrives with one: B gets a CPU when A's in-flight tasks end.
 */
import type { Resources } from '../net/gen/node.ts'
import {
  askWorker,
  type Bundle,
  type Entry,
  isTaskWorker,
  type Lease,
  type NodeTables,
  type ParsedShape,
  poolsOf,
  send,
  settleWorker,
  startFolder,
  startKeyOf,
  stopWorker,
  type Worker,
} from './node-tables.ts'
import { type Pass, reclaim, waitForPool, type WorkEntry } from './node-waiting.ts'
import { type Allocation, Pool, sumResources } from './resources.ts'

/** Lease ids: the number of the node times this, and a count. */
export const LEASES_PER_NODE: number = 2 ** 32

type Outcome = 'granted' | 'starting' | 'short'

export function schedule(node: NodeTables): void {
  if (node.queue.length === 0) return
  if (node.number === undefined || node.draining !== '') {
    for (const entry of node.queue) entry.reason = node.draining === '' ? 'this node has not joined the cluster yet' : `this node drains: ${node.draining}`
    return
  }
  const pass: Pass = { undo: [], claimed: new Map(), incoming: undefined }
  // Units of an entry that are granted when a worker in start arrives.
  const units = new Map<Entry, number>()
  const settled = new Set<Entry>()
  for (let progress = true; progress; ) {
    progress = false
    for (const entry of inOrder(node.queue)) {
      if (settled.has(entry)) continue
      if (entry.kind === 'demand' && (entry.refused || (units.get(entry) ?? 0) >= entry.wanted)) continue
      const outcome = tryOne(node, entry, pass)
      if (outcome === 'short') {
        settled.add(entry)
        continue
      }
      if (outcome === 'starting') {
        units.set(entry, (units.get(entry) ?? 0) + 1)
        if (entry.kind !== 'demand') settled.add(entry)
        progress = true
        continue
      }
      progress = true
      node.queue.splice(node.queue.indexOf(entry), 1)
      if (entry.kind !== 'demand') continue
      entry.wanted--
      entry.sinceMs = node.nowMs
      entry.reason = units.has(entry) ? 'a worker is starting' : ''
      if (entry.wanted > 0) node.queue.push(entry)
    }
  }
  for (const undo of pass.undo.reverse()) undo()
}

// Those who hold least come first, in the order of the queue among equals.
function inOrder(queue: readonly Entry[]): Entry[] {
  const held = (entry: Entry): number => (entry.kind === 'demand' ? entry.process.leases.size : 0)
  return queue.length === 1 ? [...queue] : [...queue].sort((a, b) => held(a) - held(b))
}

function tryOne(node: NodeTables, entry: Entry, pass: Pass): Outcome {
  if (entry.kind === 'bundles') return tryBundles(node, entry, pass)
  const pools = poolsOf(node, entry.shape)
  if (pools === undefined) {
    entry.reason = `placement group ${entry.shape.group} is not created yet`
    return 'short'
  }
  for (const pool of pools) {
    const worker = idleWithGpus(node, entry, pool)
    if (worker === undefined) continue
    grant(node, entry, worker.worker, worker.allocation)
    return 'granted'
  }
  for (const pool of pools) {
    const allocation = pool.take(entry.shape.resources)
    if (allocation === undefined) continue
    return workerFor(node, entry, allocation, pass)
  }
  const { resources } = entry.shape
  const pool = pools.find((candidate) => candidate.couldFit(resources)) ?? pools[0]
  if (pool !== undefined) waitForPool(node, entry, pool, resources, pass)
  return 'short'
}

function tryBundles(node: NodeTables, entry: Extract<Entry, { kind: 'bundles' }>, pass: Pass): Outcome {
  const { group, attempt } = entry
  const known = node.groups.get(group)
  if ([...entry.bundles.keys()].some((index) => known?.bundles.has(index))) {
    entry.reason = 'what ran in these bundles before still ends'
    return 'short'
  }
  const carved = carve(node.root, group, attempt, entry.bundles)
  if (carved !== undefined) {
    if (known === undefined) node.groups.set(group, { id: group, bundles: carved })
    else for (const [index, bundle] of carved) known.bundles.set(index, bundle)
    node.out.push({ kind: 'bundles-prepared', node: node.config.node, group, attempt })
    return 'granted'
  }
  waitForPool(node, entry, node.root, sumResources(entry.bundles.values()), pass)
  return 'short'
}

/** All bundles or none. */
export function carve(root: Pool, group: string, attempt: number, bundles: ReadonlyMap<number, Resources>): Map<number, Bundle> | undefined {
  const carved = new Map<number, Bundle>()
  for (const [index, resources] of bundles) {
    const allocation = root.take(resources)
    if (allocation === undefined) {
      for (const { carved: taken } of carved.values()) root.give(taken)
      return undefined
    }
    carved.set(index, { pool: new Pool(`${group}/${index}`, resources, allocation.gpus), carved: allocation, attempt, state: 'prepared' })
  }
  return carved
}

const bindKeyOf = (entry: WorkEntry, gpus: ReadonlyMap<number, number>): string => `${entry.job.id} ${[...gpus.keys()].join(',')} ${entry.shape.envKey}`

// A worker that has its GPUs already, while just those are free: its libraries are loaded and see these devices only.
function idleWithGpus(node: NodeTables, entry: WorkEntry, pool: Pool): { worker: Worker; allocation: Allocation } | undefined {
  if (entry.shape.resources.gpus === 0) return undefined
  for (const worker of node.workers.values()) {
    if (worker.state !== 'idle' || worker.job?.id !== entry.job.id) continue
    const only = worker.bindKey.split(' ', 2)[1]
    if (only === undefined || only === '') continue
    const allocation = pool.take(entry.shape.resources, only.split(',').map(Number))
    if (allocation === undefined) continue
    if (bindKeyOf(entry, allocation.gpus) === worker.bindKey) return { worker, allocation }
    pool.give(allocation)
  }
  return undefined
}

function workerFor(node: NodeTables, entry: WorkEntry, allocation: Allocation, pass: Pass): Outcome {
  const { shape } = entry
  const bindKey = bindKeyOf(entry, allocation.gpus)
  let fresh: Worker | undefined
  let bound: Worker | undefined
  let spare: Worker | undefined
  let blocked: Worker | undefined
  let starting = 0
  let startingOfKey = 0
  let tasks = 0
  let allBlocked = true
  let actors = 0
  for (const worker of node.workers.values()) {
    if (worker.state === 'actor') actors++
    if (!isTaskWorker(worker)) continue
    // An idle worker that must live on for its objects takes no place from others.
    if (worker.state !== 'idle' || worker.owns !== 'objects') tasks++
    if (worker.state !== 'blocked') allBlocked = false
    if (worker.state === 'starting') {
      starting++
      if (worker.startKey === shape.startKey) startingOfKey++
    } else if (worker.state === 'idle') {
      if (worker.bindKey === bindKey && worker.startKey === shape.startKey) bound ??= worker
      else if (worker.bindKey === '' && worker.startKey === shape.startKey) fresh ??= worker
      else if (worker.owns !== 'objects' && (spare === undefined || worker.idleSinceMs < spare.idleSinceMs)) spare = worker
    } else if (worker.state === 'blocked' && !worker.retiring && worker.bindKey === bindKey && worker.startKey === shape.startKey) {
      if (blocked === undefined || worker.leases.size < blocked.leases.size) blocked = worker
    }
  }
  if (entry.kind === 'actor' && actors >= node.config.actorWorkersMax) {
    allocation.pool.give(allocation)
    entry.reason = `the limit of ${node.config.actorWorkersMax} actor workers on this node is reached`
    return 'short'
  }
  // Actors prefer a process without history, tasks one that has loaded their code already.
  const idle = entry.kind === 'actor' ? (fresh ?? bound) : (bound ?? fresh)
  if (idle !== undefined) {
    grant(node, entry, idle, allocation)
    return 'granted'
  }
  const wait = (reason: string): Outcome => {
    pass.undo.push(() => allocation.pool.give(allocation))
    entry.reason = reason
    return 'starting'
  }
  const claimed = pass.claimed.get(shape.startKey) ?? 0
  if (claimed < startingOfKey) {
    pass.claimed.set(shape.startKey, claimed + 1)
    return wait('a worker is starting')
  }
  const room = tasks < node.config.taskWorkersMax || spare !== undefined || (allBlocked && blocked === undefined)
  if (room) {
    if (starting >= node.config.startingMax) {
      wait('a worker will be started when those in start are up')
      return 'short'
    }
    if (tasks >= node.config.taskWorkersMax && spare !== undefined && spare.owns !== 'nothing') {
      askWorker(node, spare)
      wait('an idle worker is asked whether it can make room')
      return 'short'
    }
    if (tasks >= node.config.taskWorkersMax && spare !== undefined) stopWorker(node, spare, false, 'its place is needed for another job or environment')
    spawnWorker(node, entry.job.config.execArgv, shape)
    pass.claimed.set(shape.startKey, claimed + 1)
    return wait('a worker is starting')
  }
  if (entry.kind === 'demand' && blocked !== undefined && shape.resources.gpus === 0) {
    grant(node, entry, blocked, allocation)
    return 'granted'
  }
  allocation.pool.give(allocation)
  entry.reason = `the limit of ${node.config.taskWorkersMax} task workers on this node is reached`
  if (![...node.leases.values()].some((lease) => lease.reclaiming)) reclaim(node, entry, () => true, 1)
  return 'short'
}

export function spawnWorker(node: NodeTables, execArgv: readonly string[], shape?: ParsedShape): void {
  const id = node.config.workerIdPrefix + (++node.workersSpawned).toString(16).padStart(8, '0')
  const cwd = shape === undefined ? startFolder(execArgv, {}, node.config.prestartCwd) : shape.startCwd
  const startKey = shape?.startKey ?? startKeyOf(execArgv, {}, cwd)
  node.workers.set(id, {
    id,
    execArgv,
    startKey,
    spawnedMs: node.nowMs,
    state: 'starting',
    pid: 0,
    address: '',
    job: undefined,
    bindKey: '',
    leases: new Set(),
    placement: undefined,
    idleSinceMs: node.nowMs,
    owns: 'nothing',
    retiring: false,
    stopReason: '',
    memory: undefined,
    killed: false,
  })
  node.out.push({ kind: 'worker-spawn', worker: id, cwd, execArgv, env: shape?.startEnv ?? {} })
}

function grant(node: NodeTables, entry: WorkEntry, worker: Worker, allocation: Allocation): void {
  const gpuIndices = indicesOf(allocation)
  if (worker.job === undefined) {
    const { config } = entry.job
    const visible = gpuIndices.map((index) => node.config.gpuDevices[index] ?? String(index)).join(',')
    const gpuEnv: Record<string, string> = node.config.total.gpus > 0 || visible !== '' ? { CUDA_VISIBLE_DEVICES: visible } : {}
    worker.job = entry.job
    node.out.push({ kind: 'worker-bound', worker: worker.id, job: entry.job })
    worker.bindKey = bindKeyOf(entry, allocation.gpus)
    const env = { ...config.env, ...gpuEnv, ...entry.shape.env }
    const { workingDir, modules } = entry.shape
    const { cwd, entry: file, namespace, root, package: digest } = config
    const code = { cwd, workingDir, entry: file, root, package: digest, packageDir: '', modules: [...modules], failure: undefined }
    send(node, worker.id, { $case: 'assign', value: { job: entry.job.id, env, namespace, ...code } })
  }
  if (entry.kind === 'actor') {
    const { placement } = entry
    placement.worker = worker
    placement.allocation = allocation
    placement.sinceMs = node.nowMs
    worker.placement = placement
    worker.state = 'actor'
    const { actor, attempt } = placement
    node.out.push({ kind: 'actor-placed', node: node.config.node, actor, attempt, worker: worker.id, address: worker.address, gpuIndices })
    return
  }
  const id = (node.number ?? 0) * LEASES_PER_NODE + ++node.leasesGranted
  const { key, label, shape } = entry
  const { retriable } = shape
  const lease: Lease = {
    id,
    process: entry.process.id,
    key,
    worker,
    allocation,
    label,
    retriable,
    sinceMs: node.nowMs,
    blocked: false,
    reclaiming: false,
  }
  node.leases.set(id, lease)
  worker.leases.add(lease)
  entry.process.leases.add(lease)
  if (entry.process.node !== '') entry.process.grants.set(entry.key, (entry.process.grants.get(entry.key) ?? 0) + 1)
  settleWorker(node, worker)
  sayGranted(node, lease, false)
}

/** @param again - its holder has another node by now, and messages to and from it may have been lost */
export function sayGranted(node: NodeTables, { process, key, id: lease, worker: { id: worker, address }, allocation }: Lease, again: boolean): void {
  send(node, process, { $case: 'leaseGranted', value: { key, lease, worker, address, gpuIndices: indicesOf(allocation), again } })
}

const indicesOf = ({ gpus }: Allocation): number[] => [...gpus.keys()].sort((a, b) => a - b)
