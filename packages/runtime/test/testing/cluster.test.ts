import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { networkUnavailable, Program, startTestCluster, type TestNode, until } from '@beamline/runtime/testing'
import { describe, expect, test } from 'vitest'
import { processesOf, storeFolder, temporaryFolder } from '../../src/testing/registry.ts'

const unavailable = await networkUnavailable()
const SMALL = { cpus: 1, storeBytes: 32 << 20 } as const

/** Nothing of a test cluster is left. */
function expectNothingLeft(id: string): void {
  expect(processesOf(id)).toEqual([])
  expect(existsSync(temporaryFolder(id))).toBe(false)
  expect(existsSync(storeFolder(id))).toBe(false)
}

for (const isolation of ['process', 'netns'] as const) {
  describe.skipIf(isolation === 'netns' && unavailable !== undefined && process.env['CI'] === undefined)(`a cluster of nodes: ${isolation}`, () => {
    test('all nodes are part of it, a program on each finds it, and its end leaves nothing', async () => {
      const cluster = await startTestCluster({ ...SMALL, nodes: 3, isolation, head: 1 })
      try {
        const members = await cluster.members()
        expect(members.map(({ state }) => state)).toEqual(['ALIVE', 'ALIVE', 'ALIVE'])
        expect(new Set(members.map(({ node }) => node))).toEqual(new Set(cluster.nodes.map(({ id }) => id)))
        expect(members.find(({ head }) => head)?.node).toBe(cluster.nodes[1]?.id)
        const drivers = cluster.nodes.map((node) =>
          node.driver(async ({ init, get, remote }, { tell }) => {
            await using _cluster = await init()
            tell('answer', { value: await get(remote((a: number, b: number) => a * b).remote(6, 7)) })
          }),
        )
        for (const driver of drivers) expect(await driver.event('answer')).toMatchObject({ value: 42 })
        for (const driver of drivers) await driver.finished()
      } finally {
        await cluster[Symbol.asyncDispose]()
      }
      expectNothingLeft(cluster.id)
    })

    test('a daemon that was killed is declared dead, and one that starts again is another node', async () => {
      await using cluster = await startTestCluster({ ...SMALL, nodes: 2, isolation, nodeTimeoutMs: 2_000 })
      const [, second] = cluster.nodes as [TestNode, TestNode]
      const before = await cluster.baseline()
      const { id, pid } = second
      await second.kill()
      expect(second.isRunning).toBe(false)
      await cluster.waitDead(id)
      await second.start()
      expect(second.id).not.toBe(id)
      expect(second.pid).not.toBe(pid)
      await cluster.waitForNodes(2)
      await cluster.expectBaseline(before)
    })

    test('a stopped daemon is declared dead, and goes on as another node', async () => {
      await using cluster = await startTestCluster({ ...SMALL, nodes: 2, isolation, nodeTimeoutMs: 2_000 })
      const [, second] = cluster.nodes as [TestNode, TestNode]
      const before = await cluster.baseline()
      const { id, pid } = second
      second.pause()
      await cluster.waitDead(id)
      second.resume()
      await cluster.waitForNodes(2)
      expect(second.pid).toBe(pid)
      expect(second.id).not.toBe(id)
      await cluster.expectBaseline(before)
    })

    test('the worker of a task is killed by the name of the task, on whatever node', async () => {
      await using cluster = await startTestCluster({ ...SMALL, nodes: 2, isolation })
      const driver = cluster.head.driver(async ({ init, get, remote }, { tell }) => {
        await using _cluster = await init({ quiet: true })
        // Only its first run takes long.
        const task = remote(
          async function attempts(name: string) {
            const { existsSync, writeFileSync } = process.getBuiltinModule('node:fs')
            const mark = `${process.env['BEAMLINE_STORE_DIR']}/../${name}`
            if (existsSync(mark)) return 'again'
            writeFileSync(mark, '')
            await new Promise((resolve) => setTimeout(resolve, 600_000))
            return 'first'
          },
          { name: 'long' },
        )
        const refs = [task.remote('a'), task.remote('b')]
        tell('running')
        tell('ended', { runs: await get(refs) })
      })
      await driver.event('running')
      const mark = (name: string): boolean => cluster.nodes.some(({ store }) => existsSync(join(store, '..', name)))
      await until('first run of both', () => (mark('a') && mark('b')) || 'one has not begun')
      const first = await cluster.killWorker('long')
      const second = await cluster.killWorker('long')
      expect(second).not.toBe(first)
      expect(await driver.event('ended')).toMatchObject({ runs: ['again', 'again'] })
      await driver.finished()
    })

    test('what a program leaves in use is named, until it is gone', async () => {
      await using cluster = await startTestCluster({ ...SMALL, nodes: 2, isolation, idleTimeoutMs: 500 })
      const before = await cluster.baseline()
      const driver = cluster.nodes[1]?.driver(async ({ init, put, remote, get }, { tell }) => {
        await using _cluster = await init({ quiet: true })
        class Keeper {
          ping() {
            return 'pong'
          }
        }
        const keeper = remote(Keeper).remote()
        await get(keeper.ping.remote())
        const ref = await put(new Uint8Array(1 << 20))
        tell('holding')
        await new Promise((resolve) => process.stdin.once('end', resolve).resume())
        ref.release()
      }) as Program
      await driver.event('holding')
      const missed = await cluster.expectBaseline(before, { withinMs: 300 }).then(
        () => '',
        (error: unknown) => (error as Error).message,
      )
      expect(missed).toContain('actors: 0 before, 1 now')
      expect(missed).toMatch(/objects: 0 before, 1 now: .*1048\d+ B/)
      expect(missed).toContain('programs: 0 before, 1 now')
      driver.end()
      await driver.finished()
      await cluster.expectBaseline(before, { withinMs: 20_000 })
    })
  })
}

