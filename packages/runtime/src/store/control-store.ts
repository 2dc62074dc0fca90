/**
 * Where the head of a cluster keeps what must outlive it: a small ordered map with revisions, leases and watches.
 *
 * What every implementation promises:
 *
 * - **Revisions.** The store counts its changes. Each transaction that changes anything makes the next revision, and the keys that it wrote carry it;
 *   0 stands for a key that is not there. A deleted key that comes back has a greater revision than before.
 * - **Atomic.** `write` applies all of a batch or nothing. Transactions are applied one after the other, also those of several clients.
 * - **Durable.** A write that was acknowledged survives `kill -9` of the process that keeps it and, but for `memory:`, its next start. With SQLite and
 *   PostgreSQL it is on the disk, with Redis as far as its own settings go (`appendfsync always`); opening warns where they promise less.
 *   Writes of one turn of the event loop, and those that come while another write waits for the disk, wait together.
 * - **Once.** A lost connection is repaired and the request repeated; the store knows requests that it has done, so that the answer is the one
 *   that was lost. After `retryMs` without an answer the call fails with `CONTROL_STORE_UNREACHABLE`: such a write happened once or not at all.
 * - **Leases.** A leased key disappears when its time to live passes without a renewal, by the clock of the store, which the holder's clock need not agree
 *   with. What has lapsed cannot be renewed. A write can name a lease as its guard: the store itself refuses the write when that lease is over.
 * - **Watches.** First the entries as they are, then what changes. Every key's last state arrives, in order of revisions, and none twice; states in between
 *   may be skipped. Changes of one transaction arrive in one call. After a break in the connection the difference arrives.
 */

/** A key and what it holds. Keys are text without NUL of at most {@link KEY_BYTES_MAX} bytes. */
export interface Entry {
  readonly key: string
  readonly value: Uint8Array
  readonly revision: number
}

/** What a watch tells: `value` undefined says that the key is gone. */
export interface Change {
  readonly key: string
  readonly value: Uint8Array | undefined
  readonly revision: number
}

/** One step of a batch: `value` undefined deletes the key. */
export interface Write {
  readonly key: string
  readonly value: Uint8Array | undefined
}

/** Names one holding of a leased key, and nobody else's. */
export interface Guard {
  readonly key: string
  readonly token: string
}

/** A key that is this process's own as long as it renews it. */
export interface Lease extends Guard {
  readonly revision: number
  /** False once the time to live may have passed by this process's clock, with a tenth of it as reserve: asked before each act that needs the lease. */
  readonly held: boolean
  /** When `held` becomes false, by `performance.now()`. */
  readonly deadlineMs: number
  /** Another full time to live. False: the lease has lapsed, and whoever asked first may have the key. */
  renew(): Promise<boolean>
  /** Delete the key, if it is still held. */
  release(): Promise<void>
}

export interface Watch {
  close(): void
}

export interface ControlStore {
  /** As it was opened, without a password. */
  readonly url: string
  /** Whether processes on other machines can open the same store. */
  readonly shared: boolean
  get(key: string): Promise<Entry | undefined>
  /** All entries whose keys start so, in order of their keys, as they were together at one moment. */
  scan(prefix: string): Promise<Entry[]>
  /** @returns the revision */
  put(key: string, value: Uint8Array): Promise<number>
  /**
   * Write if the key has that revision; 0: if it is not there.
   *
   * @returns the new revision, or undefined when the key has another one
   */
  compareAndSet(key: string, expectedRevision: number, value: Uint8Array): Promise<number | undefined>
  delete(key: string): Promise<void>
  /**
   * All of these or none.
   *
   * @param guard - only while this lease is held
   * @returns the revision
   * @throws {@link BeamlineError} `LEASE_LOST` when the guard is not held any more
   */
  write(batch: readonly Write[], guard?: Guard): Promise<number>
  /** Resolves once `onChange` had the entries as they are, in one call, even when there are none. */
  watch(prefix: string, onChange: (changes: readonly Change[]) => void): Promise<Watch>
  /**
   * Take a key that is free.
   *
   * @param also - written in the same transaction, if every key of it has its revision
   * @param over - take the key from the lease that has this revision: its holder is known to be gone
   * @returns undefined when somebody has it, or `also` has other revisions
   */
  lease(key: string, value: Uint8Array, ttlMs: number, also?: readonly Conditional[], over?: number): Promise<Lease | undefined>
  /** Wait for what was asked for, then end the connections. Leases are kept until their time is over. */
  close(): Promise<void>
}

/** A write with the revision that the key must have. */
export interface Conditional extends Write {
  readonly expectedRevision: number
}

export const KEY_BYTES_MAX = 1_024
