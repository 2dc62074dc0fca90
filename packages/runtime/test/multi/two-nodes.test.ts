/** Two daemons on one machine are one cluster: tasks, actors and groups cross, lists show both, and what leaves is gone. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startTestCluster, type TestCluster, type TestNode, until } from '../../src/testing/index.ts'

interface Worker {
  readonly worker: string
  readonly node: string
  readonly state: string
}

describe('a head and a node that joined', () => {
  let cluster: TestCluster
  let head: TestNode
  let other: TestNode

  beforeAll(async () => {
    cluster = await startTestCluster({ nodes: [{ cpus: 1 }, { cpus: 2, labels: { zone: 'b' }, resources: { tape: 1 } }] })
    ;[head, other] = cluster.nodes as [TestNode, TestNode]
  })

  afterAll(async () => {
    await cluster[Symbol.asyncDispose]()
  })

  test('both see both, with the same facts', async () => {
    for (const node of [head, other]) {
      const rows = await cluster.members(node)
      expect(rows.map(({ node: id, state, head: isHead, total }) => ({ id, state, isHead, cpus: total.cpus })).toSorted((a, b) => a.cpus - b.cpus)).toEqual([
        { id: head.id, state: 'ALIVE', isHead: true, cpus: 10_000 },
        { id: other.id, state: 'ALIVE', isHead: false, cpus: 20_000 },
      ])
    }
  })

  test('tasks of a driver on the head run on both nodes at once, and what they return arrives', async () => {
    const driver = head.driver(async ({ init, get, remote, clusterInfo }, { tell }) => {
      await init()
      const Meeting = class {
        #waiting: (() => void)[] = []
        async meet(): Promise<void> {
          await new Promise<void>((resolve) => {
            this.#waiting.push(resolve)
            if (this.#waiting.length === 3) for (const go of this.#waiting) go()
          })
        }
      }
      const meeting = remote(Meeting, { cpus: 0, maxConcurrency: 10 } as never).remote()
      const where = remote(async (n: number) => {
        await get((meeting as { meet: { remote(): never } }).meet.remote())
        return { n, node: clusterInfo().node }
      })
      tell('nodes', { results: await get([0, 1, 2].map((n) => where.remote(n))) })
    })
    const { results } = (await driver.event('nodes')) as unknown as { results: { n: number; node: string }[] }
    await driver.exited
    expect(results.map(({ n }) => n)).toEqual([0, 1, 2])
    expect(new Set(results.map(({ node }) => node))).toEqual(new Set([head.id, other.id]))
  })

  test('an actor that only the other node can hold answers, and its prints arrive', async () => {
    const driver = head.driver(async ({ init, get, remote, clusterInfo }, { tell }) => {
      await init()
      class Counter {
        #count = 0
        add(n: number): { count: number; node: string } {
          console.log(`adds ${n}`)
          return { count: (this.#count += n), node: clusterInfo().node }
        }
      }
      const counter = remote(Counter, { resources: { tape: 1 } }).remote()
      await get(counter.add.remote(1))
      tell('counted', await get(counter.add.remote(2)))
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
    })
    expect(await driver.event('counted')).toMatchObject({ count: 3, node: other.id })
    await until('what the actor printed', () => /adds 1[^]*adds 2/.test(driver.stdout) || driver.stdout)
    driver.write('go\n')
    await driver.exited
  })

  test('a named actor of a driver on one node is found by a driver on the other', async () => {
    const creator = head.driver(async ({ init, get, remote }, { tell }) => {
      await init({ namespace: 'shared' })
      class Store {
        #value = ''
        set(value: string): void {
          this.#value = value
        }
        read(): string {
          return this.#value
        }
      }
      const store = remote(Store, { name: 'store', cpus: 0 }).remote()
      await get(store.set.remote('hello'))
      tell('created')
      await new Promise((resolve) => process.stdin.once('data', resolve))
      process.stdin.destroy()
    })
    await creator.event('created')
    const reader = other.driver(async ({ init, get, getActor }, { tell }) => {
      await init({ namespace: 'shared' })
      const store = await getActor<{ read(): string }>('store')
      tell('read', { value: await get(store.read.remote()) })
    })
    expect(await reader.event('read')).toMatchObject({ value: 'hello' })
    await reader.exited
    creator.write('go\n')
    await creator.finished()
  })

  test('a placement group over both nodes is created, used and removed', async () => {
    const driver = head.driver(async ({ init, get, remote, placementGroup, clusterInfo }, { tell }) => {
      await init()
      const group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_SPREAD' })
      await group.ready()
      const where = remote(() => clusterInfo().node)
      const on = (bundle: number): Promise<string> => get(where.options({ placementGroup: group, bundleIndex: bundle }).remote())
      tell('placed', { nodes: [await on(0), await on(1)] })
      await group.remove()
    })
    const { nodes } = (await driver.event('placed')) as unknown as { nodes: string[] }
    expect(new Set(nodes)).toEqual(new Set([head.id, other.id]))
    await driver.exited
  })

  test('a program on a machine without a daemon brings one that lends nothing and leaves with it', async () => {
    const before = (await cluster.members()).length
    const driver = head.driver(
      async ({ init, get, remote, clusterInfo }, { tell }) => {
        await init()
        const where = remote(() => clusterInfo().node)
        tell('joined', { own: clusterInfo().node, cpus: clusterInfo().cpus, ran: await get(where.remote()) })
        await new Promise((resolve) => process.stdin.once('data', resolve))
        process.stdin.destroy()
      },
      { env: { BEAMLINE_TMPDIR: `${head.temporary}/elsewhere`, BEAMLINE_ADDRESS: cluster.headAddress } },
    )
    const { own, cpus, ran } = (await driver.event('joined')) as unknown as { own: string; cpus: number; ran: string }
    expect(cpus).toBe(0)
    expect([head.id, other.id]).toContain(ran)
    const rows = await cluster.members()
    expect(rows).toHaveLength(before + 1)
    expect(rows.find(({ node }) => node === own)).toMatchObject({ state: 'ALIVE', head: false })
    driver.write('go\n')
    expect((await driver.exited).code).toBe(0)
    await cluster.waitDead(own)
  })

  test('a wrong token, and an address where nobody listens, are said at once', async () => {
    const driver = (env: Record<string, string>): Promise<{ stdout: string }> =>
      head.driver(
        async ({ init }, { tell }) => {
          const error = await init().then(
            () => undefined,
            (reason: Error & { code: string }) => reason,
          )
          tell('outcome', { code: error?.code, message: error?.message })
        },
        { env: { BEAMLINE_TMPDIR: `${head.temporary}/elsewhere`, BEAMLINE_ADDRESS: cluster.headAddress, ...env } },
      ).exited
    expect((await driver({ BEAMLINE_TOKEN: 'wrong' })).stdout).toMatch(/refused the token/)
    expect((await driver({ BEAMLINE_TOKEN: '' })).stdout).toMatch(/INVALID_ARGUMENT.*token/)
  })

  test('lists and status show the whole cluster from either node', async () => {
    for (const node of [head, other]) {
      const workers = await node.list<Worker>('workers')
      expect(new Set(workers.map((each) => each.node))).toEqual(new Set([head.id, other.id]))
      const status = (await node.cli('status')) as string
      expect(status).toContain(`node ${head.id} ALIVE`)
      expect(status).toContain(`node ${other.id} ALIVE`)
      expect(status).toContain('zone=b')
      const jobs = await node.list<{ state: string }>('jobs')
      expect(new Set(jobs.map(({ state }) => state))).toEqual(new Set(['SUCCEEDED']))
    }
  })

  test('the job of a program that was killed, on either node, has failed', async () => {
    const failed = async (): Promise<{ state: string; reason: string }[]> =>
      (await head.list<{ state: string; reason: string }>('jobs')).filter(({ state }) => state !== 'SUCCEEDED')
    for (const [index, node] of [head, other].entries()) {
      const driver = node.driver(async ({ init }, { tell }) => {
        await init()
        setInterval(() => {}, 1_000)
        tell('joined')
      })
      await driver.event('joined')
      driver.kill('SIGKILL')
      await until('end of the job', async () => {
        const states = (await failed()).map(({ state }) => state)
        return (
          states.join() ===
            Array(index + 1)
              .fill('FAILED')
              .join() || states.join()
        )
      })
    }
    for (const { reason } of await failed()) expect(reason).toBe('its driver was killed, or ended without shutdown()')
  })

  test('status of a node whose head is silent says what is not known', async () => {
    head.pause()
    const status = (await other.cli('status')) as string
    head.resume()
    expect(status).toMatch(/^cluster [0-9a-f]{16} at unix:\S+\n/)
    expect(status).toMatch(new RegExp(`node ${other.id} ALIVE.*\\n.*\\n  workers  \\d+ idle`))
    expect(status).toContain('actors   not known: the head does not answer\n')
    expect(status).toContain('groups   not known: the head does not answer\n')
  })
})

test('a node that stops in order leaves at once, and its id does not come back', async () => {
  await using cluster = await startTestCluster({ nodes: 2 })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const before = other.id
  const startedAt = performance.now()
  await other.kill('SIGTERM')
  await cluster.waitDead(before)
  expect(performance.now() - startedAt).toBeLessThan(5_000)
  await other.start()
  expect(other.id).not.toBe(before)
  await cluster.waitForNodes(2)
  const rows = await cluster.members(head)
  expect(rows.find(({ node }) => node === before)?.state ?? 'DEAD').toBe('DEAD')
  expect(await head.cli('list', 'nodes')).toMatch(new RegExp(`^${before} +\\S+ +127.0.0.1:\\d+ +\\d+ +DEAD .* cpu`, 'm'))
})

test('a killed node is declared dead within its time, and its tasks run again elsewhere', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }, { cpus: 1 }], nodeTimeoutMs: 2_000 })
  const [head, ...others] = cluster.nodes as [TestNode, TestNode, TestNode]
  const driver = head.driver(async ({ init, get, remote, clusterInfo }, { tell }) => {
    await init()
    const slow = remote(
      async (round: number) => {
        tell('started', { round, node: clusterInfo().node })
        await new Promise((resolve) => setTimeout(resolve, 3_000))
        return clusterInfo().node
      },
      { maxRetries: 3 },
    )
    tell('done', { nodes: await get([slow.remote(0), slow.remote(1)]) })
  })
  const first = (await driver.event('started')) as unknown as { node: string }
  await until('both tasks run', () => driver.events.filter(({ event }) => event === 'started').length >= 2 || 'one')
  const victim = others.find(({ id }) => id === first.node) as TestNode
  const dead = victim.id
  await victim.kill('SIGKILL')
  const startedAt = performance.now()
  await cluster.waitDead(dead)
  // The lease, and the time that a list waits for a node that keeps silent.
  expect(performance.now() - startedAt).toBeLessThan(5_000)
  const { nodes } = (await driver.event('done')) as unknown as { nodes: string[] }
  expect(nodes).not.toContain(dead)
  await driver.exited
})

test('stop ends the daemons of its machine; with --cluster all of them, and the next head begins a new cluster', async () => {
  await using cluster = await startTestCluster({ nodes: 3 })
  const [head, second, third] = cluster.nodes as [TestNode, TestNode, TestNode]
  const { cluster: before } = head.daemon
  const left = third.id
  expect(await third.cli('stop', '--json')).toEqual({ stopped: before })
  await third.gone()
  await cluster.waitDead(left)
  await expect(second.cli('stop', '--cluster')).rejects.toThrow(/on another machine/)
  expect(await head.cli('stop', '--cluster', '--json')).toEqual({ stopped: before })
  await Promise.all([head.gone(), second.gone()])
  await head.start()
  expect(head.daemon.cluster).not.toBe(before)
})

test('a head that is stopped and started again leads the same cluster', async () => {
  await using cluster = await startTestCluster({ nodes: 2 })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const { cluster: before } = head.daemon
  const id = other.id
  await head.kill('SIGTERM')
  await head.start()
  expect(head.daemon.cluster).toBe(before)
  await cluster.waitForNodes(2)
  expect(other.id).toBe(id)
})
