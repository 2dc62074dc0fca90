/**
 * Options of a node daemon, their defaults from the machine, and how they travel to the daemon's process (environment variable
 * BEAMLINE_DAEMON, JSON). Only node: modules.
 */
import { statfsSync } from 'node:fs'
import { availableParallelism, hostname, totalmem } from 'node:os'
import { dirname, resolve } from 'node:path'
import { BeamlineError } from '../errors.ts'
import type { Resources } from '../net/gen/node.ts'
import { placeProblem } from '../packages/package-place.ts'
import type { S3Options } from '../spill/s3-target.ts'
import { GPU_LABEL, HOST_LABEL } from '../state/labels.ts'
import { visibleGpus, gpuModel } from './gpus.ts'
import { inheritedFlags } from './inherited-flags.ts'
import type { Session } from './session.ts'

export type { S3Options }

/** Where a node writes objects when its memory runs short. */
export interface SpillOptions {
  /** Folders, best on different disks; they take turns. */
  readonly directories?: readonly string[]
  /** Most bytes in each folder; default: 0.9 of what its disk has free at the start. A disk that is 95 % full gets nothing in any case. */
  readonly quotaBytes?: number
  /** A bucket in the place of folders. */
  readonly s3?: S3Options
}

export interface DaemonOptions {
  /** CPUs to lend; default: those that this process may use. */
  readonly cpus?: number
  /** GPUs to lend; default: those of CUDA_VISIBLE_DEVICES, else the NVIDIA devices of this machine. */
  readonly gpus?: number
  /** Memory to lend, in bytes; default: 0.7 of the machine's. A number for admission, not a limit that is enforced. */
  readonly memoryBytes?: number
  /** Custom resources by name. */
  readonly resources?: Readonly<Record<string, number>>
  /** Capacity of the object store in bytes; default: 0.3 of the machine's memory, at most 0.9 of what /dev/shm has free. */
  readonly storeBytes?: number
  /** Where objects go that the store has no room for; default: a folder of the session. False: nowhere, a full store stays full. */
  readonly spill?: SpillOptions | false
  /** Workers kept warm; default: `cpus`, rounded up. */
  readonly prestart?: number
  /** Most workers that are actors; default 1024. */
  readonly workersMax?: number
  /** Memory that the workers may use together, in bytes: beyond 0.95 of it some are ended. Default: what the machine, or its control group, has. */
  readonly memoryLimitBytes?: number
  /** Most workers that run tasks; default 4 × `cpus`. Exceeded only where nested tasks would wait for each other for ever. */
  readonly taskWorkersMax?: number
  /** Idle workers above `prestart` end after so long; default 10,000. */
  readonly idleTimeoutMs?: number
  /** Flags of Node for prestarted workers; default: those of this process. */
  readonly execArgv?: readonly string[]
  /** File that workers run instead of Beamline's own; for tests. */
  readonly workerEntry?: string
  /** Facts of this machine that tasks and actors may ask for. */
  readonly labels?: Readonly<Record<string, string>>
  /** Folder for the folder of segments; default: BEAMLINE_STORE_DIR, else /dev/shm. */
  readonly storeDir?: string
  /** True: the control of a cluster that other machines may join is here. Without it and `address`: a cluster of one machine. */
  readonly head?: boolean
  /** HOST:PORT of a daemon of the cluster to join. */
  readonly address?: string
  /** Of the cluster; default: a new one, or the one that `store` has. */
  readonly token?: string
  /** Address at which others reach this machine; default: loopback at the head, else the one from which the head is reached. */
  readonly host?: string
  /** Default: 6380 at the head when it is free, else any free one. */
  readonly port?: number
  /** URL of the control store: `memory:`, `sqlite:/path`, `redis://…`, `postgres://…`. */
  readonly store?: string
  /** At the head: where packed code of programs is kept: `s3://bucket/prefix`, or `file:///folder` that every machine sees; default: in the control store. */
  readonly packages?: string
  /** A node that is silent is declared dead within this time; default 10,000. The head tells the others. */
  readonly nodeTimeoutMs?: number
  /** Default 1,000, or a fifth of `nodeTimeoutMs` if that is less. The head tells the others. */
  readonly heartbeatMs?: number
  /** How long nodes go on without a head; default 60,000. */
  readonly headTimeoutMs?: number
  /** Folder with `ca.pem`, `cert.pem` and `key.pem`: every connection between machines is TLS. */
  readonly tlsDir?: string
  /** True: listen beyond loopback without TLS. */
  readonly insecure?: boolean
}

