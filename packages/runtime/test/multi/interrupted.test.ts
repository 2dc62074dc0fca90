/** A network between two hosts that is gone for a while, and shorter than it takes to be declared dead. */
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode, until } from '../../src/testing/index.ts'

const CUT_MS = 5_000

test('calls, results and references that are on their way when the network is cut arrive once and in order when it is back', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }], isolation: 'netns' })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const driver = head.driver(async ({ init, get, put, remote, clusterInfo }, { tell }) => {
    await init()
    class Log {
      readonly #seen: number[] = []
      #kept: unknown
      add(n: number, kept: unknown): number {
        this.#seen.push(n)
        this.#kept = kept
        return this.#seen.length
      }
      read(): { seen: number[]; node: string; holds: boolean } {
        return { seen: this.#seen, node: clusterInfo().node, holds: this.#kept !== undefined }
      }
    }
    const log = remote(Log, { cpus: 1 }).remote()
    const refs: Parameters<typeof get>[0][] = []
    let over = false
    process.stdin.once('data', () => {
      over = true
    })
    tell('started', await get(log.read.remote()))
    for (let n = 0; !over; n++) {
      const ref = await put({ n })
      refs.push(log.add.remote(n, { ref }) as never)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    process.stdin.destroy()
    const counts = await Promise.all(refs.map((ref) => get(ref as never)))
    const { seen } = await get(log.read.remote())
    tell('read', { sent: refs.length, counts, seen })
  })
  expect(await driver.event('started')).toMatchObject({ node: other.id })
  await other.host?.cut()
  await new Promise((resolve) => setTimeout(resolve, CUT_MS))
  await other.host?.heal()
  await new Promise((resolve) => setTimeout(resolve, 500))
  driver.write('go\n')
  const { sent, counts, seen } = (await driver.event('read')) as unknown as { sent: number; counts: number[]; seen: number[] }
  expect(sent).toBeGreaterThan(100)
  expect(seen).toEqual(Array.from({ length: sent }, (_, n) => n))
  expect(counts).toEqual(seen.map((n) => n + 1))
  await driver.finished()
  await until('the end of the actor', async () => (await head.list<{ state: string }>('actors')).every(({ state }) => state === 'DEAD') || 'it lives')
  expect((await cluster.members()).map(({ state }) => state)).toEqual(['ALIVE', 'ALIVE'])
})
