/**
 * The records of one node: processes, workers, leases, bundles and the queue of those who wait. Data and small look-ups only;
 * NodeState changes them on events and node-scheduling.ts decides who gets what.
 */
import type { MemoryFacts } from '../errors.ts'
import type { Resources, Shape } from '../net/gen/node.ts'
import type { Job, MessageBody, NodeInstruction } from './events.ts'
import { type Labels, NODE_LABEL } from './labels.ts'
import { ANYWHERE, type Wish } from './policy.ts'
import { type Allocation, Pool, parseResources, UNIT } from './resources.ts'

export interface NodeConfig {
  readonly node: string
  readonly total: Resources
  /** Besides those that every node has. */
  readonly labels: Labels
  /** What CUDA_VISIBLE_DEVICES must say for device index 0, 1, … */
  readonly gpuDevices: readonly string[]
  /** First half of worker ids, 8 hex digits; the node counts the second half. */
  readonly workerIdPrefix: string
  /** Workers kept warm. */
  readonly prestart: number
  /** How many of them start with the node; the others follow at its first tick or when they are asked for. The first task needs one, and soon. */
  readonly prestartAtOnce: number
  /** Flags of the prestarted workers: those of the driver that an embedded node belongs to. */
  readonly prestartExecArgv: readonly string[]
  /** Folder of that driver. */
  readonly prestartCwd: string
  /** Most workers that run tasks; exceeded only when all of them are blocked and none can take another task. */
  readonly taskWorkersMax: number
  /** Most workers that are actors. */
  readonly actorWorkersMax: number
  /** Most workers in start at one time. */
  readonly startingMax: number
  readonly idleTimeoutMs: number
  readonly startTimeoutMs: number
  /** So many failed starts in a row fail what waits for them. */
  readonly startFailuresMax: number
  /** A request that waited so long keeps what becomes free from later ones. */
  readonly reserveAfterMs: number
  /** Variables that only count when a process starts, as the node's own environment has them. */
  readonly startEnv: Readonly<Record<string, string>>
}

export const NODE_DEFAULTS: Pick<
  NodeConfig,
  'labels' | 'prestartExecArgv' | 'prestartCwd' | 'actorWorkersMax' | 'idleTimeoutMs' | 'startTimeoutMs' | 'startFailuresMax' | 'reserveAfterMs' | 'startEnv'
> = {
  labels: {},
  prestartExecArgv: [],
  prestartCwd: '',
  actorWorkersMax: 1024,
  idleTimeoutMs: 10_000,
  startTimeoutMs: 60_000,
  startFailuresMax: 3,
  reserveAfterMs: 2_000,
  startEnv: {},
}

/** How long a shape may name a placement group that this node has not heard of: messages of two processes may overtake each other. */
export const UNKNOWN_GROUP_MS = 1_000

export interface Process {
  readonly id: string
  /** "": this one. Of a driver whose daemon was killed, another one later. */
  node: string
  /** How many daemons it has attached to. */
  attach: number
  readonly kind: 'driver' | 'worker' | 'cli'
  readonly pid: number
  readonly address: string
  job: Job | undefined
  /** Leases that it holds on workers. */
  readonly leases: Set<Lease>
  /** Of a process of another node: grants so far, by key. */
  readonly grants: Map<number, number>
}

/**
 * starting: spawned, not attached. idle: no lease. leased: at least one lease is not blocked. blocked: all its leases are blocked.
 * actor: has a placement. stopping: told to exit or killed; keeps its leases and placement until the exit is seen.
 */
export type WorkerState = 'starting' | 'idle' | 'leased' | 'blocked' | 'actor' | 'stopping'

export interface Worker {
  readonly id: string
  readonly execArgv: readonly string[]
  /** Flags and start variables: what cannot be changed after the start. */
  readonly startKey: string
  readonly spawnedMs: number
  state: WorkerState
  pid: number
  address: string
  /** Set at first use, never changed: workers are not shared between jobs, environments and GPU assignments. */
  job: Job | undefined
  bindKey: string
  readonly leases: Set<Lease>
  placement: Placement | undefined
  idleSinceMs: number
  /** Whether it owns objects, so that it must not be ended just because it is idle. Asked anew each time it was idle for long. */
  owns: 'unknown' | 'asked' | 'nothing' | 'objects'
  /** A holder said that it is used up: gets no more leases and ends with its last one. */
  retiring: boolean
  /** Why Beamline ended it; "" when it did not. */
  stopReason: string
  /** It was ended because memory ran out. */
  memory: MemoryFacts | undefined
  /** Stopped by force: nothing more can be done to it. */
  killed: boolean
}

export interface Lease {
  readonly id: number
  readonly process: string
  readonly key: number
  readonly worker: Worker
  readonly allocation: Allocation
  readonly label: string
  readonly retriable: boolean
  readonly sinceMs: number
  blocked: boolean
  reclaiming: boolean
}

