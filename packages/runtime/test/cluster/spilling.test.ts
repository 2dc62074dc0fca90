/** More objects than memory: they go to disk and come back, byte for byte. Real processes, real files. */
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BeamlineError, get, init, type ObjectRef, put, remote, shutdown } from '@beamline/runtime'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { current } from '../../src/core/current.ts'
import type { StoreUsage } from '../../src/objects/segment-directory-events.ts'
import { failure } from './helpers.ts'

const MiB = 1024 ** 2

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'spill-test-'))
})
afterEach(async () => {
  await shutdown()
  expect(readdirSync(folder)).toEqual([])
  rmSync(folder, { recursive: true })
})

const start = (storeBytes: number, options: object = {}): Promise<unknown> =>
  init({ cpus: 2, storeBytes, quiet: true, spill: { directories: [folder], ...options } })

/** Bytes that tell where they belong, everywhere in them. */
const filled = (seed: number, bytes: number): Uint8Array => {
  const data = new Uint8Array(bytes)
  new Uint32Array(data.buffer, 0, bytes >> 2).forEach((_, at, words) => {
    words[at] = seed * 1_000_003 + at
  })
  return data
}
const isFilled = (data: Uint8Array, seed: number): boolean => {
  const words = new Uint32Array(data.buffer, data.byteOffset, data.byteLength >> 2)
  for (let at = 0; at < words.length; at += 997) if (words[at] !== (seed * 1_000_003 + at) % 2 ** 32) return false
  return words.at(-1) === (seed * 1_000_003 + words.length - 1) % 2 ** 32
}

async function usage(): Promise<StoreUsage> {
  const { nodes } = (await current().query('status', 0)) as { nodes: { store: StoreUsage }[] }
  return nodes[0]!.store
}

const spillFiles = (): string[] => readdirSync(folder).flatMap((name) => readdirSync(join(folder, name)).filter((file) => file !== 'holder.json'))

/** Reads one and lets go of it at once. */
async function check(ref: ObjectRef<Uint8Array>, seed: number, bytes: number): Promise<void> {
  const data = await get(ref)
  expect(data.byteLength).toBe(bytes)
  expect(isFilled(data, seed)).toBe(true)
}

test('four times the store is put, and read in order and at random', async () => {
  await start(64 * MiB)
  const refs: ObjectRef<Uint8Array>[] = []
  for (let i = 0; i < 64; i++) refs.push(await put(filled(i, 4 * MiB)))
  const { spilledBytes, fileBytes } = await usage()
  expect(spilledBytes).toBeGreaterThanOrEqual(190 * MiB)
  expect(fileBytes).toBeLessThanOrEqual(64 * MiB)
  for (let i = 0; i < 64; i++) {
    await check(refs[i]!, i, 4 * MiB)
    if (i % 4 === 3) global.gc?.() // a view holds its object until it is collected
  }
  for (let i = 0, at = 5; i < 64; i++, at = (at * 37 + 11) % 64) {
    await check(refs[at]!, at, 4 * MiB)
    if (i % 4 === 3) global.gc?.()
  }
  expect((await usage()).restoredBytes).toBeGreaterThan(200 * MiB)
  for (const ref of refs) ref.release()
  await vi.waitUntil(async () => (await usage()).spillFileBytes === 0 && spillFiles().length === 0)
})

test('four times the store as results of tasks and as arguments of others', async () => {
  await start(64 * MiB)
  const make = remote((seed: number, bytes: number) => {
    const data = new Uint8Array(bytes)
    new Uint32Array(data.buffer).fill(seed)
    return data
  })
  const sum = remote((a: Uint8Array, b: Uint8Array) => [a[0], a.at(-4), b[0], b.at(-4), a.length + b.length])
  const made = Array.from({ length: 64 }, (_, i) => make.remote(i, 4 * MiB))
  const sums = made.map((ref, i) => sum.remote(ref, made[(i * 29 + 7) % 64]!))
  const got = await get(sums)
  got.forEach((each, i) => expect(each).toEqual([i, i, (i * 29 + 7) % 64, (i * 29 + 7) % 64, 8 * MiB]))
  expect((await usage()).spilledBytes).toBeGreaterThan(100 * MiB)
})

