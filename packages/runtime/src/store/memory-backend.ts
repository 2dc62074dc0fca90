/**
 * Rows in this process, gone with it: the control store of a cluster that lives and dies with its program, and the model that the others are tested against.
 */
import type { Backend, Changes, Group, Scan } from './backend.ts'
import type { Change, Entry } from './control-store.ts'
import { Deadlines } from './deadlines.ts'
import { evaluate, type Outcome, type Row, tracesToDrop, type Transaction } from './transaction.ts'

export class MemoryBackend implements Backend {
  readonly shared: boolean = false
  readonly #rows = new Map<string, Row>()
  readonly #leases = new Deadlines()
  readonly #followers = new Set<() => void>()
  #revision = 0
  #tracesFrom = 0

  open(): Promise<void> {
    return Promise.resolve()
  }

  commit({ transactions }: Group): Promise<Outcome[]> {
    return Promise.resolve(this.#apply(transactions))
  }

  #apply(transactions: readonly Transaction[]): Outcome[] {
    const nowMs = performance.now()
    const before = this.#revision
    const result = evaluate({ revision: before, nowMs, rows: this.#rows, due: this.#leases.due(nowMs) }, transactions)
    for (const [key, row] of result.changed) {
      this.#rows.set(key, row)
      if (row.token === '') this.#leases.delete(key)
      else this.#leases.set(key, row.expiresMs)
    }
    this.#revision = result.revision
    const dropped = tracesToDrop(before, result.revision)
    if (dropped !== undefined) {
      this.#tracesFrom = dropped
      for (const [key, row] of this.#rows) if (row.value === undefined && row.revision <= dropped) this.#rows.delete(key)
    }
    if (result.revision !== before) for (const wake of this.#followers) queueMicrotask(wake)
    return result.outcomes
  }

  get(key: string): Promise<Entry | undefined> {
    this.#apply([])
    const row = this.#rows.get(key)
    return Promise.resolve(row === undefined ? undefined : toEntry(row))
  }

  scan(prefix: string): Promise<Scan> {
    this.#apply([])
    const entries: Entry[] = []
    for (const row of this.#rows.values()) {
      const entry = row.key.startsWith(prefix) ? toEntry(row) : undefined
      if (entry !== undefined) entries.push(entry)
    }
    return Promise.resolve({ revision: this.#revision, entries })
  }

  changes(prefix: string, since: number): Promise<Changes> {
    this.#apply([])
    const nextDueMs = this.#leases.nextMs(performance.now())
    let changes: Change[] | undefined
    if (since >= this.#tracesFrom) {
      const rows = [...this.#rows.values()].filter(({ key, revision }) => revision > since && key.startsWith(prefix))
      changes = rows.toSorted((a, b) => a.revision - b.revision).map(({ key, value, revision }) => ({ key, value, revision }))
    }
    return Promise.resolve({ revision: this.#revision, changes, nextDueMs })
  }

  follow(wake: () => void): Promise<() => void> {
    this.#followers.add(wake)
    return Promise.resolve(() => void this.#followers.delete(wake))
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

function toEntry({ key, value, revision }: Row): Entry | undefined {
  return value === undefined ? undefined : { key, value, revision }
}
