/** With a store that all machines reach, the head comes back on another machine, and the nodes find it there. */
import { describe, expect, test } from 'vitest'
import { startTestCluster, type TestNode } from '../../src/testing/index.ts'
import { noRedis, redisServer } from '../servers.ts'

describe.skipIf(noRedis || process.getuid?.() !== 0)('hosts with a Redis server', () => {
  test('the head dies with its machine and starts on another: tasks and named actors of the others go on', async () => {
    const redis = await redisServer({ bind: '0.0.0.0', 'protected-mode': 'no' })
    try {
      await using cluster = await startTestCluster({
        nodes: [{ cpus: 0 }, { cpus: 0 }, { cpus: 2 }],
        isolation: 'netns',
        store: (testProcess) => redis.url.replace('127.0.0.1', testProcess),
      })
      const [first, standby, other] = cluster.nodes as [TestNode, TestNode, TestNode]
      const driver = other.driver(async ({ init, get, remote, getActor }, { tell }) => {
        await init({ namespace: 'moves' })
        class Counter {
          #count = 0
          add(): number {
            return ++this.#count
          }
        }
        const counter = remote(Counter, { name: 'counter', cpus: 0, detached: true }).remote()
        await get(counter.add.remote())
        const running = remote(
          async () => {
            await new Promise((resolve) => setTimeout(resolve, 8_000))
            return 'done'
          },
          { maxRetries: 0 },
        ).remote()
        tell('ready')
        await new Promise((resolve) => process.stdin.once('data', resolve))
        process.stdin.destroy()
        const again = await getActor<Counter>('counter')
        tell('counted', { count: await get(again.add.remote()) })
        tell('ran', { value: await get(running) })
      })
      await driver.event('ready')
      const id = other.id
      await first.kill('SIGKILL')
      cluster.moveHead(standby)
      await standby.restart()
      driver.write('go\n')
      expect(await driver.event('counted')).toMatchObject({ count: 2 })
      expect(await driver.event('ran')).toMatchObject({ value: 'done' })
      expect((await driver.exited).code).toBe(0)
      expect(other.id).toBe(id)
      expect((await cluster.members()).find(({ node }) => node === standby.id)).toMatchObject({ head: true, state: 'ALIVE' })
    } finally {
      await redis.close()
    }
  })
})
