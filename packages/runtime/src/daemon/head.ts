/**
 * The head's hold on its cluster: the control store, who the cluster is, and the lease that makes a second head impossible (store/head-lease.ts).
 *
 * Keys of the store: `cluster` (id and token), `epoch` and `head` (the lease), `record/…` (what must outlive this process), `package…` (packed code). Every write is guarded by
 * the lease: a head that was paused and lost it changes nothing any more.
 */
import { hostname } from 'node:os'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { BlobStore } from '../packages/package-blobs.ts'
import type { ControlStore, Write } from '../store/control-store.ts'
import { HeadLease } from '../store/head-lease.ts'
import { openStore } from '../store/open-store.ts'
import { isProcess, startTime } from './session.ts'

const log = debug('head')

/** What outlives a head: `cluster`. */
export interface Identity {
  readonly cluster: string
  readonly token: string
}

const CLUSTER_KEY = 'cluster'
const RECORDS = 'record/'

/** The lease ends well before nodes end theirs: the next head is there in time for them. */
const leaseMs = (nodeTimeoutMs: number): number => Math.max(400, Math.floor(nodeTimeoutMs * 0.4))

export interface OpenHeadOptions {
  readonly url: string
  readonly nodeTimeoutMs: number
  readonly warn: (text: string) => void
  /** For a store that has no cluster yet. */
  readonly fresh: Identity
}

export class HeadStore {
  readonly #store: ControlStore
  readonly #ttlMs: number
  readonly identity: Identity
  #lease: HeadLease | undefined

  private constructor(store: ControlStore, ttlMs: number, identity: Identity) {
    this.#store = store
    this.#ttlMs = ttlMs
    this.identity = identity
  }

  /** Opens the store and reads, or settles, which cluster it is of. */
  static async open(options: OpenHeadOptions): Promise<HeadStore> {
    const store = await openStore(options.url, { warn: options.warn })
    try {
      await store.compareAndSet(CLUSTER_KEY, 0, new TextEncoder().encode(JSON.stringify(options.fresh)))
      const entry = await store.get(CLUSTER_KEY)
      if (entry === undefined) throw new BeamlineError('INTERNAL', { what: `the control store ${store.url} does not have what was written to it` })
      return new HeadStore(store, leaseMs(options.nodeTimeoutMs), JSON.parse(new TextDecoder().decode(entry.value)) as Identity)
    } catch (error) {
      await store.close()
      throw error
    }
  }

  /** Whether nodes on other machines can look for the head in the store themselves. */
  get shared(): boolean {
    return this.#store.shared
  }

  get epoch(): number {
    return this.#lease?.epoch ?? 0
  }

  /** False: another head may decide by now. */
  get isHead(): boolean {
    return this.#lease?.isHead === true
  }

  /**
   * Become the head: waits for the lease of a former one to end.
   *
   * @param address - HOST:PORT of this daemon
   * @param lost - nothing may be decided any more
   * @throws BeamlineError `HEAD_EXISTS`
   */
  async lead(node: string, address: string, lost: (reason: string) => void): Promise<void> {
    const { pid } = process
    const self = { cluster: this.identity.cluster, node, address, ttlMs: this.#ttlMs, host: hostname(), pid, started: startTime(pid) }
    this.#lease = await HeadLease.lead(this.#store, { self, isProcess })
    void this.#lease.lost.then(lost)
  }

  /** What was written before, by key. */
  async records(): Promise<Map<string, string>> {
    const decoder = new TextDecoder()
    return new Map((await this.#store.scan(RECORDS)).map(({ key, value }) => [key.slice(RECORDS.length), decoder.decode(value)]))
  }

  async write(batch: readonly Write[]): Promise<void> {
    await this.#store.write(
      batch.map(({ key, value }) => ({ key: `${RECORDS}${key}`, value })),
      this.#lease?.guard,
    )
  }

  /** For packed code: by keys of its own. */
  get blobs(): BlobStore {
    const store = this.#store
    return {
      quotaBytes: LIMITS.packageStoreBytes,
      get: (key) => store.get(key),
      scan: (prefix) => store.scan(prefix),
      write: (batch) => store.write(batch, this.#lease?.guard),
    }
  }

  /** @param forget - the cluster ends with this head: nothing of it is kept */
  async close(forget: boolean): Promise<void> {
    try {
      if (forget && this.isHead) {
        const keys = [...(await this.#store.scan(RECORDS)).map(({ key }) => key), CLUSTER_KEY]
        await this.#store.write(
          keys.map((key) => ({ key, value: undefined })),
          this.#lease?.guard,
        )
      }
      await this.#lease?.release()
    } catch (error) {
      log(() => `the end of this head could not be written: ${(error as Error).message}`)
    }
    await this.#store.close()
  }
}
