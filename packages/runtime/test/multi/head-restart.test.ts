/** The head is killed and starts again: what runs elsewhere goes on, and what was created by name is still there. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode } from '../../src/testing/index.ts'

test('running tasks, named and detached actors and groups of another node survive the head', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 4 }] })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const endFile = join(other.temporary, 'end')
  const driver = other.driver(
    async ({ init, get, remote, placementGroup, getActor }, { tell }) => {
      await init({ namespace: 'survives' })
      const end = process.env['END'] as string
      class Counter {
        #count = 0
        add(): number {
          return ++this.#count
        }
      }
      const detached = remote(Counter, { name: 'counter', detached: true, cpus: 0 } as never).remote()
      const counter = detached as unknown as { add: { remote(): never } }
      await get(counter.add.remote())
      const group = placementGroup([{ cpus: 1 }])
      await group.ready()
      const running = remote(async () => {
        // Until the test has seen the new head: nothing else tells a worker.
        while (!process.getBuiltinModule('node:fs').existsSync(end)) await new Promise((resolve) => setTimeout(resolve, 20))
        return 'done'
      }).remote()
      tell('ready')
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
      // The head is another process by now.
      const again = (await getActor('counter')) as unknown as { add: { remote(): never } }
      tell('counted', { count: await get(again.add.remote()) })
      tell('ran', { value: await get(running) })
      const inGroup = remote(() => 'in the group')
      tell('group', { value: await get(inGroup.options({ placementGroup: group, bundleIndex: 0 }).remote()) })
      const created = remote(Counter, { cpus: 0 } as never).remote() as unknown as { add: { remote(): never } }
      tell('created', { count: await get(created.add.remote()) })
    },
    { env: { END: endFile } },
  )
  await driver.event('ready')
  await head.kill('SIGKILL')
  await head.start()
  await cluster.waitForNodes(2)
  writeFileSync(endFile, '')
  driver.write('go\n')
  expect(await driver.event('counted')).toMatchObject({ count: 2 })
  expect(await driver.event('ran')).toMatchObject({ value: 'done' })
  expect(await driver.event('group')).toMatchObject({ value: 'in the group' })
  expect(await driver.event('created')).toMatchObject({ count: 1 })
  expect((await driver.exited).code).toBe(0)
  const actors = await head.list<{ name: string; state: string; node: string }>('actors')
  expect(actors.find(({ name }) => name === 'counter')).toMatchObject({ state: 'ALIVE', node: other.id })
})

test('nodes outlive any number of heads: each new one is found in time', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }, { cpus: 1 }], nodeTimeoutMs: 3_000 })
  const [head, ...others] = cluster.nodes as [TestNode, TestNode, TestNode]
  const before = others.map(({ id }) => id)
  for (let times = 0; times < 5; times++) {
    await head.kill('SIGKILL')
    await head.start()
    await cluster.waitForNodes(3)
  }
  expect(others.map(({ id }) => id)).toEqual(before)
})

test('two heads started at once on one store: one leads, the other says who', async () => {
  await using cluster = await startTestCluster({ nodes: 1 })
  const [head] = cluster.nodes as [TestNode]
  const store = `sqlite:${head.temporary}/beamline-${process.getuid?.() ?? ''}/control.sqlite`
  const second = head.exec(
    [
      process.execPath,
      '--conditions=@beamline/source',
      new URL('../../src/cli/main.ts', import.meta.url).pathname,
      'start',
      '--head',
      '--store',
      store,
      '--port',
      '0',
    ],
    {
      env: { BEAMLINE_TMPDIR: `${head.temporary}/second`, BEAMLINE_ADDRESS: undefined },
    },
  )
  const { code, stderr } = await second.exited
  expect(code).toBe(1)
  expect(stderr).toMatch(/control store|head/)
})
