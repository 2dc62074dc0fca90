/**
 * The files of one cluster run on this machine: session directory (sockets, logs, token), store directory, and the file `current` that
 * points to the running standalone head. Everything is private to the user (0700, 0600). Only node: modules, because it is on the path of every start.
 *
 *     <tmp>/beamline-<uid>/<cluster>/node.sock  <process>.sock  token  daemon.json  logs/
 *     <tmp>/beamline-<uid>/current              the standalone head, for address "auto"
 *     /dev/shm/beamline-<uid>-<cluster>/        segments (macOS: <session>/store)
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { BeamlineError } from '../errors.ts'
import { SESSION_ENV } from './bootstrap.ts'

export interface Session {
  /** 16 hex digits */
  readonly cluster: string
  /** 16 hex digits */
  readonly node: string
  readonly dir: string
  readonly storeDir: string
  readonly address: string
  readonly token: string
}

/** Who runs a session; `daemon.json`. */
interface Holder {
  readonly pid: number
  /** Start time of that process, so that a reused pid is not taken for it; "" where the system does not tell. */
  readonly started: string
  readonly storeDir: string
}

/** What `current` says of the running head. */
export interface CurrentHead extends Holder {
  readonly address: string
  readonly sessionDir: string
  readonly cluster: string
}

const SHARED_MEMORY = '/dev/shm'
/** Longest path of a unix socket on Linux (macOS: 103). */
const SOCKET_PATH_MAX = 103

const uid = (): number => process.getuid?.() ?? userInfo().uid

export function sessionsRoot(): string {
  return join(process.env['BEAMLINE_TMPDIR'] || tmpdir(), `beamline-${uid()}`)
}

/**
 * Make the directories and the token of a new cluster run.
 *
 * @throws BeamlineError `START_FAILED` when the temporary folder cannot be used, `STORE_UNAVAILABLE` when the shared memory cannot
 */
export function createSession(): Session {
  const root = sessionsRoot()
  const cluster = randomBytes(8).toString('hex')
  const node = randomBytes(8).toString('hex')
  const dir = join(root, cluster)
  const socket = join(dir, `${node}.sock`)
  if (socket.length > SOCKET_PATH_MAX) {
    throw new BeamlineError('START_FAILED', {
      what: 'the node daemon',
      reason: `the path ${socket} is too long for a socket; set BEAMLINE_TMPDIR to a shorter folder`,
    })
  }
  const token = randomBytes(32).toString('hex')
  try {
    mkdirSync(root, { recursive: true, mode: 0o700 })
    const { uid: owner, mode } = statSync(root)
    if (owner !== uid()) throw new Error(`it belongs to user ${owner}`)
    if ((mode & 0o022) !== 0) throw new Error(`other users may write to it (mode ${(mode & 0o777).toString(8)})`)
    chmodSync(root, 0o700)
    mkdirSync(join(dir, 'logs'), { recursive: true, mode: 0o700 })
    writeFileSync(join(dir, 'token'), token, { mode: 0o600 })
  } catch (cause) {
    throw new BeamlineError(
      'START_FAILED',
      { what: 'the node daemon', reason: `it cannot use ${root}: ${(cause as Error).message}; set BEAMLINE_TMPDIR to a writable folder` },
      { cause },
    )
  }
  const storeDir = process.platform === 'linux' ? join(SHARED_MEMORY, `beamline-${uid()}-${cluster}`) : join(dir, 'store')
  try {
    mkdirSync(storeDir, { mode: 0o700 })
  } catch (cause) {
    rmSync(dir, { recursive: true, force: true })
    throw new BeamlineError('STORE_UNAVAILABLE', { path: storeDir, reason: (cause as Error).message }, { cause })
  }
  const session = { cluster, node, dir, storeDir, address: `unix:${join(dir, 'node.sock')}`, token }
  holdSession(session)
  return session
}

/** Say that this process runs the session. */
export function holdSession(session: Session): void {
  const holder: Holder = { pid: process.pid, started: startTime(process.pid), storeDir: session.storeDir }
  writeFileSync(join(session.dir, 'daemon.json'), JSON.stringify(holder), { mode: 0o600 })
}

