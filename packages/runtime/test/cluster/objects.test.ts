/** Objects as users handle them: put, get, wait, sizes, references inside values, and that all of it goes away again. Real processes. */
import { type ActorHandle, cancel, get, init, type ObjectRef, put, remote, shutdown, wait } from '@beamline/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { collectUntil, failure, Gate, restingUse, storeUse, sweepWorkers } from './helpers.ts'

const KIB_100 = 102_400

beforeAll(async () => {
  await init({ cpus: 2, storeBytes: 1024 ** 3, quiet: true })
  // What stays for the whole file is counted before the first test.
  await get(remote(() => 1).remote())
})
afterAll(shutdown)

const never = (): ObjectRef<void> => {
  const gate = remote(Gate).remote(99)
  return gate.arrive.remote()
}

describe('put, get, wait', () => {
  test('values come back exactly, small and large', async () => {
    const value = {
      n: -0,
      big: 2n ** 100n,
      date: new Date(5),
      map: new Map([[{ a: 1 }, new Set([1])]]),
      nothing: undefined,
      error: new RangeError('x', { cause: 'y' }),
    }
    const back = await get(await put(value))
    expect(back).toEqual(value)
    expect(Object.is(back.n, -0)).toBe(true)
    expect('nothing' in back).toBe(true)
    const large = Float32Array.from({ length: 500_000 }, (_, i) => i / 7)
    expect(await get(await put(large))).toEqual(large)
  })

  test('get of an array and of a record', async () => {
    const refs = [await put(1), await put('two')] as const
    expect(await get(refs)).toEqual([1, 'two'])
    expect(await get({ a: refs[0], b: refs[1] })).toEqual({ a: 1, b: 'two' })
    expect(await get([])).toEqual([])
    expect(await get({})).toEqual({})
    expect(await get([refs[0], refs[0]])).toEqual([1, 1])
  })

  test('get of many fails as soon as one failed', async () => {
    const fails = remote(() => {
      throw new Error('one of many')
    }).remote()
    const error = await failure(get([never(), fails]))
    expect(error.cause).toMatchObject({ message: 'one of many' })
  })

  test('a time limit rejects with what is pending; 0 polls', async () => {
    const pending = never()
    const error = await failure(get([await put(1), pending], { timeoutMs: 20 }))
    expect(error).toMatchObject({ code: 'GET_TIMEOUT', details: { pending: 1, total: 2, timeoutMs: 20 } })
    expect(error.message).toContain('Gate.arrive')
    expect((await failure(get(pending, { timeoutMs: 0 }))).code).toBe('GET_TIMEOUT')
    expect(await get(await put('there'), { timeoutMs: 0 })).toBe('there')
    expect((await failure(get(pending, { timeoutMs: -1 }))).code).toBe('INVALID_ARGUMENT')
  })

  test('a time limit of months is no time limit of a millisecond', async () => {
    const slow = remote(async () => {
      await new Promise((resolve) => setTimeout(resolve, 50))
      return 'slow'
    })
    expect(await get(slow.remote(), { timeoutMs: 5e9 })).toBe('slow')
    expect(await get(slow.options({ timeoutMs: 5_000_000_000 }).remote())).toBe('slow')
    expect((await wait([slow.remote()], { timeoutMs: 5e9 })).ready).toHaveLength(1)
  })

  test('a signal rejects with its reason, before and while waiting', async () => {
    const pending = never()
    expect((await failure(get(pending, { signal: AbortSignal.abort(new Error('too late')) }))).message).toContain('too late')
    const controller = new AbortController()
    const waiting = failure(get(pending, { signal: controller.signal }))
    const waitingToo = failure(wait([pending], { signal: controller.signal }))
    controller.abort('changed my mind')
    expect(await waiting).toMatchObject({ code: 'CANCELLED' })
    expect((await waitingToo).message).toContain('changed my mind')
  })

  test('wait gives what is ready and what is not, in order, each reference once', async () => {
    const [a, b, c] = [await put('a'), never(), await put('c')] as ObjectRef<unknown>[]
    const { ready, pending } = await wait([c!, b!, a!, c!], { count: 2 })
    expect([ready, pending]).toEqual([[c, a], [b]])
    expect(await wait([b!], { timeoutMs: 10 })).toEqual({ ready: [], pending: [b] })
    expect(await wait([a!, b!], { count: 0 })).toEqual({ ready: [a], pending: [b] })
    expect(await wait([])).toEqual({ ready: [], pending: [] })
    expect((await failure(wait([a!], { count: 2 }))).message).toContain('at most 1')
  })

  test('failed tasks count as ready', async () => {
    const failing = remote(() => {
      throw new Error('failed')
    }).remote()
    expect((await wait([failing])).ready).toEqual([failing])
  })

  test('what is no reference is refused by name', async () => {
    expect((await failure(get([await put(1), 5 as never]))).message).toMatch(/element of get\(\), at 1/)
    expect((await failure(get({ a: Promise.resolve(1) as never }))).message).toContain('a promise (await it first)')
    expect((await failure(put(await put(1)))).message).toContain('the reference is one already')
    expect(() => cancel(1 as never)).toThrow(/argument of cancel/)
  })
})

