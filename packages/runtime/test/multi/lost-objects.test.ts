/** Objects whose node dies: what a task made is made again, what was put fails with its story; owners and borrowers hear of each other's death. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startTestCluster, type TestCluster, type TestNode, until } from '../../src/testing/index.ts'

const DEAD_MS = 2_000

describe('a driver on the head, whose nodes die', () => {
  let cluster: TestCluster
  let head: TestNode
  const nodeOf = (id: unknown): TestNode => cluster.nodes.find((node) => node.id === id) as TestNode

  beforeEach(async () => {
    cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }, { cpus: 1 }], nodeTimeoutMs: DEAD_MS })
    head = cluster.head
  })

  afterEach(async () => {
    await cluster[Symbol.asyncDispose]()
  })

  test('a result that lay on a dead node is made again on another one, with what it was made of', async () => {
    const driver = head.driver(async ({ init, get, wait, remote, clusterInfo, explain }, { tell, processReport }) => {
      await init()
      const make = remote((size: number) => new Uint8Array(size).fill(7))
      const double = remote((bytes: Uint8Array) => ({ node: clusterInfo().node, bytes: bytes.map((byte) => 2 * byte) }))
      const where = remote((value: { node: string }) => value.node)
      const made = make.remote(300_000)
      const doubled = double.remote(made)
      const node = await get(where.remote(doubled))
      made.release()
      await wait([doubled])
      tell('made', { node })
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
      const pending = get(doubled)
      tell('asked', { why: (await explain(doubled)).text })
      const value = await pending
      const { retries, reconstructions } = processReport()
      tell('again', { node: value.node, sum: value.bytes.reduce((sum, byte) => sum + byte, 0), retries, reconstructions })
    })
    const { node } = await driver.event('made')
    await nodeOf(node).kill()
    await cluster.waitDead(node as string)
    driver.write('go\n')
    const again = await driver.event('again')
    expect(again).toMatchObject({ sum: 14 * 300_000, retries: 0, reconstructions: 2 })
    expect(again['node']).not.toBe(node)
    await driver.finished()
  })

  test('what a task of a dead node had put fails where it is borrowed, and says that its owner is gone', async () => {
    const driver = head.driver(async ({ init, get, put, remote, clusterInfo }, { tell }) => {
      await init()
      const store = remote(async () => ({ node: clusterInfo().node, inside: await put(new Uint8Array(300_000)) }))
      const { node, inside } = await get(store.remote())
      tell('stored', { node })
      const startedAt = performance.now()
      const error = (await get(inside)
        .then(
          () => new Promise((resolve) => process.stdin.once('data', () => resolve(get(inside)))),
          (thrown: unknown) => thrown,
        )
        .catch((thrown: unknown) => thrown)) as { code?: string; message?: string }
      process.stdin.destroy()
      tell('failed', { code: error.code, message: error.message, ms: performance.now() - startedAt })
    })
    const { node } = await driver.event('stored')
    await nodeOf(node).kill()
    await cluster.waitDead(node as string)
    driver.write('go\n')
    expect(await driver.event('failed')).toMatchObject({ code: 'OWNER_DIED', message: expect.stringContaining(node as string) as string })
    await driver.finished()
  })

  test('an object that only a process of a dead node had borrowed is freed', async () => {
    const driver = head.driver(async ({ init, get, put, remote, clusterInfo }, { tell }) => {
      await init()
      class Keeper {
        kept: unknown
        keep(value: unknown): string {
          this.kept = value
          return clusterInfo().node
        }
      }
      const keeper = remote(Keeper, { cpus: 1 }).remote()
      const ref = await put(new Uint8Array(300_000))
      const node = await get(keeper.keep.remote({ ref }))
      ref.release()
      tell('kept', { node })
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
    })
    const { node } = await driver.event('kept')
    const objects = async (): Promise<number> => (await head.list('objects')).length
    expect(await objects()).toBe(1)
    await nodeOf(node).kill()
    await until('the end of the object', async () => (await objects()) === 0 || 'it is there')
    driver.write('go\n')
    await driver.finished()
  })

  test('tasks of a dead node run again elsewhere, those that had not started without a retry', async () => {
    const driver = head.driver(async ({ init, get, remote, clusterInfo, currentTask }, { tell, processReport }) => {
      await init()
      const run = remote(
        async (n: number) => {
          const { node } = clusterInfo()
          tell('running', { n, node, attempt: currentTask()?.attempt })
          if (currentTask()?.attempt === 0 && n < 2) await new Promise(() => {})
          return n
        },
        { maxRetries: 1 },
      )
      const results = await get([0, 1, 2, 3].map((n) => run.remote(n)))
      const { retries, reconstructions } = processReport()
      tell('done', { results, retries, reconstructions })
    })
    const { node } = await driver.event('running')
    await driver.event('running', (event) => event['node'] !== node)
    for (const each of cluster.nodes.slice(1)) await each.kill()
    await cluster.nodes[1]?.start()
    expect(await driver.event('done')).toMatchObject({ results: [0, 1, 2, 3], retries: 2, reconstructions: 0 })
    await driver.finished()
  })
})
