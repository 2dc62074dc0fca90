/** A cluster with certificates: everything works, and no port of it talks to whoever has none. */
import { connect } from 'node:net'
import { expect, test } from 'vitest'
import { dial } from '../../src/net/link.ts'
import { MESH_SERVICE } from '../../src/net/mesh-service.ts'
import { startTestCluster, type TestNode } from '../../src/testing/index.ts'

/** What a port says to something that is no TLS: at most an alert, and the end. */
function answerTo(port: number, bytes: Buffer): Promise<Buffer> {
  return new Promise((resolve) => {
    const got: Buffer[] = []
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(bytes))
    socket.on('data', (chunk) => got.push(chunk))
    socket.on('error', () => resolve(Buffer.concat(got)))
    socket.on('close', () => resolve(Buffer.concat(got)))
  })
}

test('tasks, actors and objects cross nodes encrypted, and plain connections are refused on every port', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 1 }, { cpus: 2, resources: { tape: 1 } }], tls: true })
  const [head, other] = cluster.nodes as [TestNode, TestNode]
  const driver = head.driver(async ({ init, get, remote, clusterInfo }, { tell }) => {
    await init({ quiet: true })
    class Counter {
      #count = 0
      add(bytes: Uint8Array): number {
        return (this.#count += bytes.length)
      }
    }
    const there = { resources: { tape: 0.1 } }
    const make = remote((bytes: number) => new Uint8Array(bytes).fill(7), there)
    const counter = remote(Counter, there).remote()
    const big = make.remote(5_000_000)
    const value = await get(big)
    const sum = value.reduce((total, byte) => total + byte, 0)
    tell('done', { sum, count: await get(counter.add.remote(big)), node: await get(remote(() => clusterInfo().node, there).remote()) })
    await new Promise((resolve) => process.stdin.once('data', resolve))
    process.stdin.destroy()
  })
  expect(await driver.event('done')).toMatchObject({ sum: 35_000_000, count: 5_000_000, node: other.id })
  const rows = await head.query<{ address: string; bulkAddress: string }[]>('nodes')
  const workers = await other.query<{ address: string }[]>('workers')
  const ports = [...rows.flatMap(({ address, bulkAddress }) => [address, bulkAddress]), ...workers.map(({ address }) => address)]
    .filter((address) => /:\d+$/.test(address ?? ''))
    .map((address) => Number(address.split(':').at(-1)))
  expect(ports.length).toBeGreaterThanOrEqual(4)
  for (const port of ports) {
    const answer = await answerTo(port, Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
    // A TLS alert record, or nothing.
    expect(answer.length === 0 || answer[0] === 0x15).toBe(true)
  }
  const link = dial(MESH_SERVICE, rows[0]?.address ?? '', head.token, { connectMs: 300 })
  expect(await link.closed).toBeInstanceOf(Error)
  driver.write('go\n')
  await driver.exited
})