/** How a node takes part in a cluster of several machines. */
export interface ClusterConfig {
  /** True: the control is here. */
  readonly head: boolean
  /** HOST:PORT to join; "" at the head. */
  readonly headAddress: string
  /** "": the address from which the head is reached. */
  readonly host: string
  /** 0: any. */
  readonly port: number
  /** Port to try before any; 0: none. */
  readonly portWished: number
  readonly store: string
  /** URL of the place for packed code; "": the control store. */
  readonly packages: string
  /** URL of the store in which a node can look for the head; "" until it was told one. */
  readonly lookIn: string
  readonly nodeTimeoutMs: number
  readonly heartbeatMs: number
  readonly headTimeoutMs: number
  /** True: the daemon was part of the cluster before, as another node: it waits longer for a head, and when it was the head there may be another. */
  readonly again: boolean
  /** "": no TLS. */
  readonly tlsDir: string
  readonly insecure: boolean
}

/** What the daemon's process is told. */
export interface DaemonConfig {
  readonly session: Session
  /** Ends with the process at the other end of its stdin. */
  readonly embedded: boolean
  /** Process that started it. */
  readonly starterPid: number
  readonly total: Resources
  readonly gpuDevices: readonly string[]
  readonly storeBytes: number
  readonly spill: SpillOptions | false
  readonly prestart: number
  readonly memoryLimitBytes: number | undefined
  readonly actorWorkersMax: number
  readonly taskWorkersMax: number
  readonly idleTimeoutMs: number
  readonly execArgv: readonly string[]
  /** Folder that relative paths in `execArgv` start from. */
  readonly cwd: string
  readonly workerEntry: string
  readonly labels: Readonly<Record<string, string>>
  /** Absent: a cluster of one machine. */
  readonly cluster?: ClusterConfig
}

export const DAEMON_CONFIG_ENV = 'BEAMLINE_DAEMON'

/** What the daemon prints on stdout, as one line of JSON, when processes may attach. */
export interface DaemonReady {
  /** `unix:/…/node.sock` */
  readonly address: string
  readonly token: string
  readonly cluster: string
  readonly node: string
  readonly sessionDir: string
  readonly storeDir: string
  readonly pid: number
  /** HOST:PORT at which other daemons reach it; "" in a cluster of one machine. */
  readonly mesh: string
  /** Address on which processes of this node listen for those of others; "": on none. */
  readonly host: string
  /** Folder with the certificates of the cluster; "": no TLS. */
  readonly tlsDir: string
}

const UNIT = 10_000
/** Keeps nothing beyond the head's process. */
export const MEMORY_STORE = 'memory:'
const HEAD_PORT = 6_380
const PORT_MAX = 65_535
const NODE_TIMEOUT_MIN_MS = 1_000

/** @throws BeamlineError `INVALID_ARGUMENT` that names the option */
export function daemonConfig(options: DaemonOptions, session: Session, embedded: boolean): DaemonConfig {
  const cpus = amount('cpus', options.cpus ?? availableParallelism())
  const devices = visibleGpus()
  const gpus = amount('gpus', options.gpus ?? devices.length)
  const custom: Record<string, number> = {}
  for (const [name, value] of Object.entries(options.resources ?? {})) {
    if (/^(cpus?|gpus?|memory)$/i.test(name)) throw invalid(`resources.${name}`, String(value), `the option "${name.toLowerCase()}" itself`)
    custom[name] = amount(`resources.${name}`, value)
  }
  const cpuCount = Math.max(1, Math.ceil(cpus / UNIT))
  const entry = import.meta.url.endsWith('.ts') ? '../worker/worker-main.ts' : '../worker/worker-main.js'
  return {
    session,
    embedded,
    starterPid: process.pid,
    total: { cpus, gpus, memoryBytes: count('memoryBytes', options.memoryBytes ?? Math.floor(0.7 * totalmem())), custom },
    gpuDevices: Array.from({ length: Math.ceil(gpus / UNIT) }, (_, index) => devices[index] ?? String(index)),
    storeBytes: count('storeBytes', options.storeBytes ?? defaultStoreBytes(session.storeDir)),
    spill: spillOf(options.spill ?? {}),
    prestart: count('prestart', options.prestart ?? Math.ceil(cpus / UNIT)),
    memoryLimitBytes: options.memoryLimitBytes === undefined ? undefined : count('memoryLimitBytes', options.memoryLimitBytes),
    actorWorkersMax: count('workersMax', options.workersMax ?? 1_024),
    taskWorkersMax: Math.max(1, count('taskWorkersMax', options.taskWorkersMax ?? 4 * cpuCount)),
    idleTimeoutMs: count('idleTimeoutMs', options.idleTimeoutMs ?? 10_000),
    execArgv: options.execArgv ?? inheritedFlags(process.execArgv),
    cwd: process.cwd(),
    workerEntry: options.workerEntry ?? new URL(entry, import.meta.url).pathname,
    labels: { ...hostLabels(gpus), ...options.labels },
    ...(options.head === true || options.address !== undefined ? { cluster: clusterConfig(options) } : {}),
  }
}

