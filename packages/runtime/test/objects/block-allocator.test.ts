import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BlockAllocator, PAGE_BYTES, pageAlign } from '../../src/objects/block-allocator.ts'

const PAGES = 64

/** One boolean per page; first fit by trying every place. */
class NaiveAllocator {
  readonly taken: boolean[] = new Array(PAGES).fill(false)

  allocate(bytes: number): number | undefined {
    const pages = Math.max(1, Math.ceil(bytes / PAGE_BYTES))
    for (let at = 0; at + pages <= PAGES; at++) {
      if (this.taken.slice(at, at + pages).some(Boolean)) continue
      this.taken.fill(true, at, at + pages)
      return at * PAGE_BYTES
    }
    return undefined
  }

  free(offset: number, bytes: number): void {
    this.taken.fill(false, offset / PAGE_BYTES, offset / PAGE_BYTES + Math.max(1, Math.ceil(bytes / PAGE_BYTES)))
  }
}

test('blocks are where a naive first-fit allocator puts them', () => {
  const operation = fc.oneof(
    fc.record({ allocate: fc.oneof(fc.nat(5 * PAGE_BYTES), fc.nat(PAGES * PAGE_BYTES + 1), fc.constant(PAGE_BYTES)) }),
    fc.record({ free: fc.nat(100) }),
  )
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
      const real = new BlockAllocator(PAGES * PAGE_BYTES)
      const naive = new NaiveAllocator()
      const blocks: { offset: number; bytes: number }[] = []
      for (const step of operations) {
        if ('allocate' in step) {
          const offset = real.allocate(step.allocate)
          expect(offset).toBe(naive.allocate(step.allocate))
          if (offset !== undefined) blocks.push({ offset, bytes: step.allocate })
        } else if (blocks.length > 0) {
          const [block] = blocks.splice(step.free % blocks.length, 1)
          real.free(block!.offset, block!.bytes)
          naive.free(block!.offset, block!.bytes)
        }
        expect(real.freeBytes).toBe(naive.taken.filter((taken) => !taken).length * PAGE_BYTES)
      }
      for (const { offset, bytes } of blocks) real.free(offset, bytes)
      expect(real.allocate(PAGES * PAGE_BYTES)).toBe(0) // everything merged again
    }),
  )
})

test('a block that is not taken, or of another size, cannot be freed', () => {
  const blocks = new BlockAllocator(PAGES * PAGE_BYTES)
  expect(blocks.allocate(5000)).toBe(0)
  expect(() => blocks.free(4096, 5000)).toThrow(/no block is taken/)
  expect(() => blocks.free(0, 4096)).toThrow(/a block of 8192 is taken/)
  blocks.free(0, 5000)
  expect(() => blocks.free(0, 5000)).toThrow(/no block is taken/)
})

test('sizes are whole pages, at least one', () => {
  expect([0, 1, 4096, 4097, 2 ** 31 + 1].map(pageAlign)).toEqual([4096, 4096, 4096, 8192, 2 ** 31 + 4096])
})
