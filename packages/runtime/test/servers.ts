/**
 * Real Redis and PostgreSQL servers for tests, each on a free port with files of its own. They are the packages of the system; where they are not
 * installed, their tests are skipped with a word why, but not in CI, where `.ci/system-packages` installs them.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { appendFileSync, chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** PostgreSQL does not run as root. */
const NOBODY = 65_534
const asNobody = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}

export interface Server {
  readonly url: string
  readonly pid: number
  start(): Promise<void>
  /** SIGKILL, as when the machine's memory runs out. */
  kill(): Promise<void>
  /** SIGSTOP: connections stay and nothing answers. */
  pause(): void
  resume(): void
  /** End it and remove its files. */
  close(): Promise<void>
}

const redisBinary = findBinary('redis-server', [])
const postgresFolders = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql').map((version) => `/usr/lib/postgresql/${version}/bin`) : []
const postgresBinary = findBinary('postgres', postgresFolders)
const initdbBinary = findBinary('initdb', postgresFolders)

/** True when the tests of a server must be skipped: it is not here, and this is not CI. */
export const noRedis: boolean = skipped('redis-server', redisBinary)
export const noPostgres: boolean = skipped('postgresql', postgresBinary ?? initdbBinary)

function skipped(name: string, binary: string | undefined): boolean {
  if (binary !== undefined || process.env['CI'] !== undefined) return false
  process.stderr.write(`${name} is not installed: its tests are skipped (apt-get install ${name})\n`)
  return true
}

function findBinary(name: string, folders: readonly string[]): string | undefined {
  return [...(process.env['PATH'] ?? '').split(delimiter), ...folders].map((folder) => join(folder, name)).find((path) => existsSync(path))
}

function needed(name: string, binary: string | undefined): string {
  if (binary === undefined) throw new Error(`${name} is not installed: apt-get install ${name}`)
  return binary
}

/** @param settings - laid over an append-only file with a sync for each write */
export async function redisServer(settings: Readonly<Record<string, string>> = {}): Promise<Server> {
  const port = await freePort()
  const binary = needed('redis-server', redisBinary)
  const dir = mkdtempSync(join(tmpdir(), 'beamline-redis-'))
  const all = { port: String(port), bind: '127.0.0.1', dir, save: '', appendonly: 'yes', appendfsync: 'always', ...settings }
  const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value])
  const server = new ServerProcess(`redis://127.0.0.1:${port}/0`, dir, 'SIGKILL', /Ready to accept connections/, () => spawn(binary, args))
  await server.start()
  return server
}

/** @param listen - "0.0.0.0": also for hosts of a test network */
export async function postgresServer(listen: '127.0.0.1' | '0.0.0.0' = '127.0.0.1'): Promise<Server> {
  const port = await freePort()
  const binary = needed('postgresql', postgresBinary)
  const initdb = needed('postgresql', initdbBinary)
  const dir = mkdtempSync(join(tmpdir(), 'beamline-postgres-'))
  if (asNobody.uid !== undefined) chownSync(dir, NOBODY, NOBODY)
  const data = join(dir, 'data')
  execFileSync(initdb, ['-D', data, '-U', 'beamline', '--auth=trust', '--no-sync', '--encoding=UTF8', '--locale=C'], { ...asNobody, cwd: dir, stdio: 'pipe' })
  if (listen === '0.0.0.0') appendFileSync(join(data, 'pg_hba.conf'), 'host all all 0.0.0.0/0 trust\n')
  const args = ['-D', data, '-p', String(port), '-k', dir, '-c', `listen_addresses=${listen}`, '-c', 'max_connections=30']
  const url = `postgres://beamline@127.0.0.1:${port}/postgres`
  const server = new ServerProcess(url, dir, 'SIGQUIT', /database system is ready to accept connections/, () => spawn(binary, args, { ...asNobody, cwd: dir }))
  await server.start()
  return server
}

class ServerProcess implements Server {
  readonly url: string
  readonly #dir: string
  readonly #stopSignal: NodeJS.Signals
  readonly #ready: RegExp
  readonly #spawn: () => ChildProcess
  #child: ChildProcess | undefined
  #ended: Promise<unknown> = Promise.resolve()

  constructor(url: string, dir: string, stopSignal: NodeJS.Signals, ready: RegExp, start: () => ChildProcess) {
    this.url = url
    this.#dir = dir
    this.#stopSignal = stopSignal
    this.#ready = ready
    this.#spawn = start
    process.once('exit', () => this.#child?.kill('SIGKILL'))
  }

  get pid(): number {
    return this.#child!.pid!
  }

  async start(): Promise<void> {
    // What a killed server left running holds its files for a moment.
    for (let tries = 1; ; tries++) {
      try {
        return await this.#startOnce()
      } catch (error) {
        if (tries === 20) throw error
        await delay(100)
      }
    }
  }

  async #startOnce(): Promise<void> {
    const child = this.#spawn()
    this.#child = child
    this.#ended = new Promise((resolve) => child.once('exit', resolve))
    let output = ''
    await new Promise<void>((resolve, reject) => {
      const take = (chunk: Buffer): void => {
        output += String(chunk)
        if (this.#ready.test(output)) resolve()
      }
      child.stdout!.on('data', take)
      child.stderr!.on('data', take)
      child.once('error', reject)
      child.once('exit', () => reject(new Error(`the server did not start:\n${output}`)))
    })
  }

  async kill(): Promise<void> {
    this.#child!.kill('SIGKILL')
    await this.#ended
  }

  pause(): void {
    this.#signal('SIGSTOP')
  }

  resume(): void {
    this.#signal('SIGCONT')
  }

  // PostgreSQL has a process for each connection.
  #signal(name: NodeJS.Signals): void {
    const children = existsSync(`/proc/${this.pid}`) ? readFileSync(`/proc/${this.pid}/task/${this.pid}/children`, 'utf8') : ''
    for (const pid of [this.pid, ...children.split(' ').filter(Boolean).map(Number)]) process.kill(pid, name)
  }

  async close(): Promise<void> {
    this.#child!.kill(this.#stopSignal)
    await this.#ended
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}
