import { existsSync } from 'node:fs'
import { networkUnavailable, Program, type ProgramEvent, type TestHost, TestNetwork } from '@beamline/runtime/testing'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { processesOf } from '../../src/testing/registry.ts'

const PORT = 7_000
const unavailable = await networkUnavailable()
const wire = (...args: string[]): string[] => [
  process.execPath,
  '--conditions=@beamline/source',
  new URL('./fixtures/wire.ts', import.meta.url).pathname,
  ...args,
]

function start(host: TestHost, ...args: string[]): Program {
  const program = host.start(wire(...args))
  onTestFinished(() => program[Symbol.asyncDispose]())
  return program
}

/** Milliseconds until so many bytes came back. */
async function answer(client: Program, what: 'ping' | number): Promise<number> {
  const before = client.events.length
  client.write(`${what}\n`)
  const { ms } = await client.event('answered', (event) => client.events.indexOf(event) >= before)
  return ms as number
}

describe.skipIf(unavailable !== undefined && process.env['CI'] === undefined)(
  `hosts with networks of their own${unavailable ? ` (${unavailable})` : ''}`,
  () => {
    let network: TestNetwork
    let a: TestHost
    let b: TestHost
    let c: TestHost

    beforeAll(async () => {
      network = await TestNetwork.create(3)
      ;[a, b, c] = network.hosts as [TestHost, TestHost, TestHost]
      for (const host of network.hosts) {
        await host.start(wire('serve', String(PORT))).event('listening')
      }
    })
    afterAll(() => network[Symbol.asyncDispose]())
    beforeEach(() => {
      onTestFinished(() => network.heal())
    })

    async function connected(from: TestHost, to: TestHost): Promise<Program> {
      const client = start(from, 'connect', to.address, String(PORT))
      await client.event('connected')
      return client
    }
    const failed = async (from: TestHost, to: TestHost): Promise<ProgramEvent> => start(from, 'connect', to.address, String(PORT)).event('failed')

    test('each has its own address and its own loopback', async () => {
      expect(new Set(network.hosts.map(({ address }) => address)).size).toBe(3)
      await answer(await connected(a, b), 1_000)
      const loopback = start(a, 'connect', '127.0.0.1', '7001')
      expect(await loopback.event('failed')).toMatchObject({ code: 'ECONNREFUSED' })
    })

    test('the test process is reachable from each, and reaches each', async () => {
      const server = new Program(wire('serve', '7002'))
      onTestFinished(() => server[Symbol.asyncDispose]())
      await server.event('listening')
      const inside = start(b, 'connect', network.address, '7002')
      await inside.event('connected')
      const outside = new Program(wire('connect', b.address, String(PORT)))
      onTestFinished(() => outside[Symbol.asyncDispose]())
      await outside.event('connected')
      expect(server.events.map(({ event }) => event)).toEqual(['listening', 'accepted'])
    })

    test('a cut between two leaves the others alone and loses nothing when it heals', async () => {
      const toB = await connected(a, b)
      const toC = await connected(a, c)
      await a.cut(b)
      const late = answer(toB, 'ping')
      await answer(toC, 'ping')
      expect(toB.events.filter(({ event }) => event === 'answered')).toEqual([])
      await a.heal()
      expect(await late).toBeGreaterThan(0)
    })

    test('a host that is cut off hears nobody and nobody hears it', async () => {
      const toB = await connected(a, b)
      const toA = await connected(b, a)
      const among = await connected(a, c)
      await b.cut()
      const late = [answer(toB, 'ping'), answer(toA, 'ping')]
      await answer(among, 'ping')
      expect([...toB.events, ...toA.events].filter(({ event }) => event === 'answered')).toEqual([])
      await b.heal()
      await Promise.all(late)
    })

    test('a host that rejects refuses connections and breaks those that there are', async () => {
      const toB = await connected(a, b)
      await b.reject(a)
      toB.write('ping\n')
      expect(await toB.event('failed')).toMatchObject({ code: 'ECONNRESET' })
      expect(await failed(a, b)).toMatchObject({ code: 'ECONNREFUSED' })
      expect(await failed(b, a)).toMatchObject({ code: 'ECONNREFUSED' })
      await connected(c, b)
      await b.heal()
      await connected(a, b)
    })

    test('a delay holds back each packet one way, also of connections that there are', async () => {
      const toB = await connected(a, b)
      const toC = await connected(a, c)
      await a.delay(60, b)
      const ms = await answer(toB, 'ping')
      expect(ms).toBeGreaterThan(58)
      expect(await answer(toC, 'ping')).toBeLessThan(50)
      await b.delay(60)
      expect(await answer(toB, 'ping')).toBeGreaterThan(116)
      await answer(toB, 2_000_000)
      await network.heal()
      expect(await answer(toB, 'ping')).toBeLessThan(50)
    })

    test('lost packets cost time and nothing else', async () => {
      const toB = await connected(a, b)
      await b.lose(20)
      await a.lose(20)
      // A lost packet is sent again after 200 ms at the earliest. That none of 400 is lost does not happen.
      let slowest = 0
      for (let round = 0; round < 200 && slowest < 150; round++) slowest = Math.max(slowest, await answer(toB, 'ping'))
      expect(slowest).toBeGreaterThan(150)
      const all = answer(toB, 1_000_000)
      await network.heal()
      await all
    })

    test('a throttled host passes so many bytes a second', async () => {
      const toB = await connected(a, b)
      await answer(toB, 500_000)
      await b.throttle(1_000_000)
      const ms = await answer(toB, 1_000_000)
      expect(ms).toBeGreaterThan(600)
      expect(ms).toBeLessThan(4_000)
      await b.heal()
      // Each takes two seconds while it is throttled; the first may wait for packets that were lost then.
      let quickest = Number.POSITIVE_INFINITY
      for (let round = 0; round < 5 && quickest > 1_200; round++) quickest = Math.min(quickest, await answer(toB, 2_000_000))
      expect(quickest).toBeLessThan(1_200)
    })
  },
)

test.skipIf(unavailable !== undefined)('what a killed test process made is removed at the next start', async () => {
  const program = `import { TestNetwork, tell } from '@beamline/runtime/testing'
    const network = await TestNetwork.create(2)
    await network.hosts[0].delay(10)
    tell('made', { id: network.id, namespace: network.hosts[0].namespace })
    setInterval(() => {}, 1000)`
  const maker = new Program([process.execPath, '--conditions=@beamline/source', '--input-type=module', '-e', program], { cwd: import.meta.dirname })
  const { id, namespace } = (await maker.event('made')) as ProgramEvent & { id: string; namespace: string }
  maker.kill('SIGKILL')
  await maker.exited
  expect(existsSync(`/run/netns/${namespace}`)).toBe(true)
  await using other = await TestNetwork.create(1)
  expect(other.id).not.toBe(id)
  expect(existsSync(`/run/netns/${namespace}`)).toBe(false)
  expect(existsSync(`/sys/class/net/bl${id}`)).toBe(false)
  expect(processesOf(id)).toEqual([])
})

test('where it cannot work it says why', async () => {
  const program = `import { TestNetwork } from '@beamline/runtime/testing'
    if (process.getuid() === 0) process.setuid(65534)
    await TestNetwork.create(1).catch((error) => console.log(error.code, error.message))`
  const asNobody = new Program([process.execPath, '--conditions=@beamline/source', '--input-type=module', '-e', program], { cwd: import.meta.dirname })
  expect((await asNobody.finished()).stdout).toMatch(/^START_FAILED .*(root|Linux)/)
})
