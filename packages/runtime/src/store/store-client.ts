/**
 * A control store as its users see it, over any engine: groups writes, repeats what got no answer, keeps leases and watches.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import { type Backend, ConnectionLost } from './backend.ts'
import { type Change, type Conditional, type ControlStore, type Entry, type Guard, KEY_BYTES_MAX, type Lease, type Watch, type Write } from './control-store.ts'
import type { Condition, Operation, Outcome, Transaction } from './transaction.ts'
import { Watcher } from './watcher.ts'

/** A group takes no more than this at a time. */
const GROUP_TRANSACTIONS_MAX = 5_000
const GROUP_BYTES_MAX = 8 * 1_048_576
/** Waits between tries: doubles from the first to the second. */
const RETRY_DELAY_MS = 20
const RETRY_DELAY_MAX_MS = 1_000

const log = debug('store')

interface Waiting {
  readonly transaction: Transaction
  readonly bytes: number
  readonly call: string
  readonly untilMs: number
  readonly resolve: (outcome: Outcome) => void
  readonly reject: (error: Error) => void
}

export interface StoreClientOptions {
  readonly url: string
  /** How long a call repeats itself without an answer. */
  readonly retryMs: number
}

export class StoreClient implements ControlStore {
  readonly url: string
  readonly #backend: Backend
  readonly #retryMs: number
  readonly #client = randomBytes(8).toString('hex')
  #sequence = 0
  #queue: Waiting[] = []
  #committing: Promise<void> | undefined
  readonly #watchers = new Set<Watcher>()
  readonly #closed = new AbortController()

  /** @throws {@link BeamlineError} `CONTROL_STORE_UNREACHABLE`, and what the engine says */
  static async open(backend: Backend, options: StoreClientOptions): Promise<StoreClient> {
    const client = new StoreClient(backend, options)
    try {
      await client.#read('open', () => backend.open())
      return client
    } catch (error) {
      await client.close()
      throw error
    }
  }

  private constructor(backend: Backend, options: StoreClientOptions) {
    this.#backend = backend
    this.url = options.url
    this.#retryMs = options.retryMs
  }

  get shared(): boolean {
    return this.#backend.shared
  }

  get(key: string): Promise<Entry | undefined> {
    checkKey(key)
    return this.#read(`get(${JSON.stringify(key)})`, () => this.#backend.get(key))
  }

  async scan(prefix: string): Promise<Entry[]> {
    const { entries } = await this.#read(`scan(${JSON.stringify(prefix)})`, () => this.#backend.scan(prefix))
    return entries.toSorted((a, b) => (a.key < b.key ? -1 : 1))
  }

