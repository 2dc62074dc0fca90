/** Several heads for one cluster, on hosts of their own with a store that all reach: one decides at a time, also when another one wakes up late. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { openStore } from '../../src/store/open-store.ts'
import { networkUnavailable, TestCluster, type TestNode, until } from '../../src/testing/index.ts'
import { noPostgres, noRedis, postgresServer, redisServer, type Server } from '../servers.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 })

const unavailable = await networkUnavailable()

const SERVERS = [
  { name: 'Redis', missing: noRedis, open: () => redisServer({ bind: '0.0.0.0', 'protected-mode': 'no' }) },
  { name: 'PostgreSQL', missing: noPostgres, open: () => postgresServer('0.0.0.0') },
]

for (const { name, missing, open } of SERVERS) {
  describe.skipIf(missing || unavailable !== undefined)(`with a store in ${name}`, () => {
    let server: Server
    let cluster: TestCluster

    beforeEach(async () => {
      server = await open()
      cluster = await TestCluster.prepare({
        nodes: [{ cpus: 0 }, { cpus: 0 }, { cpus: 2 }],
        isolation: 'netns',
        store: (testProcess) => server.url.replace('127.0.0.1', testProcess),
      })
    })

    afterEach(async () => {
      try {
        await cluster[Symbol.asyncDispose]()
      } finally {
        await server.close()
      }
    })

    /** Its start as a head has begun when this returns. */
    async function lead(node: TestNode): Promise<{ readonly started: Promise<void> }> {
      cluster.moveHead(node)
      const started = node.start()
      started.catch(() => undefined) // awaited by the caller
      await new Promise((resolve) => setImmediate(resolve))
      return { started }
    }

    /** What the store says of its head. */
    async function inStore(): Promise<{ node: string; epoch: number }> {
      const store = await openStore(server.url, { warn: () => undefined })
      try {
        return JSON.parse(new TextDecoder().decode((await store.get('head'))?.value)) as { node: string; epoch: number }
      } finally {
        await store.close()
      }
    }

    /** Counts with an actor that every head of the cluster must know; then again with each line that is written to it. */
    const count = (node: TestNode): ReturnType<TestNode['driver']> =>
      node.driver(async ({ init, get, remote, getActor }, { tell }) => {
        await init({ namespace: 'heads' })
        class Counter {
          #count = 0
          add(): number {
            return ++this.#count
          }
        }
        const counter = remote(Counter, { name: 'counter', cpus: 0, detached: true }).remote()
        tell('counted', { count: await get(counter.add.remote()) })
        await new Promise((resolve) => process.stdin.once('data', resolve))
        process.stdin.destroy()
        const again = await getActor<Counter>('counter')
        tell('counted again', { count: await get(again.add.remote()) })
      })

    test('of two that start at once one leads and the other names it; when that one is killed the other takes over', async () => {
      const [first, second, worker] = cluster.nodes as [TestNode, TestNode, TestNode]
      const starts = [await lead(first), await lead(second)]
      const outcomes = await Promise.allSettled(starts.map(({ started }) => started))
      expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
      const [winner, loser] = outcomes[0]?.status === 'fulfilled' ? [first, second] : [second, first]
      const { reason } = outcomes.find((outcome) => outcome.status === 'rejected') as PromiseRejectedResult
      expect(String(reason)).toContain(`${winner.host?.address}:6380`)
      expect(await inStore()).toMatchObject({ node: winner.id, epoch: 1 })
      cluster.moveHead(winner)
      await worker.start()
      const driver = count(worker)
      expect(await driver.event('counted')).toMatchObject({ count: 1 })

      const { started } = await lead(loser)
      await winner.kill('SIGKILL')
      await started
      expect(await inStore()).toMatchObject({ node: loser.id, epoch: 2 })
      driver.write('again\n')
      expect(await driver.event('counted again')).toMatchObject({ count: 2 })
      await driver.finished()
      const heads = (await cluster.members()).filter(({ head }) => head)
      expect(heads.map(({ node }) => node)).toEqual([loser.id])
    })

    test('one that slept while another took over, and is asked to end when it wakes, ends', async () => {
      const [sleeper, next] = cluster.nodes as [TestNode, TestNode]
      await (await lead(sleeper)).started
      sleeper.pause()
      await (await lead(next)).started
      sleeper.resume()
      await sleeper.kill('SIGTERM')
      expect(await inStore()).toMatchObject({ node: next.id, epoch: 2 })
    })

    test('one that slept while another took over decides nothing when it wakes, and becomes a node', async () => {
      const [sleeper, next, worker] = cluster.nodes as [TestNode, TestNode, TestNode]
      await (await lead(sleeper)).started
      await worker.start()
      const driver = count(worker)
      expect(await driver.event('counted')).toMatchObject({ count: 1 })
      const before = sleeper.id
      const claim = async (
        { init, get, remote }: typeof import('../../src/index.ts'),
        { tell }: typeof import('../../src/testing/index.ts'),
      ): Promise<void> => {
        await init({ namespace: 'heads', quiet: true })
        class Owner {
          of(): string {
            return process.env['CLAIMS'] ?? ''
          }
        }
        tell('ready')
        await new Promise((resolve) => process.stdin.once('data', resolve))
        process.stdin.destroy()
        try {
          const owner = remote(Owner, { name: 'only', cpus: 0, detached: true, env: { vars: { CLAIMS: process.env['CLAIMS'] ?? '' } } }).remote()
          tell('claimed', { of: await get(owner.of.remote()) })
        } catch (error) {
          tell('claimed', { refused: (error as { code?: string }).code })
        }
      }
      const there = sleeper.driver(claim, { env: { CLAIMS: 'sleeper' } })
      const here = worker.driver(claim, { env: { CLAIMS: 'worker' } })
      await Promise.all([there.event('ready'), here.event('ready')])

      sleeper.pause()
      there.write('claim\n') // the question waits in the socket of a process that sleeps
      await (await lead(next)).started
      driver.write('again\n')
      expect(await driver.event('counted again')).toMatchObject({ count: 2 })
      here.write('claim\n')
      expect(await here.event('claimed')).toMatchObject({ of: 'worker' })
      sleeper.resume()
      await until('three nodes', async () => {
        const alive = (await cluster.members(next)).filter(({ state }) => state === 'ALIVE')
        return (alive.length === 3 && alive.every(({ node }) => node !== before)) || alive.map(({ node }) => node).join(', ')
      })
      expect(await inStore()).toMatchObject({ node: next.id, epoch: 2 })
      expect((await cluster.members(sleeper)).filter(({ head }) => head).map(({ node }) => node)).toEqual([next.id])
      const actors = await next.list<{ name: string; state: string }>('actors')
      expect(actors.filter(({ name: each, state }) => each === 'only' && state !== 'DEAD')).toHaveLength(1)
      await there.exited
      await Promise.all([driver.finished(), here.finished()])
    })
  })
}
