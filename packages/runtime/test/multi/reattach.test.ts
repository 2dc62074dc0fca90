/** The daemon of a driver's machine is killed and another one starts there: the driver goes on with that one, and what runs elsewhere with it. */
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode } from '../../src/testing/index.ts'
import { until } from '../../src/testing/wait.ts'

test('a driver on the machine of the head survives it: what runs elsewhere goes on, what ran there runs again', { timeout: 90_000 }, async () => {
  await using cluster = await startTestCluster({
    nodes: [
      { cpus: 1, resources: { here: 1 } },
      { cpus: 2, resources: { elsewhere: 4 } },
    ],
  })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const before = head.id
  const driver = head.driver(async ({ init, get, put, remote, getActor }, { tell }) => {
    await using _cluster = await init({ namespace: 'outlives' })
    const { appendFileSync, readFileSync } = process.getBuiltinModule('node:fs')
    const file = `${process.env['BEAMLINE_TMPDIR']}/runs`
    const elsewhere = { resources: { elsewhere: 1 } }
    class Counter {
      #count = 0
      async add(ms: number): Promise<number> {
        process.getBuiltinModule('node:fs').appendFileSync(process.env['RUNS'] as string, 'add\n')
        await new Promise((resolve) => setTimeout(resolve, ms))
        return ++this.#count
      }
    }
    const run = async (name: string, ms: number, runs: string): Promise<string> => {
      process.getBuiltinModule('node:fs').appendFileSync(runs, `${name}\n`)
      await new Promise((resolve) => setTimeout(resolve, ms))
      return `${name} on ${process.env['BEAMLINE_TEST_NODE']}`
    }
    appendFileSync(file, '')
    const slow = remote(run, { name: 'run' } as never) as unknown as {
      options(o: object): { remote(...args: unknown[]): never }
      remote(...args: unknown[]): never
    }
    const counter = remote(Counter, { name: 'counter', cpus: 0, ...elsewhere, env: { vars: { RUNS: file } } } as never).remote() as unknown as {
      add: { remote(ms: number): never }
    }
    expectOne(await get(counter.add.remote(0)))
    function expectOne(count: unknown): void {
      if (count !== 1) throw new Error(`counted ${String(count)}`)
    }
    const large = await put(new Uint8Array(300_000).fill(7))
    const made = (remote(() => new Uint8Array(400_000).fill(9)) as never as typeof slow).options({ cpus: 0.5, ...elsewhere }).remote()
    await get(made)
    const there = slow.options({ ...elsewhere, maxRetries: 0 }).remote('there', 8_000, file)
    const here = slow.options({ resources: { here: 1 } }).remote('here', 4_000, file)
    const call = counter.add.remote(8_000)
    while (readFileSync(file, 'utf8').split('\n').length < 5) await new Promise((resolve) => setTimeout(resolve, 20))
    tell('ready')
    await new Promise((resolve) => process.stdin.once('data', resolve))
    process.stdin.destroy()
    const start = performance.now()
    const fresh = await get(slow.options({ ...elsewhere, cpus: 0 }).remote('fresh', 0, file))
    tell('fresh', { value: fresh, ms: performance.now() - start })
    tell('large', { sum: (await get(large)).reduce((a, b) => a + b, 0) })
    tell('sent', { sum: await get(remote((bytes: Uint8Array) => bytes.reduce((a, b) => a + b, 0)).remote(large)) })
    tell('made', { sum: ((await get(made)) as Uint8Array).reduce((a, b) => a + b, 0) })
    tell('there', { value: await get(there) })
    tell('here', { value: await get(here) })
    tell('call', { count: await get(call) })
    const again = (await getActor('counter')) as unknown as typeof counter
    tell('named', { count: await get(again.add.remote(0)) })
    tell('runs', { lines: readFileSync(file, 'utf8').trim().split('\n') })
  })
  await driver.event('ready')
  await head.kill('SIGKILL')
  await head.start()
  expect(head.id).not.toBe(before)
  driver.write('go\n')
  expect(await driver.event('fresh')).toMatchObject({ value: 'fresh on 1' })
  expect(await driver.event('large')).toMatchObject({ sum: 7 * 300_000 })
  expect(await driver.event('sent')).toMatchObject({ sum: 7 * 300_000 })
  expect(await driver.event('made')).toMatchObject({ sum: 9 * 400_000 })
  expect(await driver.event('there')).toMatchObject({ value: 'there on 1' })
  expect(await driver.event('here')).toMatchObject({ value: 'here on 0' })
  expect(await driver.event('call')).toMatchObject({ count: 2 })
  expect(await driver.event('named')).toMatchObject({ count: 3 })
  const { lines } = (await driver.event('runs')) as unknown as { lines: string[] }
  expect(lines.filter((line) => line === 'there')).toHaveLength(1)
  expect(lines.filter((line) => line === 'here').length).toBe(2)
  expect(lines.filter((line) => line === 'add')).toHaveLength(3)
  await driver.finished()
  const jobs = async (): Promise<unknown> => (await head.list<{ state: string }>('jobs')).map(({ state }) => state)
  await until('end of the job', async () => JSON.stringify(await jobs()) === '["SUCCEEDED"]' || JSON.stringify(await jobs()))
  expect(other.isRunning).toBe(true)
})
