/** A control store in a SQLite file (sqlite-tables.ts), kept by a thread of this process. */
import { Worker } from 'node:worker_threads'
import { BeamlineError } from '../errors.ts'
import type { Backend, Changes, Group, Scan } from './backend.ts'
import type { Entry } from './control-store.ts'
import type { SqliteAnswer, SqliteCall } from './sqlite-thread.ts'
import type { Outcome } from './transaction.ts'

interface Pending {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

export class SqliteBackend implements Backend {
  readonly shared: boolean = false
  readonly #path: string
  readonly #thread: Worker
  readonly #pending = new Map<number, Pending>()
  readonly #followers = new Set<() => void>()
  readonly #opened: Promise<unknown>
  readonly #ended: Promise<void>
  #requests = 0
  #dead: Error | undefined

  constructor(path: string) {
    this.#path = path
    this.#opened = new Promise((resolve, reject) => this.#pending.set(0, { resolve, reject }))
    this.#opened.catch(() => {})
    this.#thread = new Worker(new URL(import.meta.url.endsWith('.ts') ? './sqlite-thread.ts' : './sqlite-thread.js', import.meta.url), { workerData: path })
    this.#thread.on('message', (answer: SqliteAnswer) => this.#answered(answer))
    this.#thread.on('error', (error) => this.#died((error as Error).message))
    this.#ended = new Promise((resolve) =>
      this.#thread.on('exit', () => {
        this.#died('it was closed')
        resolve()
      }),
    )
  }

  /** @throws {@link BeamlineError} `CONTROL_STORE_IN_USE` when another process has the file, `CONTROL_STORE_FAILED` */
  async open(): Promise<void> {
    await this.#opened
  }

  async commit({ transactions }: Group): Promise<Outcome[]> {
    const { outcomes, changed } = (await this.#ask({ kind: 'commit', transactions })) as { outcomes: Outcome[]; changed: boolean }
    if (changed) for (const wake of this.#followers) wake()
    return outcomes
  }

  get(key: string): Promise<Entry | undefined> {
    return this.#ask({ kind: 'get', key }) as Promise<Entry | undefined>
  }

  scan(prefix: string): Promise<Scan> {
    return this.#ask({ kind: 'scan', prefix }) as Promise<Scan>
  }

  changes(prefix: string, since: number): Promise<Changes> {
    return this.#ask({ kind: 'changes', prefix, since }) as Promise<Changes>
  }

  follow(wake: () => void): Promise<() => void> {
    this.#followers.add(wake)
    return Promise.resolve(() => void this.#followers.delete(wake))
  }

  async close(): Promise<void> {
    // The answer is the end of the thread.
    this.#ask({ kind: 'close' }).catch(() => {})
    await this.#ended
  }

  #ask(call: SqliteCall): Promise<unknown> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead)
    const request = ++this.#requests
    return new Promise((resolve, reject) => {
      this.#pending.set(request, { resolve, reject })
      this.#thread.postMessage({ request, call })
    })
  }

  #answered({ request, value, failure }: SqliteAnswer): void {
    const pending = this.#pending.get(request)
    this.#pending.delete(request)
    if (failure === undefined) pending?.resolve(value)
    else pending?.reject(new BeamlineError(failure.code, failure.details as never))
  }

  #died(reason: string): void {
    this.#dead ??= new BeamlineError('CONTROL_STORE_FAILED', { store: `sqlite:${this.#path}`, reason })
    for (const { reject } of this.#pending.values()) reject(this.#dead)
    this.#pending.clear()
  }
}
