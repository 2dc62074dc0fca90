/** Objects that a node has spilled are read on another node, from folders and from a bucket that the command line names. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { startTestCluster, type TestCluster, type TestNode, until } from '../../src/testing/index.ts'
import type { StoreUsage } from '../../src/objects/segment-directory-events.ts'
import { startS3 } from '../spill/s3-stand-in.ts'

vi.setConfig({ testTimeout: 90_000 })

const MiB = 1_048_576

const usageOf = async (node: TestNode): Promise<StoreUsage> => {
  const rows = await node.query<{ node: string; store: StoreUsage }[]>('nodes')
  return rows.find((row) => row.node === node.id)!.store
}

/** The second node has room for a fifth of what is made there; the first reads all of it. */
async function makeAndRead(cluster: TestCluster, filesThere: () => number): Promise<void> {
  const [head, spiller] = cluster.nodes as [TestNode, TestNode]
  const driver = head.driver(async ({ init, get, remote }, { tell }) => {
    await init({ quiet: true })
    const make = remote(
      (seed: number) => {
        const bytes = new Uint8Array(4 * 1_048_576 + seed)
        new Uint32Array(bytes.buffer, 0, 1_048_576).forEach((_, at, words) => (words[at] = seed * 1_000_003 + at))
        return bytes
      },
      { resources: { tape: 0.1 } },
    )
    const hash = (bytes: Uint8Array): string => process.getBuiltinModule('node:crypto').hash('sha256', bytes)
    const hashThere = remote(hash, { resources: { tape: 0.1 } })
    const made = Array.from({ length: 20 }, (_, seed) => make.remote(seed))
    const wanted = await get(made.map((ref) => hashThere.remote(ref)))
    tell('made')
    const line = process.stdin[Symbol.asyncIterator]()
    await line.next()
    const equal: boolean[] = []
    for (const [index, ref] of made.entries()) equal.push(hash(await get(ref)) === wanted[index])
    tell('read', { equal })
    for (const ref of made) ref.release()
    // What was read is held until it is collected.
    const collector = setInterval(() => globalThis.gc?.(), 50)
    await line.next()
    clearInterval(collector)
    process.stdin.destroy()
  })
  await driver.event('made')
  await until('most of it on disk', async () => (await usageOf(spiller)).spilledBytes > 50 * MiB || JSON.stringify(await usageOf(spiller)))
  expect(filesThere()).toBeGreaterThan(0)
  expect(await head.cli('status')).toMatch(/ of 20\.0 MiB reserved; \d+\.\d MiB in 1\d objects spilled, spill files \d+\.\d MiB/)
  driver.write('read\n')
  expect(await driver.event('read')).toMatchObject({ equal: Array.from({ length: 20 }, () => true) })
  expect((await usageOf(spiller)).restoredBytes).toBeGreaterThan(50 * MiB)
  await until('no spill file', async () => {
    const { spillFileBytes } = await usageOf(spiller)
    return (spillFileBytes === 0 && filesThere() === 0) || `${spillFileBytes} bytes, ${filesThere()} files`
  })
  driver.write('end\n')
  await driver.finished()
}

const nodes = (args: readonly string[], env: Readonly<Record<string, string>> = {}): object[] => [
  { cpus: 1, storeBytes: 256 * MiB },
  { cpus: 1, storeBytes: 20 * MiB, resources: { tape: 1 }, args, env },
]

test('from two folders that --spill-dir names', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'spilled-'))
  try {
    const disks = ['a', 'b'].map((name) => join(folder, name))
    for (const disk of disks) mkdirSync(disk)
    const filesOf = (disk: string): string[] => readdirSync(disk).flatMap((name) => readdirSync(join(disk, name)).filter((file) => file !== 'holder.json'))
    const args = [...disks.flatMap((disk) => ['--spill-dir', disk]), '--spill-quota', String(512 * MiB)]
    {
      await using cluster = await startTestCluster({ nodes: nodes(args) })
      await makeAndRead(cluster, () => Math.min(...disks.map((disk) => filesOf(disk).length)))
    }
    expect(disks.map((disk) => readdirSync(disk))).toEqual([[], []])
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('from a bucket that --spill-s3 names', async () => {
  await using s3 = await startS3()
  const keys = { AWS_ACCESS_KEY_ID: 'key', AWS_SECRET_ACCESS_KEY: 'secret' }
  const args = ['--spill-s3', 'bucket/spilled', '--spill-s3-endpoint', s3.endpoint]
  await using cluster = await startTestCluster({ nodes: nodes(args, keys) })
  const prefix = `/bucket/spilled/${(cluster.nodes[1] as TestNode).id}/`
  await makeAndRead(cluster, () => [...s3.objects.keys()].filter((key) => key.startsWith(prefix)).length)
  expect(s3.objects.size).toBe(0)
})
