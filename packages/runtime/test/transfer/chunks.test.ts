import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CHUNK_BYTES, chunkCount, Chunks } from '../../src/transfer/chunks.ts'

describe('chunks', () => {
  test.each([
    [0, 0],
    [1, 1],
    [CHUNK_BYTES, 1],
    [CHUNK_BYTES + 1, 2],
  ])('%i bytes are %i chunks', (bytes, count) => {
    expect(chunkCount(bytes)).toBe(count)
    expect(new Chunks(bytes).whole).toBe(count === 0)
  })

  test('are missing until they were added, in ranges', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 40 }), fc.array(fc.nat(39)), (count, added) => {
        const chunks = new Chunks(count * CHUNK_BYTES)
        for (const index of added) if (index < count) chunks.add(index)
        const expected = Array.from({ length: count }, (_, index) => index).filter((index) => !added.includes(index))
        const ranges = chunks.missing()
        expect(ranges.flatMap(([first, length]) => Array.from({ length }, (_, i) => first + i))).toEqual(expected)
        expect(chunks.count + expected.length).toBe(count)
        for (const [i, [first]] of ranges.entries()) if (i > 0) expect(first, 'neighbours are one range').toBeGreaterThan(ranges[i - 1]![0] + ranges[i - 1]![1])
      }),
    )
  })

  test('wake those who wait at the next one, and when no more come', async () => {
    const chunks = new Chunks(3 * CHUNK_BYTES)
    const first = chunks.changed()
    chunks.add(1)
    chunks.add(1)
    await first
    const last = chunks.changed()
    chunks.end()
    await last
    await chunks.changed()
    expect(chunks.whole).toBe(false)
  })
})
