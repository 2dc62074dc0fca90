/**
 * Worker processes: started, watched, ended. Each runs in its own process group, so that what user code starts ends with it.
 * Which worker is for what is decided elsewhere (state/node-state.ts).
 */
import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import type { EdgeInstruction, WorkerExit } from '../state/events.ts'
import { LISTENING_LINE, SESSION_ENV, WORKER_BOOTSTRAP_ENV, type WorkerBootstrap } from './bootstrap.ts'
import type { Logs, WorkerLog } from './logs.ts'

/** A worker that was told to exit gets SIGTERM after the first, and SIGKILL after the second: all is gone in less than 5 s. */
const EXIT_GRACE_MS = 2_000
const KILL_AFTER_MS = 2_000
/** Pipes may stay open in a child of the dead worker that left its group; its output is not waited for longer than this. */
const DRAIN_MS = 200

export interface WorkerPoolOptions {
  /** File of worker-main. */
  readonly entry: string
  readonly logs: Logs
  readonly bootstrap: (worker: string) => WorkerBootstrap
  readonly onExit: (worker: string, exit: WorkerExit) => void
}

interface Child {
  readonly worker: string
  readonly process: ChildProcess
  /** On which it listens for other processes; a killed one leaves it. */
  readonly socket: string
  readonly out: WorkerLog
  readonly err: WorkerLog
  timer: NodeJS.Timeout | undefined
  gone: boolean
}

export class WorkerPool {
  readonly #options: WorkerPoolOptions
  readonly #children: Map<string, Child> = new Map()
  #listening = false
  #closing: (() => void) | undefined

  constructor(options: WorkerPoolOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#children.size
  }

  pid(worker: string): number {
    return this.#children.get(worker)?.process.pid ?? 0
  }

  spawn({ worker, cwd, execArgv, env }: Extract<EdgeInstruction, { kind: 'worker-spawn' }>): void {
    if (this.#closing !== undefined) return
    const { entry, logs, bootstrap } = this.#options
    const told = bootstrap(worker)
    let child: ChildProcessByStdio<Writable, Readable, Readable>
    try {
      child = spawn(process.execPath, [...execArgv, entry], {
        detached: true,
        ...(cwd === '' ? {} : { cwd }),
        stdio: ['pipe', 'pipe', 'pipe'],
        env: { ...process.env, ...env, [SESSION_ENV]: told.sessionDir, [WORKER_BOOTSTRAP_ENV]: JSON.stringify(told) },
      })
    } catch (error) {
      // Flags that cannot be passed on, such as one with a null character.
      queueMicrotask(() => this.#options.onExit(worker, { code: null, signal: null, stderr: (error as Error).message }))
      return
    }
    const socket = join(told.sessionDir, `${worker}.sock`)
    const record: Child = { worker, process: child, socket, out: logs.open(worker, 'out'), err: logs.open(worker, 'err'), timer: undefined, gone: false }
    this.#children.set(worker, record)
    child.stdout.on('data', (chunk: Buffer) => record.out.write(chunk))
    child.stderr.on('data', (chunk: Buffer) => record.err.write(chunk))
    for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe.on('error', () => {})
    child.on('error', (error) => {
      if (child.pid === undefined)
        this.#gone(record, { code: null, signal: null, stderr: cwd === '' || existsSync(cwd) ? error.message : `its working directory ${cwd} does not exist` })
    })
    child.on('exit', (code, signal) => {
      // What it started and left in its group ends with it.
      this.#kill(record, 'SIGKILL')
      const done = (): void => this.#gone(record, { code, signal, stderr: record.err.tail() })
      child.on('close', done)
      setTimeout(done, DRAIN_MS)
    })
    if (this.#listening) child.stdin.write(`${LISTENING_LINE}\n`)
  }

  /** The node's socket accepts connections: tell the workers, present and future. */
  listening(): void {
    this.#listening = true
    for (const { process: child } of this.#children.values()) child.stdin?.write(`${LISTENING_LINE}\n`)
  }

  /**
   * End a worker. By force: SIGKILL to its group now. Else it has been told to exit and gets signals when it does not.
   *
   * @param told - it got the Exit message; otherwise SIGTERM is sent at once
   */
  stop(worker: string, force: boolean, told: boolean): void {
    const child = this.#children.get(worker)
    if (child === undefined) return
    clearTimeout(child.timer)
    if (force) return this.#kill(child, 'SIGKILL')
    const terminate = (): void => {
      this.#kill(child, 'SIGTERM')
      child.timer = setTimeout(() => this.#kill(child, 'SIGKILL'), KILL_AFTER_MS)
    }
    if (told) child.timer = setTimeout(terminate, EXIT_GRACE_MS)
    else terminate()
  }

  /** End all and wait until they are gone: those that were told to exit have `graceMs` for it. */
  async close(graceMs: number): Promise<void> {
    if (this.#children.size === 0) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#closing = resolve
    // The end of the lifeline: a worker that reads it exits.
    for (const { process: child } of this.#children.values()) child.stdin?.end()
    const killer = setTimeout(() => {
      for (const child of this.#children.values()) this.#kill(child, 'SIGKILL')
    }, graceMs)
    await promise
    clearTimeout(killer)
  }

  #kill(child: Child, signal: NodeJS.Signals): void {
    if (child.process.pid === undefined) return
    try {
      process.kill(-child.process.pid, signal)
    } catch {
      // The group is empty.
    }
  }

  #gone(child: Child, exit: WorkerExit): void {
    if (child.gone) return
    child.gone = true
    clearTimeout(child.timer)
    child.out.close()
    child.err.close()
    rmSync(child.socket, { force: true })
    this.#children.delete(child.worker)
    this.#options.logs.forget(child.worker)
    this.#options.onExit(child.worker, exit)
    if (this.#children.size === 0) this.#closing?.()
  }
}