describe('sizes', () => {
  test.each([0, 1, KIB_100 - 1, KIB_100, KIB_100 + 1, 1_000_000])('an argument and a result of %i bytes', async (bytes) => {
    const invert = remote((data: Uint8Array) => data.map((byte) => 255 - byte))
    const data = new Uint8Array(bytes).fill(3)
    expect(await get(invert.remote(data))).toEqual(new Uint8Array(bytes).fill(252))
    expect(await get(invert.remote(await put(data)))).toEqual(new Uint8Array(bytes).fill(252))
  })

  test.each([0, 1, KIB_100 - 1, KIB_100 + 1])('a text of %i characters', async (length) => {
    const twice = remote((text: string) => text + text)
    expect(await get(twice.remote('é'.repeat(length)))).toBe('é'.repeat(2 * length))
  })

  test('a result of 200 MB', async () => {
    const make = remote((length: number) => new Float64Array(length).fill(1.5))
    using ref = make.remote(25_000_000)
    const sum = remote((data: Float64Array) => [data.length, data[0], data.at(-1)])
    expect(await get(sum.remote(ref))).toEqual([25_000_000, 1.5, 1.5])
    const view = await get(ref)
    expect(view).toHaveLength(25_000_000)
    expect(view[12_345_678]).toBe(1.5)
  })
})

describe('views', () => {
  test('writing to a view changes a private copy only', async () => {
    const ref = await put(new Float64Array(100_000).fill(1))
    const mine = await get(ref)
    mine.fill(2)
    expect((await get(ref))[99_999]).toBe(1)
    const spoil = remote((data: Float64Array) => {
      data.fill(9)
      return data[0]
    })
    expect(await get([spoil.remote(ref), spoil.remote(ref)])).toEqual([9, 9])
    expect((await get(ref)).every((x) => x === 1)).toBe(true)
    expect(mine[5]).toBe(2)
  })

  test('a view outlives its reference, though the memory of others is reused', async () => {
    const ref = await put(new Uint32Array(100_000).fill(7))
    const view = await get(ref)
    ref.release()
    for (let i = 0; i < 20; i++) (await put(new Uint32Array(100_000).fill(i))).release()
    expect(view.every((x) => x === 7)).toBe(true)
  })

  test('what is put is a snapshot', async () => {
    const data = { list: [1, 2], bytes: new Uint8Array(200_000) }
    const ref = put(data)
    data.list.push(3)
    data.bytes.fill(1)
    const { list, bytes } = await get(await ref)
    expect([list, bytes[0]]).toEqual([[1, 2], 0])
  })

  test('arguments are a snapshot of the call', async () => {
    const sum = remote((data: { bytes: Uint8Array }) => data.bytes.reduce((a, b) => a + b, 0))
    const data = { bytes: new Uint8Array(200_000).fill(1) }
    const ref = sum.remote(data)
    data.bytes.fill(0)
    expect(await get(ref)).toBe(200_000)
  })
})

