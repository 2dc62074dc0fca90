/**
 * One node of a {@link TestCluster}: a daemon that the command line started, its folders, its host if it has one, and what can be done to it.
 */
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { ClusterClient } from '../cli/client.ts'
import { inheritedFlags } from '../daemon/inherited-flags.ts'
import type { DaemonOptions } from '../daemon/options.ts'
import { BeamlineError } from '../errors.ts'
import type { TestHost } from './network.ts'
import { Program, type ProgramOptions } from './program.ts'
import { TEST_ENV } from './registry.ts'
import { run } from './shell.ts'
import { until, type WaitOptions } from './wait.ts'

/** What `beamline start` takes, apart from what the cluster decides, and what surrounds the node. */
export interface TestNodeOptions
  extends Pick<
    DaemonOptions,
    | 'cpus'
    | 'gpus'
    | 'memoryBytes'
    | 'resources'
    | 'labels'
    | 'storeBytes'
    | 'prestart'
    | 'workersMax'
    | 'idleTimeoutMs'
    | 'nodeTimeoutMs'
    | 'heartbeatMs'
    | 'headTimeoutMs'
  > {
  /** Size of the disk that its temporary folder is on, with logs and spilled objects; default: the disk of the machine. Needs root. */
  readonly diskBytes?: number
  /** For the daemon and everything on the node. */
  readonly env?: Readonly<Record<string, string>>
  /** Further arguments of `beamline start`. */
  readonly args?: readonly string[]
}

/** What `beamline start --json` prints. */
export interface StartedDaemon {
  /** `unix:/…/node.sock` */
  readonly address: string
  readonly cluster: string
  readonly node: string
  readonly sessionDir: string
  readonly storeDir: string
  readonly pid: number
  /** HOST:PORT */
  readonly mesh: string
}

/** What a daemon writes into its session, of which this needs these. */
interface Holder {
  readonly pid: number
  readonly storeDir: string
  readonly published?: Pick<StartedDaemon, 'address' | 'cluster' | 'node' | 'mesh'>
}

/** What the cluster tells its nodes. */
export interface NodeSurroundings {
  readonly id: string
  readonly index: number
  readonly temporary: string
  readonly store: string
  readonly host: TestHost | undefined
  readonly token: string
  /** `--head …` or `--address …`, at each start. */
  readonly role: () => readonly string[]
}

export interface DriverOptions extends ProgramOptions {
  readonly args?: readonly string[]
  /** Flags of Node. */
  readonly flags?: readonly string[]
}

type Runtime = typeof import('../index.ts')
type Testing = typeof import('./index.ts')

const CALLS_MS = 15_000
const GONE_MS = 15_000
const FILLER = 'filler'
const isSource = import.meta.url.endsWith('.ts')
const flagsOfNode = (): string[] => {
  const flags = inheritedFlags(process.execArgv)
  const condition = '--conditions=@beamline/source'
  return isSource && !flags.includes(condition) ? [condition, ...flags] : flags
}

export class TestNode {
  readonly index: number
  readonly options: TestNodeOptions
  /** In a namespace of its own; undefined for a plain process. */
  readonly host: TestHost | undefined
  /** BEAMLINE_TMPDIR of everything on it. */
  readonly temporary: string
  /** BEAMLINE_STORE_DIR. */
  readonly store: string
  /** True when its last daemon was killed: such a one leaves its files to the next. */
  wasKilled = false
  readonly #surroundings: NodeSurroundings
  readonly #programs: Set<Program> = new Set()
  #started: StartedDaemon | undefined
  #isPaused = false

  constructor(options: TestNodeOptions, surroundings: NodeSurroundings) {
    this.options = options
    this.#surroundings = surroundings
    this.index = surroundings.index
    this.host = surroundings.host
    this.temporary = join(surroundings.temporary, String(this.index))
    this.store = join(surroundings.store, String(this.index))
  }

