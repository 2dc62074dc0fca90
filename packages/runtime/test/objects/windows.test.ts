import fc from 'fast-check'
import { expect, test } from 'vitest'
import { cutWindows } from '../../src/objects/windows.ts'

test('every view lies in its window at its own bytes, and hardly a byte travels twice', () => {
  const buffers = [new ArrayBuffer(64), new ArrayBuffer(64)]
  for (const [b, buffer] of buffers.entries()) new Uint8Array(buffer).forEach((_, i, all) => (all[i] = b * 100 + i))
  const view = fc.record({ buffer: fc.nat(1), start: fc.nat(64), length: fc.nat(20) })
  fc.assert(
    fc.property(fc.array(view, { maxLength: 12 }), fc.boolean(), (views, wholeFirst) => {
      const input = {
        buffers: views.map(({ buffer }) => buffers[buffer]!),
        starts: views.map(({ start }) => start),
        ends: views.map(({ start, length }) => Math.min(64, start + length)),
        whole: wholeFirst ? new Set([buffers[0]!]) : undefined,
      }
      const { windows, windowOf, offsets } = cutWindows(input)
      views.forEach((_, i) => {
        const length = input.ends[i]! - input.starts[i]!
        const bytes = windows[windowOf[i]!]!.subarray(offsets[i]!, offsets[i]! + length)
        expect(bytes).toEqual(new Uint8Array(input.buffers[i]!, input.starts[i], length))
        if (views.filter((_, k) => windowOf[k] === windowOf[i]).length > 1) expect(Math.abs(offsets[i]! - input.starts[i]!) % 8).toBe(0)
      })
      windows.forEach((a, i) => {
        for (const b of windows.slice(i + 1).filter(({ buffer }) => buffer === a.buffer)) {
          const overlap = Math.min(a.byteOffset + a.byteLength, b.byteOffset + b.byteLength) - Math.max(a.byteOffset, b.byteOffset)
          expect(overlap).toBeLessThan(8) // a window may begin up to 7 bytes early for alignment
        }
      })
    }),
  )
})

test('views of one element type that touch keep windows of their own', () => {
  const buffer = new ArrayBuffer(32)
  const { windows } = cutWindows({ buffers: [buffer, buffer], starts: [0, 16], ends: [16, 32], whole: undefined })
  expect(windows.map((window) => window.byteLength)).toEqual([16, 16])
})
