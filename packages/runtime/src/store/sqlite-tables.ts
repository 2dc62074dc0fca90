/**
 * The rows of a control store in a SQLite file, synchronously. Runs in sqlite-thread.ts, so that nobody waits for the disk but who asked.
 *
 * The file belongs to one process at a time: SQLite's exclusive lock is held from opening to the end of the process, however it ends, and a second one is
 * refused at once. So leases live in memory only: whoever opens the file knows that no holder of a lease in it is left.
 * Write-ahead log with `synchronous=FULL`: a commit returns when it is on the disk.
 */
import { closeSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { BeamlineError } from '../errors.ts'
import type { Changes, Scan } from './backend.ts'
import type { Change, Entry } from './control-store.ts'
import { Deadlines } from './deadlines.ts'
import { evaluate, keysOf, type Outcome, type Row, tracesToDrop, type Transaction } from './transaction.ts'

/** Of the tables; a file of another one is refused. */
const FORMAT = 1
const SQLITE_BUSY = 5

interface StoredRow {
  readonly key: string
  readonly value: Uint8Array | null
  readonly revision: number
  readonly token: string
}

export class SqliteTables {
  readonly #path: string
  readonly #database: DatabaseSync
  readonly #leases = new Deadlines()
  readonly #get: StatementSync
  readonly #set: StatementSync
  readonly #setMeta: StatementSync
  readonly #dropTraces: StatementSync
  readonly #scan: StatementSync
  readonly #changes: StatementSync
  #revision: number
  #tracesFrom: number

  /** @throws {@link BeamlineError} `CONTROL_STORE_IN_USE`, `CONTROL_STORE_FAILED` */
  constructor(path: string) {
    this.#path = path
    const database = this.#do('it cannot be opened', () => open(path))
    this.#database = database
    try {
      const meta = this.#do('it cannot be read', () => prepare(database, path))
      this.#revision = meta.revision
      this.#tracesFrom = meta.traces_from
      this.#get = database.prepare('SELECT key, value, revision, token FROM entries WHERE key = ?')
      this.#set = database.prepare(
        'INSERT INTO entries (key, value, revision, token) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision, token = excluded.token',
      )
      this.#setMeta = database.prepare('UPDATE meta SET revision = ?, traces_from = ?')
      this.#dropTraces = database.prepare('DELETE FROM entries WHERE value IS NULL AND revision <= ?')
      this.#scan = database.prepare('SELECT key, value, revision, token FROM entries WHERE key >= ? AND key < ? AND value IS NOT NULL')
      this.#changes = database.prepare('SELECT key, value, revision, token FROM entries WHERE revision > ? AND key >= ? AND key < ? ORDER BY revision')
      this.#endOldLeases()
    } catch (error) {
      database.close()
      throw error
    }
  }

  /** Outcomes, and whether anything but leases' ends changed. */
  commit(transactions: readonly Transaction[]): { outcomes: Outcome[]; changed: boolean } {
    return this.#do('it did not take a write', () => this.#apply(transactions))
  }

  #apply(transactions: readonly Transaction[]): { outcomes: Outcome[]; changed: boolean } {
    const nowMs = performance.now()
    const rows = new Map<string, Row>()
    for (const key of keysOf(transactions)) {
      const row = this.#get.get(key) as StoredRow | undefined
      if (row !== undefined) rows.set(key, { ...row, value: row.value ?? undefined, expiresMs: this.#leases.get(key) ?? 0 })
    }
    const before = this.#revision
    const { outcomes, revision, changed, renewed } = evaluate({ revision: before, nowMs, rows, due: this.#leases.due(nowMs) }, transactions)
    if (revision !== before) {
      const dropped = tracesToDrop(before, revision)
      const tracesFrom = dropped ?? this.#tracesFrom
      this.#inTransaction(() => {
        for (const { key, value, revision: written, token } of changed.values()) if (!renewed.has(key)) this.#set.run(key, value ?? null, written, token)
        this.#setMeta.run(revision, tracesFrom)
        if (dropped !== undefined) this.#dropTraces.run(dropped)
      })
      this.#revision = revision
      this.#tracesFrom = tracesFrom
    }
    for (const [key, { token, expiresMs }] of changed) {
      if (token === '') this.#leases.delete(key)
      else this.#leases.set(key, expiresMs)
    }
    return { outcomes, changed: revision !== before }
  }

  get(key: string): Entry | undefined {
    this.commit([])
    return this.#do('it cannot be read', () => {
      const row = this.#get.get(key) as StoredRow | undefined
      return row === undefined || row.value === null ? undefined : { key, value: row.value, revision: row.revision }
    })
  }

  scan(prefix: string): Scan {
    this.commit([])
    return this.#do('it cannot be read', () => {
      const rows = this.#scan.all(prefix, endOf(prefix)) as unknown as StoredRow[]
      return { revision: this.#revision, entries: rows.map(({ key, value, revision }) => ({ key, value: value!, revision })) }
    })
  }

  changes(prefix: string, since: number): Changes {
    this.commit([])
    return this.#do('it cannot be read', () => {
      const nextDueMs = this.#leases.nextMs(performance.now())
      if (since < this.#tracesFrom) return { revision: this.#revision, changes: undefined, nextDueMs }
      const rows = this.#changes.all(since, prefix, endOf(prefix)) as unknown as StoredRow[]
      const changes: Change[] = rows.map(({ key, value, revision }) => ({ key, value: value ?? undefined, revision }))
      return { revision: this.#revision, changes, nextDueMs }
    })
  }

  close(): void {
    this.#database.close()
  }

  #endOldLeases(): void {
    this.#do('it did not take a write', () => {
      const { changes } = this.#inTransaction(() => {
        const ended = this.#database.prepare("UPDATE entries SET value = NULL, token = '', revision = ? WHERE token <> ''").run(this.#revision + 1)
        if (ended.changes !== 0) this.#setMeta.run(this.#revision + 1, this.#tracesFrom)
        return ended
      })
      if (changes !== 0) this.#revision++
    })
  }

  #inTransaction<T>(work: () => T): T {
    this.#database.exec('BEGIN IMMEDIATE')
    try {
      const result = work()
      this.#database.exec('COMMIT')
      return result
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
      throw error
    }
  }

  #do<T>(what: string, work: () => T): T {
    try {
      return work()
    } catch (error) {
      if (error instanceof BeamlineError) throw error
      if ((error as { errcode?: number }).errcode === SQLITE_BUSY)
        throw new BeamlineError('CONTROL_STORE_IN_USE', { path: this.#path, holder: holderOf(this.#path) })
      throw new BeamlineError('CONTROL_STORE_FAILED', { store: `sqlite:${this.#path}`, reason: `${what}: ${(error as Error).message}` }, { cause: error })
    }
  }
}

