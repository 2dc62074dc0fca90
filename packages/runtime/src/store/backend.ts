/**
 * What an engine must do to be a control store; everything else (grouping, repetition, leases, watches) is store-client.ts, the same for all.
 */
import type { Change, Entry } from './control-store.ts'
import type { Outcome, Transaction } from './transaction.ts'

/** Transactions that are applied in order, each atomically, with one wait for the disk. */
export interface Group {
  /** Of the client that asks; random. */
  readonly client: string
  /** Grows by one with each group of the client, which never has two on their way. The same number again is the same group again. */
  readonly sequence: number
  readonly transactions: readonly Transaction[]
}

export interface Changes {
  /** Everything up to here is in `changes`. */
  readonly revision: number
  /** Latest state of each key that changed, in order of revisions. Undefined: traces of deleted keys were dropped since, so read everything. */
  readonly changes: readonly Change[] | undefined
  /** The first of all leases ends in so long. */
  readonly nextDueMs: number | undefined
}

export interface Scan {
  readonly revision: number
  readonly entries: readonly Entry[]
}

/** Failures of the connection reject with {@link ConnectionLost}, whatever the engine calls them; everything else is final. */
export interface Backend {
  readonly shared: boolean
  /** Before everything else; again when it rejected with {@link ConnectionLost}. */
  open(): Promise<void>
  /** Outcomes of the transactions, once they are durable. A group that was applied before is answered as it was then. */
  commit(group: Group): Promise<Outcome[]>
  get(key: string): Promise<Entry | undefined>
  scan(prefix: string): Promise<Scan>
  /** Also ends the leases that are due. */
  changes(prefix: string, since: number): Promise<Changes>
  /** Call `wake` when something may have changed, and after each break in the connection. */
  follow(wake: () => void): Promise<() => void>
  close(): Promise<void>
}

/** The engine did not answer, or not as itself. The request may have been done. */
export class ConnectionLost extends Error {
  override readonly name: string = 'ConnectionLost'
}