export function removeSession(session: Pick<Session, 'dir' | 'storeDir'>): void {
  rmSync(session.storeDir, { recursive: true, force: true })
  rmSync(session.dir, { recursive: true, force: true })
}

/** Kill what a daemon that died could not: its workers and all that they started. Linux only; elsewhere workers notice the end of their pipe. */
export function killSessionProcesses(dir: string): void {
  const mark = `${SESSION_ENV}=${dir}`
  for (const pid of entries('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    try {
      if (readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark)) process.kill(Number(pid), 'SIGKILL')
    } catch {
      // Gone, or of another user.
    }
  }
}

/** Remove what dead daemons left. */
export function removeStaleSessions(): void {
  const root = sessionsRoot()
  for (const name of entries(root)) {
    const dir = join(root, name)
    if (!/^[0-9a-f]{16}$/.test(name)) continue
    const holder = readJson<Holder>(join(dir, 'daemon.json'))
    if (holder === undefined ? isYoung(dir) : isAlive(holder)) continue
    // Only a store directory with the name that such a session has: the file could say anything.
    const storeDir = holder?.storeDir === join(SHARED_MEMORY, `beamline-${uid()}-${name}`) ? holder.storeDir : join(dir, 'store')
    killSessionProcesses(dir)
    removeSession({ dir, storeDir })
  }
  const current = readJson<CurrentHead>(join(root, 'current'))
  if (current !== undefined && !isAlive(current)) rmSync(join(root, 'current'), { force: true })
}

/** Its maker may just be writing who it is. */
function isYoung(dir: string): boolean {
  const { mtimeMs } = statSync(dir, { throwIfNoEntry: false }) ?? { mtimeMs: 0 }
  return Date.now() - mtimeMs < 60_000
}

/** Make this process the head that address "auto" finds. */
export function publishCurrent(session: Session): void {
  const head: CurrentHead = {
    pid: process.pid,
    started: startTime(process.pid),
    address: session.address,
    sessionDir: session.dir,
    storeDir: session.storeDir,
    cluster: session.cluster,
  }
  const path = join(sessionsRoot(), 'current')
  const temporary = `${path}.${session.cluster}`
  writeFileSync(temporary, JSON.stringify(head), { mode: 0o600 })
  renameSync(temporary, path)
}

export function withdrawCurrent(session: Session): void {
  const path = join(sessionsRoot(), 'current')
  if (readJson<CurrentHead>(path)?.cluster === session.cluster) rmSync(path, { force: true })
}

/** The standalone head of this user on this machine, if one runs. */
export function findCurrentHead(): CurrentHead | undefined {
  const head = readJson<CurrentHead>(join(sessionsRoot(), 'current'))
  return head !== undefined && isAlive(head) ? head : undefined
}

/**
 * Address and token of a running cluster.
 *
 * @param address - "auto" for this user's head on this machine, else `unix:/path`; token from BEAMLINE_TOKEN, else from the file beside the socket
 * @returns undefined when "auto" finds none
 */
export function findCluster(address: string): { readonly address: string; readonly token: string } | undefined {
  const found = address === 'auto' ? findCurrentHead()?.address : address
  if (found === undefined) return undefined
  const token = process.env['BEAMLINE_TOKEN']
  if (token !== undefined && token !== '') return { address: found, token }
  try {
    return { address: found, token: readFileSync(join(found.replace(/^unix:/, ''), '..', 'token'), 'utf8').trim() }
  } catch {
    return { address: found, token: '' }
  }
}

function isAlive(holder: Holder): boolean {
  if (!Number.isInteger(holder.pid) || holder.pid <= 0) return false
  try {
    process.kill(holder.pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return holder.started === '' || holder.started === startTime(holder.pid)
}

/** Field 22 of /proc/<pid>/stat, after the name in parentheses. */
function startTime(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

function entries(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T
  } catch {
    return undefined
  }
}
