/** The daemon of a driver's machine is killed and another one starts there: the driver goes on with that one, and what runs elsewhere with it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startTestCluster, type TestCluster, type TestNode } from '../../src/testing/index.ts'
import { until } from '../../src/testing/wait.ts'

const linesOf = (file: string): string[] => (existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [])

const jobsOf = async (cluster: TestCluster): Promise<string[]> => (await cluster.head.list<{ state: string }>('jobs')).map(({ state }) => state)

async function jobEnds(cluster: TestCluster): Promise<void> {
  await until('end of the job', async () => {
    const states = await jobsOf(cluster)
    return states.join() === 'SUCCEEDED' || states.join()
  })
}

test('a driver on the machine of the head survives it: what runs elsewhere goes on, what ran there runs again', async () => {
  await using cluster = await startTestCluster({
    nodes: [
      { cpus: 1, resources: { here: 2 } },
      { cpus: 2, resources: { there: 4 } },
    ],
  })
  const { head } = cluster
  const [before, runs, end] = [head.id, join(head.temporary, 'runs'), join(head.temporary, 'end')]
  const driver = head.driver(
    async ({ init, get, put, remote, getActor }, { tell }) => {
      await using _cluster = await init({ namespace: 'outlives' })
      interface Options {
        readonly cpus?: number
        readonly resources?: object
        readonly maxRetries?: number
      }
      type Remote<F extends (...args: never[]) => unknown> = { options(o: Options): { remote(...args: Parameters<F>): Promise<Awaited<ReturnType<F>>> } }
      const { RUNS = '', END = '' } = process.env
      const there = { cpus: 0, resources: { there: 1 } }
      // Ends when the file END is there.
      const run = async (name: string, waits: boolean, log: string, endFile: string): Promise<string> => {
        const { appendFileSync, existsSync: exists } = process.getBuiltinModule('node:fs')
        appendFileSync(log, `${name}\n`)
        while (waits && !exists(endFile)) await new Promise((resolve) => setTimeout(resolve, 20))
        return `${name} on ${process.env['BEAMLINE_TEST_NODE']}`
      }
      class Counter {
        #count = 0
        readonly #run: typeof run
        constructor(made: typeof run) {
          this.#run = made
        }
        async add(waits: boolean, log: string, endFile: string): Promise<number> {
          await this.#run('add', waits, log, endFile)
          return ++this.#count
        }
      }
      const sum = (bytes: Uint8Array): number => bytes.reduce((a, b) => a + b, 0)
      const task = remote(run) as unknown as Remote<typeof run>
      const counter = remote(Counter, { name: 'counter', ...there } as never).remote(run) as unknown as {
        add: { remote(waits: boolean, log: string, endFile: string): Promise<number> }
      }
      await get(counter.add.remote(false, RUNS, END) as never)
      const large = await put(new Uint8Array(300_000).fill(7))
      const make = remote((value: number) => new Uint8Array(400_000).fill(value)) as unknown as Remote<(value: number) => Uint8Array>
      const made = make.options(there).remote(9)
      const lost = make.options({ cpus: 0, resources: { here: 1 } }).remote(5)
      await get([made, lost] as never)
      const onceThere = task.options({ ...there, maxRetries: 0 }).remote('there', true, RUNS, END)
      const here = task.options({ cpus: 0, resources: { here: 1 } }).remote('here', true, RUNS, END)
      const call = counter.add.remote(true, RUNS, END)
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
      tell('fresh', { value: await get(task.options(there).remote('fresh', false, RUNS, END) as never) })
      tell('put', {
        here: sum(await get(large)),
        there: await get((remote(sum) as unknown as Remote<never>).options(there).remote(...([large] as never)) as never),
      })
      tell('made', { sum: sum(await get(made as never)) })
      tell('lost', { sum: sum(await get(lost as never)) })
      tell('values', { values: await get([onceThere, here, call] as never) })
      const again = (await getActor('counter')) as unknown as typeof counter
      tell('counted', { count: await get(again.add.remote(false, RUNS, END) as never) })
    },
    { env: { RUNS: runs, END: end } },
  )
  await until('all runs', () => linesOf(runs).toSorted().join() === 'add,add,here,there' || linesOf(runs).join())
  await head.kill('SIGKILL')
  await head.start()
  driver.write('go\n')
  expect(await driver.event('fresh')).toMatchObject({ value: 'fresh on 1' })
  expect(await driver.event('put')).toMatchObject({ here: 7 * 300_000, there: 7 * 300_000 })
  expect(await driver.event('made')).toMatchObject({ sum: 9 * 400_000 })
  expect(await driver.event('lost')).toMatchObject({ sum: 5 * 400_000 })
  await cluster.waitDead(before)
  expect(await jobsOf(cluster)).toEqual(['RUNNING'])
  writeFileSync(end, '')
  expect(await driver.event('values')).toMatchObject({ values: ['there on 1', 'here on 0', 2] })
  expect(await driver.event('counted')).toMatchObject({ count: 3 })
  expect(linesOf(runs).toSorted()).toEqual(['add', 'add', 'add', 'fresh', 'here', 'here', 'there'])
  await driver.finished()
  await jobEnds(cluster)
})

test('a daemon that is not the head is killed and started again: its driver goes on, its actor there restarts, leases elsewhere are given back', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 2 }, { cpus: 2, resources: { here: 2 } }], idleTimeoutMs: 1_000 })
  const { head } = cluster
  const plain = cluster.nodes[1] as TestNode
  const baseline = await cluster.baseline()
  const driver = plain.driver(async ({ init, get, remote }, { tell }) => {
    await using _cluster = await init()
    class Place {
      where(): string {
        return process.env['BEAMLINE_NODE_PID'] ?? String(process.pid)
      }
    }
    const place = remote(Place, { cpus: 0, resources: { here: 1 }, maxRestarts: 1, maxTaskRetries: 1 } as never).remote() as unknown as {
      where: { remote(): never }
    }
    const first = await get(place.where.remote())
    const square = remote((n: number) => n * n)
    await get(Array.from({ length: 20 }, (_, n) => square.remote(n)))
    tell('ready')
    await new Promise((resolve) => process.stdin.once('data', resolve))
    process.stdin.destroy()
    const squares = await get(Array.from({ length: 200 }, (_, n) => square.remote(n)))
    tell('squares', { sum: squares.reduce((a, b) => a + b, 0) })
    tell('moved', { moved: (await get(place.where.remote())) !== first })
  })
  await driver.event('ready')
  await plain.kill('SIGKILL')
  driver.write('go\n')
  await plain.start()
  expect(await driver.event('squares')).toMatchObject({ sum: (199 * 200 * 399) / 6 })
  expect(await driver.event('moved')).toMatchObject({ moved: true })
  await driver.finished()
  await jobEnds(cluster)
  expect(head.isRunning).toBe(true)
  await cluster.expectBaseline(baseline)
})

test('a driver gives up when no daemon comes in time, and when it was declared dead before', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 1 }, { cpus: 1, resources: { here: 1 } }], nodeTimeoutMs: 3_000, heartbeatMs: 200 })
  const plain = cluster.nodes[1] as TestNode
  const wait = (reconnectMs: string): ReturnType<TestNode['driver']> =>
    plain.driver(
      async ({ init, get, remote }, { tell }) => {
        await using _cluster = await init({ reconnectMs: Number(process.env['RECONNECT']) })
        const endless = remote(() => new Promise<void>(() => {})) as unknown as { options(o: object): { remote(): never } }
        const running = endless.options({ cpus: 0 }).remote()
        tell('ready')
        await get(running).catch((error: Error & { code: string }) => tell('failed', { code: error.code, message: error.message }))
      },
      { env: { RECONNECT: reconnectMs } },
    )
  const drivers = ['0', '500', '60000'].map(wait)
  await Promise.all(drivers.map((driver) => driver.event('ready')))
  const gone = plain.id
  await plain.kill('SIGKILL')
  const [never, short, long] = drivers as [(typeof drivers)[0], (typeof drivers)[0], (typeof drivers)[0]]
  expect(await never.event('failed')).toMatchObject({ code: 'NODE_DIED' })
  expect(await short.event('failed')).toMatchObject({ code: 'NODE_DIED', message: expect.stringContaining('within 500 ms') as string })
  await cluster.waitDead(gone)
  await plain.start()
  expect(await long.event('failed')).toMatchObject({ code: 'NODE_DIED', message: expect.stringContaining('this program was declared dead') as string })
  await Promise.all(drivers.map((driver) => driver.finished()))
  expect(await jobsOf(cluster)).toEqual(['FAILED', 'FAILED', 'FAILED'])
})