/** An actor on this node: waiting in the queue while `worker` is undefined. */
export interface Placement {
  readonly actor: string
  readonly attempt: number
  readonly label: string
  readonly retriable: boolean
  /** Since when it is on its worker. */
  sinceMs: number
  worker: Worker | undefined
  allocation: Allocation | undefined
  /** LeaseBlocked of lease 0: a method waits for objects. */
  blocked: boolean
  /** Its constructor is done. */
  started: boolean
}

export interface ParsedShape {
  readonly resources: Resources
  readonly env: Readonly<Record<string, string>>
  /** Of everything that a worker's environment is made of: it is not shared with another one. */
  readonly envKey: string
  readonly workingDir: string
  readonly modules: readonly string[]
  readonly group: string
  readonly bundle: number
  readonly wish: Wish
  /** What runs there may run again. */
  readonly retriable: boolean
  readonly startEnv: Readonly<Record<string, string>>
  readonly startCwd: string
  readonly startKey: string
}

interface Waiting {
  readonly label: string
  sinceMs: number
  /** In words, for status and explain, as it was at `toldMs`. */
  reason: string
  toldMs: number
  /** When it last asked others for leases in vain. */
  askedMs: number
}

/** Of an entry that has not waited yet. */
export const FRESH = { reason: '', toldMs: -1, askedMs: -1 } as const

export interface Demand extends Waiting {
  readonly kind: 'demand'
  readonly process: Process
  readonly key: number
  readonly job: Job
  readonly shape: ParsedShape
  wanted: number
  backlog: number
  /** Infeasible was sent: asked for again only through a new demand. */
  refused: boolean
}

export interface ActorWaiting extends Waiting {
  readonly kind: 'actor'
  readonly placement: Placement
  readonly job: Job
  readonly shape: ParsedShape
}

export interface BundlesWaiting extends Waiting {
  readonly kind: 'bundles'
  readonly group: string
  readonly attempt: number
  readonly bundles: ReadonlyMap<number, Resources>
}

export type Entry = Demand | ActorWaiting | BundlesWaiting

export interface Bundle {
  readonly pool: Pool
  readonly carved: Allocation
  readonly attempt: number
  /** prepared: resources are set aside. committed: usable. returning: waits for its holders to end. */
  state: 'prepared' | 'committed' | 'returning'
}

/** The bundles of a group that are on this node: at least one. */
export interface Group {
  readonly id: string
  readonly bundles: Map<number, Bundle>
}

export interface NodeTables {
  readonly config: NodeConfig
  readonly labels: Labels
  /** Upper part of the lease ids; undefined until the head accepted this node: nothing is granted before. */
  number: number | undefined
  /** Why it gets no new work; "" while it does. */
  draining: string
  nowMs: number
  readonly root: Pool
  readonly groups: Map<string, Group>
  readonly processes: Map<string, Process>
  readonly workers: Map<string, Worker>
  readonly leases: Map<number, Lease>
  /** All and only actors placed here or waiting to be, by {@link placementKey}. */
  readonly placements: Map<string, Placement>
  /** Jobs of which processes of other nodes came here and that have not ended. */
  readonly jobsElsewhere: Set<string>
  /** The last ones that ended: a message of a process may cross the news. */
  readonly jobsEnded: Set<string>
  /** All and only those who wait, in order; a demand stays (unscheduled) while it is refused. */
  queue: Entry[]
  /** Failed starts in a row by start key, with the last stderr. */
  readonly startFailures: Map<string, { count: number; reason: string }>
  workersSpawned: number
  leasesGranted: number
  out: NodeInstruction[]
}

export const isTaskWorker = (worker: Worker): boolean => worker.state !== 'actor' && worker.state !== 'stopping'

export function send(node: NodeTables, process: string, message: MessageBody): void {
  const where = node.processes.get(process)?.node
  node.out.push(where === undefined || where === '' ? { kind: 'send', process, message } : { kind: 'send', process, node: where, message })
}

/** An actor may come back while its earlier worker still ends. */
export const placementKey = (actor: string, attempt: number): string => `${actor} ${attempt}`

export const allLabels = (config: Pick<NodeConfig, 'node' | 'labels'>): Labels => ({ ...config.labels, [NODE_LABEL]: config.node })

/** Environment variables that take effect only when a process starts. */
export function startVariables(env: Readonly<Record<string, string>>): Record<string, string> {
  const start =
    /^(NODE_OPTIONS|NODE_EXTRA_CA_CERTS|NODE_ICU_DATA|NODE_V8_COVERAGE|NODE_COMPILE_CACHE|UV_THREADPOOL_SIZE|UV_USE_IO_URING|OPENSSL_CONF|GLIBC_TUNABLES|LD_.*|DYLD_.*|MALLOC_.*)$/
  return Object.fromEntries(Object.entries(env).filter(([name]) => start.test(name)))
}

