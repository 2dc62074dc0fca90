/**
 * The object plane over real sockets, between processes with real segments. The test carries the messages of daemons and processes.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { generateTls } from '../../src/net/tls.ts'
import { CHUNK_BYTES } from '../../src/transfer/chunks.ts'
import { holds, PlaneCluster, type PlaneClusterOptions, type PlaneProcess } from './plane-cluster.ts'

vi.setConfig({ testTimeout: 60_000 }) // processes start, and tens of megabytes are made and compared

const MiB = 1_048_576
const NAME = { owner: '00000000000000aa', object: 7 }

let cluster: PlaneCluster | undefined

async function start(options: PlaneClusterOptions): Promise<[PlaneProcess, PlaneProcess, ...PlaneProcess[]]> {
  cluster = await PlaneCluster.start(options)
  return cluster.nodes as [PlaneProcess, PlaneProcess, ...PlaneProcess[]]
}

afterEach(async () => {
  const stopping = cluster
  cluster = undefined
  await stopping?.stop()
})

async function eventually(check: () => Promise<void>): Promise<void> {
  for (let turn = 0; ; turn++) {
    try {
      return await check()
    } catch (error) {
      if (turn === 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
}

/** Nothing of a transfer is left at the source; it has as many pins as its own readers have. */
async function expectRest(source: PlaneProcess, pins: number = 0): Promise<void> {
  await eventually(async () => {
    const { counts, objects } = await source.look()
    expect(counts.streams).toBe(0)
    expect(objects.reduce((sum, object) => sum + object.pins, 0)).toBe(pins)
  })
}

describe('an object of another node', () => {
  test('arrives byte for byte, whatever its size', async () => {
    const [source, reader] = await start({ nodes: 2 })
    const sizes = [0, 1, 100 * 1024, 5 * MiB - 1, 5 * MiB, 5 * MiB + 1, 64 * MiB]
    for (const [object, bytes] of sizes.entries()) {
      const name = { ...NAME, object }
      await source.put(name, bytes)
      expect(holds(await reader.pin(name, bytes, source).pinned, name), `${bytes} bytes`).toBe(true)
    }
    const { counts } = await reader.look()
    expect(counts.damaged).toBe(0)
    expect(counts.connections, 'one connection serves them all').toBe(1)
    const total = sizes.reduce((sum, bytes) => sum + bytes)
    expect((await source.look()).counts.sentBytes).toBe(total)
    await expectRest(source)
  })

  test('is pulled once for all who want it, and those who come later find the copy', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 20 * MiB)
    const pins = ['argument', 'wait', 'get', 'get'].map((use, index) => reader.pin(NAME, 20 * MiB, source, use, `reader ${index}`).pinned)
    for (const pinned of await Promise.all(pins)) expect(holds(pinned, NAME)).toBe(true)
    expect(holds(await reader.pin(NAME, 20 * MiB, source, 'get', 'late').pinned, NAME)).toBe(true)
    expect((await source.look()).counts.sentBytes).toBe(20 * MiB)
    expect((await reader.look()).objects).toEqual([{ key: '00000000000000aa:7', state: 'copy', pins: 5 }])
  })

  test('is let go by the copies when it is freed, each with its last pin', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, MiB)
    const { id, pinned } = reader.pin(NAME, MiB, source)
    await pinned
    source.tell({ kind: 'free', name: NAME })
    await eventually(async () => expect((await source.look()).objects).toEqual([]))
    expect((await reader.look()).objects.map(({ pins }) => pins)).toEqual([1])
    reader.tell({ kind: 'unpin', process: 'reader', pin: id })
    await eventually(async () => expect((await reader.look()).objects).toEqual([]))
  })

  test('that was freed fails with the story', async () => {
    const [source, reader] = await start({ nodes: 2 })
    const { failure } = await reader.pin(NAME, MiB, source).pinned
    expect(failure?.code).toBe('OBJECT_LOST')
    expect(JSON.parse(failure!.detailsJson)).toEqual({ object: '00000000000000aa:7', reason: 'no copy is left; node node0: it does not have it' })
    expect((await reader.look()).objects).toEqual([])
  })

  test('that is freed while it is pulled arrives, and its copy goes with its pin', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 32 * MiB)
    const relay = await cluster!.relay(source)
    let freed = false
    relay.onBytes = (_bytes, position) => {
      if (position > 8 * MiB && !freed) source.tell({ kind: 'free', name: NAME })
      freed ||= position > 8 * MiB
      return true
    }
    const { id, pinned } = reader.pin(NAME, 32 * MiB, source)
    expect(holds(await pinned, NAME)).toBe(true)
    await eventually(async () => expect((await source.look()).objects).toEqual([]))
    reader.tell({ kind: 'unpin', process: 'reader', pin: id })
    await eventually(async () => expect((await reader.look()).objects).toEqual([]))
  })

  test('that nobody wants any more is not pulled on', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 64 * MiB)
    const relay = await cluster!.relay(source)
    let position = 0
    const half = new Promise<void>((resolve) => {
      relay.onBytes = (_bytes, at) => {
        position = at
        if (at > 6 * MiB) resolve()
        return true
      }
    })
    reader.pin(NAME, 64 * MiB, source)
    await half
    reader.tell({ kind: 'process-gone', process: 'reader' })
    await eventually(async () => expect((await reader.look()).objects).toEqual([]))
    await expectRest(source)
    expect(position).toBeLessThan(64 * MiB)
    expect((await reader.look()).counts.pulls).toBe(0)
  })
})

