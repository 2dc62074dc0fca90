/**
 * The files of one node daemon on this machine: session directory (sockets, logs, token) and store directory, named by the id of the node, so that
 * several nodes of one cluster can share a machine. `daemon.json` says who runs it; by it programs find the daemons that stay (`auto`), and
 * later daemons remove what dead ones left. Everything is private to the user (0700, 0600). Only node: modules, because it is on the path of every start.
 *
 *     <tmp>/beamline-<uid>/<node>/node.sock  <process>.sock  token  daemon.json  logs/
 *     /dev/shm/beamline-<uid>-<node>/        segments (macOS: <session>/store; or in the folder of BEAMLINE_STORE_DIR)
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { BeamlineError } from '../errors.ts'
import { SESSION_ENV } from './bootstrap.ts'

export interface Session {
  /** 16 hex digits; "" until a node that joins was told. */
  readonly cluster: string
  /** 16 hex digits */
  readonly node: string
  readonly dir: string
  readonly storeDir: string
  /** `unix:/…/node.sock` */
  readonly address: string
  readonly token: string
}

export interface SessionOptions {
  /** Folder for the folder of segments; default: BEAMLINE_STORE_DIR, else /dev/shm. */
  readonly storeDir?: string
  /** Of the cluster that the node joins; default: a new one. */
  readonly token?: string
  /** True: the id of the cluster comes from it later. */
  readonly joins?: boolean
}

/** Who runs a session; `daemon.json`. */
interface Holder {
  readonly pid: number
  /** Start time of that process, so that a reused pid is not taken for it; "" where the system does not tell. */
  readonly started: string
  readonly storeDir: string
  /** Once processes may attach. */
  readonly published?: Published
}

/** What a daemon says of itself to programs on its machine. */
export interface Published {
  /** True: it does not belong to a program. */
  readonly stays: boolean
  readonly cluster: string
  readonly node: string
  readonly address: string
  /** True: the control of the cluster is here. */
  readonly head: boolean
  /** HOST:PORT of the daemon, and of the head when it joined one; "" in a cluster of one machine. */
  readonly mesh: string
  readonly headAddress: string
  /** Address on which processes of this node listen for those of others; "": on none. */
  readonly host: string
  /** Folder with the certificates of the cluster; "": no TLS. */
  readonly tlsDir: string
}

/** A running daemon of this user on this machine. */
export interface LocalDaemon extends Published {
  readonly pid: number
  readonly sessionDir: string
  readonly storeDir: string
}

const SHARED_MEMORY = '/dev/shm'
/** Longest path of a unix socket on Linux (macOS: 103). */
const SOCKET_PATH_MAX = 103

const uid = (): number => process.getuid?.() ?? userInfo().uid

export function sessionsRoot(): string {
  return join(process.env['BEAMLINE_TMPDIR'] || tmpdir(), `beamline-${uid()}`)
}

/** Makes the folder that the user's sessions are in, or makes sure that nobody else may write to it. @throws Error with what is wrong with it */
export function claimSessionsRoot(): void {
  const root = sessionsRoot()
  mkdirSync(root, { recursive: true, mode: 0o700 })
  const { mode } = statSync(root)
  // A link of somebody else may lead to a folder of this user that is for other things.
  for (const { uid: owner } of [lstatSync(root), statSync(root)]) if (owner !== uid()) throw new Error(`it belongs to user ${owner}`)
  if ((mode & 0o022) !== 0) throw new Error(`other users may write to it (mode ${(mode & 0o777).toString(8)})`)
  chmodSync(root, 0o700)
}

/**
 * Make the directories and the token of a new node.
 *
 * @throws BeamlineError `START_FAILED` when the temporary folder cannot be used, `STORE_UNAVAILABLE` when the shared memory cannot
 */
export function createSession(options: SessionOptions = {}): Session {
  const root = sessionsRoot()
  const node = randomBytes(8).toString('hex')
  const dir = join(root, node)
  const socket = join(dir, `${node}.sock`)
  if (socket.length > SOCKET_PATH_MAX) {
    throw new BeamlineError('START_FAILED', {
      what: 'the node daemon',
      reason: `the path ${socket} is too long for a socket; set BEAMLINE_TMPDIR to a shorter folder`,
    })
  }
  const token = options.token ?? randomBytes(32).toString('hex')
  try {
    claimSessionsRoot()
    mkdirSync(join(dir, 'logs'), { recursive: true, mode: 0o700 })
    writeFileSync(join(dir, 'token'), token, { mode: 0o600 })
  } catch (cause) {
    throw new BeamlineError(
      'START_FAILED',
      { what: 'the node daemon', reason: `it cannot use ${root}: ${(cause as Error).message}; set BEAMLINE_TMPDIR to a writable folder` },
      { cause },
    )
  }
  const storeDir = storeFolder(options.storeDir ?? (process.env['BEAMLINE_STORE_DIR'] || undefined), node, dir)
  try {
    mkdirSync(storeDir, { mode: 0o700 })
  } catch (cause) {
    rmSync(dir, { recursive: true, force: true })
    throw new BeamlineError('STORE_UNAVAILABLE', { path: storeDir, reason: (cause as Error).message }, { cause })
  }
  const cluster = options.joins === true ? '' : randomBytes(8).toString('hex')
  const session = { cluster, node, dir, storeDir, address: `unix:${join(dir, 'node.sock')}`, token }
  holdSession(session)
  return session
}

const storeName = (node: string): string => `beamline-${uid()}-${node}`

