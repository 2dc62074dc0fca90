/**
 * What every control store promises, as tests. `open` gives another client of the same store each time; stores that belong to one process give clients
 * of one engine.
 */
import { afterEach, expect, test } from 'vitest'
import type { Change, ControlStore, Lease, Watch } from '../../src/store/control-store.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (value: Uint8Array | undefined): string | undefined => (value === undefined ? undefined : new TextDecoder().decode(value))

/** What a watch told, and a way to wait for more. */
export class Told {
  readonly changes: Change[] = []
  readonly calls: (readonly Change[])[] = []
  #waiting: (() => void)[] = []

  readonly onChange = (changes: readonly Change[]): void => {
    this.calls.push(changes)
    this.changes.push(...changes)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  get texts(): string[] {
    return this.changes.map(({ key, value }) => `${key}=${text(value) ?? '-'}`)
  }

  async until(done: (told: Told) => boolean): Promise<this> {
    while (!done(this)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    return this
  }

  has(line: string): Promise<this> {
    return this.until(({ texts }) => texts.includes(line))
  }
}

export function controlStoreContract(open: () => Promise<ControlStore>): void {
  const opened: ControlStore[] = []
  let names = 0
  /** Tests share a store: each has keys of its own. */
  const fresh = (): string => `t${++names}-${process.pid}-${Date.now().toString(36)}/`
  const client = async (): Promise<ControlStore> => {
    const store = await open()
    opened.push(store)
    return store
  }
  afterEach(async () => {
    for (const store of opened.splice(0)) await store.close()
  })

  test('a value comes back as it was put, with the revision that put told', async () => {
    const store = await client()
    const key = `${fresh()}a`
    const value = Uint8Array.from({ length: 256 }, (_, index) => index)
    const revision = await store.put(key, value)
    const entry = (await store.get(key))!
    expect({ ...entry, value: [...entry.value] }).toEqual({ key, value: [...value], revision })
    expect(await store.get(`${key}b`)).toBeUndefined()
    expect(revision).toBeGreaterThan(0)
  })

  test('empty values, large ones and keys of any characters', async () => {
    const store = await client()
    const under = fresh()
    const large = new Uint8Array(3 * 1_048_576).fill(7)
    const keys = [`${under}ключ ☃ 😀`, `${under}a'b"c\\d%_*?[x]`, `${under}${'k'.repeat(900)}`]
    await store.put(keys[0]!, new Uint8Array())
    await store.put(keys[1]!, large)
    await store.put(keys[2]!, bytes('x'))
    expect((await store.get(keys[0]!))!.value).toHaveLength(0)
    expect(Buffer.compare((await store.get(keys[1]!))!.value, large)).toBe(0)
    expect((await store.scan(under)).map(({ key }) => key)).toEqual(keys.toSorted())
  })

  test('keys that are empty, too long or hold NUL are refused', async () => {
    const store = await client()
    for (const key of ['', 'a\0b', 'k'.repeat(1_025), '\ud800'])
      await expect((async () => store.put(key, bytes('x')))()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('revisions grow with every change, also over a deletion, and not without one', async () => {
    const store = await client()
    const key = `${fresh()}a`
    const first = await store.put(key, bytes('1'))
    const second = await store.put(key, bytes('1'))
    await store.delete(key)
    await store.delete(key)
    const third = await store.put(key, bytes('2'))
    expect(second).toBeGreaterThan(first)
    expect(third).toBe(second + 2)
  })

  test('compareAndSet writes only over the expected revision', async () => {
    const store = await client()
    const key = `${fresh()}a`
    expect(await store.compareAndSet(key, 1, bytes('no'))).toBeUndefined()
    const first = (await store.compareAndSet(key, 0, bytes('1')))!
    expect(await store.compareAndSet(key, 0, bytes('no'))).toBeUndefined()
    const second = (await store.compareAndSet(key, first, bytes('2')))!
    expect(await store.compareAndSet(key, first, bytes('no'))).toBeUndefined()
    expect(text((await store.get(key))?.value)).toBe('2')
    await store.delete(key)
    expect(await store.compareAndSet(key, second, bytes('no'))).toBeUndefined()
    expect(await store.compareAndSet(key, 0, bytes('3'))).toBeGreaterThan(second)
  })

  test('of many that compare and set at once exactly one wins each round', async () => {
    const clients = await Promise.all([client(), client(), client()])
    const key = `${fresh()}n`
    const add = async (store: ControlStore): Promise<void> => {
      for (;;) {
        const entry = await store.get(key)
        const next = bytes(String(Number(text(entry?.value) ?? 0) + 1))
        if ((await store.compareAndSet(key, entry?.revision ?? 0, next)) !== undefined) return
      }
    }
    await Promise.all(clients.flatMap((store) => Array.from({ length: 10 }, () => add(store))))
    expect(text((await clients[0]!.get(key))?.value)).toBe('30')
  })

  test('scan gives the keys of a prefix and no others, in order', async () => {
    const store = await client()
    const under = fresh()
    await store.write(['b', 'a', 'c/1', 'c/2', 'c0'].map((key) => ({ key: `${under}${key}`, value: bytes(key) })))
    const keys = async (prefix: string): Promise<string[]> => (await store.scan(`${under}${prefix}`)).map(({ key }) => key.slice(under.length))
    expect(await keys('')).toEqual(['a', 'b', 'c/1', 'c/2', 'c0'])
    expect(await keys('c/')).toEqual(['c/1', 'c/2'])
    expect(await keys('d')).toEqual([])
  })

  test('a batch has one revision, and others see all of it or nothing', async () => {
    const [writer, reader] = await Promise.all([client(), client()])
    const under = fresh()
    const keys = Array.from({ length: 20 }, (_, index) => `${under}${index}`)
    const batch = (round: number): Promise<number> => writer.write(keys.map((key) => ({ key, value: bytes(String(round)) })))
    await batch(0)
    let done = false
    const rounds = (async () => {
      for (let round = 1; round <= 20; round++) await batch(round)
      done = true
    })()
    while (!done) {
      const seen = await reader.scan(under)
      expect(new Set(seen.map(({ value }) => text(value))).size).toBe(1)
      expect(new Set(seen.map(({ revision }) => revision)).size).toBe(1)
    }
    await rounds
    expect(await writer.write([{ key: keys[0]!, value: undefined }])).toBeGreaterThan(0)
    expect(await reader.scan(under)).toHaveLength(19)
  })

  test('writes of one turn are in order', async () => {
    const store = await client()
    const key = `${fresh()}a`
    const revisions = await Promise.all(Array.from({ length: 200 }, (_, index) => store.put(key, bytes(String(index)))))
    expect(revisions).toEqual(revisions.toSorted((a, b) => a - b))
    expect(new Set(revisions).size).toBe(200)
    expect(text((await store.get(key))?.value)).toBe('199')
  })

  test('a watch tells what is there in one call, then every change once and in order', async () => {
    const [writer, watcher] = await Promise.all([client(), client()])
    const under = fresh()
    await writer.put(`${under}a`, bytes('1'))
    await writer.put(`${under}b`, bytes('1'))
    const told = new Told()
    const watch = await watcher.watch(under, told.onChange)
    expect(told.calls).toHaveLength(1)
    expect(told.texts).toEqual([`${under}a=1`, `${under}b=1`])
    await writer.put(`${under}a`, bytes('2'))
    await told.has(`${under}a=2`)
    await writer.delete(`${under}b`)
    await told.has(`${under}b=-`)
    await writer.put(`other${under}`, bytes('x'))
    await writer.put(`${under}c`, bytes('3'))
    await told.has(`${under}c=3`)
    expect(told.texts.slice(2)).toEqual([`${under}a=2`, `${under}b=-`, `${under}c=3`])
    watch.close()
  })

  test('a watch of nothing is told so', async () => {
    const store = await client()
    const told = new Told()
    await store.watch(fresh(), told.onChange)
    expect(told.calls).toEqual([[]])
  })

  test('a transaction reaches a watch in one call, and the last state of each key always arrives', async () => {
    const [writer, watcher] = await Promise.all([client(), client()])
    const under = fresh()
    const told = new Told()
    await watcher.watch(under, told.onChange)
    const rounds = 100
    for (let round = 1; round <= rounds; round++) {
      await writer.write([
        { key: `${under}a`, value: bytes(String(round)) },
        { key: `${under}b`, value: bytes(String(round)) },
      ])
    }
    await told.has(`${under}b=${rounds}`)
    for (const call of told.calls.slice(1)) {
      expect(call.map(({ key }) => key.slice(under.length)).toSorted()).toEqual(['a', 'b'])
      expect(new Set(call.map(({ revision }) => revision)).size).toBe(1)
    }
    const revisions = told.changes.filter(({ key }) => key.endsWith('a')).map(({ revision }) => revision)
    expect(revisions).toEqual([...new Set(revisions)].toSorted((a, b) => a - b))
  })

  test('a closed watch tells nothing', async () => {
    const store = await client()
    const under = fresh()
    const [closed, open] = [new Told(), new Told()]
    const watch: Watch = await store.watch(under, closed.onChange)
    await store.watch(under, open.onChange)
    watch.close()
    await store.put(`${under}a`, bytes('1'))
    await open.has(`${under}a=1`)
    expect(closed.calls).toEqual([[]])
  })

  test('a leased key belongs to one, until it is released', async () => {
    const [one, other] = await Promise.all([client(), client()])
    const key = `${fresh()}lease`
    const lease = (await one.lease(key, bytes('one'), 60_000))!
    expect(lease.held).toBe(true)
    expect(lease.deadlineMs - performance.now()).toBeGreaterThan(40_000)
    expect(await other.lease(key, bytes('other'), 60_000)).toBeUndefined()
    expect((await other.get(key))?.revision).toBe(lease.revision)
    await lease.release()
    expect(lease.held).toBe(false)
    expect(await lease.renew()).toBe(false)
    const next = (await other.lease(key, bytes('other'), 60_000))!
    expect(next.revision).toBeGreaterThan(lease.revision)
    await lease.release()
    expect(text((await one.get(key))?.value)).toBe('other')
    await next.release()
  })

  test('of many that ask for a lease at once one gets it', async () => {
    const clients = await Promise.all([client(), client(), client()])
    const key = `${fresh()}lease`
    const got = await Promise.all(clients.flatMap((store) => Array.from({ length: 5 }, () => store.lease(key, bytes('x'), 60_000))))
    expect(got.filter((lease) => lease !== undefined)).toHaveLength(1)
  })

  test('a lease that is not renewed ends: its key goes, watches are told, and it cannot be renewed', async () => {
    const [one, other] = await Promise.all([client(), client()])
    const under = fresh()
    const told = new Told()
    await other.watch(under, told.onChange)
    const lease = (await one.lease(`${under}lease`, bytes('one'), 300))!
    const start = performance.now()
    await told.has(`${under}lease=-`)
    expect(performance.now() - start).toBeGreaterThan(200)
    expect(lease.held).toBe(false)
    expect(await other.get(`${under}lease`)).toBeUndefined()
    expect(await lease.renew()).toBe(false)
    expect(await other.lease(`${under}lease`, bytes('other'), 60_000)).toBeDefined()
  })

  test('a renewed lease outlives its first time to live, and renewing is no change', async () => {
    const [one, other] = await Promise.all([client(), client()])
    const under = fresh()
    const told = new Told()
    await other.watch(under, told.onChange)
    const [kept, left] = (await Promise.all([one.lease(`${under}kept`, bytes('x'), 600), one.lease(`${under}left`, bytes('x'), 1_200)])) as [Lease, Lease]
    // Renewed each time a watched lease of another length ends: 1.2 s in all.
    for (const end = performance.now() + 1_150; performance.now() < end; ) {
      expect(await kept.renew()).toBe(true)
      const beat = (await one.lease(`${under}beat`, bytes('x'), 200))!
      await told.until(({ changes }) => changes.some(({ key, value, revision }) => key === beat.key && value === undefined && revision > beat.revision))
    }
    await told.has(`${under}left=-`)
    expect(await kept.renew()).toBe(true)
    expect(left.held).toBe(false)
    expect((await other.get(`${under}kept`))?.revision).toBe(kept.revision)
    expect(told.texts.filter((line) => line.startsWith(`${under}kept`))).toHaveLength(1)
  })

  test('a guarded write needs the lease that it names', async () => {
    const [one, other] = await Promise.all([client(), client()])
    const under = fresh()
    const lease = (await one.lease(`${under}head`, bytes('one'), 60_000))!
    await one.write([{ key: `${under}a`, value: bytes('1') }], lease)
    await expect(other.write([{ key: `${under}a`, value: bytes('2') }], { key: lease.key, token: 'another' })).rejects.toMatchObject({ code: 'LEASE_LOST' })
    await lease.release()
    const next = (await other.lease(`${under}head`, bytes('other'), 60_000))!
    await expect(one.write([{ key: `${under}a`, value: bytes('3') }], lease)).rejects.toMatchObject({ code: 'LEASE_LOST', details: { key: lease.key } })
    await other.write([{ key: `${under}b`, value: bytes('4') }], next)
    expect((await one.scan(under)).map(({ value }) => text(value))).toEqual(['1', '4', 'other'])
  })

  test('a lease takes what it writes along, or nothing', async () => {
    const store = await client()
    const under = fresh()
    const also = (expectedRevision: number, value: string) => [{ key: `${under}epoch`, expectedRevision, value: bytes(value) }]
    expect(await store.lease(`${under}head`, bytes('x'), 60_000, also(7, '1'))).toBeUndefined()
    expect(await store.scan(under)).toEqual([])
    const lease = (await store.lease(`${under}head`, bytes('x'), 60_000, also(0, '1')))!
    expect((await store.get(`${under}epoch`))?.revision).toBe(lease.revision)
    expect(await store.lease(`${under}head`, bytes('y'), 60_000, also(lease.revision, '2'))).toBeUndefined()
    expect(text((await store.get(`${under}epoch`))?.value)).toBe('1')
  })

  test('a put over a leased key ends the lease', async () => {
    const store = await client()
    const key = `${fresh()}lease`
    const lease = (await store.lease(key, bytes('x'), 60_000))!
    await store.put(key, bytes('y'))
    expect(await lease.renew()).toBe(false)
    expect(text((await store.get(key))?.value)).toBe('y')
  })

  test('a closed store refuses calls instead of waiting', async () => {
    const store = await client()
    await store.close()
    await expect(store.put('a', bytes('x'))).rejects.toMatchObject({ code: expect.stringMatching(/^CONTROL_STORE_/) })
  })
}