function clusterConfig(options: DaemonOptions): ClusterConfig {
  const { head = false, address = '', host, port, store, packages = '', tlsDir = '', insecure = false } = options
  if (head && address !== '') throw invalid('address', JSON.stringify(address), 'no address at a head')
  if (!head && !/^.+:\d+$/.test(address)) throw invalid('address', JSON.stringify(address), 'HOST:PORT of a daemon')
  if (host !== undefined && isWildcard(host)) throw invalid('host', JSON.stringify(host), 'the one address at which other machines reach this one')
  for (const name of ['store', 'packages', 'nodeTimeoutMs', 'heartbeatMs'] as const) {
    const value = options[name]
    if (!head && value !== undefined) throw invalid(name, JSON.stringify(value), 'nothing at a node that joins: its head tells it')
  }
  const problem = packages === '' ? undefined : placeProblem(packages)
  if (problem !== undefined)
    throw invalid('packages', `${JSON.stringify(packages)} (${problem})`, 's3://BUCKET/PREFIX, or file:///FOLDER of a folder that is there')
  const nodeTimeoutMs = count('nodeTimeoutMs', options.nodeTimeoutMs ?? 10_000)
  if (nodeTimeoutMs < NODE_TIMEOUT_MIN_MS) throw invalid('nodeTimeoutMs', String(nodeTimeoutMs), `${NODE_TIMEOUT_MIN_MS} or more`)
  const heartbeatMs = count('heartbeatMs', options.heartbeatMs ?? Math.min(1_000, Math.floor(nodeTimeoutMs / 5)))
  // One may be lost, and a cut-off node ends its workers before its time is over.
  if (heartbeatMs === 0 || 3 * heartbeatMs > nodeTimeoutMs)
    throw invalid('heartbeatMs', String(heartbeatMs), `1 to ${Math.floor(nodeTimeoutMs / 3)}, a third of nodeTimeoutMs`)
  if (count('port', port ?? 0) > PORT_MAX) throw invalid('port', String(port), `at most ${PORT_MAX}`)
  return {
    head,
    headAddress: address,
    host: host ?? (head ? '127.0.0.1' : ''),
    port: port ?? 0,
    portWished: head && port === undefined ? HEAD_PORT : 0,
    store: store ?? MEMORY_STORE,
    packages,
    lookIn: '',
    nodeTimeoutMs,
    heartbeatMs,
    headTimeoutMs: count('headTimeoutMs', options.headTimeoutMs ?? 60_000),
    again: false,
    tlsDir,
    insecure,
  }
}

/** Every address of this machine: one can listen there, and nobody reach it. */
const isWildcard = (host: string): boolean => /^(0+(\.0+){0,3}|\[?[0:]*::[0:]*\]?)$/.test(host)

const invalid = (what: string, got: string, expected: string): BeamlineError => new BeamlineError('INVALID_ARGUMENT', { what, got, expected })

function amount(what: string, value: number): number {
  const fixed = Math.round(value * UNIT)
  if (!Number.isSafeInteger(fixed) || fixed < 0) throw invalid(what, String(value), 'a number that is not negative')
  return fixed
}

function count(what: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw invalid(what, String(value), 'a whole number that is not negative')
  return value
}

/** Labels that this machine gives itself. */
function hostLabels(gpus: number): Record<string, string> {
  const model = gpus > 0 ? gpuModel() : undefined
  return { [HOST_LABEL]: hostname(), ...(model !== undefined && { [GPU_LABEL]: model }) }
}

function spillOf(options: SpillOptions | false): SpillOptions | false {
  if (options === false) return false
  const { directories, quotaBytes, s3 } = options
  if (directories?.length === 0) throw invalid('spill.directories', 'empty', 'at least one folder, or spill: false')
  if (s3 && directories) throw invalid('spill', 'a bucket and folders', 'one of both')
  if (quotaBytes !== undefined) count('spill.quotaBytes', quotaBytes)
  return { ...options, ...(directories && { directories: directories.map((directory) => resolve(directory)) }) }
}

function defaultStoreBytes(storeDir: string): number {
  const { bavail, bsize } = statfsSync(dirname(storeDir))
  return Math.floor(Math.min(0.3 * totalmem(), 0.9 * bavail * bsize))
}