const sortedJson = (env: Readonly<Record<string, string>>): string => JSON.stringify(Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1)))

export const startKeyOf = (execArgv: readonly string[], startEnv: Readonly<Record<string, string>>, startCwd: string): string =>
  `${JSON.stringify(execArgv)} ${sortedJson(startEnv)} ${startCwd}`

/** The folder that a worker must be started in, when its flags name files relative to it (`--import ./setup.ts`); else "", any will do. */
export function startFolder(execArgv: readonly string[], startEnv: Readonly<Record<string, string>>, cwd: string): string {
  return [...execArgv, ...Object.values(startEnv)].some((flag) => /(^|[=\s])\./.test(flag)) ? cwd : ''
}

/** Undefined when the amounts are not numbers that make sense. */
export function parseShape(node: NodeTables, job: Job, shape: Shape | undefined): ParsedShape | undefined {
  const resources = parseResources(shape?.resources)
  if (resources === undefined) return undefined
  const env = shape?.env ?? {}
  const all = startVariables({ ...job.config.env, ...env })
  const startEnv = Object.fromEntries(Object.entries(all).filter(([name, value]) => node.config.startEnv[name] !== value))
  const startCwd = startFolder(job.config.execArgv, startEnv, shape?.workingDir || job.config.cwd)
  return {
    resources,
    env,
    envKey: JSON.stringify([sortedJson(env), shape?.workingDir ?? '', shape?.modules ?? []]),
    workingDir: shape?.workingDir ?? '',
    modules: [...job.config.modules, ...(shape?.modules ?? [])],
    group: shape?.placementGroup ?? '',
    bundle: shape === undefined || shape.placementGroup === '' ? -1 : shape.bundle,
    wish: shape ?? ANYWHERE,
    retriable: shape?.retriable ?? false,
    startEnv,
    startCwd,
    startKey: startKeyOf(job.config.execArgv, startEnv, startCwd),
  }
}

/** The pools that `shape` may use: the node, or the bundles of its group that are here. Undefined: the group is not usable (yet). */
export function poolsOf(node: NodeTables, shape: ParsedShape): Pool[] | undefined {
  if (shape.group === '') return [node.root]
  const group = node.groups.get(shape.group)
  if (group === undefined) return undefined
  const usable = [...group.bundles].filter(([, bundle]) => bundle.state === 'committed')
  if (usable.length === 0) return undefined
  return usable.filter(([index]) => shape.bundle < 0 || shape.bundle === index).map(([, bundle]) => bundle.pool)
}

/** After leases or blocked flags changed. */
export function settleWorker(node: NodeTables, worker: Worker): void {
  if (worker.state === 'starting' || worker.state === 'stopping' || worker.placement !== undefined) return
  if (worker.leases.size === 0) {
    if (worker.state === 'idle') return
    worker.state = 'idle'
    worker.idleSinceMs = node.nowMs
    worker.owns = 'unknown'
    if (worker.retiring) stopWorker(node, worker, false, 'it has done as many calls as one worker may')
    else if (worker.job !== undefined && !jobAlive(node, worker.job.id)) stopWorker(node, worker, false, 'its job has ended')
    return
  }
  worker.state = [...worker.leases].every((lease) => lease.blocked) ? 'blocked' : 'leased'
}

/** Emits the question unless it is on its way. */
export function askWorker(node: NodeTables, worker: Worker): void {
  if (worker.owns === 'asked') return
  worker.owns = 'asked'
  node.out.push({ kind: 'worker-ask', worker: worker.id })
}

/** Its driver is attached, or actors of it outlive the driver, or it has processes on other nodes. */
export function jobAlive(node: NodeTables, job: string): boolean {
  if (node.processes.has(job) || node.jobsElsewhere.has(job)) return true
  for (const placement of node.placements.values()) if (placement.worker?.job?.id === job) return true
  return false
}

export function stopWorker(node: NodeTables, worker: Worker, force: boolean, reason: string): void {
  if (worker.state === 'stopping' && (!force || worker.killed)) return
  worker.state = 'stopping'
  worker.killed = force
  if (worker.stopReason === '') worker.stopReason = reason
  node.out.push({ kind: 'worker-stop', worker: worker.id, force, reason })
}

/** Its holder pushes nothing more to it, and returns it when what runs has ended. */
export function reclaimLease(node: NodeTables, lease: Lease): void {
  if (lease.reclaiming || lease.worker.state === 'stopping') return
  lease.reclaiming = true
  send(node, lease.process, { $case: 'leaseReclaim', value: { lease: lease.id } })
}

/** Everything that the node has, and all of it free. */
export function emptyRoot(config: NodeConfig): Pool {
  const gpus = new Map<number, number>()
  for (let index = 0; index * UNIT < config.total.gpus; index++) gpus.set(index, Math.min(UNIT, config.total.gpus - index * UNIT))
  return new Pool('node', config.total, gpus)
}
