/** Work that waits for other work, where there is one CPU only: nothing may wait for ever. Real processes. */
import { get, init, type ObjectRef, put, remote, shutdown, stop, wait } from '@beamline/runtime'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failure } from './helpers.ts'

beforeAll(async () => {
  await init({ cpus: 1, quiet: true })
})
afterAll(shutdown)

test('fifty levels of tasks', async () => {
  const deep = remote(async (n: number): Promise<number> => (n === 0 ? 0 : 1 + (await get(deep.remote(n - 1)))))
  expect(await get(deep.remote(50))).toBe(50)
})

test('fan-out of fan-out of fan-out', async () => {
  const tree = remote(async (depth: number): Promise<number> => {
    if (depth === 0) return 1
    return (await get([0, 1, 2].map(() => tree.remote(depth - 1)))).reduce((a, b) => a + b)
  })
  expect(await get(tree.remote(3))).toBe(27)
})

test('a task that waits with wait(), and one that consumes a stream', async () => {
  const leaf = remote((x: number) => x)
  const waits = remote(async () => (await wait([leaf.remote(1), leaf.remote(2)], { count: 2 })).ready.length)
  expect(await get(waits.remote())).toBe(2)
  const numbers = remote(function* () {
    for (let i = 0; i < 40; i++) yield i
  })
  const sum = remote(async () => {
    let total = 0
    for await (const ref of numbers.remote()) total += await get(ref)
    return total
  })
  expect(await get(sum.remote())).toBe(780)
})

test('a consumer needs the CPU of a producer that is far ahead', async () => {
  const numbers = remote(
    function* () {
      for (let i = 0; i < 30; i++) yield i
    },
    { itemsAhead: 2 },
  )
  const square = remote((x: number) => x * x)
  let total = 0
  for await (const ref of numbers.remote()) total += await get(square.remote(ref))
  expect(total).toBe(8_555)
})

test('tasks that wait for a reference that comes later', async () => {
  const reads = remote(async ({ ref }: { ref: ObjectRef<number> }) => await get(ref))
  const late = remote(() => 7)
  const readers = Array.from({ length: 3 }, () => reads.remote({ ref: late.remote() }))
  expect(await get(readers)).toEqual([7, 7, 7])
})

test('an actor with the only CPU calls tasks, which call the actor', async () => {
  class Counter {
    #n = 0
    async add(k: number): Promise<number> {
      return (this.#n += k)
    }
    async addThrough(levels: number): Promise<number> {
      const handle = await get(remote(() => levels).remote())
      return handle + this.#n
    }
  }
  const counter = remote(Counter, { cpus: 1 }).remote()
  const add = remote(async (k: number) => await get(counter.add.remote(k)))
  expect(await get(counter.addThrough.remote(5))).toBe(5)
  // The actor keeps its CPU while it idles, until it ends.
  const pending = add.remote(2)
  expect((await wait([pending], { timeoutMs: 100 })).ready).toHaveLength(0)
  await stop(counter)
  expect((await failure(get(pending))).cause).toMatchObject({ code: 'ACTOR_DIED' })
})

test('results of puts in a task survive the task', async () => {
  const make = remote(async (n: number) => await Promise.all(Array.from({ length: n }, (_, i) => put({ i }))))
  const use = remote(async (n: number) => (await get(await get(make.remote(n)))).map(({ i }) => i))
  expect(await get(use.remote(5))).toEqual([0, 1, 2, 3, 4])
})