function storeFolder(wanted: string | undefined, node: string, dir: string): string {
  if (wanted !== undefined) return join(resolve(wanted), storeName(node))
  return process.platform === 'linux' ? join(SHARED_MEMORY, storeName(node)) : join(dir, 'store')
}

/** The same node as a part of the cluster that it found. */
export function adoptSession(session: Session, { cluster, token }: Pick<Session, 'cluster' | 'token'>): Session {
  if (token !== session.token) writeFileSync(join(session.dir, 'token'), token, { mode: 0o600 })
  return { ...session, cluster, token }
}

/** Say that this process runs the session; `published`: that programs may attach to it. */
export function holdSession(session: Session, published?: Published): void {
  const holder: Holder = { pid: process.pid, started: startTime(process.pid), storeDir: session.storeDir, ...(published && { published }) }
  const path = join(session.dir, 'daemon.json')
  writeFileSync(`${path}.new`, JSON.stringify(holder), { mode: 0o600 })
  renameSync(`${path}.new`, path)
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

/** Remove what dead daemons left. Returns their nodes. */
export function removeStaleSessions(): string[] {
  const root = sessionsRoot()
  const gone: string[] = []
  for (const name of entries(root)) {
    const dir = join(root, name)
    if (!/^[0-9a-f]{16}$/.test(name)) continue
    const holder = readJson<Holder>(join(dir, 'daemon.json'))
    if (holder === undefined ? isYoung(dir) : isAlive(holder)) continue
    // Only a store directory with the name that such a session has: the file could say anything.
    const storeDir = holder !== undefined && basename(holder.storeDir) === storeName(name) ? holder.storeDir : join(dir, 'store')
    killSessionProcesses(dir)
    removeSession({ dir, storeDir })
    gone.push(name)
  }
  return gone
}

/** Its maker may just be writing who it is. */
function isYoung(dir: string): boolean {
  const { mtimeMs } = statSync(dir, { throwIfNoEntry: false }) ?? { mtimeMs: 0 }
  return Date.now() - mtimeMs < 60_000
}

/** The running daemons of this user on this machine: those that stay first, and heads first among them. */
export function localDaemons(): LocalDaemon[] {
  const root = sessionsRoot()
  const found: LocalDaemon[] = []
  for (const name of entries(root)) {
    if (!/^[0-9a-f]{16}$/.test(name)) continue
    const holder = readJson<Holder>(join(root, name, 'daemon.json'))
    if (holder?.published === undefined || !isAlive(holder)) continue
    found.push({ ...holder.published, pid: holder.pid, sessionDir: join(root, name), storeDir: holder.storeDir })
  }
  const rank = ({ stays, head }: LocalDaemon): number => (stays ? 2 : 0) + (head ? 1 : 0)
  return found.sort((a, b) => rank(b) - rank(a))
}

/** The head of this user on this machine, if one runs. */
export function findCurrentHead(): LocalDaemon | undefined {
  return localDaemons().find(({ head, stays }) => head && stays)
}

/** A running daemon, and what it takes to attach to it. */
export interface Attachable {
  readonly address: string
  readonly token: string
  readonly sessionDir: string
  readonly node: string
  readonly host: string
  readonly tlsDir: string
}

/**
 * A daemon on this machine that belongs to a cluster.
 *
 * @param address - "auto" for a daemon of this user (the head, if it is one of them), `unix:/path`, or HOST:PORT of the head or of the daemon itself
 * @param token - default: BEAMLINE_TOKEN, else from the file beside the socket
 * @returns undefined when there is none
 */
export function findDaemon(address: string, token: string | undefined = process.env['BEAMLINE_TOKEN'] || undefined): Attachable | undefined {
  const daemons = localDaemons()
  const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined
  const known =
    path === undefined
      ? daemons.find(({ stays, mesh, headAddress }) => stays && (address === 'auto' || address === mesh || address === headAddress))
      : daemons.find((daemon) => daemon.address === address)
  if (known === undefined && path === undefined) return undefined
  const sessionDir = known?.sessionDir ?? join(path as string, '..')
  return {
    address: known?.address ?? address,
    token: token ?? readText(join(sessionDir, 'token')),
    sessionDir,
    node: known?.node ?? basename(sessionDir),
    host: known?.host ?? '',
    tlsDir: known?.tlsDir ?? '',
  }
}

/** The daemon on this machine to which a program of that cluster can go whose own one is gone. */
export function findSuccessor(cluster: string, gone: string): Attachable | undefined {
  const found = localDaemons().find((daemon) => daemon.stays && daemon.cluster === cluster && daemon.node !== gone)
  return found && { ...found, token: readText(join(found.sessionDir, 'token')) }
}

const isAlive = (holder: Holder): boolean => isProcess(holder.pid, holder.started)

/** @param started - as {@link startTime} said */
export function isProcess(pid: number, started: string): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  const stat = statOf(pid)
  // One that is dead and that nobody waited for is still in the table.
  return stat === undefined || (stat[0] !== 'Z' && stat[0] !== 'X' && (started === '' || started === stat[START_TIME]))
}

/** When the process started, as the kernel counts; "" where the system does not tell. */
export function startTime(pid: number): string {
  return statOf(pid)?.[START_TIME] ?? ''
}

/** Place in what `statOf` returns. */
const START_TIME = 19

/** Fields of /proc/<pid>/stat from the third on, which come after the name in parentheses. */
function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  } catch {
    return undefined
  }
}

function entries(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T
  } catch {
    return undefined
  }
}
