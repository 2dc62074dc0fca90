/**
 * A cluster in which messages are lost, delayed and doubled on purpose (net/faults.ts): work of all kinds between its nodes gives exactly what it gives
 * without that, every call is made once, and nothing is left. In some of the runs the head is killed in the middle and starts again.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import type { MeshMessage } from '../../src/net/gen/mesh.ts'
import type { NodeMessage, ProcessMessage } from '../../src/net/gen/node.ts'
import type { PeerMessage } from '../../src/net/gen/peer.ts'
import { Program, startTestCluster, type TestNode, until } from '../../src/testing/index.ts'

type Runtime = typeof import('@beamline/runtime')
type Testing = typeof import('@beamline/runtime/testing')

type Kind<S extends string, M extends { body?: { $case: string } | undefined }> = `${S}.${NonNullable<M['body']>['$case']}`
type Kinds = Kind<'mesh', MeshMessage> | Kind<'node', NodeMessage | ProcessMessage> | Kind<'peer', PeerMessage>

vi.setConfig({ testTimeout: 120_000 })

const TWICE = 'mesh.*:twice=1;node.*:twice=1;peer.*:twice=1;seed=1'

/** Where the handler of each message is called twice, in a test of this file or in another file: a message without such a test does not compile. */
const HEARD_TWICE = {
  'mesh.copiesFreed': 'work',
  'mesh.copyAdded': 'work',
  'mesh.fromProcess': 'work',
  'mesh.heartbeat': 'work',
  'mesh.heartbeatSeen': 'work',
  'mesh.hello': 'work',
  'mesh.nodeAnswer': 'work',
  'mesh.nodeQuery': 'work',
  'mesh.order': 'work',
  'mesh.packageChunk': 'work',
  'mesh.processGone': 'work',
  'mesh.register': 'work',
  'mesh.registered': 'work',
  'mesh.report': 'work',
  'mesh.toProcess': 'work',
  'mesh.view': 'work',
  'node.actorCreate': 'work',
  'node.actorCreated': 'work',
  'node.actorFound': 'work',
  'node.actorLookup': 'work',
  'node.actorStart': 'work',
  'node.actorStarted': 'work',
  'node.actorState': 'work',
  'node.actorStop': 'work',
  'node.actorWatch': 'work',
  'node.assign': 'work',
  'node.blocksFreed': 'work',
  'node.controlLost': 'work',
  'node.exit': 'work',
  'node.groupCreate': 'work',
  'node.groupRemove': 'work',
  'node.groupState': 'work',
  'node.hello': 'work',
  'node.leaseBlocked': 'work',
  'node.leaseDemand': 'work',
  'node.leaseGranted': 'work',
  'node.leaseReturn': 'work',
  'node.logLines': 'work',
  'node.nodeLost': 'work',
  'node.objectPin': 'work',
  'node.objectPinned': 'work',
  'node.objectUnpin': 'work',
  'node.objectsAdded': 'work',
  'node.objectsFreed': 'work',
  'node.packagePut': 'work',
  'node.packageStored': 'work',
  'node.query': 'work',
  'node.queryReply': 'work',
  'node.segmentGrant': 'work',
  'node.segmentRequest': 'work',
  'node.taskEvents': 'work',
  'node.welcome': 'work',
  'node.workerLost': 'work',
  'peer.borrowAdd': 'work',
  'peer.borrowAdded': 'work',
  'peer.borrowRemove': 'work',
  'peer.done': 'work',
  'peer.introduce': 'work',
  'peer.item': 'work',
  'peer.itemsConsumed': 'work',
  'peer.objectReply': 'work',
  'peer.objectRequest': 'work',
  'peer.push': 'work',
  'peer.resultReceived': 'work',
  'peer.takenBack': 'work',
  'peer.template': 'work',
  'peer.templateForget': 'work',
  'mesh.refused': 'test/daemon/twice.test.ts',
  'mesh.leave': 'ends',
  'mesh.copyWanted': 'ends',
  'mesh.copyFound': 'ends',
  'mesh.packageWanted': 'ends',
  'mesh.packagePart': 'test/packages/package-exchange.test.ts',
  'mesh.processQuestion': 'ends',
  'mesh.copyMove': 'ends',
  'mesh.copyMoved': 'test/transfer/object-plane.test.ts',
  'node.workerKill': 'ends',
  'node.leaseReclaim': 'test/core/twice.test.ts',
  'node.segmentReturn': 'test/daemon/twice.test.ts',
  'node.objectRecover': 'ends',
  'node.drain': 'ends',
  'node.actorTerminate': 'ends',
  'node.objectRecovered': 'ends',
  'node.drained': 'ends',
  'node.objectsMoved': 'ends',
  'node.processSuspect': 'ends',
  'node.processLost': 'ends',
  'peer.cancel': 'ends',
  'peer.takeBack': 'test/core/twice.test.ts',
  'node.shutdown': 'alone',
  'node.releaseMemory': 'alone',
  'node.infeasible': 'alone',
} satisfies Record<Kinds, 'work' | 'ends' | 'alone' | `test/${string}.test.ts`>

