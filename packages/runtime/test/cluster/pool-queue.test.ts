/** ActorPool and Queue on real processes. */
import { ActorPool, getActor, get, init, kill, Queue, remote, shutdown, type ActorHandle, type BeamlineError } from '@beamline/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failure, Gate, Tally } from './helpers.ts'

beforeAll(async () => {
  await init({ cpus: 2, quiet: true })
})
afterAll(shutdown)

class Worker {
  async twice(x: number): Promise<number> {
    return 2 * x
  }
  async slowWhenEven(x: number): Promise<number> {
    if (x % 2 === 0) await new Promise((resolve) => setTimeout(resolve, 50))
    return x
  }
  async after(gate: ActorHandle<Gate>, x: number): Promise<number> {
    await get(gate.arrive.remote())
    return x
  }
  async fail(x: number): Promise<number> {
    if (x === 3) throw new Error('three')
    return x
  }
  async hold(tally: ActorHandle<Tally>, x: number): Promise<number> {
    await get(tally.enter.remote())
    await new Promise((resolve) => setTimeout(resolve, 5))
    await get(tally.leave.remote())
    return x
  }
  crash(): void {
    process.exit(1)
  }
}

const collect = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

describe('ActorPool', () => {
  const make = (n: number): ActorHandle<Worker>[] => Array.from({ length: n }, () => remote(Worker).remote())

  test('map keeps the order of its values, mapUnordered that of the results', async () => {
    const pool = new ActorPool(make(2))
    expect(await collect(pool.map((worker, x: number) => worker.twice.remote(x), [1, 2, 3, 4, 5]))).toEqual([2, 4, 6, 8, 10])
    const values = [0, 1, 2, 3, 4, 5]
    expect(await collect(pool.map((worker, x: number) => worker.slowWhenEven.remote(x), values))).toEqual(values)
    const unordered = await collect(pool.mapUnordered((worker, x: number) => worker.slowWhenEven.remote(x), values))
    expect(unordered[0]).toBe(1)
    expect(unordered.sort()).toEqual(values)
    expect(await collect(pool.map((worker, x: number) => worker.twice.remote(x), []))).toEqual([])
  })

  test('no more calls are under way than the actors have room for, and values are drawn as results are taken', async () => {
    const tally = remote(Tally).remote()
    const pool = new ActorPool(make(2), { callsPerActor: 2 })
    let drawn = 0
    const values = function* () {
      for (let i = 0; i < 40; i++) {
        drawn++
        yield i
      }
    }
    let taken = 0
    for await (const _ of pool.map((worker, x: number) => worker.hold.remote(tally, x), values())) {
      taken++
      expect(drawn - taken).toBeLessThanOrEqual(8)
    }
    expect(taken).toBe(40)
    expect(await get(tally.peak.remote())).toBeLessThanOrEqual(4)
    expect(await get(tally.peak.remote())).toBeGreaterThan(1)
  })

  test('an error ends map at its place; leaving the loop leaves a pool that works', async () => {
    const pool = new ActorPool(make(2))
    const seen: number[] = []
    const error = await failure(
      (async () => {
        for await (const x of pool.map((worker, value: number) => worker.fail.remote(value), [1, 2, 3, 4])) seen.push(x)
      })(),
    )
    expect(seen).toEqual([1, 2])
    expect(error.cause).toMatchObject({ message: 'three' })
    for await (const _ of pool.map((worker, x: number) => worker.slowWhenEven.remote(x), [0, 2, 4, 6, 8])) break
    expect(await collect(pool.map((worker, x: number) => worker.twice.remote(x), [7]))).toEqual([14])
  })

  test('submit and getNext, in order and unordered', async () => {
    const pool = new ActorPool(make(2))
    for (const x of [0, 1, 2, 3]) pool.submit((worker) => worker.slowWhenEven.remote(x))
    expect([await pool.getNext(), await pool.getNext<number>(), await pool.getNext()]).toEqual([0, 1, 2])
    expect(pool.hasNext).toBe(true)
    expect(await pool.getNext()).toBe(3)
    expect(pool.hasNext).toBe(false)
    expect((await failure(pool.getNext())).code).toBe('INVALID_ARGUMENT')
    const gate = remote(Gate).remote(2)
    pool.submit((worker) => worker.after.remote(gate, 2))
    pool.submit((worker) => worker.twice.remote(3))
    expect(await pool.getNextUnordered()).toBe(6)
    await get(gate.arrive.remote())
    expect(await pool.getNextUnordered()).toBe(2)
  })

  test('an actor that dies leaves the pool; without actors calls fail', async () => {
    const [first, second] = make(2)
    const pool = new ActorPool([first!, second!])
    kill(first!)
    const outcomes = await Promise.allSettled(
      [1, 2, 3].map((x) => {
        pool.submit((worker) => worker.twice.remote(x))
        return pool.getNext<number>()
      }),
    )
    expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBe(2)
    expect(pool.size).toBe(1)
    kill(second!)
    pool.submit((worker) => worker.twice.remote(1))
    expect((await failure(pool.getNext())).code).toBe('ACTOR_DIED')
    expect(pool.size).toBe(0)
    pool.submit((worker) => worker.twice.remote(1))
    expect((await failure(pool.getNext())).code).toBe('ACTOR_DIED')
    pool.add(remote(Worker).remote())
    pool.submit((worker) => worker.twice.remote(4))
    expect(await pool.getNext()).toBe(8)
    expect(() => new ActorPool([])).toThrow(/at least one/)
  })

  test('actors come and go', async () => {
    const pool = new ActorPool(make(1))
    expect([pool.size, pool.idle, pool.waiting]).toEqual([1, 1, 0])
    pool.submit((worker) => worker.slowWhenEven.remote(2))
    pool.submit((worker) => worker.twice.remote(2))
    expect([pool.idle, pool.waiting]).toEqual([0, 1])
    expect(pool.takeIdle()).toBeUndefined()
    expect([await pool.getNext(), await pool.getNext()]).toEqual([2, 4])
    expect(pool.takeIdle()).toBeDefined()
    expect(pool.size).toBe(0)
  })
})

