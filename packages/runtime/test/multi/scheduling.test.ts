/** Where work goes on several nodes: as much at once as all nodes have, spread, by node, by label, in groups; and what becomes of it when a node dies. */
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { get, init, placementGroup, remote, type PlacementGroup } from '@beamline/runtime'
import { type NodeRow, startTestCluster, type TestCluster, type TestNode, until } from '@beamline/runtime/testing'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { LIMITS } from '../../src/limits.ts'
import { failure } from '../cluster/helpers.ts'

const here = remote(() => Number(process.env['BEAMLINE_TEST_NODE']))

/**
 * Waits, without lending its CPU, until so many have arrived in a folder.
 *
 * @returns the node that it runs on
 */
const meet = remote(async (folder: string, size: number) => {
  writeFileSync(join(folder, randomUUID()), '')
  while (readdirSync(folder).length < size) await new Promise((resolve) => setTimeout(resolve, 20))
  return Number(process.env['BEAMLINE_TEST_NODE'])
})

class Place {
  node(): number {
    return Number(process.env['BEAMLINE_TEST_NODE'])
  }
}

/** A new one, on the disk that all nodes share. */
const folder = (): string => mkdtempSync(join(process.env['BEAMLINE_TMPDIR'] as string, 'meeting-'))

const counts = (values: readonly number[]): Record<number, number> => {
  const by: Record<number, number> = {}
  for (const value of values) by[value] = (by[value] ?? 0) + 1
  return by
}

describe('four nodes', () => {
  let cluster: TestCluster
  let program: AsyncDisposable
  let settled: Disposable

  beforeAll(async () => {
    cluster = await startTestCluster({
      cpus: 2,
      storeBytes: 64 << 20,
      nodes: [{}, { labels: { zone: 'a', disk: 'fast' } }, { labels: { zone: 'b', disk: 'fast' } }, { labels: { zone: 'b', disk: 'slow' } }],
    })
    settled = cluster.head.settle()
    program = await init({ quiet: true })
  })
  afterAll(async () => {
    await program[Symbol.asyncDispose]()
    settled[Symbol.dispose]()
    await cluster[Symbol.asyncDispose]()
  })
  const everythingFree = async (): Promise<void> => {
    await until('free cluster', async () => {
      const rows = await cluster.members()
      const free = (row: NodeRow): boolean => row.available.cpus === row.total.cpus
      return rows.every(free) || `in use: ${rows.map(({ total, available }) => total.cpus - available.cpus).join(', ')}`
    })
  }
  afterEach(everythingFree)

  const idOf = (index: number): string => (cluster.nodes[index] as TestNode).id

  test('as many tasks run at once as all nodes have CPUs', async () => {
    const meeting = folder()
    const nodes = await get(Array.from({ length: 8 }, () => meet.remote(meeting, 8)))
    expect(counts(nodes)).toEqual({ 0: 2, 1: 2, 2: 2, 3: 2 })
  })

  test('spread tasks go to all nodes that have room', async () => {
    const spread = meet.options({ strategy: 'spread' })
    const oneOnEach = async (): Promise<Record<number, number> | string> => {
      const meeting = folder()
      const by = counts(await get(Array.from({ length: 4 }, () => spread.remote(meeting, 4))))
      return Object.keys(by).length === 4 ? by : JSON.stringify(by)
    }
    // The policy that packs would always use two. At first some nodes may not be known to be free again; leases that are kept are used again.
    const by = await until('one task on each node', oneOnEach, { everyMs: 2 * LIMITS.leaseLingerMs })
    expect(by).toEqual({ 0: 1, 1: 1, 2: 1, 3: 1 })
  })

  test('a task with a node runs there, and with one that does not exist fails, or runs elsewhere when it is only a wish', async () => {
    for (const index of [0, 1, 2, 3]) {
      expect(await get(here.options({ node: idOf(index) }).remote())).toBe(index)
      expect(
        await get(
          remote(Place, { node: { id: idOf(index), soft: true } })
            .remote()
            .node.remote(),
        ),
      ).toBe(index)
    }
    const nowhere = 'f'.repeat(16)
    expect([0, 1, 2, 3]).toContain(await get(here.options({ node: { id: nowhere, soft: true } }).remote()))
    const error = await failure(get(here.options({ node: nowhere }).remote(), { timeoutMs: 5_000 }))
    expect(['INFEASIBLE', 'GET_TIMEOUT']).toContain(error.code)
    expect(error.message).toContain(nowhere)
  })

  test('labels choose nodes: equal, not, one of, none of, and all of them together', async () => {
    // As many tasks as the nodes that match have CPUs: they meet only if they use all of them.
    const at = async (labels: Record<string, string>, count: number): Promise<number[]> => {
      const meeting = folder()
      const nodes = await get(Array.from({ length: 2 * count }, () => meet.options({ labels }).remote(meeting, 2 * count)))
      return [...new Set(nodes)].toSorted((a, b) => a - b)
    }
    expect(await at({ zone: 'b' }, 2)).toEqual([2, 3])
    expect(await at({ zone: '!b' }, 2)).toEqual([0, 1])
    expect(await at({ zone: 'in(a,b)' }, 3)).toEqual([1, 2, 3])
    expect(await at({ zone: '!in(a,b)' }, 1)).toEqual([0])
    expect(await at({ zone: 'b', disk: '!slow' }, 1)).toEqual([2])
  })

  const nodesOf = (group: PlacementGroup, bundles: number): Promise<number[]> =>
    get(Array.from({ length: bundles }, (_, bundleIndex) => here.options({ placementGroup: group, bundleIndex }).remote()))

  test('groups: packed on one node, spread over many, strictly or as well as it goes', async () => {
    const bundles = [{ cpus: 1 }, { cpus: 1 }]
    for (const strategy of ['PACK', 'STRICT_PACK'] as const) {
      await using group = placementGroup(bundles, { strategy })
      await group.ready()
      expect(new Set(await nodesOf(group, 2)).size).toBe(1)
    }
    for (const strategy of ['SPREAD', 'STRICT_SPREAD'] as const) {
      const four = [...bundles, ...bundles]
      await everythingFree()
      await using group = placementGroup(four, { strategy })
      await group.ready()
      expect(new Set(await nodesOf(group, 4)).size).toBe(4)
    }
    // Six CPUs fit on no single node, and five bundles find no five nodes.
    await using packed = placementGroup([{ cpus: 2 }, { cpus: 2 }, { cpus: 2 }])
    await packed.ready()
    expect(new Set(await nodesOf(packed, 3)).size).toBe(3)
  })

  test('what starts inside a group stays in it when the group captures', async () => {
    await using group = placementGroup([{ cpus: 2, labels: { disk: 'slow' } }], { captureChildTasks: true })
    await group.ready()
    const parent = remote(async (child: typeof here) => get([child.remote(), child.remote()]))
    expect(await get(parent.options({ placementGroup: group, cpus: 1 }).remote(here))).toEqual([3, 3])
  })
})