const kindsOf = (where: string): string[] => Object.entries(HEARD_TWICE).flatMap(([kind, at]) => (at === where ? [kind] : []))

const TASKS = 30
const ITEMS = 20

/** Two rounds of work, and what they gave; between them it says so and goes on at once. */
async function workload(
  { init, get, put, remote, placementGroup, getActor, kill, clusterInfo, wait }: Runtime,
  { tell, until }: Pick<Testing, 'tell' | 'until'>,
): Promise<void> {
  await using _cluster = await init({ namespace: 'faults' })
  const [here, elsewhere] = [clusterInfo().node, process.env['ELSEWHERE'] as string]
  class Ledger {
    readonly #counts = new Map<string, number>()
    add(key: string): void {
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    }
    read(): [string, number][] {
      return [...this.#counts]
    }
  }
  class Keeper {
    #kept: unknown
    readonly #told: never
    constructor(ledger: { add: { remote(key: string): never } }, name: string) {
      this.#told = ledger.add.remote(name)
    }
    async keep(value: unknown): Promise<number> {
      await get(this.#told)
      this.#kept = value
      return process.pid
    }
    async read(): Promise<number> {
      return ((await get((this.#kept as { ref: never }).ref)) as Uint8Array).length
    }
  }
  const ledger = remote(Ledger, { name: 'ledger', cpus: 0, node: elsewhere }).remote()
  const square = remote(
    async (to: typeof ledger, key: string, n: number) => {
      await get(to.add.remote(key))
      return n * n
    },
    { strategy: 'spread' },
  )
  const make = remote((size: number, value: number) => new Uint8Array(size).fill(value), { node: elsewhere })
  const sum = remote((bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0))
  const count = remote(
    async function* (to: typeof ledger, key: string, items: number) {
      await get(to.add.remote(key))
      for (let i = 0; i < items; i++) yield i % 5 === 0 ? i : new Uint8Array(200_000).fill(i)
    },
    { node: elsewhere },
  )
  const results: unknown[] = []
  for (const round of ['first', 'second']) {
    const found = await getActor<Ledger>('ledger')
    const squares = Array.from({ length: 30 }, (_, n) => square.remote(found as never, `${round} task ${n}`, n))
    const group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_SPREAD' })
    const keeper = remote(Keeper, { cpus: 0, node: elsewhere, maxRestarts: 1, maxTaskRetries: -1 }).remote(ledger as never, `${round} constructor`)
    const inside = await put(new Uint8Array(300_000))
    const pid = await get(keeper.keep.remote({ ref: inside }))
    inside.release()
    const items: number[] = []
    for await (const item of count.remote(ledger, `${round} stream`, 20)) {
      const value = await get(item)
      items.push(typeof value === 'number' ? value : (value[199_999] as number))
    }
    if (round === 'first') tell('half')
    const large = make.remote(8_000_000, 3)
    const [there] = await Promise.all([get(sum.options({ node: elsewhere }).remote(large)), wait([large])])
    const moved = await get(sum.options({ node: here }).remote(large))
    const own = (await get(large)).length
    const wide = make.remote(60_000_000, 4)
    const width = await get(remote((bytes: Uint8Array) => bytes.length, { node: here }).remote(wide))
    wide.release()
    // One that nobody has a view of is freed by this word, not by a garbage collection.
    const unread = make.remote(1_000_000, 5)
    await wait([unread])
    unread.release()
    const kept = await get(keeper.read.remote())
    kill(keeper, { restart: true })
    await until('another process of the actor', async () => (await get(keeper.keep.remote({}))) !== pid || 'it is the same')
    kill(keeper)
    await group.ready()
    const where = remote(() => clusterInfo().node)
    const nodes = await get([0, 1].map((bundleIndex) => where.options({ placementGroup: group, bundleIndex }).remote()))
    await group.remove()
    results.push({ squares: await get(squares), items, there, moved, own, width, kept, nodes: new Set(nodes).size })
  }
  await until('all calls of constructors', async () => (await get(ledger.read.remote())).length >= 2 * 32 || 'some are missing')
  tell('done', { results, calls: await get(ledger.read.remote()) })
}

const ROUND = {
  squares: Array.from({ length: TASKS }, (_, n) => n * n),
  items: Array.from({ length: ITEMS }, (_, n) => n),
  there: 24_000_000,
  moved: 24_000_000,
  own: 8_000_000,
  width: 60_000_000,
  kept: 300_000,
  nodes: 2,
}
const CALLS = ['first', 'second'].flatMap((round): [string, number][] => [
  ...Array.from({ length: TASKS }, (_, n): [string, number] => [`${round} task ${n}`, 1]),
  [`${round} stream`, 1],
  [`${round} constructor`, 2],
])

/** What a node, its daemons and its programs said, which of their handlers were called twice. */
function doubled(nodes: readonly TestNode[], programs: readonly Program[]): Set<string> {
  const logs = nodes.flatMap(({ sessionDir }) => {
    const folder = join(sessionDir, 'logs')
    const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    return files.map((file) => readFileSync(join(file.parentPath, file.name), 'utf8'))
  })
  const said = [...programs.flatMap(({ stdout, stderr }) => [stdout, stderr]), ...logs].join('\n')
  return new Set(said.matchAll(/twice on purpose: (\w+\.\w+)/g).map(([, kind]) => kind as string))
}

/** Runs the workload on a node of three. @returns kinds of messages that were doubled */
async function run(faults: string, restart: boolean): Promise<Set<string>> {
  const env = { BEAMLINE_TEST_FAULTS: faults, BEAMLINE_VALIDATE: '1' }
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 2 }, { cpus: 2 }], env, storeBytes: 256 << 20 })
  const [head, own, other] = cluster.nodes as [TestNode, TestNode, TestNode]
  const before = await cluster.baseline()
  const driver = own.driver(workload, { env: { ELSEWHERE: other.id } })
  await driver.event('half')
  if (restart) {
    await head.kill()
    await head.start()
  }
  const { results, calls } = await driver.event('done')
  expect(results).toEqual([ROUND, ROUND])
  expect((calls as [string, number][]).toSorted()).toEqual(CALLS.toSorted())
  await driver.finished()
  const damaged = (await head.list<{ transfers?: { damaged: number } }>('nodes')).reduce((total, { transfers }) => total + (transfers?.damaged ?? 0), 0)
  expect(damaged > 0).toBe(faults.includes('bulk.chunk:response'))
  await cluster.expectBaseline(before)
  return doubled(cluster.nodes, [driver])
}

describe('work of all kinds gives what it gives without faults, and leaves nothing', () => {
  test('when requests are lost and chunks of objects do not arrive', async () => {
    await expect(run('mesh.*:request=0.02;peer.*:request=0.02;bulk.chunk:request=0.2;seed=3', false)).resolves.toEqual(new Set())
  })

  test('when responses are lost and messages are late, and the head is killed and starts again', async () => {
    // Of more than sixty chunks at least one is damaged.
    const faults = 'mesh.*:response=0.02,delay=1-20ms@0.1;peer.*:response=0.02,delay=1-20ms@0.1;bulk.chunk:response=0.1;seed=5'
    await expect(run(faults, true)).resolves.toEqual(new Set())
  })

  test('when every message comes twice, and the head is killed and starts again', async () => {
    const heard = await run(TWICE, true)
    expect(kindsOf('work').filter((kind) => !heard.has(kind))).toEqual([])
  })
})

test('when every message comes twice, a node dies, one drains, and tasks and actors are stopped', async () => {
  const env = { BEAMLINE_TEST_FAULTS: TWICE, BEAMLINE_VALIDATE: '1' }
  const nodes = [{ cpus: 0 }, { cpus: 2 }, { cpus: 2 }, { cpus: 2 }]
  await using cluster = await startTestCluster({ nodes, env, storeBytes: 64 << 20, nodeTimeoutMs: 3_000 })
  const [head, dies, drains, stays] = cluster.nodes as [TestNode, TestNode, TestNode, TestNode]
  const driver = head.driver(
    async ({ init, get, put, remote, stop, cancel, currentTask }, { tell }) => {
      await using _cluster = await init()
      const [dying, draining, staying] = (process.env['NODES'] as string).split(',') as [string, string, string]
      let go = (): void => undefined
      process.stdin.on('data', () => go())
      const told = (event: string): Promise<void> => {
        tell(event)
        return new Promise((resolve) => {
          go = resolve
        })
      }
      class Counter {
        #count = 0
        add(): number {
          return ++this.#count
        }
        read(): number {
          return this.#count
        }
      }
      const runs = remote(Counter, { cpus: 0, node: staying }).remote()
      const make = remote((size: number) => new Uint8Array(size).fill(1), { node: dying })
      const sum = remote((bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0))
      const made = make.remote(6_000_000)
      const sums = [await get(sum.options({ node: draining }).remote(made))]
      // Two workers, that learn how short tasks are; then some wait behind a slow one, and the other worker takes them.
      const sleep = remote(
        async (counter: typeof runs, ms: number) => {
          await new Promise((resolve) => setTimeout(resolve, ms))
          await get(counter.add.remote())
        },
        { node: staying },
      )
      const each = async (times: readonly number[]): Promise<unknown> => get(times.map((ms) => sleep.remote(runs, ms)))
      await each([200, 200])
      await each(Array<number>(60).fill(0))
      await each([300, ...Array<number>(39).fill(0)])
      const hang = async (counter: typeof runs): Promise<void> => {
        await get(counter.add.remote())
        await new Promise((_, reject) => currentTask()?.signal.addEventListener('abort', () => reject(new Error('it was cancelled'))))
      }
      const hangs = [remote(hang, { node: staying }).remote(runs), remote(hang, { node: staying }).remote(runs)] as const
      while ((await get(runs.read.remote())) < 104) await new Promise((resolve) => setTimeout(resolve, 10))
      cancel(hangs[0])
      cancel(hangs[1], { force: true })
      const cancelled = await Promise.all(hangs.map((ref) => get(ref).catch((error: { code: string }) => error.code)))
      const calls = await get(runs.read.remote())
      const ended = remote(Counter, { cpus: 0, node: staying }).remote()
      await get(ended.add.remote())
      void stop(ended)
      let stopped: unknown
      while (typeof stopped !== 'string') stopped = await get(ended.add.remote()).catch((error: { code: string }) => error.code)
      for (let i = 0; i < 8; i++) (await put(new Uint8Array(12_000_000))).release()
      await told('a node may die')
      sums.push(await get(sum.options({ node: staying }).remote(made)))
      await told('a node may drain')
      sums.push(await get(sum.options({ node: staying }).remote(made)), (await get(made)).length)
      process.stdin.destroy()
      tell('done', { sums, calls, cancelled, stopped })
    },
    { env: { NODES: [dies, drains, stays].map(({ id }) => id).join() } },
  )
  await driver.event('a node may die')
  const dead = dies.id
  dies.pause()
  await cluster.waitDead(dead)
  dies.resume()
  await cluster.waitForNodes(4)
  driver.write('go\n')
  await driver.event('a node may drain')
  const main = new URL('../../src/cli/main.ts', import.meta.url).pathname
  const drain = head.exec([process.execPath, '--conditions=@beamline/source', main, 'drain', drains.id])
  await drain.finished()
  driver.write('go\n')
  const size = 6_000_000
  expect(await driver.event('done')).toMatchObject({ sums: [size, size, size, size], calls: 104, cancelled: ['CANCELLED', 'CANCELLED'], stopped: 'ACTOR_DIED' })
  await driver.finished()
  await until('the end of all objects', async () => (await head.list('objects')).length === 0 || 'some are left')
  const heard = doubled([head, dies, stays], [driver, drain])
  expect(kindsOf('ends').filter((kind) => !heard.has(kind))).toEqual([])
})

test('a cluster of one in which every message comes twice does what is asked, once, and ends', async () => {
  const program = `
    import { get, init, put, remote } from '@beamline/runtime'
    await using _cluster = await init({ cpus: 2, storeBytes: 32 << 20 })
    class Counter { #n = 0; add() { return ++this.#n } }
    const counter = remote(Counter, { cpus: 0 }).remote()
    await get(Array.from({ length: 20 }, () => remote(async (to) => void (await get(to.add.remote()))).remote(counter)))
    const wide = await get(remote(() => 1, { cpus: 64 }).remote()).catch(({ code }) => code)
    const sizes = []
    for (let i = 0; i < 6; i++) sizes.push((await get(await put(new Uint8Array(12_000_000)))).length)
    console.log(JSON.stringify({ calls: await get(counter.add.remote()), wide, sizes: new Set(sizes).size }))`
  const flags = ['--conditions=@beamline/source', '--input-type=module', '--eval', program]
  const env = { BEAMLINE_TEST_FAULTS: TWICE, BEAMLINE_ADDRESS: undefined }
  await using running = new Program([process.execPath, ...flags], { env, cwd: import.meta.dirname })
  const { stdout, stderr } = await running.finished()
  expect(JSON.parse(stdout)).toEqual({ calls: 21, wide: 'INFEASIBLE', sizes: 1 })
  // What the daemon was told last went with its log.
  const heard = doubled([], [running])
  expect(kindsOf('alone').filter((kind) => kind !== 'node.shutdown' && !heard.has(kind))).toEqual([])
  expect(stderr).not.toMatch(/Error/)
})
