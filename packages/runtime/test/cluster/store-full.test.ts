/** A small object store that runs full and may write nothing to disk: reuse, back-pressure, and errors that name who holds it. Real processes. */
import { type BeamlineError, get, init, type ObjectRef, put, remote, shutdown } from '@beamline/runtime'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { current } from '../../src/core/current.ts'
import { failure } from './helpers.ts'

const MiB = 1024 ** 2

beforeAll(async () => {
  await init({ cpus: 2, storeBytes: 64 * MiB, spill: false, quiet: true })
})
afterAll(shutdown)

test('memory is used again and again: many times the capacity passes through', async () => {
  for (let i = 0; i < 60; i++) {
    using ref = await put(new Uint8Array(8 * MiB).fill(i))
    expect((await get(ref)).at(-1)).toBe(i)
  }
})

test('results of tasks use memory again too', async () => {
  const make = remote((i: number) => new Uint8Array(4 * MiB).fill(i))
  const last = remote((data: Uint8Array) => data.at(-1))
  for (let i = 0; i < 40; i++) {
    using ref = make.remote(i)
    expect(await get(last.remote(ref))).toBe(i)
  }
})

test('a put that finds no room for five seconds fails with STORE_FULL, which names the holders', async () => {
  const held: ObjectRef<Uint8Array>[] = []
  const error = await (async (): Promise<BeamlineError | undefined> => {
    for (let i = 0; i < 12; i++) {
      const stored = await put(new Uint8Array(8 * MiB)).catch((thrown: BeamlineError) => thrown)
      if (stored instanceof Error) return stored
      held.push(stored)
    }
    return undefined
  })()
  expect(held.length).toBeGreaterThanOrEqual(5)
  expect(error).toMatchObject({ code: 'STORE_FULL', details: { capacityBytes: 64 * MiB } })
  expect(error!.message).toMatch(/biggest holders: .* of "put"/)
  expect(error!.retry).toBe(true)
  for (const ref of held) ref.release()
  expect(await get(await put(new Uint8Array(8 * MiB).fill(1)))).toHaveLength(8 * MiB)
})

test('a put waits for room that others make', async () => {
  const held: ObjectRef<Uint8Array>[] = []
  for (let i = 0; i < 3; i++) held.push(await put(new Uint8Array(10 * MiB)))
  const waiting = put(new Uint8Array(40 * MiB).fill(5))
  await vi.waitUntil(async () => {
    const { nodes } = (await current().query('status', 0)) as { nodes: { store: { waiting: number } }[] }
    return nodes[0]!.store.waiting === 1
  })
  for (const ref of held) ref.release()
  expect((await get(await waiting)).at(-1)).toBe(5)
})

test('a task whose result finds no room fails with STORE_FULL, and later ones work', async () => {
  const huge = remote(() => new Uint8Array(70 * MiB))
  expect((await failure(get(huge.remote()))).code).toBe('STORE_FULL')
  expect(await get(remote(() => new Uint8Array(MiB)).remote())).toHaveLength(MiB)
})

test('what can never fit is refused at once', async () => {
  const tooMuch = new Uint8Array(65 * MiB)
  const started = performance.now()
  expect((await failure(put(tooMuch))).code).toBe('STORE_FULL')
  expect(performance.now() - started).toBeLessThan(2_000)
})