describe('a network that fails', () => {
  test('after a cut only what is missing is fetched', async () => {
    const [source, reader] = await start({ nodes: 2 })
    const bytes = 64 * MiB
    await source.put(NAME, bytes)
    const relay = await cluster!.relay(source)
    let cuts = 0
    relay.onBytes = (_bytes, position) => {
      const cut = position > (cuts + 1) * 18 * MiB && cuts < 3
      if (cut) cuts++
      return !cut
    }
    expect(holds(await reader.pin(NAME, bytes, source).pinned, NAME)).toBe(true)
    expect(cuts).toBe(3)
    expect(relay.connections).toBe(4)
    // Of each cut at most what was on its way is lost: the chunk that had begun, and what the relay and the kernel held.
    expect(relay.bytes).toBeLessThan(bytes + cuts * 2 * CHUNK_BYTES)
    expect((await reader.look()).counts.receivedBytes).toBeLessThan(bytes + cuts * CHUNK_BYTES + 10_000)
    await expectRest(source)
  })

  test('a chunk that arrives damaged is fetched again', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 16 * MiB)
    const relay = await cluster!.relay(source)
    let damaged = false
    relay.onBytes = (bytes, position) => {
      if (position > 7 * MiB && !damaged && bytes.length > 1_000) {
        damaged = true
        bytes[500] = bytes[500]! ^ 0x10
      }
      return true
    }
    expect(holds(await reader.pin(NAME, 16 * MiB, source).pinned, NAME)).toBe(true)
    const { counts } = await reader.look()
    expect(counts.damaged).toBe(1)
    expect(relay.bytes).toBeGreaterThan(21 * MiB)
    expect(relay.bytes).toBeLessThan(22 * MiB)
  })

  test('a node whose chunks arrive damaged three times is named', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 2 * MiB)
    const relay = await cluster!.relay(source)
    relay.onBytes = (bytes) => {
      if (bytes.length > 1_000) bytes[500] = bytes[500]! ^ 1
      return true
    }
    const { failure } = await reader.pin(NAME, 2 * MiB, source).pinned
    expect(failure?.code).toBe('OBJECT_LOST')
    expect(JSON.parse(failure!.detailsJson).reason).toBe('no copy is left; node node0: chunk 0 arrived with a wrong checksum 3 times')
    expect((await reader.look()).counts.damaged).toBe(3)
    expect((await reader.look()).objects).toEqual([])
  })

  test('a source from which nothing comes is left after five seconds, and asked again', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 32 * MiB)
    const relay = await cluster!.relay(source)
    let silent = false
    relay.onBytes = (_bytes, position) => {
      if (position > 12 * MiB && !silent) {
        silent = true
        relay.swallow()
      }
      return true
    }
    const startMs = performance.now()
    expect(holds(await reader.pin(NAME, 32 * MiB, source).pinned, NAME)).toBe(true)
    expect(performance.now() - startMs).toBeGreaterThan(5_000)
    expect(relay.connections).toBe(2)
    await expectRest(source)
  })

  test('connections that break at every fifth chunk bring everything in the end', async () => {
    const [source, reader] = await start({ nodes: 2, env: { BEAMLINE_TEST_FAULTS: 'bulk.chunk:request=0.2;seed=3' } })
    await source.put(NAME, 64 * MiB)
    expect(holds(await reader.pin(NAME, 64 * MiB, source).pinned, NAME)).toBe(true)
    expect((await source.look()).counts.sentBytes).toBeLessThan(2 * 64 * MiB)
  })
})

