/** A node that may have been declared dead ends its own workers, and takes part again only as another node. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode, until } from '../../src/testing/index.ts'

const isGone = (pid: number): boolean => {
  try {
    return /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return true
  }
}

test('a daemon that was stopped for longer than its lease ends its workers when it wakes, and joins as another node', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }], nodeTimeoutMs: 2_000 })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const driver = head.driver(
    async ({ init, get, remote, clusterInfo }, { tell }) => {
      await init()
      const run = remote(
        async (first: string) => {
          const { node } = clusterInfo()
          tell('running', { node })
          if (node === first) await new Promise(() => {})
          return node
        },
        { maxRetries: 5 },
      )
      tell('done', { node: await get(run.remote(process.env['FIRST'] ?? '')) })
    },
    { env: { FIRST: other.id } },
  )
  const { by, node } = (await driver.event('running')) as unknown as { by: number; node: string }
  expect(node).toBe(other.id)
  other.pause()
  await cluster.waitDead(node)
  other.resume()
  await until('end of the worker', () => isGone(by) || `worker ${by} runs`, { withinMs: 3_000 })
  await cluster.waitForNodes(2)
  expect(other.id).not.toBe(node)
  expect(await driver.event('done')).toMatchObject({ node: other.id })
  await driver.exited
  expect((await cluster.members()).find((row) => row.node === node)?.state ?? 'DEAD').toBe('DEAD')
})

test('a node whose head is silent ends its workers before the lease does', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }], nodeTimeoutMs: 3_000 })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const driver = other.driver(async ({ init, remote }, { tell }) => {
    await init()
    remote(async () => {
      tell('running')
      await new Promise(() => {})
    }).remote()
    await new Promise(() => setInterval(() => {}, 1_000))
  })
  const { by } = await driver.event('running')
  const before = other.id
  head.pause()
  const startedAt = performance.now()
  await until('end of the worker', () => isGone(by) || `worker ${by} runs`)
  expect(performance.now() - startedAt).toBeLessThan(3_300)
  head.resume()
  await driver[Symbol.asyncDispose]()
  await cluster.waitForNodes(2)
  expect(other.id).not.toBe(before)
})
