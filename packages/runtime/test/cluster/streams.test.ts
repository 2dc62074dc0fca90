/** Streaming tasks and methods: items before the end, back-pressure, stops, errors and retries in the middle. Real processes. */
import { type ActorHandle, currentTask, get, init, type ObjectRef, remote, shutdown } from '@beamline/runtime'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { collectUntil, failure, Gate, Tally } from './helpers.ts'

let tally: ActorHandle<Tally>

beforeAll(async () => {
  await init({ cpus: 2, quiet: true })
  tally = remote(Tally).remote()
})
afterAll(shutdown)

async function values<T>(stream: AsyncIterable<ObjectRef<T>>): Promise<T[]> {
  const all: T[] = []
  for await (const ref of stream) all.push(await get(ref))
  return all
}

test('sync and async generators give their items in order', async () => {
  const sync = remote(function* (n: number) {
    for (let i = 0; i < n; i++) yield i
  })
  const asynchronous = remote(async function* (words: string[]) {
    for (const word of words) yield { word, length: word.length }
  })
  expect(await values(sync.remote(100))).toEqual(Array.from({ length: 100 }, (_, i) => i))
  expect(await values(asynchronous.remote(['a', 'bcd']))).toEqual([
    { word: 'a', length: 1 },
    { word: 'bcd', length: 3 },
  ])
  expect(await values(sync.remote(0))).toEqual([])
})

test('items are there before the task ends', async () => {
  const gate = remote(Gate).remote(2)
  const stream = remote(async function* () {
    yield 'first'
    await get(gate.arrive.remote())
    yield 'last'
  }).remote()
  const first = await stream.next()
  expect(await get(first.value as ObjectRef<string>)).toBe('first')
  await get(gate.arrive.remote())
  expect(await values(stream)).toEqual(['last'])
})

test('references of items outlive the stream, and large items travel through shared memory', async () => {
  const blocks = remote(function* () {
    for (let i = 0; i < 5; i++) yield new Float64Array(50_000).fill(i)
  })
  const refs: ObjectRef<Float64Array>[] = []
  for await (const ref of blocks.remote()) refs.push(ref)
  const sum = remote((block: Float64Array) => block.reduce((a, b) => a + b))
  expect(await get(refs.map((ref) => sum.remote(ref)))).toEqual([0, 50_000, 100_000, 150_000, 200_000])
  expect((await get(refs[3]!))[49_999]).toBe(3)
})

test('a producer is never further ahead of its consumer than itemsAhead', async () => {
  const produced = remote(Tally).remote()
  const ahead = 4
  const stream = remote(
    async function* () {
      for (let i = 0; i < 40; i++) {
        await get(produced.count.remote('item'))
        yield i
      }
    },
    { itemsAhead: ahead },
  ).remote()
  await get(produced.reached.remote('item', ahead))
  for (let taken = 0; taken < 40; taken++) {
    await stream.next()
    // One more may be computed and not yet handed over.
    expect(await get(produced.counted.remote('item'))).toBeLessThanOrEqual(taken + 1 + ahead + 1)
  }
  expect(await get(produced.counted.remote('item'))).toBe(40)
})

test('leaving the loop stops the producer, whose finally runs', async () => {
  const stream = remote(async function* () {
    try {
      for (let i = 0; ; i++) yield i
    } finally {
      await get(tally.count.remote('left the loop'))
    }
  }).remote()
  for await (const ref of stream) if ((await get(ref)) === 3) break
  await get(tally.reached.remote('left the loop', 1))
  expect(await stream.next()).toEqual({ done: true, value: undefined })
})

test('a stream that is dropped stops its producer when it is collected', async () => {
  const start = (): void => {
    remote(async function* () {
      try {
        for (let i = 0; ; i++) yield i
      } finally {
        await get(tally.count.remote('collected'))
      }
    }).remote()
  }
  start()
  let done = false
  void get(tally.reached.remote('collected', 1)).then(() => {
    done = true
  })
  await collectUntil(() => done)
})

