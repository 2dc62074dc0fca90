/** Large objects between hosts of their own: byte for byte, through cuts, and from those who have them already. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { networkUnavailable, startTestCluster, type TestCluster, type TestNode, until } from '../../src/testing/index.ts'

vi.setConfig({ testTimeout: 120_000 })

const MiB = 1_048_576
const unavailable = await networkUnavailable()

interface Transfers {
  readonly node: string
  readonly transfers: { readonly sentBytes: number; readonly receivedBytes: number; readonly streams: number; readonly pulls: number }
}

describe.skipIf(unavailable !== undefined)('hosts with networks of their own', () => {
  let cluster: TestCluster
  let head: TestNode

  beforeEach(async () => {
    const reader = (index: number): object => ({ cpus: 1, resources: { [`host${index}`]: 1 } })
    cluster = await startTestCluster({ isolation: 'netns', nodes: [{ cpus: 0 }, reader(1), reader(2), reader(3)], storeBytes: 512 * MiB })
    head = cluster.head
  })

  afterEach(async () => {
    await cluster[Symbol.asyncDispose]()
  })

  const transfersOf = async (node: TestNode): Promise<Transfers['transfers']> =>
    (await node.query<Transfers[]>('nodes')).find((row) => row.node === node.id)!.transfers

  test('objects cross in arguments, results and by reference, and nothing of them is left', async () => {
    const driver = head.driver(async ({ init, get, put, remote }, { tell }) => {
      await init({ quiet: true })
      const hash = (bytes: Uint8Array): string => process.getBuiltinModule('node:crypto').hash('sha256', bytes)
      const sizes = [150_000, 5 * 1_048_576 + 3, 40 * 1_048_576]
      const made = sizes.map((size, index) => {
        const bytes = new Uint8Array(size)
        for (let at = 0; at < size; at += 97) bytes[at] = at * (index + 3)
        return bytes
      })
      const hashThere = remote(hash, { resources: { host1: 0.1 } })
      const turn = remote((bytes: Uint8Array) => bytes.toReversed(), { resources: { host2: 0.1 } })
      const refs = await Promise.all(made.map((bytes) => put(bytes)))
      const hashes = await get(refs.map((ref) => hashThere.remote(ref)))
      const turned = refs.map((ref) => turn.remote(ref))
      const turnedHashes = await get(turned.map((ref) => hashThere.remote(ref)))
      const back = await get(turned)
      tell('done', {
        there: hashes.every((each, index) => each === hash(made[index] as Uint8Array)),
        turned: turnedHashes.every((each, index) => each === hash((made[index] as Uint8Array).toReversed())),
        back: back.every((bytes, index) => hash(bytes) === turnedHashes[index]),
      })
    })
    expect(await driver.event('done')).toMatchObject({ there: true, turned: true, back: true })
    await driver.finished()
    await until('end of all copies', async () => {
      const objects = await head.list<{ object: string }>('objects')
      const nodes = await head.query<Transfers[]>('nodes')
      const left = nodes.filter(({ transfers }) => transfers.pulls + transfers.streams > 0).map(({ node }) => `a transfer on ${node}`)
      left.push(...objects.map(({ object }) => object))
      return left.length === 0 || left.join(', ')
    })
  })

  test.each([
    ['cut', 6_000], // longer than a silent connection lives
    ['reject', 500],
  ] as const)('after a %s in the middle a host goes on where it was', async (fault, ms) => {
    const reader = cluster.nodes[1] as TestNode
    await reader.host?.throttle(20 * MiB)
    const driver = head.driver(async ({ init, get, put, remote }, { tell }) => {
      await init({ quiet: true })
      const ref = await put(new Uint8Array(60 * 1_048_576).fill(7))
      const sum = remote((bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0), { resources: { host1: 0.1 } })
      tell('sum', { sum: await get(sum.remote(ref)) })
    })
    await until('a good part of it', async () => (await transfersOf(reader)).receivedBytes > 15 * MiB || 'not yet', { withinMs: 60_000, everyMs: 50 })
    await reader.host?.[fault]()
    await new Promise((resolve) => setTimeout(resolve, ms))
    await reader.host?.heal()
    expect(await driver.event('sum')).toMatchObject({ sum: 7 * 60 * MiB })
    expect((await transfersOf(reader)).receivedBytes).toBeLessThan(72 * MiB)
    await driver.finished()
  })

  test('three hosts that want it at once get it from each other', async () => {
    for (const { host } of cluster.nodes) await host?.throttle(50 * MiB)
    const driver = head.driver(async ({ init, get, put, remote }, { tell }) => {
      await init({ quiet: true })
      const lengths = [1, 2, 3].map((host) => remote((bytes: Uint8Array) => bytes.length + (bytes.at(-1) as number), { resources: { [`host${host}`]: 0.1 } }))
      await get(lengths.map((length) => length.remote(new Uint8Array(1))))
      const ref = await put(new Uint8Array(100 * 1_048_576).fill(9))
      tell('lengths', { lengths: await get(lengths.map((length) => length.remote(ref))) })
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
    })
    expect(await driver.event('lengths')).toMatchObject({ lengths: Array.from({ length: 3 }, () => 100 * MiB + 9) })
    const sent = await Promise.all(cluster.nodes.map(async (node) => (await transfersOf(node)).sentBytes / (100 * MiB)))
    expect(sent.reduce((sum, share) => sum + share)).toBeCloseTo(3, 1)
    expect(sent[0]).toBeLessThan(2.5)
    driver.write('go\n')
    await driver.finished()
  })
})

test('with certificates a large object crosses encrypted', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }], tls: true, storeBytes: 256 * MiB })
  const driver = cluster.head.driver(async ({ init, get, put, remote }, { tell }) => {
    await init({ quiet: true })
    const sum = remote((bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0))
    const there = await get(sum.remote(await put(new Uint8Array(40 * 1_048_576).fill(3))))
    const made = remote(() => new Uint8Array(40 * 1_048_576).fill(5)).remote()
    tell('sums', { there, back: (await get(made)).reduce((total, byte) => total + byte, 0) })
  })
  expect(await driver.event('sums')).toMatchObject({ there: 3 * 40 * MiB, back: 5 * 40 * MiB })
  await driver.finished()
})
