import { expect, test } from 'vitest'
import type { HeadRecord } from '../../src/store/head-lease.ts'
import { HeadLease, succession } from '../../src/store/head-lease.ts'
import { MemoryBackend } from '../../src/store/memory-backend.ts'
import { StoreClient } from '../../src/store/store-client.ts'

const record = (facts: Partial<HeadRecord> = {}): Omit<HeadRecord, 'epoch' | 'machine'> => ({
  cluster: 'c',
  node: 'n1',
  address: 'h1:7000',
  ttlMs: 60_000,
  host: 'h1',
  pid: process.pid,
  started: '1',
  ...facts,
})
const memory = (): Promise<StoreClient> => StoreClient.open(new MemoryBackend(), { url: 'memory:', retryMs: 1_000 })
const everyProcessLives = (): boolean => true

test.each([
  { machine: 'm', alive: true, waitedMs: 0, next: 'wait' },
  { machine: 'm', alive: false, waitedMs: 0, next: 'replace' },
  { machine: 'other', alive: false, waitedMs: 0, next: 'wait' },
  { machine: '', alive: false, waitedMs: 0, next: 'wait' },
  { machine: 'other', alive: false, waitedMs: 5_900, next: 'wait' },
  { machine: 'other', alive: false, waitedMs: 6_100, next: 'refuse' },
  { machine: 'm', alive: true, waitedMs: 6_100, next: 'refuse' },
])('seen from machine $machine, process alive: $alive, after $waitedMs ms: $next', ({ machine, alive, waitedMs, next }) => {
  const self = { machine: machine === '' ? '' : 'm' }
  expect(succession({ ...record({ ttlMs: 5_000 }), epoch: 1, machine }, self, alive, waitedMs)).toBe(next)
})

test('each head has an epoch of its own, one more than the last', async () => {
  const store = await memory()
  for (const epoch of [1, 2, 3]) {
    const lease = await HeadLease.lead(store, { self: record(), isProcess: everyProcessLives })
    expect(lease.epoch).toBe(epoch)
    expect(lease.isHead).toBe(true)
    await lease.release()
    expect(lease.isHead).toBe(false)
  }
})

test('a head that renews keeps others out, and they are told who it is', async () => {
  const store = await memory()
  const lease = await HeadLease.lead(store, { self: record({ ttlMs: 200 }), isProcess: everyProcessLives })
  await expect(HeadLease.lead(store, { self: record({ ttlMs: 200, node: 'n2' }), isProcess: everyProcessLives })).rejects.toMatchObject({
    code: 'HEAD_EXISTS',
    details: { store: 'memory:', node: 'n1', address: 'h1:7000', pid: process.pid },
  })
  expect(lease.isHead).toBe(true)
  await lease.release()
})

test('a head whose process is gone from this machine is replaced at once, by one of those who try', async () => {
  const store = await memory()
  const dead = await HeadLease.lead(store, { self: record(), isProcess: everyProcessLives })
  const isProcess = (_: number, started: string): boolean => started !== '1'
  const tries = ['a', 'b', 'c'].map((node) => HeadLease.lead(store, { self: record({ node, started: node, ttlMs: 300 }), isProcess }))
  const results = await Promise.allSettled(tries)
  const leaders = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  expect(leaders.map(({ epoch }) => epoch)).toEqual([2])
  await expect(store.write([{ key: 'a', value: new Uint8Array(1) }], dead.guard)).rejects.toMatchObject({ code: 'LEASE_LOST' })
  await store.write([{ key: 'a', value: new Uint8Array(1) }], leaders[0]!.guard)
  await leaders[0]!.release()
})

test('a head that cannot renew is told, and is not the head from the moment its lease may be over', async () => {
  const store = await memory()
  const lease = await HeadLease.lead(store, { self: record({ ttlMs: 400 }), isProcess: everyProcessLives })
  await store.delete('head')
  expect(await lease.lost).toMatch(/another head may have taken over/)
  expect(lease.isHead).toBe(false)
})