test('a stream that is stopped before its task runs drops the task', async () => {
  const gate = remote(Gate).remote(3)
  const hold = remote(async () => await get(gate.arrive.remote()), { resources: {} })
  const stream = remote(function* () {
    yield 1
  }).remote()
  await stream.return()
  expect((await stream.next()).done).toBe(true)
  const [a, b] = [hold.remote(), hold.remote()]
  await get(gate.arrive.remote())
  await get([a, b])
})

test('an error in the middle comes after the items before it', async () => {
  const stream = remote(
    function* () {
      yield 1
      yield 2
      throw new RangeError('third')
    },
    { name: 'breaks' },
  ).remote()
  const seen: number[] = []
  const error = await failure(
    (async () => {
      for await (const ref of stream) seen.push(await get(ref))
    })(),
  )
  expect(seen).toEqual([1, 2])
  expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'breaks' }, cause: { name: 'RangeError', message: 'third' } })
})

test('an item that cannot be sent is an error that says so', async () => {
  const stream = remote(function* () {
    yield 1
    yield new WeakMap()
  }).remote()
  await stream.next()
  const error = await failure(stream.next())
  expect(error).toMatchObject({ code: 'NOT_SERIALIZABLE' })
  expect(error.message).toContain('item 1')
})

test('a crash in the middle starts the producer again, and no item comes twice', async () => {
  const stream = remote(async function* () {
    const attempt = currentTask()?.attempt ?? 0
    for (let i = 0; i < 10; i++) {
      if (i === 5 && attempt === 0) process.kill(process.pid, 'SIGKILL')
      yield `${i} of ${i < 5 ? 'any' : 'the second'} attempt`
      await new Promise((resolve) => setImmediate(resolve))
    }
  }).remote()
  expect(await values(stream)).toEqual(Array.from({ length: 10 }, (_, i) => `${i} of ${i < 5 ? 'any' : 'the second'} attempt`))
})

test('retryOn works in the middle of a stream too', async () => {
  const stream = remote(
    function* () {
      yield 'a'
      if ((currentTask()?.attempt ?? 0) === 0) throw new Error('not yet')
      yield 'b'
    },
    { retryOn: true },
  ).remote()
  expect(await values(stream)).toEqual(['a', 'b'])
})

test('two consumers of one stream share its items', async () => {
  const stream = remote(function* () {
    for (let i = 0; i < 50; i++) yield i
  }).remote()
  const both = await Promise.all([values(stream), values(stream)])
  expect(both.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i))
})

test('methods of an actor stream, with its state, and stop', async () => {
  class Log {
    readonly #lines: string[] = []
    #stopped = 0
    write(line: string): void {
      this.#lines.push(line)
    }
    *read() {
      yield* this.#lines
    }
    async *follow() {
      try {
        for (let i = 0; ; i++) yield `${i}: ${this.#lines.at(-1)}`
      } finally {
        this.#stopped++
      }
    }
    stopped(): number {
      return this.#stopped
    }
  }
  const log = remote(Log, { maxConcurrency: 2 }).remote()
  log.write.remote('one')
  log.write.remote('two')
  expect(await values(log.read.remote())).toEqual(['one', 'two'])
  const follow = log.follow.remote()
  expect(await get((await follow.next()).value as ObjectRef<string>)).toBe('0: two')
  await follow.return()
  while ((await get(log.stopped.remote())) === 0) await new Promise((resolve) => setImmediate(resolve))
})

test('a task consumes the stream of another task', async () => {
  const numbers = remote(function* (n: number) {
    for (let i = 1; i <= n; i++) yield i
  })
  const sum = remote(async (n: number) => {
    let total = 0
    for await (const ref of numbers.remote(n)) total += await get(ref)
    return total
  })
  expect(await get([sum.remote(10), sum.remote(100)])).toEqual([55, 5050])
})
