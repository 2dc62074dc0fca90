/**
 * A control store in PostgreSQL: three tables of one name. A group of writes is one transaction of the server, whose commit is on its disk.
 *
 * The row of `_meta` is locked first by every writer, so that revisions are in the order of commits and a watch that has seen one has seen all before.
 * Who stops in the middle of a transaction (a paused process, a cut network) loses its connection after STALLED_MS and lets the others go on.
 * One connection writes; another one reads and listens.
 *
 * No index has what a write to a key changes: such a write stays in the page of its row, at less than half the cost. A watch reads all that it watches.
 */
import pg from 'pg'
import { BeamlineError } from '../errors.ts'
import { type Backend, type Changes, ConnectionLost, type Group, type Scan } from './backend.ts'
import type { Change, Entry } from './control-store.ts'
import { evaluate, keysOf, type Outcome, type Row, tracesToDrop, type Transaction } from './transaction.ts'

const FORMAT = 2
const CALL_TIMEOUT_MS = 5_000
const CONNECT_TIMEOUT_MS = 5_000
const STALLED_MS = 2_000
const FAREWELL_MS = 1_000
/** What clients did last is remembered so long after their last write. */
const CLIENTS_KEPT = '1 day'
const FORGET_EVERY_MS = 3_600_000
/**
 * States of a server that will be itself again, or is not the primary any more: connection classes, shutdown, start, recovery, lock and statement
 * timeouts, serialization failures, too many connections, read only.
 */
const PASSING = /^(08...|57P0[1-5]|57014|55P03|25P0[34]|25006|40001|40P01|53300)$/

export interface PostgresBackendOptions {
  /** For pg. */
  readonly url: string
  /** For people. */
  readonly shown: string
  /** Start of the names of its tables, so that several clusters can share a database. */
  readonly name: string
  readonly warn: (text: string) => void
}

interface MetaRow {
  readonly revision: string
  readonly traces_from: string
  readonly now_ms: string
}

interface ClientRow {
  readonly sequence: string
  readonly outcomes: (string | null)[]
}

interface StoredRow {
  readonly key: string
  readonly value: Buffer | null
  readonly revision: string
  readonly token: string
  readonly expires_ms: string
}

export class PostgresBackend implements Backend {
  readonly shared: boolean = true
  readonly #options: PostgresBackendOptions
  readonly #writer: Connection
  readonly #reader: Connection
  readonly #followers = new Set<() => void>()
  #forgottenMs = -Infinity

