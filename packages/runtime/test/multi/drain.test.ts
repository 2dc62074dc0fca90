/** A node that drains finishes what it runs, gets nothing new, and leaves; what it held is elsewhere. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode, until } from '../../src/testing/index.ts'

/** Tasks that run until the test has seen what it wants to see look for it: nothing else tells a process on another node. */
const endFileOf = (node: TestNode): string => join(node.temporary, 'end')

test('a task that runs finishes, an actor moves, objects can still be read, then the node is gone', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 2 }, { cpus: 2 }] })
  const [head, first, second] = cluster.nodes as [TestNode, TestNode, TestNode]
  const driver = head.driver(
    async ({ init, get, remote, clusterInfo }, { tell }) => {
      await init()
      const [from, end] = [process.env['FROM'] as string, process.env['END'] as string]
      class Home {
        where(): string {
          return clusterInfo().node
        }
      }
      const home = remote(Home, { cpus: 1, maxRestarts: 3, maxTaskRetries: 3, node: { id: from, soft: true } } as never).remote() as unknown as {
        where: { remote(): never }
      }
      tell('home', { node: await get(home.where.remote()) })
      const big = remote(() => new Uint8Array(5_000_000).fill(7), { cpus: 1, node: { id: from, soft: true } } as never).remote()
      await get(big)
      const slow = remote(
        async () => {
          tell('slow')
          while (!process.getBuiltinModule('node:fs').existsSync(end)) await new Promise((resolve) => setTimeout(resolve, 20))
          return clusterInfo().node
        },
        { maxRetries: 0, cpus: 1, node: { id: from, soft: true } } as never,
      ).remote()
      tell('slow done', { node: await get(slow) })
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
      tell('after', { node: await get(home.where.remote()), last: ((await get(big)) as Uint8Array).at(-1) })
    },
    { env: { FROM: first.id, END: endFileOf(head) } },
  )
  const leaving = first.id
  expect(await driver.event('home')).toMatchObject({ node: leaving })
  await driver.event('slow')
  const drained = head.cli('drain', leaving.slice(0, 6), '--deadline-ms', '20000', '--json')
  await until('node that drains', async () => {
    const state = (await cluster.members()).find(({ node }) => node === leaving)?.state
    return state === 'DRAINING' || `it is ${state}`
  })
  writeFileSync(endFileOf(head), '')
  await drained
  expect(await driver.event('slow done')).toMatchObject({ node: leaving })
  await first.gone()
  driver.write('go\n')
  expect(await driver.event('after')).toMatchObject({ node: second.id, last: 7 })
  expect((await driver.exited).code).toBe(0)
  expect((await cluster.members()).find(({ node }) => node === leaving)?.state ?? 'DEAD').toBe('DEAD')
})

test('the head cannot be drained, and an unknown node is named', async () => {
  await using cluster = await startTestCluster({ nodes: 2 })
  await expect(cluster.head.cli('drain', cluster.head.id)).rejects.toThrow(/the head/)
  await expect(cluster.head.cli('drain', 'zzzz')).rejects.toThrow(/there is no node "zzzz"/)
})

test('what runs in a bundle finishes on the node that drains, while the bundle is placed elsewhere for what comes next', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }, { cpus: 1 }] })
  const { head } = cluster
  const driver = head.driver(
    async ({ init, get, remote, placementGroup, clusterInfo }, { tell }) => {
      await init()
      const end = process.env['END'] as string
      const group = placementGroup([{ cpus: 1 }], { strategy: 'PACK' })
      await group.ready()
      const slow = remote(
        async () => {
          tell('slow', { node: clusterInfo().node })
          while (!process.getBuiltinModule('node:fs').existsSync(end)) await new Promise((resolve) => setTimeout(resolve, 20))
          return clusterInfo().node
        },
        { maxRetries: 0, cpus: 1, placementGroup: group },
      ).remote()
      const where = remote(() => clusterInfo().node, { cpus: 1, placementGroup: group })
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
      const after = where.remote()
      tell('done', { slow: await get(slow), after: await get(after) })
    },
    { env: { END: endFileOf(head) } },
  )
  const { node } = await driver.event('slow')
  const [leaving, other] = cluster.nodes.slice(1).toSorted((a) => (a.id === node ? -1 : 1)) as [TestNode, TestNode]
  const drained = head.cli('drain', leaving.id, '--deadline-ms', '30000', '--json')
  await until('another place', async () => {
    const [group] = await head.list<{ state: string; nodes: string[] }>('groups')
    return (group?.state === 'CREATED' && group.nodes[0] === other.id) || `it is ${group?.state} on ${group?.nodes.join()}`
  })
  driver.write('go\n')
  writeFileSync(endFileOf(head), '')
  expect(await driver.event('done')).toMatchObject({ slow: node, after: other.id })
  await drained
  await leaving.gone()
  await driver.finished()
})

test('an actor that may not restart works until the deadline, and then its callers learn that its node was drained', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }] })
  const [head, leaving] = cluster.nodes as [TestNode, TestNode]
  const driver = head.driver(async ({ init, get, remote }, { tell }) => {
    await init()
    class Counter {
      #count = 0
      add(): number {
        return ++this.#count
      }
    }
    const counter = remote(Counter, { cpus: 1, maxRestarts: 0 }).remote()
    await get(counter.add.remote())
    tell('counts')
    try {
      for (;;) tell('last', { count: await get(counter.add.remote()) })
    } catch (error) {
      tell('failed', { code: (error as { code: string }).code, message: (error as Error).message })
    }
  })
  await driver.event('counts')
  const started = performance.now()
  await head.cli('drain', leaving.id, '--deadline-ms', '2000', '--reason', 'new memory', '--json')
  expect(await driver.event('failed')).toMatchObject({ code: 'ACTOR_DIED', message: expect.stringContaining('was drained: new memory') })
  expect(performance.now() - started).toBeGreaterThan(2_000)
  await leaving.gone()
  await driver.finished()
})