describe('strangers', () => {
  test('with another token get nothing', async () => {
    const [source, reader] = await start({ nodes: 2, tokens: ['secret', 'guess'] })
    await source.put(NAME, MiB)
    const { id } = reader.pin(NAME, MiB, source)
    await eventually(async () => expect((await reader.look()).counts.receivedBytes, 'it has been greeted and turned away twice').toBeGreaterThan(24))
    expect((await source.look()).counts.sentBytes).toBe(0)
    reader.tell({ kind: 'unpin', process: 'reader', pin: id })
    await expectRest(source)
  })

  test('that say nothing, or nonsense, are disconnected', async () => {
    const [source] = await start({ nodes: 2 })
    const [host, port] = source.address.split(':')
    const socket = connect({ host, port: Number(port) })
    const received: Buffer[] = []
    socket.on('data', (bytes: Buffer) => received.push(bytes))
    socket.on('error', () => {})
    socket.write(Buffer.alloc(4096, 0xff))
    await new Promise((resolve) => socket.on('close', resolve))
    expect(Buffer.concat(received).length, 'the greeting and no more').toBe(24)
    await expectRest(source)
  })
})

describe('nodes that die', () => {
  test('a source that dies is replaced by another holder, and nothing is fetched twice', async () => {
    const [source, holder, reader] = (await start({ nodes: 3 })) as [PlaneProcess, PlaneProcess, PlaneProcess]
    await source.put(NAME, 48 * MiB)
    await holder.pin(NAME, 48 * MiB, source).pinned
    // Two readers of the source: the third is told of the holder. One relay stands for both slots.
    const relay = await cluster!.relay(source)
    const dead = new Promise<void>((resolve) => {
      relay.onBytes = (_bytes, position) => {
        if (position > 12 * MiB) resolve()
        return position <= 12 * MiB
      }
    })
    const { id, pinned } = reader.pin(NAME, 48 * MiB, source)
    await dead
    await cluster!.kill(source)
    const lost = await pinned
    // It only knew the source, so it asks its owner, whose daemon finds the holder's copy.
    expect(lost.failure?.code).toBe('OBJECT_LOST')
    expect(JSON.parse(lost.failure!.detailsJson).reason).toBe('no copy is left; node node0: it is dead')
    reader.tell({ kind: 'unpin', process: 'reader', pin: id })
    reader.tell({ kind: 'recover', process: NAME.owner, request: 1, object: NAME.object, lostNode: source.node })
    const { body } = await reader.toProcess()
    expect(body).toMatchObject({ $case: 'objectRecovered', value: { request: 1, node: holder.node, segment: 'segment-1' } })
    expect((await holder.look()).objects).toMatchObject([{ state: 'primary' }])
    expect(holds(await reader.pin(NAME, 48 * MiB, holder).pinned, NAME)).toBe(true)
  })

  test('an object of a node that died before the reader came to the cluster is lost, and not waited for', async () => {
    const [reader] = await start({ nodes: 1 })
    reader.tell({ kind: 'died-before', node: 'former' })
    const { failure } = await reader.pin(NAME, MiB, { node: 'former' } as PlaneProcess).pinned
    expect(failure?.code).toBe('OBJECT_LOST')
    expect(JSON.parse(failure!.detailsJson).reason).toBe('no copy is left; node former: it died before')
    expect((await reader.look()).counts.pulls).toBe(0)
  })

  test('a reader that dies leaves nothing at the source', async () => {
    const [source, reader] = await start({ nodes: 2 })
    await source.put(NAME, 64 * MiB)
    const relay = await cluster!.relay(source)
    const half = new Promise<void>((resolve) => {
      relay.onBytes = (_bytes, position) => {
        if (position > 8 * MiB) resolve()
        return true
      }
    })
    void reader.pin(NAME, 64 * MiB, source)
    await half
    expect((await source.look()).counts.streams).toBe(1)
    await cluster!.kill(reader)
    await expectRest(source)
  })

  test('the first copy that is found becomes the primary one, and the others go when it is freed', async () => {
    const [source, a, b, c] = (await start({ nodes: 4 })) as [PlaneProcess, PlaneProcess, PlaneProcess, PlaneProcess]
    await source.put(NAME, MiB)
    for (const node of [a, b]) {
      const { id, pinned } = node.pin(NAME, MiB, source)
      await pinned
      node.tell({ kind: 'unpin', process: 'reader', pin: id })
    }
    await cluster!.kill(source)
    c.tell({ kind: 'recover', process: NAME.owner, request: 5, object: NAME.object, lostNode: source.node })
    const { body } = await c.toProcess()
    const { value } = body as { value: { node: string } }
    const [primary, other] = value.node === a.node ? [a, b] : [b, a]
    await eventually(async () => {
      expect((await primary.look()).objects).toMatchObject([{ state: 'primary' }])
      expect((await other.look()).objects).toMatchObject([{ state: 'copy' }])
    })
    primary.tell({ kind: 'free', name: NAME })
    await eventually(async () => expect((await other.look()).objects).toEqual([]))
  })

  test('without any copy the owner hears so', async () => {
    const [source, a, b] = (await start({ nodes: 3 })) as [PlaneProcess, PlaneProcess, PlaneProcess]
    await cluster!.kill(source)
    a.tell({ kind: 'recover', process: NAME.owner, request: 6, object: NAME.object, lostNode: source.node })
    expect((await a.toProcess()).body).toMatchObject({ $case: 'objectRecovered', value: { request: 6, node: '' } })
    expect((await b.look()).objects).toEqual([])
  })

  test('copies of an object that is freed after the death of its node go', async () => {
    const [source, a, b] = (await start({ nodes: 3 })) as [PlaneProcess, PlaneProcess, PlaneProcess]
    await source.put(NAME, MiB)
    const { id, pinned } = b.pin(NAME, MiB, source)
    await pinned
    b.tell({ kind: 'unpin', process: 'reader', pin: id })
    await cluster!.kill(source)
    a.tell({ kind: 'freed-on-lost-node', name: NAME })
    await eventually(async () => expect((await b.look()).objects).toEqual([]))
  })
})