function open(path: string): DatabaseSync {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  closeSync(openSync(path, 'a', 0o600))
  return new DatabaseSync(path)
}

function prepare(database: DatabaseSync, path: string): { revision: number; traces_from: number } {
  database.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
  // Takes the lock, which then stays.
  database.exec('BEGIN IMMEDIATE')
  const { user_version: format } = database.prepare('PRAGMA user_version').get() as { user_version: number }
  if (format === 0) {
    database.exec(`
      CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB, revision INTEGER NOT NULL, token TEXT NOT NULL) STRICT, WITHOUT ROWID;
      CREATE INDEX entries_by_revision ON entries (revision);
      CREATE TABLE meta (revision INTEGER NOT NULL, traces_from INTEGER NOT NULL) STRICT;
      INSERT INTO meta VALUES (0, 0);
      PRAGMA user_version = ${FORMAT};
    `)
  }
  database.exec('COMMIT')
  if (format !== 0 && format !== FORMAT) {
    const reason = `it was written in format ${format}, and this version of Beamline reads format ${FORMAT}; use the version that wrote it, or another file`
    throw new BeamlineError('CONTROL_STORE_FAILED', { store: `sqlite:${path}`, reason })
  }
  return database.prepare('SELECT revision, traces_from FROM meta').get() as { revision: number; traces_from: number }
}

/** Greater than all keys that start so. */
const endOf = (prefix: string): string => `${prefix}\u{10FFFF}`

/** Who has locked the file, as far as the system tells. */
function holderOf(path: string): string {
  try {
    const { ino } = statSync(path)
    for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
      const [, , , , pid, inode] = line.trim().split(/\s+/)
      if (inode?.endsWith(`:${ino}`)) return `process ${pid}`
    }
  } catch {
    // No such list on this system.
  }
  return 'another process'
}
