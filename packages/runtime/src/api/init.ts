/**
 * `init()`: this program joins a cluster, its own or a running one.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, realpathSync } from 'node:fs'
import { constants, hostname } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type CallSiteObject, getCallSites } from 'node:util'
import { current, currentOrNone, setCurrent } from '../core/current.ts'
import type { Runtime } from '../core/runtime.ts'
import { inheritedFlags } from '../daemon/inherited-flags.ts'
import type { SpillOptions } from '../daemon/options.ts'
import type { Attachable } from '../daemon/session.ts'
import type { DaemonHandle } from '../daemon/start.ts'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { JobConfig } from '../net/gen/node.ts'
import type { CodePackage } from '../packages/pack.ts'
import { loadOwn } from '../own-imports.ts'
import { KINDS } from './kinds.ts'
import { printLogLines, printWarning } from './output.ts'
import { checkNames, type Environment, toEnvironment } from './options.ts'

/** Options of {@link init}. */
export interface InitOptions {
  /**
   * `auto` (a daemon that `beamline start` left running on this machine), its `unix:/…` address, or `HOST:PORT` of any daemon of a cluster: without a
   * daemon of that cluster on this machine the program brings one that lends nothing and leaves with it. Default: BEAMLINE_ADDRESS, else a cluster of its own.
   */
  readonly address?: string
  /** Default: BEAMLINE_TOKEN, else the token file of the daemon on this machine. */
  readonly token?: string
  /** Folder with the certificates of a cluster at `HOST:PORT`. Default: BEAMLINE_TLS_DIR. */
  readonly tlsDir?: string
  /** Take part in a cluster beyond this machine without TLS. Default false. */
  readonly insecure?: boolean
  /** CPUs of a cluster of its own. Default: those that this process may use. */
  readonly cpus?: number
  /** Default: those that the machine has. */
  readonly gpus?: number
  /** Memory to hand out, in bytes. Default: 0.7 of the machine's. */
  readonly memory?: number
  /** Custom resources by name. */
  readonly resources?: Readonly<Record<string, number>>
  /** Capacity of the object store. Default: 0.3 of the machine's memory, at most 0.9 of what /dev/shm has free. */
  readonly storeBytes?: number
  /**
   * Where objects go that the store has no room for: folders, best on several disks, or a bucket. Default: a folder that goes with the cluster, on the
   * disk of the temporary folder. False: nowhere, a `put` that finds no room fails with `STORE_FULL`.
   */
  readonly spill?: SpillOptions | false
  /** Workers kept warm. Default: `cpus`. */
  readonly prestart?: number
  /** How long a worker beyond those may idle. Default 10,000. */
  readonly idleTimeoutMs?: number
  /** Of named actors. Default: "default". */
  readonly namespace?: string
  /**
   * What workers of this program find around them; tasks and actors may have their own on top. `workingDir` also says which code other machines get:
   * all of that folder. Default: the folder that the program runs in, and the code root of its entry file, see the decision on code packages.
   */
  readonly env?: Environment
  /**
   * How long a program waits, when the daemon of a cluster of several machines that it attached to was killed, for another daemon of that cluster on its
   * machine. Meanwhile nothing fails, and what runs on other machines goes on. 0: not at all. Default 60,000.
   */
  readonly reconnectMs?: number
  /** Show what workers print. Default true. */
  readonly logToDriver?: boolean
  /** No warnings on stderr. Default false. */
  readonly quiet?: boolean
}

const INIT_OPTIONS = [
  'address',
  'token',
  'tlsDir',
  'insecure',
  'cpus',
  'gpus',
  'memory',
  'resources',
  'storeBytes',
  'spill',
  'prestart',
  'idleTimeoutMs',
  'namespace',
  'env',
  'reconnectMs',
  'logToDriver',
  'quiet',
]