describe('many nodes', () => {
  test('receivers become sources: of four nodes that get it at most three have it from its own node', async () => {
    const bytes = 64 * MiB
    const [source, ...readers] = await start({ nodes: 5 })
    await source.put(NAME, bytes)
    const pins = await Promise.all(readers.map((reader) => reader.pin(NAME, bytes, source).pinned))
    for (const pinned of pins) expect(holds(pinned, NAME)).toBe(true)
    const sent = await Promise.all(cluster!.nodes.map(async (node) => (await node.look()).counts.sentBytes / bytes))
    expect(sent.reduce((sum, share) => sum + share)).toBeCloseTo(4, 5)
    expect(sent[0]).toBeLessThanOrEqual(3)
    for (const node of cluster!.nodes) await expectRest(node, node === source ? 0 : 1)
  })

  test('a node that drains hands its objects over, tells their owners, and their copies go when they are freed', async () => {
    const [leaving, a, b] = (await start({ nodes: 3 })) as [PlaneProcess, PlaneProcess, PlaneProcess]
    const names = Array.from({ length: 12 }, (_, object) => ({ ...NAME, object }))
    for (const name of names) await leaving.put(name, (name.object % 3) * MiB)
    await a.pin(names[0]!, 0, leaving).pinned
    expect(await leaving.drain(10_000)).toEqual({ moved: 12, failed: 0 })
    const moved = new Map<number, string>()
    for (const { process, body } of leaving.toProcesses) {
      expect(process).toBe(NAME.owner)
      if (body.$case !== 'objectsMoved') throw new Error(`unexpected ${body.$case}`)
      for (const { object, node } of body.value.objects) moved.set(object, node)
    }
    expect([...moved.keys()].sort((x, y) => x - y)).toEqual(names.map(({ object }) => object))
    for (const node of [a, b]) {
      const primaries = (await node.look()).objects.filter(({ state }) => state === 'primary').map(({ key }) => key)
      expect(primaries.sort()).toEqual(
        names
          .filter(({ object }) => moved.get(object) === node.node)
          .map(({ object }) => `${NAME.owner}:${object}`)
          .sort(),
      )
      expect(primaries.length, 'both take some').toBeGreaterThan(0)
    }
    const there = cluster!.nodes.find(({ node }) => node === moved.get(5))!
    const reader = there === a ? b : a
    expect(holds(await reader.pin(names[5]!, 2 * MiB, there).pinned, names[5]!)).toBe(true)
    there.tell({ kind: 'free', name: names[5]! })
    await eventually(async () => expect((await leaving.look()).objects.map(({ key }) => key)).not.toContain(`${NAME.owner}:5`))
  })

  test('a drain without a node that has room says what stays', async () => {
    const [leaving, other] = await start({ nodes: 2, capacityBytes: 4 * MiB })
    await other.put({ ...NAME, object: 1 }, 3 * MiB)
    await leaving.put(NAME, 3 * MiB)
    expect(await leaving.drain(10_000)).toEqual({ moved: 0, failed: 1 })
  })
})