describe('references inside values', () => {
  const box = (): Promise<ObjectRef<Float64Array>> => put(new Float64Array(50_000).fill(4))

  test('an argument holds a reference, which the task reads or passes on', async () => {
    const read = remote(async ({ ref }: { ref: ObjectRef<Float64Array> }) => (await get(ref))[0])
    const passOn = remote(async (boxed: { ref: ObjectRef<Float64Array> }) => await get(read.remote(boxed)))
    const make = async (): Promise<ObjectRef<number | undefined>> => passOn.remote({ ref: await box() })
    expect(await get(await make())).toBe(4)
  })

  test('a result holds references that the task made, whose owner is the worker', async () => {
    const make = remote(async () => ({ large: await put(new Float64Array(50_000).fill(6)), small: await put('small') }))
    const { large, small } = await get(make.remote())
    expect(await get(small)).toBe('small')
    expect((await get(large))[49_999]).toBe(6)
    const read = remote((data: Float64Array, text: string) => `${text} ${data[1]}`)
    expect(await get(read.remote(large, small))).toBe('small 6')
  })

  test('a put object holds references, several levels deep', async () => {
    let nested: ObjectRef<unknown> = await put('core')
    for (let i = 0; i < 5; i++) {
      const outer: ObjectRef<unknown> = await put({ nested })
      nested.release()
      nested = outer
    }
    const open = remote(async (value: { nested: ObjectRef<unknown> }): Promise<unknown> => {
      const inner = await get(value.nested)
      return typeof inner === 'string' ? inner : await get(open.remote(inner as never))
    })
    expect(await get(open.remote(nested as ObjectRef<never>))).toBe('core')
  })

  test('an actor keeps a reference after the caller has let go', async () => {
    class Keeper {
      #refs: ObjectRef<Float64Array>[] = []
      keep(box: { ref: ObjectRef<Float64Array> }): void {
        this.#refs.push(box.ref)
      }
      async read(): Promise<number | undefined> {
        return (await get(this.#refs[0]!))[7]
      }
      drop(): void {
        for (const ref of this.#refs.splice(0)) ref.release()
      }
    }
    const keeper = remote(Keeper).remote()
    const before = (await storeUse()).objectBytes
    const ref = await box()
    await get(keeper.keep.remote({ ref }))
    ref.release()
    for (let i = 0; i < 20; i++) (await put(new Float64Array(50_000).fill(i))).release()
    expect(await get(keeper.read.remote())).toBe(4)
    await get(keeper.drop.remote())
    await collectUntil(async () => (await storeUse()).objectBytes <= before)
  })

  test('references in a closure travel with the function', async () => {
    const ref = await box()
    const read = remote(async (i: number) => (await get(ref))[i])
    expect(await get([read.remote(0), read.remote(1)])).toEqual([4, 4])
  })

  test('a reference that is returned is not awaited away', async () => {
    const make = remote(async () => await put(21))
    const inner: ObjectRef<number> = await get(make.remote())
    expect(await get(inner)).toBe(21)
  })

  test('the death of an owner is OWNER_DIED for what is not here yet, never a hang', async () => {
    const make = remote(
      async () => {
        const inner = remote(Gate).remote(2).arrive.remote()
        return { never: inner, pid: process.pid }
      },
      { maxRetries: 0 },
    )
    const { never: lost, pid } = await get(make.remote())
    const waiting = failure(get(lost))
    process.kill(pid, 'SIGKILL')
    expect(await waiting).toMatchObject({ code: 'OWNER_DIED' })
    expect((await failure(get(lost))).code).toBe('OWNER_DIED')
    const use = remote((x: unknown) => x)
    expect((await failure(get(use.remote(lost)))).code).toBe('OWNER_DIED')
  })

  test('a released reference cannot be used', async () => {
    const ref = await put(1)
    ref.release()
    ref.release()
    expect((await failure(get(ref))).message).toContain('released')
    expect(() => remote((x: number) => x).remote(ref)).toThrow(/released/)
    expect(String(ref)).toBe('ObjectRef(released)')
  })
})

describe('nothing is left', () => {
  test('by release(), by using, by collection: bytes, objects and counts are where they were', async () => {
    const before = await restingUse()
    const back = async (): Promise<boolean> => {
      await sweepWorkers()
      const now = await storeUse()
      return now.objectBytes <= before.objectBytes && now.owned <= before.owned && now.borrowed <= before.borrowed && now.ownedBytes <= before.ownedBytes
    }
    const make = remote(async (n: number) => ({ data: new Float64Array(n), inner: await put(new Uint8Array(n)) }))
    const byHand = await put(new Float64Array(100_000))
    expect((await storeUse()).objectBytes).toBeGreaterThanOrEqual(800_000)
    byHand.release()
    {
      using ref = await put(new Float64Array(100_000))
      expect(await get(ref)).toHaveLength(100_000)
    }
    const drop = async (): Promise<void> => {
      const { data, inner } = await get(make.remote(200_000))
      expect(data).toHaveLength(200_000)
      expect(await get(inner)).toHaveLength(200_000)
      const many = await Promise.all(Array.from({ length: 100 }, (_, i) => put({ i })))
      expect(await get(many)).toHaveLength(100)
    }
    await drop()
    await collectUntil(back)
    expect((await storeUse()).objects).toBeLessThanOrEqual(before.objects)
  })

  test('what functions captured goes away with them, here and in the workers', async () => {
    const before = await restingUse()
    const run = async (i: number): Promise<number> => {
      using ref = await put(new Float64Array(20_000).fill(i))
      const read = remote(async (at: number) => (await get(ref))[at]! + i)
      const again = remote(async (at: number) => await get(read.remote(at)))
      return (await get([read.remote(1), read.remote(2), again.remote(3)])).reduce((a, b) => a + b)
    }
    for (let i = 0; i < 20; i++) expect(await run(i)).toBe(6 * i)
    class Reader {
      readonly #read: () => Promise<number>
      constructor() {
        this.#read = async () => 1
      }
      async one(): Promise<number> {
        return await this.#read()
      }
    }
    expect(await get(remote(Reader).remote().one.remote())).toBe(1)
    await collectUntil(async () => {
      await sweepWorkers()
      const now = await storeUse()
      return now.objectBytes <= before.objectBytes && now.owned <= before.owned
    })
  })

  test('results that nobody reads go away', async () => {
    const before = await restingUse()
    const make = remote((i: number) => new Float64Array(20_000).fill(i))
    for (let i = 0; i < 30; i++) make.remote(i)
    await get(make.remote(1))
    await collectUntil(async () => (await storeUse()).objectBytes <= before.objectBytes)
  })
})

test('an actor handle keeps working while references come and go', async () => {
  class Sum {
    #total = 0
    add(data: Float64Array): number {
      return (this.#total += data.length)
    }
  }
  const sum: ActorHandle<Sum> = remote(Sum).remote()
  for (let i = 0; i < 30; i++) {
    using ref = await put(new Float64Array(20_000))
    await get(sum.add.remote(ref))
  }
  expect(await get(sum.add.remote(new Float64Array(1)))).toBe(600_001)
})
