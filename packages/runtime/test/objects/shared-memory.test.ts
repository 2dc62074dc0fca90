/**
 * Segments, mappings and the codec together, over real shared memory and a second process.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { freemem, tmpdir } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { decode, encode, write } from '../../src/objects/codec.ts'
import { createSegmentFile, openStoreDirectory, removeSegmentFile, removeStoreDirectory } from '../../src/objects/segment-files.ts'
import { type Block, type GrantedSegment, ObjectMapper, SegmentPool } from '../../src/objects/segments.ts'

const MiB = 1_048_576
const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
let directory: string
/** Segments of this process that /proc/self/maps still shows; Linux only. */
const mapped = (): number => (existsSync('/proc/self/maps') ? readFileSync('/proc/self/maps', 'utf8').split(`${directory}/`).length - 1 : 0)

beforeEach(() => {
  directory = `${base}/beamline-test-${randomBytes(4).toString('hex')}`
  openStoreDirectory(directory)
})
afterEach(() => removeStoreDirectory(directory))

interface Node {
  readonly pool: SegmentPool
  readonly requests: number[]
  readonly returned: string[]
}

/** A pool with a node that grants what is asked for, at least 1 MiB. */
function poolOf(grantBytes: (asked: number) => number = (asked) => Math.max(asked, MiB)): Node {
  const requests: number[] = []
  const returned: string[] = []
  const request = async (asked: number): Promise<GrantedSegment> => {
    const segment = `s${requests.push(asked)}`
    const bytes = grantBytes(asked)
    await createSegmentFile(`${directory}/${segment}`, bytes)
    return { segment, path: `${directory}/${segment}`, bytes }
  }
  return { pool: new SegmentPool(request, (segment) => returned.push(segment)), requests, returned }
}

async function put(pool: SegmentPool, value: unknown): Promise<Block> {
  const encoded = encode(value, 'it')
  const block = await pool.allocate(encoded.byteLength)
  write(encoded, block.view)
  return block
}

