/**
 * control-store ENGINE…: what 10,000 nodes that tell once a second that they live would cost a control store, were each to renew a lease in it, and what the
 * head's own writes cost. Most clusters ask much less of it (docs/decisions/015-control-store.md): heartbeats end in the head's memory.
 */
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ControlStore, Lease } from '../../packages/runtime/src/store/control-store.ts'
import { noPostgres, noRedis, postgresServer, redisServer } from '../../packages/runtime/test/servers.ts'
import { internal } from '../src/internals.ts'
import { SMOKE, report, skip } from '../src/measure.ts'
import { quantile } from '../src/statistics.ts'

const NODES = 10_000
const ROUNDS = SMOKE ? 2 : 5
const ROUND_MS = SMOKE ? 500 : 2_000
/** Of the store, so that no lease ends meanwhile. */
const LEASE_MS = 600_000
const TICK_MS = 10
/** What a head writes for an actor or a group: its record and an index or two. */
const BATCH_KEYS = 3
const VALUE_BYTES = 300
const WRITERS = 100
const APPEND_BYTES = 16_384

const { openStore } = await internal<typeof import('../../packages/runtime/src/store/open-store.ts')>('store/open-store')

interface Opened {
  readonly url: string
  close(): Promise<void>
}

const ENGINES: Readonly<Record<string, () => Promise<Opened>>> = {
  memory: () => Promise.resolve({ url: 'memory:', close: () => Promise.resolve() }),
  sqlite: () => {
    const dir = mkdtempSync(join(tmpdir(), 'control-store-'))
    return Promise.resolve({ url: `sqlite:${join(dir, 'control.db')}`, close: () => Promise.resolve(rmSync(dir, { recursive: true })) })
  },
  redis: () => (noRedis ? skip('redis-server is not installed') : redisServer()),
  postgres: () => (noPostgres ? skip('postgresql is not installed') : postgresServer()),
}

for (const engine of process.argv.slice(2)) {
  const server = await ENGINES[engine]!()
  const store = await openStore(server.url, { warn: (text) => console.error(text) })
  try {
    await renewals(engine, store)
    await writes(engine, store)
  } finally {
    await store.close()
    await server.close()
  }
}

async function renewals(engine: string, store: ControlStore): Promise<void> {
  const value = new Uint8Array(VALUE_BYTES)
  const leases = (await Promise.all(Array.from({ length: NODES }, (_, node) => store.lease(`node/${node}`, value, LEASE_MS)))) as Lease[]
  const rates: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    let count = 0
    const startMs = performance.now()
    do {
      const renewed = await Promise.all(leases.map((lease) => lease.renew()))
      if (!renewed.every(Boolean)) throw new Error('a lease was lost')
      count += NODES
    } while (performance.now() - startMs < ROUND_MS)
    rates.push((1000 * count) / (performance.now() - startMs))
  }
  report(`${engine}_renewals`, '/s', rates)
  // At the pace of the nodes: as many in each tick as its length is part of a second, in turn.
  const p50: number[] = []
  const p99: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const latenciesMs: number[] = []
    const underway: Promise<unknown>[] = []
    let asked = 0
    const startMs = performance.now()
    while (performance.now() - startMs < ROUND_MS) {
      for (const due = ((performance.now() - startMs) / 1000) * NODES; asked < due; asked++) {
        const askedMs = performance.now()
        underway.push(leases[asked % NODES]!.renew().then(() => latenciesMs.push(performance.now() - askedMs)))
      }
      await delay(TICK_MS)
    }
    await Promise.all(underway)
    p50.push(quantile(latenciesMs, 0.5))
    p99.push(quantile(latenciesMs, 0.99))
  }
  report(`${engine}_renewal_p50_ms`, 'ms', p50)
  report(`${engine}_renewal_p99_ms`, 'ms', p99)
}

async function writes(engine: string, store: ControlStore): Promise<void> {
  const head = (await store.lease('head', new Uint8Array(VALUE_BYTES), LEASE_MS))!
  const value = new Uint8Array(VALUE_BYTES)
  const write = (writer: number): Promise<number> =>
    store.write(
      Array.from({ length: BATCH_KEYS }, (_, index) => ({ key: `record/${writer}/${index}`, value })),
      head,
    )
  const alone: number[] = []
  const p50: number[] = []
  const p99: number[] = []
  const together: number[] = []
  const yardstick: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const latenciesMs: number[] = []
    const startMs = performance.now()
    while (performance.now() - startMs < ROUND_MS) {
      const askedMs = performance.now()
      await write(0)
      latenciesMs.push(performance.now() - askedMs)
    }
    alone.push((1000 * latenciesMs.length) / (performance.now() - startMs))
    p50.push(quantile(latenciesMs, 0.5))
    p99.push(quantile(latenciesMs, 0.99))
    if (engine !== 'memory') yardstick.push(syncedAppends())
    const manyMs = performance.now()
    let count = 0
    const writer = async (number: number): Promise<void> => {
      for (; performance.now() - manyMs < ROUND_MS; count++) await write(number)
    }
    await Promise.all(Array.from({ length: WRITERS }, (_, number) => writer(number)))
    together.push((1000 * count) / (performance.now() - manyMs))
  }
  if (yardstick.length > 0) report(`yardstick_${engine}_synced_appends`, '/s', yardstick)
  report(`${engine}_writes_one_by_one`, '/s', alone)
  report(`${engine}_write_p50_ms`, 'ms', p50)
  report(`${engine}_write_p99_ms`, 'ms', p99)
  report(`${engine}_writes_of_100`, '/s', together)
}

/** What waits for the disk cost here, per second: appends of what a commit writes, each synced. */
function syncedAppends(): number {
  const dir = mkdtempSync(join(tmpdir(), 'control-store-'))
  const fd = openSync(join(dir, 'log'), 'w')
  const pages = Buffer.alloc(APPEND_BYTES)
  const startMs = performance.now()
  let count = 0
  for (; performance.now() - startMs < ROUND_MS; count++) {
    writeSync(fd, pages)
    fsyncSync(fd)
  }
  const rate = (1000 * count) / (performance.now() - startMs)
  closeSync(fd)
  rmSync(dir, { recursive: true })
  return rate
}