test('with TLS an object comes over several connections, and nobody without a certificate gets one', async () => {
  const tlsDir = mkdtempSync(join(tmpdir(), 'beamline-tls-'))
  try {
    await generateTls(tlsDir)
    const [source, reader] = await start({ nodes: 2, tlsDir })
    await source.put(NAME, 64 * MiB)
    expect(holds(await reader.pin(NAME, 64 * MiB, source).pinned, NAME)).toBe(true)
    expect((await reader.look()).counts.connections).toBe(4)
    expect((await source.look()).counts.sentBytes).toBe(64 * MiB)
    const [host, port] = source.address.split(':')
    const socket = connect({ host, port: Number(port) })
    const received: Buffer[] = []
    socket.on('data', (bytes: Buffer) => received.push(bytes))
    socket.on('error', () => {})
    socket.write(Buffer.alloc(4096))
    await new Promise((resolve) => socket.on('close', resolve))
    expect(Buffer.concat(received).toString('latin1')).not.toContain('BLBK')
  } finally {
    rmSync(tlsDir, { recursive: true })
  }
})

test('every message between nodes may arrive twice', async () => {
  const [source, a, b, c] = (await start({ nodes: 4, copiesOfMessages: 2 })) as [PlaneProcess, PlaneProcess, PlaneProcess, PlaneProcess]
  await source.put(NAME, MiB)
  for (const node of [a, b]) {
    const { id, pinned } = node.pin(NAME, MiB, source)
    expect(holds(await pinned, NAME)).toBe(true)
    node.tell({ kind: 'unpin', process: 'reader', pin: id })
  }
  const moved = { ...NAME, object: 8 }
  await source.put(moved, MiB)
  source.tell({ kind: 'free', name: NAME })
  for (const node of [a, b]) await eventually(async () => expect((await node.look()).objects).toEqual([]))
  expect(await source.drain(10_000)).toEqual({ moved: 1, failed: 0 })
  expect(source.toProcesses).toHaveLength(1)
  const primary = cluster!.node((source.toProcesses[0]!.body as { value: { objects: { node: string }[] } }).value.objects[0]!.node)!
  await cluster!.kill(primary)
  const asker = [a, b, c].find((node) => node !== primary)!
  asker.tell({ kind: 'recover', process: NAME.owner, request: 9, object: moved.object, lostNode: primary.node })
  expect((await asker.toProcess()).body).toMatchObject({ $case: 'objectRecovered', value: { request: 9, node: source.node } })
  expect(holds(await asker.pin(moved, MiB, source).pinned, moved)).toBe(true)
  expect((await source.look()).objects).toMatchObject([{ key: `${NAME.owner}:8`, state: 'primary' }])
  expect(asker.toProcesses).toEqual([])
})

test('a node that closes its plane ends all connections', async () => {
  const [source, reader] = await start({ nodes: 2 })
  await source.put(NAME, MiB)
  await reader.pin(NAME, MiB, source).pinned
  await Promise.all([source.close(), reader.close()])
  expect((await reader.look()).counts.connections).toBe(0)
})
