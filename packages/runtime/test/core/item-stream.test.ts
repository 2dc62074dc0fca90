/**
 * A stream's owner against a producer under random interleavings: items in order, each once, never more ahead than allowed, also when the
 * producer dies and starts again, and nothing held at the end.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ItemStream } from '../../src/core/item-stream.ts'
import { type EntryHome, ObjectEntry } from '../../src/core/object-entry.ts'

class World implements EntryHome {
  readonly stream: ItemStream
  readonly length: number
  readonly itemsMax: number
  /** Messages to the producer; those to a producer that is gone are lost. */
  credits: { count: number; stop: boolean }[] = []
  /** Messages of the producer. */
  items: { index: number; total?: number }[] = []
  producing = false
  /** What the present producer knows. */
  index = 0
  consumed = 0
  told = false
  held = 0
  readonly taken: number[] = []
  takes = 0
  ends = 0

  constructor(length: number, itemsMax: number) {
    this.length = length
    this.itemsMax = itemsMax
    this.stream = new ItemStream(itemsMax, (count, stop) => {
      if (this.producing) this.credits.push({ count, stop })
    })
  }

  dropped(): void {
    this.held--
  }

  start(): void {
    if (this.producing || this.stream.ended) return
    this.producing = true
    this.index = 0
    this.consumed = 0
    this.told = false
    this.stream.started()
  }

  /** The producer makes its next item if it may. */
  produce(): void {
    if (!this.producing || this.told) return
    if (this.index >= this.length) {
      this.told = true
      this.items.push({ index: -1, total: this.length })
    } else if (this.index - this.consumed < this.itemsMax) this.items.push({ index: this.index++ })
  }

  /** The producer reads its next message. */
  hear(): void {
    const credit = this.credits.shift()
    if (!credit) return
    this.consumed = Math.max(this.consumed, credit.count)
    if (credit.stop && !this.told) {
      this.told = true
      this.items.push({ index: -1, total: this.index })
    }
  }

  /** Its next message arrives at the owner. */
  deliver(): void {
    const item = this.items.shift()
    if (!item) return
    if (item.total !== undefined) {
      this.producing = false
      this.stream.end(item.total)
    } else if (this.stream.accepts(item.index)) {
      this.held++
      this.stream.add(item.index, new ObjectEntry(item.index, this))
    }
  }

  /** The producer dies; what it sent may be lost too. */
  die(): void {
    if (!this.producing) return
    this.producing = false
    this.items = []
    this.credits = []
  }

  take(): void {
    this.takes++
    void this.stream.take().then((entry) => {
      if (!entry) {
        this.ends++
        return
      }
      this.taken.push(entry.number)
      entry.unhold()
    })
  }

  async settle(stopped: boolean): Promise<void> {
    for (let round = 0; round < 10_000; round++) {
      if (this.stream.ended && !this.producing && (stopped || this.ends > 0)) return
      if (this.takes === this.taken.length + this.ends) this.take()
      this.start()
      this.produce()
      this.hear()
      this.deliver()
      await Promise.resolve()
      await Promise.resolve()
    }
    throw new Error(`does not settle after ${this.taken.length} of ${this.length} items; the producer made ${this.index} and knows of ${this.consumed}`)
  }
}

type Op = (world: World) => void
const op: fc.Arbitrary<Op> = fc.oneof(
  { weight: 1, arbitrary: fc.constant<Op>((w) => w.start()) },
  { weight: 5, arbitrary: fc.constant<Op>((w) => w.produce()) },
  { weight: 3, arbitrary: fc.constant<Op>((w) => w.hear()) },
  { weight: 5, arbitrary: fc.constant<Op>((w) => w.deliver()) },
  { weight: 3, arbitrary: fc.constant<Op>((w) => w.take()) },
  { weight: 1, arbitrary: fc.constant<Op>((w) => w.die()) },
)
const setting = [fc.integer({ min: 0, max: 12 }), fc.integer({ min: 1, max: 5 }), fc.array(op, { maxLength: 80, size: 'max' })] as const

const inOrder = (world: World): boolean => world.taken.every((index, at) => index === at)

test('each item arrives once and in order, whatever happens to the producer', async () => {
  await fc.assert(
    fc.asyncProperty(...setting, async (length, itemsMax, ops) => {
      const world = new World(length, itemsMax)
      for (const each of ops) {
        each(world)
        await Promise.resolve()
        expect(inOrder(world)).toBe(true)
      }
      await world.settle(false)
      expect(world.taken).toEqual(Array.from({ length }, (_, index) => index))
      expect(world.held).toBe(0)
    }),
    { numRuns: 200 },
  )
})

test('a stream that is stopped tells its producer and holds nothing', async () => {
  await fc.assert(
    fc.asyncProperty(...setting, async (length, itemsMax, ops) => {
      const world = new World(length, itemsMax)
      for (const each of ops) each(world)
      world.stream.stop()
      world.stream.stop()
      expect(world.stream.accepts(world.index)).toBe(false)
      await world.settle(true)
      await Promise.resolve()
      expect(world.producing).toBe(false)
      expect(world.takes).toBe(world.taken.length + world.ends)
      expect(world.held).toBe(0)
      expect(inOrder(world)).toBe(true)
    }),
    { numRuns: 200 },
  )
})

test('a stream that fails gives what came before and then the error', async () => {
  const world = new World(5, 5)
  world.start()
  for (let i = 0; i < 3; i++) world.produce()
  for (let i = 0; i < 3; i++) world.deliver()
  expect(world.stream.fail(new Error('gone'))).toBe(true)
  expect(world.stream.fail(new Error('again'))).toBe(false)
  const numbers = []
  for (let i = 0; i < 3; i++) numbers.push((await world.stream.take())?.number)
  expect(numbers).toEqual([0, 1, 2])
  await expect(world.stream.take()).rejects.toThrow('gone')
})
