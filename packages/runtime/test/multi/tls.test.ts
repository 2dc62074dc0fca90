/** A cluster with certificates: everything works, and no port of it talks to whoever has none. */
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { startTestCluster, type TestNode } from '../../src/testing/index.ts'

/** TCP ports on which a process listens. */
function listening(pid: number): number[] {
  if (pid === 0) return []
  const own = new Set<string>()
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      own.add(readlinkSync(`/proc/${pid}/fd/${fd}`))
    } catch {
      // Closed meanwhile.
    }
  }
  return ['tcp', 'tcp6'].flatMap((table) =>
    readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter(([, , , state, , , , , , inode]) => state === '0A' && own.has(`socket:[${inode}]`))
      .map(([, address]) => Number.parseInt(address?.split(':').at(-1) ?? '', 16)),
  )
}

/** What a port says to something that is no TLS: at most an alert, and the end. */
function answerTo(port: number, bytes: Buffer): Promise<Buffer> {
  return new Promise((resolve) => {
    const got: Buffer[] = []
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(bytes))
    socket.on('data', (chunk: Buffer) => got.push(chunk))
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
  const daemons = await head.query<{ pid: number }[]>('nodes')
  const workers = (await Promise.all([head, other].map((node) => node.query<{ pid: number }[]>('workers')))).flat()
  const ports = [...new Set([...daemons, ...workers].map(({ pid }) => pid))].flatMap(listening)
  expect(ports.length).toBeGreaterThanOrEqual(4)
  for (const port of ports) {
    const answer = await answerTo(port, Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'))
    // A TLS alert record, or nothing.
    expect(answer.length === 0 || answer[0] === 0x15).toBe(true)
  }
  driver.write('go\n')
  await driver.exited
})

test('a program on a machine without a daemon joins with the certificates of the cluster, and not without them', async () => {
  await using cluster = await startTestCluster({ nodes: [{ cpus: 1 }], tls: true })
  const [head] = cluster.nodes as [TestNode]
  const program = async (
    { init, get, put, remote }: typeof import('../../src/index.ts'),
    { tell }: typeof import('../../src/testing/index.ts'),
  ): Promise<void> => {
    try {
      await using _program = await init({ quiet: true, ...(process.env['FOLDER'] !== undefined && { tlsDir: process.env['FOLDER'] }) })
      const sum = remote((bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte, 0))
      tell('sum', { value: await get(sum.remote(await put(new Uint8Array(2_000_000).fill(3)))) })
    } catch (error) {
      tell('refused', { message: (error as Error).message })
    }
  }
  const folder = join(head.temporary, '..', 'tls')
  const outside = (name: string): Record<string, string> => {
    const temporary = join(head.temporary, name)
    mkdirSync(temporary)
    return { BEAMLINE_ADDRESS: cluster.headAddress, BEAMLINE_TMPDIR: temporary }
  }
  const byVariable = head.driver(program, { env: { ...outside('a'), BEAMLINE_TLS_DIR: folder } })
  expect(await byVariable.event('sum')).toMatchObject({ value: 6_000_000 })
  await byVariable.finished()
  const byOption = head.driver(program, { env: { ...outside('b'), FOLDER: folder } })
  expect(await byOption.event('sum')).toMatchObject({ value: 6_000_000 })
  await byOption.finished()
  const without = head.driver(program, { env: outside('c') })
  expect((await without.event('refused'))['message']).toContain(`no TLS connection with ${cluster.headAddress}: it takes encrypted connections only`)
  await without.finished()
})