test('a group that loses a node gets new places for the lost bundles only, and its actors start there', async () => {
  await using cluster = await startTestCluster({ nodes: 4, cpus: 1, storeBytes: 64 << 20, nodeTimeoutMs: 2_000 })
  using _here = cluster.head.settle()
  await using _program = await init({ quiet: true })
  const group = placementGroup([{ cpus: 1 }, { cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_SPREAD' })
  await group.ready()
  const actors = [0, 1, 2].map((bundleIndex) => remote(Place, { placementGroup: group, bundleIndex, cpus: 1, maxRestarts: -1, maxTaskRetries: -1 }).remote())
  const before = await get(actors.map((actor) => actor.node.remote()))
  expect(new Set(before).size).toBe(3)
  const victim = before.find((index) => index !== 0) as number
  const spare = [0, 1, 2, 3].find((index) => !before.includes(index)) as number
  await (cluster.nodes[victim] as TestNode).kill()
  const expected = before.map((index) => (index === victim ? spare : index))
  expect(await get(actors.map((actor) => actor.node.remote()))).toEqual(expected)
  await group.remove()
})

test('what no node can hold waits and is named, until a node joins that can', async () => {
  await using cluster = await startTestCluster({ nodes: [{}, { resources: { tape: 1 } }], cpus: 1, storeBytes: 64 << 20, nodeTimeoutMs: 2_000 })
  using _here = cluster.head.settle()
  await using _program = await init({ quiet: true })
  const [, other] = cluster.nodes as [TestNode, TestNode]
  await other.kill()
  await cluster.waitDead(other)
  const ref = here.options({ resources: { tape: 1 } }).remote()
  await until('reason why it waits', async () => {
    const rows = await cluster.head.list<{ reason: string }>('waiting')
    return rows.some(({ reason }) => reason.includes('tape')) || JSON.stringify(rows)
  })
  await other.start()
  expect(await get(ref)).toBe(1)
})
