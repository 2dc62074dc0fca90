/**
 * Start a node daemon as a process of its own. `init()` embeds one (it ends with the program), `beamline start --head` leaves one running.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BeamlineError } from '../errors.ts'
import { compileCacheFolder } from './compile-cache.ts'
import { DAEMON_CONFIG_ENV, type DaemonConfig, type DaemonOptions, type DaemonReady, daemonConfig } from './options.ts'
import { createSession, killSessionProcesses, removeSession } from './session.ts'

export interface DaemonHandle extends DaemonReady {
  /**
   * End the daemon and all that it started, and remove its files. Resolves when they are gone, within 5 s. Only for embedded daemons:
   * others have their own life and this only lets go of them.
   */
  stop(): Promise<void>
  /** End it without order, now, and remove its files. Synchronous. */
  kill(): void
  /** Resolves with how it ended when the daemon's process is gone. */
  readonly exited: Promise<string>
}

const START_MS = 20_000
/** A daemon of several machines may wait for its control store and for the end of a former head's lease; it says itself when it gives up. */
const WAIT_MS = 30_000
const IN_ORDER = 'it exited in order'
/** The daemon gives its workers 4 s. */
const STOP_MS = 5_000

export interface StartDaemonOptions extends DaemonOptions {
  /** True: the daemon ends with this process. False: it survives. */
  readonly embedded: boolean
}

/**
 * @throws BeamlineError `START_FAILED` with what the daemon said; `INVALID_ARGUMENT`, `STORE_UNAVAILABLE`, `PLATFORM_UNSUPPORTED`
 */
export async function startDaemon(options: StartDaemonOptions): Promise<DaemonHandle> {
  if (process.platform !== 'linux' && process.platform !== 'darwin') throw new BeamlineError('PLATFORM_UNSUPPORTED', { platform: process.platform })
  const session = createSession({
    ...(options.storeDir !== undefined && { storeDir: options.storeDir }),
    ...(options.token !== undefined && { token: options.token }),
    joins: options.address !== undefined,
  })
  const logPath = join(session.dir, 'logs', 'daemon.log')
  let config: DaemonConfig
  let child: ChildProcess
  try {
    config = daemonConfig(options, session, options.embedded)
    child = launch(config, logPath)
  } catch (error) {
    removeSession(session)
    throw error
  }
  const { promise: exited, resolve: exit } = Promise.withResolvers<string>()
  child.once('error', (error) => exit(`it could not be started: ${error.message}`))
  child.once('exit', (code, signal) => exit(code === 0 ? IN_ORDER : signal === null ? `it exited with code ${code}` : `it was ended by signal ${signal}`))
  const limitMs = START_MS + (config.cluster === undefined ? 0 : WAIT_MS + config.cluster.nodeTimeoutMs)
  const ready = await readiness(child, exited, logPath, limitMs).catch((error: unknown) => {
    killGroup(child)
    removeSession(session)
    throw error
  })
  release(child)
  // A daemon that was killed could not clean up; this process may outlive it.
  void exited.then((how) => {
    if (how !== IN_ORDER) killSessionProcesses(session.dir)
    removeSession(session)
  })
  const stop = async (): Promise<void> => {
    if (!options.embedded) return
    child.stdin?.destroy()
    const timer = setTimeout(() => killGroup(child), STOP_MS)
    child.ref()
    await exited
    clearTimeout(timer)
    removeSession(session)
  }
  const kill = (): void => {
    if (!options.embedded) return
    killGroup(child)
    killSessionProcesses(session.dir)
    removeSession(session)
  }
  return { ...ready, stop, kill, exited }
}

function launch(config: DaemonConfig, logPath: string): ChildProcess {
  const main = new URL(import.meta.url.endsWith('.ts') ? './daemon-main.ts' : './daemon-main.js', import.meta.url).pathname
  const log = openSync(logPath, 'a', 0o600)
  try {
    return spawn(process.execPath, [main], {
      detached: true,
      // One that stays must not depend on a folder that may go.
      cwd: config.embedded ? process.cwd() : '/',
      stdio: [config.embedded ? 'pipe' : 'ignore', 'pipe', log],
      env: { NODE_COMPILE_CACHE: compileCacheFolder(), ...process.env, [DAEMON_CONFIG_ENV]: JSON.stringify(config) },
    })
  } finally {
    closeSync(log)
  }
}

async function readiness(child: ChildProcess, exited: Promise<string>, logPath: string, limitMs: number): Promise<DaemonReady> {
  const failed = (reason: string): BeamlineError => {
    const log = readTail(logPath)
    return new BeamlineError('START_FAILED', { what: 'the node daemon', reason: log === '' ? reason : `${reason}; its last lines:\n${log}` })
  }
  const { promise, resolve, reject } = Promise.withResolvers<DaemonReady>()
  let text = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    text += chunk.toString()
    const end = text.indexOf('\n')
    if (end >= 0) resolve(JSON.parse(text.slice(0, end)) as DaemonReady)
  })
  void exited.then((how) => reject(failed(how)))
  const timer = setTimeout(() => reject(failed(`it was not ready after ${limitMs} ms`)), limitMs)
  try {
    return await promise
  } finally {
    clearTimeout(timer)
  }
}

/** The program may end while the daemon runs: then its end of the lifeline closes. */
function release(child: ChildProcess): void {
  child.stdout?.destroy()
  child.unref()
  const lifeline = child.stdin as (NonNullable<ChildProcess['stdin']> & { unref?: () => void }) | null
  lifeline?.on('error', () => {})
  lifeline?.unref?.()
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // gone already
  }
}

function readTail(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim().split('\n').slice(-20).join('\n')
  } catch {
    return ''
  }
}