  constructor(options: PostgresBackendOptions) {
    this.#options = options
    this.#writer = new Connection(options, async (client) => {
      const { rows } = await client.query<{ setting: string }>("SELECT current_setting('synchronous_commit') AS setting")
      if (rows[0]?.setting === 'off') await client.query("SET synchronous_commit = 'on'")
    })
    this.#reader = new Connection(options, async (client) => {
      client.on('notification', () => this.#wakeAll())
      client.on('end', () => this.#wakeAll())
      await client.query(`LISTEN "${options.name}"`)
    })
  }

  /** Makes the tables when there are none. */
  async open(): Promise<void> {
    const { name, shown, warn } = this.#options
    await this.#writer.run(async (client) => {
      const { rows: found } = await client.query<{ exists: boolean }>('SELECT to_regclass($1) IS NOT NULL AS exists', [`${name}_meta`])
      if (found[0]?.exists !== true) await createTables(client, name)
      const { rows: metas } = await client.query<{ format: number }>(`SELECT format FROM ${name}_meta`)
      const format = metas[0]?.format
      if (format !== FORMAT) {
        const reason = `it was written in format ${format}, and this version of Beamline reads format ${FORMAT}; use the version that wrote it, or another name (?name=…)`
        throw new BeamlineError('CONTROL_STORE_FAILED', { store: shown, reason })
      }
      const { rows } = await client.query<{ setting: string }>("SELECT current_setting('fsync') AS setting")
      if (rows[0]?.setting === 'off') warn(`control store ${shown}: "fsync = off" may lose everything when its machine dies; set "fsync = on"`)
    })
  }

  commit({ client: id, sequence, transactions }: Group): Promise<Outcome[]> {
    return this.#writer.run(async (client) => {
      const outcomes = await this.#inTransaction(client, transactions, id, sequence)
      if (performance.now() - this.#forgottenMs > FORGET_EVERY_MS) {
        this.#forgottenMs = performance.now()
        await client.query(`DELETE FROM ${this.#options.name}_clients WHERE at < now() - interval '${CLIENTS_KEPT}'`)
      }
      return outcomes
    })
  }

  async #inTransaction(client: pg.Client, transactions: readonly Transaction[], id: string, sequence: number): Promise<Outcome[]> {
    const { name } = this.#options
    try {
      // In one message. What is read after the lock is what the writer before has left.
      const [, locked, known] = (await client.query(
        `BEGIN;
         SELECT revision, traces_from, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms FROM ${name}_meta FOR UPDATE;
         SELECT sequence, outcomes FROM ${name}_clients WHERE client = ${client.escapeLiteral(id)}`,
      )) as unknown as [unknown, pg.QueryResult<MetaRow>, pg.QueryResult<ClientRow>]
      const done = known.rows[0]
      if (done !== undefined && Number(done.sequence) >= sequence) {
        await client.query('ROLLBACK')
        if (Number(done.sequence) > sequence) throw new BeamlineError('INTERNAL', { what: `group ${sequence} after group ${done.sequence}` })
        return done.outcomes.map((outcome) => (outcome === null ? undefined : Number(outcome)))
      }
      const meta = locked.rows[0]!
      const before = Number(meta.revision)
      const nowMs = Number(meta.now_ms)
      const { rows: stored } = await client.query<StoredRow>({
        name: 'load',
        text: `SELECT key, value, revision, token, expires_ms FROM ${name}_entries WHERE key = ANY($1) OR (token <> '' AND expires_ms <= $2)`,
        values: [[...keysOf(transactions)], nowMs],
      })
      const rows = new Map(stored.map((row) => [row.key, toRow(row)]))
      const due = [...rows.values()].filter(({ token, expiresMs }) => token !== '' && expiresMs <= nowMs).map(({ key }) => key)
      const { outcomes, revision, changed } = evaluate({ revision: before, nowMs, rows, due }, transactions)
      const dropped = tracesToDrop(before, revision)
      if (dropped !== undefined) await client.query(`DELETE FROM ${name}_entries WHERE gone AND revision <= $1`, [dropped])
      const written = [...changed.values()]
      await client.query({
        name: 'store',
        text: `WITH stored AS (
           INSERT INTO ${name}_entries (key, value, revision, token, expires_ms)
           SELECT * FROM unnest($7::text[], $8::bytea[], $9::bigint[], $10::text[], $11::bigint[])
           ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision, token = excluded.token, expires_ms = excluded.expires_ms
         ), done AS (
           INSERT INTO ${name}_clients (client, sequence, outcomes, at) SELECT $3::text, $4::bigint, $5::bigint[], now() WHERE $3::text <> ''
           ON CONFLICT (client) DO UPDATE SET sequence = excluded.sequence, outcomes = excluded.outcomes, at = excluded.at
         ), counted AS (UPDATE ${name}_meta SET revision = $1::bigint, traces_from = $2::bigint WHERE revision <> $1::bigint)
         SELECT CASE WHEN $1::bigint <> $6::bigint THEN pg_notify('${name}', $1::bigint::text) END`,
        values: [
          ...[revision, dropped ?? Number(meta.traces_from), id, sequence, outcomes.map((outcome) => outcome ?? null), before],
          written.map(({ key }) => key),
          written.map(({ value }) => (value === undefined ? null : Buffer.from(value.buffer, value.byteOffset, value.byteLength))),
          written.map((row) => row.revision),
          written.map(({ token }) => token),
          written.map(({ expiresMs }) => expiresMs),
        ],
      })
      await client.query('COMMIT')
      return outcomes
    } catch (error) {
      // Whoever does not answer this either loses the connection, and with it the transaction.
      if (error instanceof pg.DatabaseError) await client.query('ROLLBACK')
      throw error
    }
  }

  get(key: string): Promise<Entry | undefined> {
    return this.#reader.run(async (client) => {
      const { rows } = await client.query<StoredRow>(
        `SELECT key, value, revision, token, expires_ms FROM ${this.#options.name}_entries WHERE key = $1 AND ${LIVE}`,
        [key],
      )
      return rows[0] === undefined ? undefined : toEntry(rows[0])
    })
  }

  scan(prefix: string): Promise<Scan> {
    return this.#reader.run(async (client) => {
      const { name } = this.#options
      const { rows } = await client.query<StoredRow & { last: string; key: string | null }>(
        `SELECT m.revision AS last, e.* FROM ${name}_meta m LEFT JOIN ${name}_entries e ON e.key >= $1 AND e.key < $2 AND ${LIVE}`,
        [prefix, endOf(prefix)],
      )
      return { revision: Number(rows[0]!.last), entries: rows.filter(({ key }) => key !== null).map(toEntry) }
    })
  }

  async changes(prefix: string, since: number): Promise<Changes> {
    const { name } = this.#options
    const read = (): Promise<Changes> =>
      this.#reader.run(async (client) => {
        const { rows } = await client.query<StoredRow & { last: string; traces_from: string; due_ms: string | null; key: string | null }>(
          `SELECT m.revision AS last, m.traces_from, e.*,
             (SELECT min(expires_ms) FROM ${name}_entries WHERE token <> '') - (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS due_ms
           FROM ${name}_meta m LEFT JOIN ${name}_entries e ON e.revision > $1 AND e.key >= $2 AND e.key < $3 ORDER BY e.revision`,
          [since, prefix, endOf(prefix)],
        )
        const { last, traces_from: tracesFrom, due_ms: dueMs } = rows[0]!
        const changes: Change[] = rows
          .filter(({ key }) => key !== null)
          .map(({ key, value, revision }) => ({ key, value: value ?? undefined, revision: Number(revision) }))
        return {
          revision: Number(last),
          changes: since < Number(tracesFrom) ? undefined : changes,
          nextDueMs: dueMs === null ? undefined : Number(dueMs),
        }
      })
    const first = await read()
    if (first.nextDueMs === undefined || first.nextDueMs > 0) return first
    await this.#writer.run((client) => this.#inTransaction(client, [], '', 0))
    const second = await read()
    return { ...second, nextDueMs: second.nextDueMs === undefined ? undefined : Math.max(0, second.nextDueMs) }
  }

  async follow(wake: () => void): Promise<() => void> {
    this.#followers.add(wake)
    return () => void this.#followers.delete(wake)
  }

  async close(): Promise<void> {
    await Promise.all([this.#writer.close(), this.#reader.close()])
  }

  #wakeAll(): void {
    for (const wake of this.#followers) wake()
  }
}

/** One connection, made when it is needed, and its work one after the other. */
class Connection {
  readonly #options: PostgresBackendOptions
  readonly #prepare: (client: pg.Client) => Promise<void>
  #client: pg.Client | undefined
  #last: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(options: PostgresBackendOptions, prepare: (client: pg.Client) => Promise<void>) {
    this.#options = options
    this.#prepare = prepare
  }

  run<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const result = this.#last.then(async () => {
      try {
        return await work(await this.#connected())
      } catch (error) {
        throw this.#failure(error as Error)
      }
    })
    this.#last = result.catch(() => {})
    return result
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#last
    const client = this.#client
    if (client === undefined) return
    // A server that cannot be reached does not answer the farewell.
    const timer = setTimeout(() => client.connection.stream.destroy(), FAREWELL_MS)
    await client.end().catch(() => {})
    clearTimeout(timer)
  }

  async #connected(): Promise<pg.Client> {
    if (this.#closed) throw new ConnectionLost('it was closed')
    if (this.#client !== undefined) return this.#client
    const client = new pg.Client({
      connectionString: this.#options.url,
      application_name: 'beamline',
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      query_timeout: CALL_TIMEOUT_MS,
      statement_timeout: CALL_TIMEOUT_MS,
      lock_timeout: CALL_TIMEOUT_MS,
      idle_in_transaction_session_timeout: STALLED_MS,
      keepAlive: true,
    })
    const forget = (): void => {
      if (this.#client === client) this.#client = undefined
    }
    client.on('error', forget)
    client.on('end', forget)
    try {
      await client.connect()
      await this.#prepare(client)
    } catch (error) {
      void client.end().catch(() => {})
      throw error
    }
    this.#client = client
    return client
  }

  #failure(error: Error): Error {
    if (error instanceof BeamlineError || error instanceof ConnectionLost) return error
    const { message } = error
    if (error instanceof pg.DatabaseError && !PASSING.test(error.code ?? '')) {
      return new BeamlineError('CONTROL_STORE_FAILED', { store: this.#options.shown, reason: message }, { cause: error })
    }
    // Also one that is silent: what it was asked may still be on its way.
    void this.#client?.end().catch(() => {})
    this.#client = undefined
    return new ConnectionLost(message)
  }
}

const LIVE = `value IS NOT NULL AND (token = '' OR expires_ms > (extract(epoch FROM clock_timestamp()) * 1000)::bigint)`

async function createTables(client: pg.Client, name: string): Promise<void> {
  await client.query(`
    BEGIN;
    SELECT pg_advisory_xact_lock(hashtext('beamline ${name}'));
    CREATE TABLE IF NOT EXISTS ${name}_entries (
      key text COLLATE "C" PRIMARY KEY, value bytea, revision bigint NOT NULL, token text NOT NULL, expires_ms bigint NOT NULL,
      gone boolean NOT NULL GENERATED ALWAYS AS (value IS NULL) STORED
    ) WITH (fillfactor = 50);
    CREATE INDEX IF NOT EXISTS ${name}_entries_gone ON ${name}_entries (key) WHERE gone;
    CREATE INDEX IF NOT EXISTS ${name}_entries_expires ON ${name}_entries (expires_ms) WHERE token <> '';
    CREATE TABLE IF NOT EXISTS ${name}_clients (client text PRIMARY KEY, sequence bigint NOT NULL, outcomes bigint[] NOT NULL, at timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS ${name}_meta (one boolean PRIMARY KEY CHECK (one), format int NOT NULL, revision bigint NOT NULL, traces_from bigint NOT NULL);
    INSERT INTO ${name}_meta VALUES (true, ${FORMAT}, 0, 0) ON CONFLICT DO NOTHING;
    COMMIT`)
}

/** Greater than all keys that start so. */
const endOf = (prefix: string): string => `${prefix}\u{10FFFF}`

const toRow = ({ key, value, revision, token, expires_ms: expiresMs }: StoredRow): Row => ({
  key,
  value: value ?? undefined,
  revision: Number(revision),
  token,
  expiresMs: Number(expiresMs),
})

const toEntry = ({ key, value, revision }: StoredRow): Entry => ({ key, value: value!, revision: Number(revision) })