test.skipIf(unavailable !== undefined)('the disk of a node can be full', async () => {
  await using cluster = await startTestCluster({ ...SMALL, nodes: [{ diskBytes: 16 << 20 }] })
  const node = cluster.head
  node.fillDisk()
  const write = `require('node:fs').writeFileSync(process.env.BEAMLINE_TMPDIR + '/more', 'x'.repeat(100_000))`
  expect((await node.exec([process.execPath, '-e', write]).exited).stderr).toContain('ENOSPC')
  node.emptyDisk()
  await node.exec([process.execPath, '-e', write]).finished()
  expect(readFileSync(`${node.temporary}/more`)).toHaveLength(100_000)
})

test('every connection of a cluster with certificates is encrypted', async () => {
  await using cluster = await startTestCluster({ ...SMALL, nodes: 2, tls: true })
  const driver = cluster.head.driver(async ({ init, get, remote }, { tell }) => {
    await using _cluster = await init({ quiet: true })
    const where = remote(() => process.env['BEAMLINE_TEST_NODE'])
    tell('nodes', { nodes: await get(Array.from({ length: 40 }, () => where.remote())) })
  })
  expect((await driver.event('nodes'))['nodes']).toContain('1')
  await driver.finished()
})

test('what a killed test process left of a cluster is removed at the next start', async () => {
  const program = `import { startTestCluster, tell } from '@beamline/runtime/testing'
    const cluster = await startTestCluster({ nodes: 2, cpus: 1, storeBytes: ${SMALL.storeBytes} })
    tell('made', { id: cluster.id })
    setInterval(() => {}, 1000)`
  const maker = new Program([process.execPath, '--conditions=@beamline/source', '--input-type=module', '-e', program], { cwd: import.meta.dirname })
  const id = String((await maker.event('made'))['id'])
  maker.kill('SIGKILL')
  await maker.exited
  expect(processesOf(id).length).toBeGreaterThanOrEqual(4)
  await using _other = await startTestCluster({ ...SMALL, nodes: 1 })
  expectNothingLeft(id)
})
