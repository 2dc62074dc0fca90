/**
 * A dataset several times as large as the object store: it streams through, whoever is slow.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Dataset } from '@beamline/data'
import { type Cluster, init } from '@beamline/runtime'
import { afterAll, beforeAll, expect, test } from 'vitest'

const ROWS = 6_000_000 // 16 bytes each, three times the store
let cluster: Cluster
let folder: string

beforeAll(async () => {
  cluster = await init({ cpus: 2, storeBytes: 32 * 1024 * 1024, quiet: true })
  folder = await mkdtemp(join(tmpdir(), 'beamline-pressure-'))
})
afterAll(async () => {
  await cluster.shutdown()
  await rm(folder, { recursive: true })
})

const wide = (): Dataset<{ id: bigint; y: number }> =>
  Dataset.range(ROWS).mapBatches(({ id }: { id: BigInt64Array }) => ({ id, y: Float64Array.from(id, Number) }))

test('a slow consumer holds the producers back', async () => {
  let next = 0n
  for await (const { id } of wide().iterBatches({ batchSize: 50_000 })) {
    const ids = id as BigInt64Array
    expect([ids[0], ids.at(-1)]).toEqual([next, next + BigInt(ids.length) - 1n])
    next += BigInt(ids.length)
    await new Promise(setImmediate)
  }
  expect(next).toBe(BigInt(ROWS))
})

test('a slow pool holds the readers back', async () => {
  class Sum {
    call({ y }: { y: Float64Array }) {
      return { sum: Float64Array.of(y.reduce((a, b) => a + b, 0)), rows: Int32Array.of(y.length) }
    }
  }
  const out = join(folder, 'wide')
  expect(await wide().writeParquet(out)).toMatchObject({ rows: ROWS })
  const sums = await Dataset.readParquet<{ y: number }>(out).mapBatches<{ sum: number; rows: number }>(Sum, { concurrency: 1, batchSize: 100_000 }).take(ROWS)
  expect(sums.map(({ rows }) => rows)).toEqual(new Array(ROWS / 100_000).fill(100_000))
  expect(sums.reduce((total, { sum }) => total + sum, 0)).toBe((ROWS * (ROWS - 1)) / 2)
})