/** The cluster that this program belongs to. */
export interface Cluster extends AsyncDisposable {
  /** 16 hex digits, new at each start. */
  readonly id: string
  /** `unix:/…`; for `init({ address })` in other programs. */
  readonly address: string
  /** Logs of the daemon and the workers are in its folder `logs`. */
  readonly sessionDir: string
  /** Leave; a cluster of its own ends with all its workers. Also done at the end of the program. */
  shutdown(): Promise<void>
}

let stopping: (() => Promise<void>) | undefined
let starting = false
/** Deeper than most programs call `init()` from their entry file. */
const CALLERS_MAX = 30

/** True between `init()` and `shutdown()`, and always in a worker. */
export function isInitialized(): boolean {
  return currentOrNone() !== undefined
}

/**
 * Join a cluster: start one on this machine (a node daemon and its workers, which end with this program), or attach to
 * a running one. Takes about 0.2 s.
 *
 * The cluster keeps the program running only while something is pending: a call, a `get`, a `wait`, a `put`. A program
 * that waits for nothing any more ends by itself, and its own cluster ends with it in order, as by {@link shutdown}.
 * After `process.exit()`, an uncaught exception or a kill, the cluster ends without order: it notices within a moment.
 *
 * @throws {@link BeamlineError} `ALREADY_INITIALIZED`, `INVALID_ARGUMENT`, `START_FAILED`, `UNAUTHENTICATED`, `STORE_UNAVAILABLE`
 * @example
 * await using cluster = await init({ cpus: 4 })
 */
export async function init(options: InitOptions = {}): Promise<Cluster> {
  if (currentOrNone() || starting) throw new BeamlineError('ALREADY_INITIALIZED', {})
  checkNames('init', options, INIT_OPTIONS)
  starting = true
  const callers = getCallSites(CALLERS_MAX)
  const release = endBetweenTurns()
  try {
    return await start(options, callers)
  } finally {
    release()
    starting = false
  }
}

async function start(options: InitOptions, callers: readonly CallSiteObject[]): Promise<Cluster> {
  const { reconnectMs = LIMITS.reconnectMs } = options
  if (typeof reconnectMs !== 'number' || !(reconnectMs >= 0)) {
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'reconnectMs', got: String(reconnectMs), expected: 'milliseconds, 0 or more' })
  }
  const address = options.address ?? (process.env['BEAMLINE_ADDRESS'] || undefined)
  const { useCompileCache } = await import('../daemon/compile-cache.ts')
  useCompileCache()
  // The daemon's process comes first: its start is the longest part. What this process needs (network part, parser and
  // the rest) loads meanwhile, and from the cache at the next start.
  const starting = address === undefined ? startOwn(await import('../daemon/start.ts'), options) : joinAt(address, options)
  starting.catch(() => undefined) // awaited below
  // What captures closures comes first: where it needs a debugger, V8 hashes every script that is loaded, 10 ms for a million characters.
  const runtimeModule = loadOwn(async () => {
    const { prepareEntry } = await import('../functions/function-facts.ts')
    prepareEntry(callers)
    return import('../core/runtime.ts')
  })
  runtimeModule.catch(() => undefined) // awaited below, unless the daemon fails first
  const found = await starting
  const daemon = 'stop' in found ? found : undefined
  const id = randomBytes(8).toString('hex')
  let runtime: Runtime
  let attached: Runtime | undefined
  try {
    const { job, code } = await jobOf(options, found.host !== '')
    const { Runtime } = await runtimeModule
    runtime = attached = await Runtime.attach({
      kind: 'driver',
      process: id,
      address: `unix:${join(found.sessionDir, `${id}.sock`)}`,
      nodeAddress: found.address,
      network: found.host === '' ? undefined : await import('../net/network.ts').then(({ networkOf }) => networkOf(found)),
      token: found.token,
      job,
      kinds: KINDS,
    })
    if (code) await import('../packages/upload.ts').then(({ uploadCode }) => uploadCode(runtime, code))
    if (daemon === undefined && found.host !== '' && reconnectMs > 0) {
      runtime.outlive({ withinMs: reconnectMs, find: (await import('../daemon/session.ts')).findSuccessor })
    }
  } catch (error) {
    await attached?.close(daemon !== undefined, 'its start failed')
    await daemon?.stop()
    throw BeamlineError.is(error)
      ? error
      : new BeamlineError('START_FAILED', { what: `the connection to ${found.address}`, reason: (error as Error).message }, { cause: error })
  }
  if (options.logToDriver ?? true) runtime.events.on('logLines', printLogLines)
  if (!options.quiet) runtime.events.on('warning', printWarning)
  const shutdown = async (): Promise<void> => {
    if (stopping !== shutdown) return
    stopping = undefined
    process.off('beforeExit', shutdownAtExit)
    if (!interrupted) removeSignalHandlers()
    try {
      await runtime.close(daemon !== undefined, 'the driver shut it down')
      await daemon?.stop()
    } finally {
      setCurrent(undefined)
    }
  }
  const shutdownAtExit = (): void => void shutdown()
  stopping = shutdown
  runtime.events.once('closed', (error) => {
    // Lost, not left: calls keep failing with the reason until shutdown().
    if (error && !options.quiet) printWarning(error.message)
  })
  setCurrent(runtime)
  process.on('beforeExit', shutdownAtExit)
  installSignalHandlers(daemon)
  return {
    id: runtime.cluster.cluster,
    address: found.address,
    sessionDir: found.sessionDir,
    shutdown,
    [Symbol.asyncDispose]: shutdown,
  }
}