  async put(key: string, value: Uint8Array): Promise<number> {
    return (await this.#commit('put', [], [{ kind: 'put', key, value }]))!
  }

  compareAndSet(key: string, expectedRevision: number, value: Uint8Array): Promise<number | undefined> {
    return this.#commit('compareAndSet', [{ key, revision: expectedRevision }], [{ kind: 'put', key, value }])
  }

  async delete(key: string): Promise<void> {
    await this.#commit('delete', [], [{ kind: 'delete', key }])
  }

  async write(batch: readonly Write[], guard?: Guard): Promise<number> {
    const conditions = guard === undefined ? [] : [{ key: guard.key, token: guard.token }]
    const revision = await this.#commit('write', conditions, batch.map(toOperation))
    if (revision === undefined) throw new BeamlineError('LEASE_LOST', { store: this.url, key: guard?.key ?? '' })
    return revision
  }

  async lease(key: string, value: Uint8Array, ttlMs: number, also: readonly Conditional[] = [], over: number = 0): Promise<Lease | undefined> {
    const token = randomBytes(8).toString('hex')
    const conditions = [{ key, revision: over }, ...also.map((one) => ({ key: one.key, revision: one.expectedRevision }))]
    const operations: Operation[] = [{ kind: 'put', key, value, token, ttlMs }, ...also.map(toOperation)]
    const askedMs = performance.now()
    const revision = await this.#commit('lease', conditions, operations)
    return revision === undefined ? undefined : new HeldLease({ key, token, revision, ttlMs, askedMs, commit: (...call) => this.#commit(...call) })
  }

  async watch(prefix: string, onChange: (changes: readonly Change[]) => void): Promise<Watch> {
    const watcher = new Watcher(this.#backend, prefix, onChange, (call) => this.#repeat(`watch(${JSON.stringify(prefix)})`, Infinity, call))
    this.#watchers.add(watcher)
    const close = (): void => {
      this.#watchers.delete(watcher)
      watcher.close()
    }
    try {
      await this.#read(`watch(${JSON.stringify(prefix)})`, () => watcher.start())
    } catch (error) {
      close()
      throw error
    }
    return { close }
  }

  async close(): Promise<void> {
    for (const watcher of this.#watchers) watcher.close()
    await this.#committing
    this.#closed.abort()
    await this.#backend.close()
  }

  // ---------------------------------------------------------------- writes

  #commit(call: string, conditions: readonly Condition[], operations: readonly Operation[], withinMs: number = this.#retryMs): Promise<Outcome> {
    let bytes = 0
    for (const operation of operations) {
      checkKey(operation.key)
      bytes += operation.key.length + (operation.kind === 'put' ? operation.value.length : 0)
    }
    const untilMs = performance.now() + withinMs
    return new Promise((resolve, reject) => {
      this.#queue.push({ transaction: { conditions, operations }, bytes, call, untilMs, resolve, reject })
      this.#committing ??= this.#commitAll()
    })
  }

  async #commitAll(): Promise<void> {
    // What the rest of this turn asks for belongs to the first group.
    await Promise.resolve()
    while (this.#queue.length > 0) {
      const group = this.#nextGroup()
      const sequence = ++this.#sequence
      const transactions = group.map(({ transaction }) => transaction)
      const untilMs = Math.max(...group.map((one) => one.untilMs))
      try {
        const outcomes = await this.#repeat(group[0]!.call, untilMs, () => this.#backend.commit({ client: this.#client, sequence, transactions }))
        for (const [index, { resolve }] of group.entries()) resolve(outcomes[index])
      } catch (error) {
        for (const { reject } of group) reject(error as Error)
      }
    }
    this.#committing = undefined
  }

  #nextGroup(): Waiting[] {
    let bytes = 0
    let count = 0
    for (const waiting of this.#queue) {
      bytes += waiting.bytes
      if (count > 0 && (count === GROUP_TRANSACTIONS_MAX || bytes > GROUP_BYTES_MAX)) break
      count++
    }
    return this.#queue.splice(0, count)
  }

  // ---------------------------------------------------------------- repetition

  #read<T>(call: string, ask: () => Promise<T>): Promise<T> {
    return this.#repeat(call, performance.now() + this.#retryMs, ask)
  }

  async #repeat<T>(call: string, untilMs: number, ask: () => Promise<T>): Promise<T> {
    const startMs = performance.now()
    const { signal } = this.#closed
    for (let waitMs = RETRY_DELAY_MS; ; waitMs = Math.min(2 * waitMs, RETRY_DELAY_MAX_MS)) {
      if (signal.aborted) throw this.#unreachable(call, startMs, 'it was closed')
      try {
        return await ask()
      } catch (error) {
        if (!(error instanceof ConnectionLost)) throw error
        log(() => `${call}: ${error.message}`)
        const leftMs = untilMs - performance.now()
        if (leftMs <= 0) throw this.#unreachable(call, startMs, error.message, error)
        await delay(Math.min(waitMs, leftMs), undefined, { signal }).catch(() => {})
      }
    }
  }

  #unreachable(call: string, startMs: number, reason: string, cause?: Error): BeamlineError {
    return new BeamlineError('CONTROL_STORE_UNREACHABLE', { store: this.url, call, waitedMs: Math.round(performance.now() - startMs), reason }, { cause })
  }
}

type Commit = (call: string, conditions: readonly Condition[], operations: readonly Operation[], withinMs?: number) => Promise<Outcome>

class HeldLease implements Lease {
  readonly key: string
  readonly token: string
  readonly revision: number
  readonly #ttlMs: number
  readonly #commit: Commit
  #deadlineMs: number

  constructor(options: { key: string; token: string; revision: number; ttlMs: number; askedMs: number; commit: Commit }) {
    this.key = options.key
    this.token = options.token
    this.revision = options.revision
    this.#ttlMs = options.ttlMs
    this.#commit = options.commit
    this.#deadlineMs = this.#deadlineFrom(options.askedMs)
  }

  get held(): boolean {
    return performance.now() < this.#deadlineMs
  }

  get deadlineMs(): number {
    return this.#deadlineMs
  }

  async renew(): Promise<boolean> {
    const { key, token } = this
    const askedMs = performance.now()
    const renewed = await this.#commit('renew', [{ key, token }], [{ kind: 'renew', key, ttlMs: this.#ttlMs }], Math.max(0, this.#deadlineMs - askedMs))
    this.#deadlineMs = renewed === undefined ? -Infinity : this.#deadlineFrom(askedMs)
    return renewed !== undefined
  }

  async release(): Promise<void> {
    const { key, token } = this
    this.#deadlineMs = -Infinity
    await this.#commit('release', [{ key, token }], [{ kind: 'delete', key }])
  }

  // The store counts from when it got the request, which is later.
  #deadlineFrom(askedMs: number): number {
    return askedMs + 0.9 * this.#ttlMs
  }
}

function toOperation({ key, value }: Write): Operation {
  return value === undefined ? { kind: 'delete', key } : { kind: 'put', key, value }
}

function checkKey(key: string): void {
  if (key !== '' && !key.includes('\0') && key.isWellFormed() && Buffer.byteLength(key) <= KEY_BYTES_MAX) return
  const got = key.length > 40 ? `${JSON.stringify(key.slice(0, 40))}… of ${Buffer.byteLength(key)} bytes` : JSON.stringify(key)
  throw new BeamlineError('INVALID_ARGUMENT', { what: 'a key of the control store', got, expected: `text of 1 to ${KEY_BYTES_MAX} bytes without NUL` })
}