describe('Queue', () => {
  test('first in, first out, also values that need the store', async () => {
    const queue = new Queue<{ n: number; data: Uint8Array }>()
    for (let n = 0; n < 3; n++) await queue.put({ n, data: new Uint8Array(150_000).fill(n) })
    expect(await queue.size()).toBe(3)
    for (let n = 0; n < 3; n++) {
      const item = await queue.get()
      expect([item.n, item.data[149_999]]).toEqual([n, n])
    }
    expect(await queue.size()).toBe(0)
  })

  test('producers and consumers in other processes; every item comes once', async () => {
    const queue = new Queue<number>({ maxSize: 4 })
    const produce = remote(async (q: Queue<number>, from: number) => {
      for (let i = from; i < from + 25; i++) await q.put(i)
    })
    const consume = remote(async (q: Queue<number>) => {
      const got: number[] = []
      for await (const item of q) got.push(item)
      return got
    })
    const consumers = [consume.remote(queue), consume.remote(queue)]
    await get([produce.remote(queue, 0), produce.remote(queue, 100)])
    await queue.close()
    const got = (await get(consumers)).flat().sort((a, b) => a - b)
    expect(got).toEqual([...Array.from({ length: 25 }, (_, i) => i), ...Array.from({ length: 25 }, (_, i) => 100 + i)])
  })

  test('a queue in a closure', async () => {
    const queue = new Queue<string>()
    await get(remote(async () => await queue.put('from a closure')).remote())
    expect(await queue.get()).toBe('from a closure')
  })

  test('put waits while it is full, get while it is empty, both with a time limit', async () => {
    const queue = new Queue<number>({ maxSize: 1, name: 'small' })
    await queue.put(1)
    expect(await failure(queue.put(2, { timeoutMs: 20 }))).toMatchObject({ code: 'QUEUE_FULL', details: { queue: '"small"', size: 1, maxSize: 1 } })
    expect((await failure(queue.put(2, { timeoutMs: 0 }))).code).toBe('QUEUE_FULL')
    const putting = queue.put(3)
    expect(await queue.get()).toBe(1)
    await putting
    expect(await queue.get()).toBe(3)
    expect(await failure(queue.get({ timeoutMs: 20 }))).toMatchObject({ code: 'QUEUE_EMPTY', retry: true })
    expect((await failure(queue.get({ timeoutMs: 0 }))).code).toBe('QUEUE_EMPTY')
    const getting = queue.get()
    await queue.put(4)
    expect(await getting).toBe(4)
    expect((await failure(queue.get({ timeoutMs: -1 }))).code).toBe('INVALID_ARGUMENT')
  })

  test('a call that was given up takes nothing', async () => {
    const queue = new Queue<number>()
    const controller = new AbortController()
    const getting = failure(queue.get({ signal: controller.signal }))
    await queue.size()
    controller.abort(new Error('enough'))
    expect(await getting).toMatchObject({ code: 'CANCELLED' })
    expect((await failure(queue.get({ signal: AbortSignal.abort() }))).code).toBe('CANCELLED')
    await queue.put(5)
    expect(await queue.get()).toBe(5)
  })

  test('a consumer that dies while it waits takes nothing once the queue has heard of it', async () => {
    const queue = new Queue<number>()
    const pids = new Queue<number>()
    const consumer = remote(
      async (q: Queue<number>, p: Queue<number>) => {
        const waiting = Promise.all(Array.from({ length: 50 }, () => q.get()))
        await q.size()
        await p.put(process.pid)
        await waiting
      },
      { maxRetries: 0 },
    )
    const ref = consumer.remote(queue, pids)
    process.kill(await pids.get(), 'SIGKILL')
    expect((await failure(get(ref))).code).toBe('WORKER_CRASHED')
    // This process may have heard of it first.
    let taken: number | undefined
    for (let item = 0; item < 10 && taken === undefined; item++) {
      await queue.put(item)
      taken = await queue.get({ timeoutMs: 1_000 }).catch(() => undefined)
    }
    expect(taken).toBeDefined()
  })

  test('batches', async () => {
    const queue = new Queue<number>({ maxSize: 5 })
    await queue.putBatch([1, 2, 3])
    expect(await queue.getBatch(2)).toEqual([1, 2])
    const four = queue.getBatch(10, { min: 4 })
    await queue.putBatch([4, 5])
    await queue.put(6)
    expect(await four).toEqual([3, 4, 5, 6])
    await queue.putBatch([])
    // Larger than the queue: when it is empty.
    await queue.putBatch([1, 2, 3, 4, 5, 6, 7])
    expect((await failure(queue.put(8, { timeoutMs: 10 }))).code).toBe('QUEUE_FULL')
    expect(await queue.getBatch(7)).toHaveLength(7)
    expect((await failure(queue.getBatch(2, { min: 3 }))).code).toBe('INVALID_ARGUMENT')
  })

  test('close lets the rest be taken and ends loops and waiting calls', async () => {
    const queue = new Queue<number>({ maxSize: 2 })
    await queue.putBatch([1, 2])
    const putting = failure(queue.put(3))
    await queue.size()
    await queue.close()
    expect(await putting).toMatchObject({ code: 'QUEUE_CLOSED' })
    expect((await failure(queue.put(4))).code).toBe('QUEUE_CLOSED')
    expect(await collect(queue)).toEqual([1, 2])
    expect((await failure(queue.get())).code).toBe('QUEUE_CLOSED')
    const { getting } = await (async () => {
      await using another = new Queue<number>()
      const waiting = failure(another.get())
      await another.size()
      return { getting: waiting }
    })()
    expect((await getting).code).toBe('QUEUE_CLOSED')
  })

  test('found by name, also by getIfExists', async () => {
    const queue = new Queue<string>({ name: 'mail', maxSize: 3 })
    await queue.put('hello')
    const found = await Queue.find<string>('mail')
    expect(found.maxSize).toBe(3)
    expect(await found.get()).toBe('hello')
    const same = new Queue<string>({ name: 'mail', getIfExists: true })
    await same.put('again')
    expect(await queue.get()).toBe('again')
    expect((await failure(Queue.find('nobody'))).code).toBe('ACTOR_NOT_FOUND')
    expect(() => new Queue({ size: 3 } as never)).toThrow(/option "size" of a Queue/)
  })

  test('without its actor every call says so', async () => {
    const queue = new Queue<number>({ name: 'doomed' })
    await queue.put(1)
    kill(await getActor('doomed'))
    expect(await queue.get().catch((error: BeamlineError) => error.code)).toMatch(/ACTOR_DIED/)
  })
})
