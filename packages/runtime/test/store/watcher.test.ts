import { expect, test } from 'vitest'
import type { Backend, Changes } from '../../src/store/backend.ts'
import { ConnectionLost } from '../../src/store/backend.ts'
import { MemoryBackend } from '../../src/store/memory-backend.ts'
import type { Transaction } from '../../src/store/transaction.ts'
import { StoreClient } from '../../src/store/store-client.ts'
import { Told } from './contract.ts'

const put = (key: string, text: string): Transaction => ({ conditions: [], operations: [{ kind: 'put', key, value: new TextEncoder().encode(text) }] })
const drop = (key: string): Transaction => ({ conditions: [], operations: [{ kind: 'delete', key }] })

/** A memory store whose `changes` can be replaced, and which can be replaced itself, as after a failover that lost writes. */
async function watched(): Promise<{
  told: Told
  engine: MemoryBackend
  become: (other: MemoryBackend) => void
  wake: () => void
  answer: (how: Backend['changes']) => void
}> {
  let engine = new MemoryBackend()
  let wake = (): void => {}
  let changes: ((prefix: string, since: number) => Promise<Changes>) | undefined
  const backend: Backend = {
    shared: false,
    open: () => Promise.resolve(),
    commit: (group) => engine.commit(group),
    get: (key) => engine.get(key),
    scan: (prefix) => engine.scan(prefix),
    changes: (prefix, since) => (changes ?? engine.changes.bind(engine))(prefix, since),
    follow: (call) => {
      wake = call
      return Promise.resolve(() => {})
    },
    close: () => Promise.resolve(),
  }
  await engine.commit({ client: '', sequence: 1, transactions: [put('a', '1'), put('b', '1'), put('c', '1'), put('c', '1')] })
  const store = await StoreClient.open(backend, { url: 'memory:', retryMs: 1_000 })
  const told = new Told()
  await store.watch('', told.onChange)
  return {
    told,
    engine,
    become: (other) => (engine = other),
    wake: () => wake(),
    answer: (how) => (changes = how),
  }
}

test('a watch that was away for too long reads everything and tells the difference', async () => {
  const { told, engine, wake, answer } = await watched()
  await engine.commit({ client: '', sequence: 2, transactions: [drop('a'), put('b', '2'), put('d', '1')] })
  answer(async (prefix, since) => ({ ...(await engine.changes(prefix, since)), changes: undefined }))
  wake()
  await told.has('d=1')
  expect(told.calls.slice(1).map((call) => call.map(({ key }) => key))).toEqual([['b', 'a', 'd']])
  expect(told.texts.slice(3)).toEqual(['b=2', 'a=-', 'd=1'])
})

test('a watch of a store that lost its last writes tells what is left', async () => {
  const { told, become, wake } = await watched()
  const other = new MemoryBackend()
  await other.commit({ client: '', sequence: 1, transactions: [put('x', '1'), put('b', '0')] })
  await other.commit({ client: '', sequence: 2, transactions: [drop('x')] })
  become(other)
  wake()
  await told.has('b=0')
  expect(told.texts.slice(3).toSorted()).toEqual(['a=-', 'b=0', 'c=-'])
})

test('a watch tries again while the store is away', async () => {
  const { told, engine, wake, answer } = await watched()
  await engine.commit({ client: '', sequence: 2, transactions: [put('a', '2')] })
  let tries = 0
  answer((prefix, since) => (++tries < 3 ? Promise.reject(new ConnectionLost('away')) : engine.changes(prefix, since)))
  wake()
  await told.has('a=2')
  expect(tries).toBe(3)
})