/** Collects garbage until `done`; finalizers run between turns of the event loop. */
async function collect(done: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !done(); i++) {
    globalThis.gc!()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe('a sealed object', () => {
  test('is read without a copy, and its arrays own exactly their bytes', async () => {
    const { pool } = poolOf()
    const value = { weights: new Float32Array(100_000).fill(1.5), bytes: Buffer.alloc(200_000, 7), name: 'layer', small: new Uint8Array([1, 2, 3]) }
    const block = await put(pool, value)
    const back = decode(new ObjectMapper().map(block, () => {})) as typeof value
    expect(back).toEqual(value)
    expect([back.weights.byteOffset, back.weights.buffer.byteLength]).toEqual([0, 400_000])
    block.view.fill(9) // the writer misbehaves: the reader sees it, so there was no copy
    expect(back.bytes[100_000]).toBe(9)
  })

  test('keeps what its writer wrote when a reader writes to it', async () => {
    const { pool } = poolOf()
    const block = await put(pool, new Float64Array(50_000).fill(1))
    const mapper = new ObjectMapper()
    const [a, b] = [0, 1].map(() => decode(mapper.map(block, () => {})) as Float64Array)
    a!.fill(5)
    expect([a![3], b![3], (decode(mapper.map(block, () => {})) as Float64Array)[3]]).toEqual([5, 1, 1])
  })

  test('stays mapped while one of its arrays is in use, and is unmapped when none is', async () => {
    const { pool } = poolOf()
    const block = await put(pool, { a: new Uint8Array(100_000).fill(1), b: new Uint8Array(100_000).fill(2) })
    const mapper = new ObjectMapper()
    const before = mapped()
    let collected = 0
    const kept = [(decode(mapper.map(block, () => collected++)) as { b: Uint8Array }).b.subarray(10, 20)]
    let rounds = 0
    await collect(() => rounds++ > 5)
    expect([collected, kept[0]![0], mapper.mappedBytes]).toEqual([0, 2, block.bytes])
    kept.pop()
    await collect(() => collected > 0)
    expect([collected, mapper.mappedBytes, mapped()]).toEqual([1, 0, before])
  })

  test('is the same in another process, which cannot change it', async () => {
    const { pool } = poolOf()
    const block = await put(pool, { numbers: new Int32Array(60_000).map((_, i) => i), text: 'shared' })
    const { segment: _, view: __, ...place } = block
    const reader = spawn(process.execPath, [fileURLToPath(new URL('fixtures/reader.ts', import.meta.url)), JSON.stringify(place)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let output = ''
    reader.stdout.on('data', (chunk: Buffer) => (output += chunk))
    expect(await once(reader, 'close')).toEqual([0, null])
    expect(JSON.parse(output)).toEqual({ text: 'shared', sum: (59_999 * 60_000) / 2, length: 60_000 })
    expect((decode(new ObjectMapper().map(block, () => {})) as { numbers: Int32Array }).numbers[0]).toBe(0)
  })

  test('of a removed segment cannot be mapped, and one that is mapped stays readable', async () => {
    const { pool } = poolOf()
    const block = await put(pool, new Uint8Array(200_000).fill(3))
    const mapper = new ObjectMapper()
    const value = decode(mapper.map(block, () => {})) as Uint8Array
    removeSegmentFile(block.path)
    removeSegmentFile(block.path)
    expect(value[199_999]).toBe(3)
    expect(() => mapper.map(block, () => {})).toThrow(/ENOENT/)
  })

  // Reserving and touching 2 GiB needs that much memory; a machine that lacks it still runs everything else.
  test.skipIf(freemem() < 8 * 1024 * MiB)('may be larger than 2 GiB', { timeout: 120_000 }, async () => {
    const bytes = 2 ** 31 + 1
    const value = new Uint8Array(bytes)
    value[0] = 1
    value[bytes - 1] = 2
    const { pool } = poolOf()
    const block = await put(pool, { value })
    const back = decode(new ObjectMapper().map(block, () => {})) as { value: Uint8Array }
    expect([back.value.length, back.value[0], back.value[2 ** 30], back.value[bytes - 1]]).toEqual([bytes, 1, 0, 2])
    pool.close()
  })
})

describe('a pool', () => {
  test('takes blocks at once from a segment that it holds, and reuses freed ones at once', async () => {
    const { pool, requests } = poolOf(() => MiB)
    const first = await pool.allocate(300_000)
    const second = pool.allocate(300_000) as Block
    expect([first.offset, second.offset, second.bytes, second.view.length]).toEqual([0, 303_104, 300_000, 300_000])
    pool.free(first.segment, first.offset, first.bytes)
    expect((pool.allocate(250_000) as Block).offset).toBe(0)
    expect(requests).toEqual([303_104])
  })

  test('asks once for many small blocks that come at the same time', async () => {
    const { pool, requests } = poolOf(() => MiB)
    const blocks = await Promise.all(Array.from({ length: 5 }, () => pool.allocate(200_000)))
    expect(new Set(blocks.map(({ segment, offset }) => `${segment}:${offset}`)).size).toBe(5)
    expect(requests).toEqual([200_704])
  })

  test('asks again when one segment is not enough for all that wait', async () => {
    const { pool, requests } = poolOf(() => MiB)
    await Promise.all(Array.from({ length: 12 }, () => pool.allocate(200_000)))
    expect(requests.length).toBe(3)
  })

  test('keeps small blocks out of a segment that was made for a large one', async () => {
    const { pool, requests } = poolOf()
    const large = await pool.allocate(20 * MiB)
    pool.free(large.segment, large.offset, large.bytes)
    const small = await pool.allocate(200_000)
    expect(small.segment).not.toBe(large.segment)
    expect((pool.allocate(20 * MiB) as Block).segment).toBe(large.segment)
    expect(requests.length).toBe(2)
  })

  test('serves what waits from a block that is freed before the node answers', async () => {
    let answer: ((granted: GrantedSegment) => void) | undefined
    const grants: GrantedSegment[] = []
    const pool = new SegmentPool(
      (bytes) => {
        if (grants.length > 0) return new Promise((resolve) => (answer = resolve))
        grants.push({ segment: 'first', path: `${directory}/first`, bytes })
        return createSegmentFile(`${directory}/first`, bytes).then(() => grants[0]!)
      },
      () => {},
    )
    const block = await pool.allocate(500_000)
    const waiting = pool.allocate(400_000)
    expect(waiting).toBeInstanceOf(Promise)
    await new Promise((resolve) => setImmediate(resolve))
    pool.free(block.segment, block.offset, block.bytes)
    expect(await waiting).toMatchObject({ segment: 'first', offset: 0 })
    await createSegmentFile(`${directory}/late`, MiB)
    answer!({ segment: 'late', path: `${directory}/late`, bytes: MiB })
    await new Promise((resolve) => setImmediate(resolve))
    expect((pool.allocate(600_000) as Block).segment).toBe('late')
  })

  test('gives empty segments back when asked, and keeps those in use', async () => {
    const { pool, returned } = poolOf(() => MiB)
    const a = await pool.allocate(600_000)
    const b = await pool.allocate(600_000)
    pool.free(a.segment, a.offset, a.bytes)
    pool.releaseEmpty()
    expect([returned, pool.heldBytes]).toEqual([[a.segment], MiB])
    pool.free(a.segment, a.offset, a.bytes) // late news about a segment that is gone
    pool.free(b.segment, b.offset, b.bytes)
    expect(returned).toEqual([a.segment])
  })

  test('gives segments back that come when the store is short and nobody here needs them any more', async () => {
    const { pool, returned } = poolOf(() => MiB)
    const block = await pool.allocate(600_000)
    await new Promise((resolve) => setImmediate(resolve)) // the first request is over
    const waiting = pool.allocate(600_000)
    pool.free(block.segment, block.offset, block.bytes) // serves the one that waits
    expect((await waiting).segment).toBe('s1')
    pool.releaseEmpty()
    await vi.waitUntil(() => returned.length > 0, { timeout: 10_000 })
    expect(returned).toEqual(['s2'])
  })

  test('gives back what it hoards beyond 512 MiB, but never the segment emptied last', async () => {
    const { pool, returned } = poolOf()
    const blocks: Block[] = []
    for (let i = 0; i < 3; i++) blocks.push(await pool.allocate(300 * MiB))
    for (const { segment, offset, bytes } of blocks) pool.free(segment, offset, bytes)
    expect(returned).toEqual(['s1', 's2'])
    expect(pool.allocate(300 * MiB)).toMatchObject({ segment: 's3' })
    pool.close()
  })

  test('passes a refusal on to everyone who waits for that segment', async () => {
    const pool = new SegmentPool(
      () => Promise.reject(new Error('full')),
      () => {},
    )
    const results = await Promise.allSettled([pool.allocate(200_000), pool.allocate(200_000), pool.allocate(100 * MiB)])
    expect(results.map((result) => (result as PromiseRejectedResult).reason.message)).toEqual(['full', 'full', 'full'])
  })

  test('gives back a segment that it cannot map', async () => {
    const returned: string[] = []
    const pool = new SegmentPool(
      async (bytes) => ({ segment: 'gone', path: `${directory}/gone`, bytes }),
      (segment) => returned.push(segment),
    )
    await expect(pool.allocate(200_000)).rejects.toThrow(/ENOENT/)
    await expect(pool.allocate(100 * MiB)).rejects.toThrow(/ENOENT/)
    expect(returned).toEqual(['gone', 'gone'])
  })

  test('rejects what waits when it is closed', async () => {
    const pool = new SegmentPool(
      () => new Promise(() => {}),
      () => {},
    )
    const waiting = [pool.allocate(200_000), pool.allocate(100 * MiB)]
    pool.close()
    for (const result of await Promise.allSettled(waiting)) expect(result).toMatchObject({ status: 'rejected', reason: { message: /closed/ } })
  })

  test('lets go of the memory of a segment at once when it is given back', async () => {
    const { pool } = poolOf(() => MiB)
    const { segment, offset, bytes, view } = await pool.allocate(600_000)
    view.fill(1)
    const before = mapped()
    pool.free(segment, offset, bytes)
    pool.releaseEmpty()
    if (before > 0) expect(mapped()).toBe(before - 1)
    expect(view[0]).toBe(0) // a view that is still around reads zeros instead of ending the process
  })
})

describe('files of the store', () => {
  test('are private, have all their pages reserved, and none is left of a failure', async () => {
    await createSegmentFile(`${directory}/a`, 3 * MiB)
    const { mode, size, blocks } = statSync(`${directory}/a`)
    expect([mode & 0o777, size, blocks * 512]).toEqual([0o600, 3 * MiB, 3 * MiB])
    expect(statSync(directory).mode & 0o777).toBe(0o700)
    await expect(createSegmentFile(`${directory}/a`, MiB)).rejects.toThrow(/EEXIST/)
    await expect(createSegmentFile(`${directory}/b`, 2 ** 50)).rejects.toThrow(/ENOSPC|EFBIG/)
    expect(readdirSync(directory)).toEqual(['a'])
  })

  test('left by a dead daemon are removed', () => {
    writeFileSync(`${directory}/segment-1`, 'old')
    openStoreDirectory(directory)
    expect(readdirSync(directory)).toEqual([])
  })

  test('a folder that others may enter, or that is no folder, is refused', () => {
    mkdirSync(`${directory}/open`, { mode: 0o755 })
    expect(() => openStoreDirectory(`${directory}/open`)).toThrow(expect.objectContaining({ code: 'STORE_UNAVAILABLE' }))
    writeFileSync(`${directory}/file`, '')
    expect(() => openStoreDirectory(`${directory}/file`)).toThrow(/the object store cannot use .*file/)
  })

  test('a link in the place of the folder is refused', () => {
    mkdirSync(`${directory}/target`, { mode: 0o700 })
    writeFileSync(`${directory}/target/precious`, '')
    symlinkSync(`${directory}/target`, `${directory}/link`)
    expect(() => openStoreDirectory(`${directory}/link`)).toThrow(/not a folder/)
    expect(readdirSync(`${directory}/target`)).toEqual(['precious'])
    rmSync(`${directory}/link`)
  })
})

test.runIf(process.platform === 'linux')('a process that dies with its parent is killed by the kernel', async () => {
  const parent = spawn(process.execPath, [fileURLToPath(new URL('fixtures/parent.ts', import.meta.url))], { stdio: ['ignore', 'pipe', 'inherit'] })
  const lines = createInterface(parent.stdout)
  const [pid] = (await once(lines, 'line')) as [string]
  parent.kill('SIGKILL')
  await once(lines, 'close') // the child holds the other end of the pipe until it is dead
  // Its pipe closes while it ends; dead it may not yet have been reaped by whoever adopted it.
  const state = (): string => (existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]![0]! : 'gone')
  await vi.waitFor(() => expect(['gone', 'Z', 'X']).toContain(state()))
})