  /** Its daemon, as it says itself: one that was declared dead goes on as another node, with another session. */
  get daemon(): StartedDaemon {
    const started = this.#started
    if (started === undefined) throw new BeamlineError('START_FAILED', { what: `node ${this.index}`, reason: 'it was not started yet' })
    if (existsSync(started.sessionDir) || isGone(started.pid)) return started
    const now = this.#sessions().find(({ pid }) => pid === started.pid)
    if (now !== undefined) this.#started = { ...started, ...now }
    return this.#started as StartedDaemon
  }
  get pid(): number {
    if (this.#started === undefined) return this.daemon.pid
    return this.#started.pid
  }
  /** Id of the node: another one after each restart, and when its daemon was declared dead. */
  get id(): string {
    return this.daemon.node
  }
  /** For `init({ address })` in programs on this node. */
  get address(): string {
    return this.daemon.address
  }
  get sessionDir(): string {
    return this.daemon.sessionDir
  }
  get isPaused(): boolean {
    return this.#isPaused
  }
  /** Workers that its daemon has at least. */
  get workersWarm(): number {
    const { cpus = 1, prestart = Math.ceil(cpus), workersMax = prestart } = this.options
    return Math.min(prestart, workersMax)
  }
  /** Whether its daemon runs, or is stopped by a signal. */
  get isRunning(): boolean {
    return this.#started !== undefined && !isGone(this.#started.pid)
  }

  /**
   * Starts its daemon; the second time a new one in the same surroundings.
   *
   * @throws Error with what `beamline start` said
   */
  async start(): Promise<void> {
    await this.#prepare()
    const role = this.#surroundings.role()
    const flags = ['start', '--json', ...role, ...flagsOf(this.options, role.includes('--head')), ...(this.options.args ?? [])]
    this.#started = (await this.cli(...flags)) as StartedDaemon
    this.#isPaused = false
    this.wasKilled = false
  }

  /** Sends a signal to its daemon and waits until it is gone, when that is how the signal ends it. Its workers end with it. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    if (signal === 'SIGKILL') this.wasKilled = true
    send(this.pid, signal)
    if (this.#isPaused && signal !== 'SIGKILL') this.resume()
    await this.gone()
  }

  /** Waits until its daemon is gone, however it ended. */
  async gone(options: WaitOptions = {}): Promise<void> {
    await until(`end of the daemon of node ${this.index}`, () => isGone(this.pid) || `process ${this.pid} still runs`, { withinMs: GONE_MS, ...options })
  }

  /** Stops its daemon with SIGSTOP: it does nothing and its connections stay. Its workers go on. */
  pause(): void {
    send(this.pid, 'SIGSTOP')
    this.#isPaused = true
  }

  resume(): void {
    send(this.pid, 'SIGCONT')
    this.#isPaused = false
  }

  /** Kills its daemon if it runs, and starts another. */
  async restart(): Promise<void> {
    if (this.isRunning) await this.kill()
    await this.start()
  }

  /** The command line that runs `argv` on this node. */
  command(argv: readonly string[]): readonly string[] {
    return this.host?.command(argv) ?? argv
  }

  /** Variables of everything on this node; a program finds the cluster by them, and its own index in BEAMLINE_TEST_NODE. */
  environment(): Record<string, string> {
    return {
      NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? join(this.#surroundings.temporary, 'compile-cache'),
      ...this.options.env,
      [TEST_ENV]: this.#surroundings.id,
      BEAMLINE_TEST_NODE: String(this.index),
      BEAMLINE_TMPDIR: this.temporary,
      BEAMLINE_STORE_DIR: this.store,
      BEAMLINE_TOKEN: this.#surroundings.token,
      BEAMLINE_ADDRESS: this.#started?.address ?? '',
    }
  }

  /**
   * Makes this process one of this node, until the result is disposed of: `init()` joins the cluster as a program there would. Only for plain processes:
   * a process cannot move to a host.
   *
   * @example
   * using _here = cluster.head.settle()
   * await using _program = await init()
   */
  settle(): Disposable {
    if (this.host !== undefined) throw new BeamlineError('INVALID_ARGUMENT', { what: 'isolation', got: 'netns', expected: 'process: this one cannot move' })
    const before = { ...process.env }
    // Compiled code is cached where it was before.
    const { NODE_COMPILE_CACHE: _cache, ...environment } = this.environment()
    Object.assign(process.env, environment)
    return {
      [Symbol.dispose]: () => {
        for (const name of Object.keys(environment)) {
          if (before[name] === undefined) delete process.env[name]
          else process.env[name] = before[name]
        }
      },
    }
  }

  /** Runs a program on this node. It is killed at the end of the cluster, if it still runs. */
  exec(argv: readonly string[], options: ProgramOptions = {}): Program {
    const program = new Program(this.command(argv), { ...options, env: { ...this.environment(), ...options.env } })
    this.#programs.add(program)
    void program.exited.then(() => this.#programs.delete(program))
    return program
  }

  /**
   * Runs a driver on this node: a file for Node, or a function that uses nothing but its parameters and gets the runtime and this package's
   * helpers. `init()` in it finds the cluster. Under vitest such a function must not `import()`: its text would be another.
   *
   * @example
   * const driver = node.driver(async ({ init, get, remote }, { tell }) => {
   *   await using _cluster = await init()
   *   tell('sum', { value: await get(remote((a: number, b: number) => a + b).remote(1, 2)) })
   * })
   * expect(await driver.event('sum')).toMatchObject({ value: 3 })
   */
  driver(program: string | ((runtime: Runtime, testing: Testing) => Promise<void>), options: DriverOptions = {}): Program {
    const { args = [], flags = [], ...rest } = options
    const file = typeof program === 'string' ? program : this.#fileOf(program)
    return this.exec([process.execPath, ...flagsOfNode(), ...flags, file, ...args], rest)
  }

  /**
   * Runs the command line on this node.
   *
   * @returns what it printed, parsed; with `--json` for the commands that know it
   * @throws Error with what it said
   */
  async cli(...args: string[]): Promise<unknown> {
    const main = new URL(`../cli/main.${isSource ? 'ts' : 'js'}`, import.meta.url).pathname
    const env = args[0] === 'start' ? { BEAMLINE_ADDRESS: undefined } : {}
    const program = this.exec([process.execPath, ...flagsOfNode(), main, ...args], { cwd: this.temporary, env })
    const { code, stdout, stderr } = await program.exited
    if (code !== 0) throw new Error(`node ${this.index}: \`beamline ${args.join(' ')}\` ended with status ${code}: ${stderr.trim() || stdout.trim()}`)
    return args.includes('--json') ? JSON.parse(stdout) : stdout
  }

  /**
   * Asks its daemon, as `beamline list` and `beamline status` do.
   *
   * @param what - status, nodes, workers, actors, groups, leases, drivers, objects, tasks, …
   */
  async query<T>(what: string, limit = 0): Promise<T> {
    if (this.#isPaused) throw new Error(`node ${this.index} is paused`)
    if (!this.isRunning) throw new Error(`the daemon of node ${this.index} is gone`)
    const asked = (async () => {
      await using client = await ClusterClient.connect(this.address, this.#surroundings.token)
      return await client.query<T>(what, limit)
    })()
    const { promise: late, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new Error(`node ${this.index} did not answer the query "${what}" in ${CALLS_MS / 1_000} s`)), CALLS_MS)
    asked.catch(() => undefined) // it may fail after nobody waits for it any more
    return Promise.race([asked, late]).finally(() => clearTimeout(timer))
  }

  /** Rows of `beamline list`. */
  async list<T>(what: string): Promise<readonly T[]> {
    const answer = await this.query<readonly T[] | { rows: readonly T[] }>(what)
    return 'rows' in answer ? answer.rows : answer
  }

  /** Everything that its daemons said, also those before. */
  log(): string {
    const root = this.#sessionsRoot()
    const files = existsSync(root) ? readdirSync(root).map((session) => join(root, session, 'logs', 'daemon.log')) : []
    return files
      .filter((file) => existsSync(file))
      .map((file) => readFileSync(file, 'utf8'))
      .join('')
  }

  /** Writes to its disk until there is no room; {@link TestNodeOptions.diskBytes} must be given. */
  fillDisk(): void {
    if (this.options.diskBytes === undefined) throw new BeamlineError('INVALID_ARGUMENT', { what: 'diskBytes', got: 'undefined', expected: 'a size' })
    const file = openSync(join(this.temporary, FILLER), 'a')
    let block = Buffer.alloc(1 << 20)
    try {
      while (block.length > 0) {
        try {
          writeSync(file, block)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
          block = block.subarray(0, block.length >> 1)
        }
      }
    } finally {
      closeSync(file)
    }
  }

  emptyDisk(): void {
    rmSync(join(this.temporary, FILLER), { force: true })
  }

  /** @internal Ends it in order, as far as it can. */
  async end(): Promise<void> {
    await Promise.all([...this.#programs].map((program) => program[Symbol.asyncDispose]()))
    if (!this.isRunning) return
    if (this.#isPaused) this.resume()
    this.emptyDisk()
    await this.kill('SIGTERM')
  }

  /** What the daemons of its temporary folder say of themselves. */
  #sessions(): StartedDaemon[] {
    const root = this.#sessionsRoot()
    const names = existsSync(root) ? readdirSync(root).filter((name) => /^[0-9a-f]{16}$/.test(name)) : []
    return names.flatMap((name) => {
      try {
        const holder = JSON.parse(readFileSync(join(root, name, 'daemon.json'), 'utf8')) as Holder
        return holder.published === undefined ? [] : [{ ...holder.published, pid: holder.pid, sessionDir: join(root, name), storeDir: holder.storeDir }]
      } catch {
        return []
      }
    })
  }

  #sessionsRoot(): string {
    return join(this.temporary, `beamline-${process.getuid?.() ?? ''}`)
  }

  async #prepare(): Promise<void> {
    const { diskBytes } = this.options
    const exists = existsSync(this.temporary)
    mkdirSync(this.temporary, { recursive: true, mode: 0o700 })
    mkdirSync(this.store, { recursive: true, mode: 0o700 })
    if (diskBytes !== undefined && !exists) await run(['mount', '-t', 'tmpfs', '-o', `size=${diskBytes},mode=700`, 'tmpfs', this.temporary])
  }

  #fileOf(program: (runtime: Runtime, testing: Testing) => Promise<void>): string {
    const extension = isSource ? 'ts' : 'js'
    const runtime = new URL(`../index.${extension}`, import.meta.url).href
    const testing = new URL(`./index.${extension}`, import.meta.url).href
    const file = join(this.temporary, `driver-${process.hrtime.bigint()}.mjs`)
    writeFileSync(file, `import * as runtime from '${runtime}'\nimport * as testing from '${testing}'\nawait (${program.toString()})(runtime, testing)\n`)
    return file
  }
}

/** Fields of TestNodeOptions that are flags of the command line. */
const FLAGS = [
  'cpus',
  'gpus',
  'memoryBytes',
  'resources',
  'labels',
  'storeBytes',
  'prestart',
  'workersMax',
  'idleTimeoutMs',
  'nodeTimeoutMs',
  'heartbeatMs',
  'headTimeoutMs',
] as const

/** The head tells them. */
const HEAD_FLAGS: readonly string[] = ['nodeTimeoutMs', 'heartbeatMs']

function flagsOf(options: TestNodeOptions, head: boolean): string[] {
  return FLAGS.flatMap((name) => {
    const value = options[name]
    if (value === undefined || (!head && HEAD_FLAGS.includes(name))) return []
    const text =
      typeof value === 'object'
        ? Object.entries(value)
            .map(([key, each]) => `${key}=${each}`)
            .join(',')
        : String(value)
    return text === '' ? [] : [`--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`, text]
  })
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It ended before.
  }
}

/** True once no such process runs; one that only waits for its parent to notice runs no more. */
export function isGone(pid: number): boolean {
  if (process.platform !== 'linux') {
    try {
      process.kill(pid, 0)
      return false
    } catch {
      return true
    }
  }
  try {
    return /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return true
  }
}