/** Its process is spawned when this returns. */
function startOwn({ startDaemon }: typeof import('../daemon/start.ts'), options: InitOptions): Promise<DaemonHandle> {
  const { cpus, gpus, memory, resources, storeBytes, spill, prestart, idleTimeoutMs } = options
  const wanted = { cpus, gpus, memoryBytes: memory, resources, storeBytes, spill, prestart, idleTimeoutMs }
  return startDaemon({ embedded: true, ...(Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)) as object) })
}

/** A daemon on this machine, else one of this program's own that joins. */
async function joinAt(address: string, options: InitOptions): Promise<DaemonHandle | Attachable> {
  const remote = /^[^/]+:\d+$/.test(address)
  if (address !== 'auto' && !address.startsWith('unix:/') && !remote) {
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'address', got: JSON.stringify(address), expected: '"auto", "unix:/path/node.sock" or "HOST:PORT"' })
  }
  const { findDaemon } = await import('../daemon/session.ts')
  const found = findDaemon(address, options.token)
  if (found) return found
  if (!remote)
    throw new BeamlineError('START_FAILED', {
      what: 'the connection to a running daemon',
      reason: 'there is none on this machine; `beamline start --head` starts one',
    })
  const token = options.token ?? process.env['BEAMLINE_TOKEN']
  if (!token) {
    throw new BeamlineError('INVALID_ARGUMENT', {
      what: 'token',
      got: 'absent',
      expected: `the token of the cluster at ${address}, or BEAMLINE_TOKEN: the head keeps it in its session's folder`,
    })
  }
  const tlsDir = options.tlsDir ?? (process.env['BEAMLINE_TLS_DIR'] || undefined)
  const { startDaemon } = await import('../daemon/start.ts')
  return await startDaemon({
    embedded: true,
    cpus: 0,
    gpus: 0,
    memoryBytes: 0,
    prestart: 0,
    address,
    token,
    ...(options.storeBytes !== undefined && { storeBytes: options.storeBytes }),
    ...(options.spill !== undefined && { spill: options.spill }),
    ...(tlsDir !== undefined && { tlsDir }),
    insecure: options.insecure ?? false,
  })
}

