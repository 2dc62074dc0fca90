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
  UNKNOWN_GROUP_MS,
  type Worker,
} from './node-tables.ts'
import { matches } from './labels.ts'
import { covers } from './policy.ts'
import { type Allocation, formatResources, Pool } from './resources.ts'
import { wishText } from './wish-text.ts'

/** Lease ids: the number of the node times this, and a count. */
export const LEASES_PER_NODE: number = 2 ** 32

type WorkEntry = Exclude<Entry, { kind: 'bundles' }>
type Outcome = 'granted' | 'starting' | 'short'

/** Room of one pass: what it set aside for workers in start and for those who waited long. */
interface Pass {
  readonly undo: (() => void)[]
  /** starting workers that this pass counts on, by start key */
  readonly claimed: Map<string, number>
  /** Amounts that reclaimed leases will bring back, by pool; counted when somebody waits for them. */
  incoming: Map<Pool, Resources> | undefined
}

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
  const sum = [...entry.bundles.values()].reduce((a, b) => ({
    cpus: a.cpus + b.cpus,
    gpus: a.gpus + b.gpus,
    memoryBytes: a.memoryBytes + b.memoryBytes,
    custom: Object.fromEntries(
      [...new Set([...Object.keys(a.custom), ...Object.keys(b.custom)])].map((name) => [name, (a.custom[name] ?? 0) + (b.custom[name] ?? 0)]),
    ),
  }))
  waitForPool(node, entry, node.root, sum, pass)
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
  const gpuIndices = [...allocation.gpus.keys()].sort((a, b) => a - b)
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
  send(node, entry.process.id, { $case: 'leaseGranted', value: { key: entry.key, lease: id, worker: worker.id, address: worker.address, gpuIndices } })
}

// ---------------------------------------------------------------- waiting

function waitForPool(node: NodeTables, entry: Entry, pool: Pool, wanted: Resources, pass: Pass): void {
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
function reclaim(node: NodeTables, entry: Entry, useful: (lease: Lease) => boolean, countMax: number = Number.POSITIVE_INFINITY): boolean {
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