test('objects of a worker that is dead go to disk and come back too', async () => {
  await start(32 * MiB)
  const make = remote((seed: number) => {
    const data = new Uint8Array(4 * MiB).fill(seed)
    return { pid: process.pid, data }
  })
  const results = Array.from({ length: 4 }, (_, i) => make.remote(i + 1))
  const pids = new Set<number>()
  for (const ref of results) pids.add((await get(ref)).pid)
  for (const pid of pids) process.kill(pid, 'SIGKILL')
  const more: ObjectRef<Uint8Array>[] = []
  for (let i = 0; i < 16; i++) more.push(await put(filled(i, 4 * MiB)))
  global.gc?.()
  for (let i = 0; i < 4; i++) expect((await get(results[i]!)).data.every((byte) => byte === i + 1)).toBe(true)
  for (let i = 0; i < 16; i++) await check(more[i]!, i, 4 * MiB)
})

test('many small objects share files', async () => {
  await start(32 * MiB)
  const refs: ObjectRef<Uint8Array>[] = []
  for (let i = 0; i < 640; i++) refs.push(await put(filled(i, 200_000)))
  expect((await usage()).spilledObjects).toBeGreaterThan(400)
  expect(spillFiles().length).toBeLessThan(64)
  for (let i = 0; i < 640; i++) {
    await check(refs[i]!, i, 200_000)
    if (i % 50 === 0) global.gc?.()
  }
})

test('what is being read does not leave the memory: then the store is full, and the error has the numbers', async () => {
  await start(64 * MiB)
  const views: Uint8Array[] = []
  const refs: ObjectRef<Uint8Array>[] = []
  const error = await (async (): Promise<BeamlineError | undefined> => {
    for (let i = 0; i < 20; i++) {
      const ref = await put(filled(i, 4 * MiB)).catch((thrown: BeamlineError) => thrown)
      if (ref instanceof Error) return ref
      refs.push(ref)
      views.push(await get(ref))
    }
    return undefined
  })()
  expect(error).toMatchObject({ code: 'STORE_FULL', details: { spilling: '', capacityBytes: 64 * MiB } })
  expect((error?.details as { pinnedBytes: number }).pinnedBytes).toBeGreaterThan(50 * MiB)
  expect(error?.message).toMatch(/of them being read/)
  views.forEach((view, i) => expect(isFilled(view, i)).toBe(true))
})

test('a disk that takes no more is named, and what is freed there makes room again', async () => {
  await start(32 * MiB, { quotaBytes: 32 * MiB })
  const refs: ObjectRef<Uint8Array>[] = []
  const fill = async (): Promise<BeamlineError> => {
    for (;;) {
      const ref = await put(filled(refs.length, 4 * MiB)).catch((thrown: BeamlineError) => thrown)
      if (ref instanceof Error) return ref
      refs.push(ref)
    }
  }
  const error = await fill()
  expect(error).toMatchObject({ code: 'STORE_FULL', details: { spilling: expect.stringMatching(/ may hold 32\.0 MiB and has /) } })
  expect(error.message).toContain('no more goes there')
  expect(refs.length).toBeGreaterThan(10)
  for (let i = 0; i < refs.length; i++) await check(refs[i]!, i, 4 * MiB)
  for (const ref of refs.splice(0)) ref.release()
  expect((await fill()).code).toBe('STORE_FULL')
  expect(refs.length).toBeGreaterThan(10)
}, 60_000)

test('a folder that cannot be used is named when it is needed', async () => {
  await init({ cpus: 1, storeBytes: 16 * MiB, quiet: true, spill: { directories: ['/proc/nowhere'] } })
  const refs: ObjectRef<Uint8Array>[] = []
  for (let i = 0; i < 3; i++) refs.push(await put(new Uint8Array(4 * MiB)))
  const error = await failure(Promise.all(Array.from({ length: 4 }, () => put(new Uint8Array(4 * MiB)))))
  expect(error).toMatchObject({ code: 'STORE_FULL', details: { spilling: expect.stringContaining('/proc/nowhere') } })
  expect(existsSync('/proc/nowhere')).toBe(false)
})