/** @param spread - other machines may take part: they need the code */
async function jobOf(options: InitOptions, spread: boolean): Promise<{ readonly job: JobConfig; readonly code: CodePackage | undefined }> {
  const argument = process.argv[1] ?? ''
  const entry = argument.startsWith('file:') ? fileURLToPath(argument) : argument
  const { vars, workingDir, modules } = toEnvironment(options.env)
  if (workingDir !== '' && !existsSync(workingDir)) {
    const hint = 'make it, or pass the folder that holds the code'
    throw new BeamlineError('ENVIRONMENT_INVALID', { what: 'env.workingDir', path: workingDir, host: hostname(), reason: 'it does not exist', hint })
  }
  const cwd = workingDir || process.cwd()
  let [root, code]: [string, CodePackage | undefined] = ['', undefined]
  if (spread) {
    const { findCodeRoot } = await import('../packages/code-root.ts')
    const { packCode } = await import('../packages/pack.ts')
    const codeRoot = workingDir === '' ? findCodeRoot(entry || join(cwd, 'repl')) : { root: realpathSync(workingDir), isLoose: false }
    root = codeRoot.root
    code = packCode(codeRoot)
  }
  const job = {
    name: basename(entry) || 'driver',
    namespace: options.namespace ?? 'default',
    cwd,
    entry,
    execArgv: inheritedFlags(process.execArgv),
    env: vars,
    logToDriver: options.logToDriver ?? true,
    package: code?.digest ?? '',
    root,
    modules,
  }
  return { job, code }
}

/** Leave the cluster; see {@link Cluster.shutdown}. Does nothing when there is none. */
export async function shutdown(): Promise<void> {
  await stopping?.()
}

// ---------------------------------------------------------------- Ctrl-C

let interrupted = false
let onSignal: ((signal: NodeJS.Signals) => void) | undefined

/**
 * While a cluster starts, a signal ends the program between turns only: never between the making of the cluster's files and the start of the
 * daemon that removes them.
 */
function endBetweenTurns(): () => void {
  const end = (signal: NodeJS.Signals): void => {
    if (process.listenerCount(signal) === 1) process.exit(128 + constants.signals[signal])
  }
  process.on('SIGINT', end)
  process.on('SIGTERM', end)
  return () => {
    process.off('SIGINT', end)
    process.off('SIGTERM', end)
  }
}

/** Ctrl-C once: cancel, stop the cluster, exit with 130. Twice: at once. Programs with a handler of their own keep it. */
function installSignalHandlers(daemon: DaemonHandle | undefined): void {
  interrupted = false
  onSignal = (signal) => {
    if (process.listenerCount(signal) > 1) return
    const code = 128 + constants.signals[signal]
    if (interrupted) {
      daemon?.kill()
      process.exit(code)
    }
    interrupted = true
    process.stderr.write(`\n${signal}: stopping the cluster; again to stop at once\n`)
    void shutdown().finally(() => process.exit(code))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
}

function removeSignalHandlers(): void {
  if (!onSignal) return
  process.off('SIGINT', onSignal)
  process.off('SIGTERM', onSignal)
}

/** Facts of the cluster that this process belongs to. Resources in plain numbers, sizes in bytes. */
export function clusterInfo(): {
  readonly id: string
  readonly node: string
  readonly process: string
  readonly cpus: number
  readonly gpus: number
  readonly memory: number
  readonly storeBytes: number
  readonly resources: Readonly<Record<string, number>>
} {
  const { cluster, process: id } = current('clusterInfo()')
  const { cpus = 0, gpus = 0, memoryBytes = 0, custom = {} } = cluster.total ?? {}
  return {
    id: cluster.cluster,
    node: cluster.node,
    process: id,
    cpus: cpus / 10_000,
    gpus: gpus / 10_000,
    memory: memoryBytes,
    storeBytes: cluster.storeBytes,
    resources: Object.fromEntries(Object.entries(custom).map(([name, amount]) => [name, amount / 10_000])),
  }
}
