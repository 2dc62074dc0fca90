/** Devices, bytes and affinity over nodes; and what becomes of them, and of results of actors, when their node dies. */
import { get, init, placementGroup, remote, wait } from '@beamline/runtime'
import { type NodeRow, startTestCluster, type TestCluster, type TestNode } from '@beamline/runtime/testing'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failure } from '../cluster/helpers.ts'

const BYTES = 20_000_000

class Maker {
  #made = 0
  make(size: number): Uint8Array {
    return new Uint8Array(size).fill(++this.#made)
  }
}

let cluster: TestCluster
let program: AsyncDisposable
let settled: Disposable
let [stays, dies]: TestNode[] = []

beforeAll(async () => {
  cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 2, gpus: 2 }, { cpus: 2, gpus: 1 }], storeBytes: 128 << 20, nodeTimeoutMs: 2_000 })
  ;[, stays, dies] = cluster.nodes
  settled = cluster.head.settle()
  program = await init({ quiet: true })
})
afterAll(async () => {
  await program[Symbol.asyncDispose]()
  settled[Symbol.dispose]()
  await cluster[Symbol.asyncDispose]()
})

test('each node has devices of its own, and its workers see theirs only', async () => {
  class Device {
    where(): [number, string | undefined] {
      return [Number(process.env['BEAMLINE_TEST_NODE']), process.env['CUDA_VISIBLE_DEVICES']]
    }
  }
  const devices = [0, 1, 2].map(() => remote(Device, { cpus: 0, gpus: 1 }).remote())
  const seen = await get(devices.map((device) => device.where.remote()))
  expect(seen.toSorted()).toEqual([
    [1, '0'],
    [1, '1'],
    [2, '0'],
  ])
})

test('tasks go to the bytes of their arguments, which stay where they are', async () => {
  const made = remote((size: number) => new Uint8Array(size), { node: dies?.id as string }).remote(BYTES)
  await wait([made])
  const received = async (): Promise<number> => {
    const rows = await cluster.head.list<NodeRow & { transfers?: { receivedBytes: number } }>('nodes')
    return rows.reduce((total, { transfers }) => total + (transfers?.receivedBytes ?? 0), 0)
  }
  const before = await received()
  const at = remote((bytes: Uint8Array) => [bytes.length, Number(process.env['BEAMLINE_TEST_NODE'])])
  for (let i = 0; i < 4; i++) expect(await get(at.remote(made))).toEqual([BYTES, 2])
  expect((await received()) - before).toBeLessThan(BYTES)
})

test('when a node dies, results of its actors come back where their calls may be repeated, hard affinity fails, and groups are ready and removed', async () => {
  const dead = dies?.id as string
  const node = { id: dead, soft: true }
  const makers = [-1, 0].map((maxTaskRetries) => remote(Maker, { cpus: 0, node, maxRestarts: -1, maxTaskRetries }).remote())
  const results = makers.map((maker) => maker.make.remote(300_000))
  await wait(results, { count: 2 })
  const group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'SPREAD' })
  await group.ready()
  await dies?.kill()
  await cluster.waitDead(dead)

  const [repeated, lost] = results
  expect((await get(repeated!))[0]).toBe(1)
  const error = await failure(get(lost!))
  expect(error.code).toBe('OBJECT_LOST')
  expect(error.message).toMatch(new RegExp(`${dead}[^]*maxTaskRetries|maxTaskRetries[^]*${dead}`))

  const anywhere = remote(() => Number(process.env['BEAMLINE_TEST_NODE']))
  expect([0, 1]).toContain(await get(anywhere.options({ node, cpus: 0 }).remote()))
  const hard = await failure(get(anywhere.options({ node: dead, cpus: 0 }).remote()))
  expect([hard.code, hard.message]).toEqual(['INFEASIBLE', expect.stringContaining(dead)])

  await group.ready()
  const nodes = [0, 1].map((bundleIndex) => get(anywhere.options({ placementGroup: group, bundleIndex }).remote()))
  expect(await Promise.all(nodes)).toEqual([1, 1])
  await group.remove()
  expect((await failure(group.ready())).message).toMatch(/removed/)
  expect(stays?.isRunning).toBe(true)
})
