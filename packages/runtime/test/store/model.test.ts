/** Random transactions on the memory store, which is the model, and on each engine: the same outcomes, rows and changes. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Backend } from '../../src/store/backend.ts'
import { MemoryBackend } from '../../src/store/memory-backend.ts'
import { PostgresBackend } from '../../src/store/postgres-backend.ts'
import { RedisBackend } from '../../src/store/redis-backend.ts'
import { SqliteBackend } from '../../src/store/sqlite-backend.ts'
import { type Operation, type Transaction, TRACES_KEPT } from '../../src/store/transaction.ts'
import { noPostgres, noRedis, postgresServer, redisServer, type Server } from '../servers.ts'

const key = fc.constantFrom('a', 'a/1', 'a/2', 'b', 'b/é', 'c%_')
const token = fc.constantFrom('t1', 't2')
const value = fc.uint8Array({ maxLength: 4 })
/** Over before the next group, or never. */
const ttlMs = fc.constantFrom(-1_000_000, 1_000_000)
const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({ kind: fc.constant('put' as const), key, value }),
  fc.record({ kind: fc.constant('put' as const), key, value, token, ttlMs }),
  fc.record({ kind: fc.constant('delete' as const), key }),
  fc.record({ kind: fc.constant('renew' as const), key, ttlMs }),
)
const condition = fc.oneof(fc.record({ key, revision: fc.nat({ max: 12 }) }), fc.record({ key, token }))
const transaction: fc.Arbitrary<Transaction> = fc.record({
  conditions: fc.array(condition, { maxLength: 2 }),
  // A transaction that names a key twice means the last of them.
  operations: fc.uniqueArray(operation, { maxLength: 3, selector: (one) => one.key }),
})
const groups = fc.array(fc.record({ transactions: fc.array(transaction, { maxLength: 4 }), again: fc.boolean(), since: fc.nat({ max: 10 }) }), {
  maxLength: 12,
})

const plain = (entry: { key: string; value: Uint8Array | undefined; revision: number }): unknown => ({ ...entry, value: entry.value && [...entry.value] })
const byKey = (a: { key: string }, b: { key: string }): number => (a.key < b.key ? -1 : 1)

async function sameAsModel(engine: Backend, steps: typeof groups extends fc.Arbitrary<infer T> ? T : never, onlyOnce: boolean): Promise<void> {
  const model = new MemoryBackend()
  await engine.open()
  for (const [index, { transactions, again, since }] of steps.entries()) {
    const group = { client: 'c', sequence: index + 1, transactions }
    const outcomes = await model.commit(group)
    expect(await engine.commit(group)).toEqual(outcomes)
    // The connection was lost with the answer.
    if (again && onlyOnce) expect(await engine.commit(group)).toEqual(outcomes)
    for (const prefix of ['', 'a', 'b/']) {
      // First what ends the leases that are over; PostgreSQL's other reads only pass them by.
      const [wantedChanges, foundChanges] = [await model.changes(prefix, since), await engine.changes(prefix, since)]
      const revisions = foundChanges.changes!.map(({ revision }) => revision)
      expect(revisions).toEqual(revisions.toSorted((a, b) => a - b))
      expect(foundChanges.changes!.toSorted(byKey).map(plain)).toEqual(wantedChanges.changes!.toSorted(byKey).map(plain))
      expect(foundChanges.revision).toBe(wantedChanges.revision)
      expect(foundChanges.nextDueMs === undefined).toBe(wantedChanges.nextDueMs === undefined)
      const [wanted, found] = [await model.scan(prefix), await engine.scan(prefix)]
      expect({ ...found, entries: found.entries.toSorted(byKey).map(plain) }).toEqual({ ...wanted, entries: wanted.entries.toSorted(byKey).map(plain) })
    }
    expect((await engine.get('a'))?.revision).toBe((await model.get('a'))?.revision)
  }
}

function isTheModel(open: () => Backend, numRuns: number, onlyOnce: boolean): void {
  test('random transactions do what the model does', { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(groups, async (steps) => {
        const engine = open()
        try {
          await sameAsModel(engine, steps, onlyOnce)
        } finally {
          await engine.close()
        }
      }),
      { numRuns },
    )
  })

  test('traces of deleted keys are dropped after a while, and who looks for older ones is told to read everything', { timeout: 60_000 }, async () => {
    const engine = open()
    await engine.open()
    const put = (name: string): Transaction => ({ conditions: [], operations: [{ kind: 'put', key: name, value: new Uint8Array(1) }] })
    const drop = (name: string): Transaction => ({ conditions: [], operations: [{ kind: 'delete', key: name }] })
    await engine.commit({ client: 'c', sequence: 1, transactions: [put('kept'), put('gone'), drop('gone')] })
    expect((await engine.changes('', 1)).changes?.map(({ key: name }) => name)).toEqual(['gone'])
    for (let sequence = 2; sequence < 5; sequence++) {
      await engine.commit({ client: 'c', sequence, transactions: Array.from({ length: TRACES_KEPT / 2 }, (_, index) => put(`k${index % 10}`)) })
    }
    await engine.commit({ client: 'c', sequence: 5, transactions: [drop('k1')] })
    const { revision, changes } = await engine.changes('', 3)
    expect(changes).toBeUndefined()
    expect(revision).toBe(3 + 1.5 * TRACES_KEPT + 1)
    expect((await engine.changes('', revision - 1)).changes).toEqual([{ key: 'k1', value: undefined, revision }])
    expect((await engine.scan('')).entries).toHaveLength(10)
    await engine.close()
  })
}

describe('SQLite', () => {
  // What the disk promises is tested elsewhere.
  const dir = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'store-model-'))
  let files = 0
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  isTheModel(() => new SqliteBackend(join(dir, `${++files}.db`)), 60, false)
})

function onServer(start: () => Promise<Server>, open: (server: Server, name: string) => Backend): () => Backend {
  let server: Server
  let names = 0
  beforeAll(async () => {
    server = await start()
  })
  afterAll(() => server.close())
  return () => open(server, `n${++names}`)
}

describe.skipIf(noRedis)('Redis', () => {
  const open = onServer(redisServer, ({ url }, name) => new RedisBackend({ url, shown: url, name, replicas: 0, warn: () => {} }))
  isTheModel(open, 100, true)
})

describe.skipIf(noPostgres)('PostgreSQL', () => {
  const open = onServer(postgresServer, ({ url }, name) => new PostgresBackend({ url, shown: url, name, warn: () => {} }))
  isTheModel(open, 40, true)
})
