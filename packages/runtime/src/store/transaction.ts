/**
 * What a transaction does to the rows of a control store, the same for memory, SQLite and PostgreSQL. Pure. (Redis runs redis-script.ts, in itself.)
 *
 * A row without a value is the trace of a deleted key: watches that were away find it. Traces are dropped after TRACES_KEPT revisions; who was away for
 * longer reads everything again.
 */

/** A transaction applies when all its conditions hold: `revision` is that of the key, `token` that of the lease on it. */
export interface Condition {
  readonly key: string
  readonly revision?: number
  readonly token?: string
}

/** `token` and `ttlMs`: the key is leased. A renewal changes nothing but the time at which the lease ends. */
export type Operation =
  | { readonly kind: 'put'; readonly key: string; readonly value: Uint8Array; readonly token?: string; readonly ttlMs?: number }
  | { readonly kind: 'delete'; readonly key: string }
  | { readonly kind: 'renew'; readonly key: string; readonly ttlMs: number }

export interface Transaction {
  readonly conditions: readonly Condition[]
  readonly operations: readonly Operation[]
}

/** The revision, or undefined when a condition did not hold. */
export type Outcome = number | undefined

export interface Row {
  readonly key: string
  readonly value: Uint8Array | undefined
  readonly revision: number
  /** Of the lease; empty: none. */
  readonly token: string
  /** By the clock of the store. */
  readonly expiresMs: number
}

export interface Loaded {
  readonly revision: number
  readonly nowMs: number
  /** At least those of {@link keysOf}. */
  readonly rows: { get(key: string): Row | undefined }
  /** Keys whose leases are over. */
  readonly due: readonly string[]
}

export interface Result {
  readonly outcomes: Outcome[]
  readonly revision: number
  /** Rows to be stored. */
  readonly changed: Map<string, Row>
  /** Of `changed`: only the end of the lease is new. */
  readonly renewed: ReadonlySet<string>
}

export const TRACES_KEPT = 10_000
/** They are looked for once in so many revisions. */
export const TRACES_SWEPT_EVERY = 1_000

/** After a group: traces up to the returned revision are dropped; undefined: not now. */
export function tracesToDrop(before: number, after: number): number | undefined {
  const swept = (revision: number): number => Math.floor(revision / TRACES_SWEPT_EVERY)
  return after > TRACES_KEPT && swept(before) !== swept(after) ? after - TRACES_KEPT : undefined
}

/** Keys whose rows must be loaded: what is there does not matter to a `put` without a condition. */
export function keysOf(transactions: readonly Transaction[]): Set<string> {
  const keys = new Set<string>()
  for (const { conditions, operations } of transactions) {
    for (const { key } of conditions) keys.add(key)
    for (const { key, kind } of operations) if (kind !== 'put') keys.add(key)
  }
  return keys
}

export function evaluate(loaded: Loaded, transactions: readonly Transaction[]): Result {
  const { nowMs, due } = loaded
  const changed = new Map<string, Row>()
  const renewed = new Set<string>()
  let { revision } = loaded
  const row = (key: string): Row | undefined => changed.get(key) ?? loaded.rows.get(key)
  const set = (next: Row, renewal: boolean): void => {
    if (!renewal) renewed.delete(next.key)
    else if (!changed.has(next.key)) renewed.add(next.key)
    changed.set(next.key, next)
  }
  const drop = (key: string): void => set({ key, value: undefined, revision, token: '', expiresMs: 0 }, false)

  if (due.length > 0) revision++
  for (const key of due) drop(key)

  const outcomes = transactions.map(({ conditions, operations }): Outcome => {
    for (const condition of conditions) {
      const found = row(condition.key)
      const live = found?.value === undefined ? undefined : found
      if (condition.revision !== undefined && condition.revision !== (live?.revision ?? 0)) return undefined
      if (condition.token !== undefined && condition.token !== live?.token) return undefined
    }
    const changes = operations.filter((one) => one.kind === 'put' || (one.kind === 'delete' && row(one.key)?.value !== undefined))
    if (changes.length > 0) revision++
    for (const operation of operations) {
      const { key } = operation
      if (operation.kind === 'put') {
        const { value, token = '', ttlMs = 0 } = operation
        set({ key, value, revision, token, expiresMs: token === '' ? 0 : nowMs + ttlMs }, false)
      } else if (operation.kind === 'delete') {
        if (row(key)?.value !== undefined) drop(key)
      } else {
        const found = row(key)
        if (found?.value !== undefined) set({ ...found, expiresMs: nowMs + operation.ttlMs }, true)
      }
    }
    return revision
  })
  return { outcomes, revision, changed, renewed }
}
