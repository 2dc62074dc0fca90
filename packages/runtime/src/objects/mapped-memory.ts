/**
 * Which ArrayBuffers are windows on memory that is mapped from a file, and how to get an ArrayBuffer over a part of one.
 *
 * The decoder asks here, so it needs neither koffi nor knowledge of segments: `array.buffer` of a decoded array is then exactly
 * what it was in the sender, without a copy.
 */

/** Gives an ArrayBuffer over the same memory that keeps the mapping alive; offset and length in bytes. */
export type Slicer = (offset: number, length: number) => ArrayBuffer

const slicers = new WeakMap<ArrayBufferLike, Slicer>()

export function markMapped(buffer: ArrayBuffer, slicer: Slicer): void {
  slicers.set(buffer, slicer)
}

/** Below this, a copy is cheaper than another ArrayBuffer over mapped memory (2 µs). */
const SLICE_MIN = 16_384

/** Copies, unless `bytes` lies in mapped memory. */
export function sliceBuffer(bytes: Uint8Array, start: number, end: number): ArrayBuffer {
  const slicer = end - start >= SLICE_MIN ? slicers.get(bytes.buffer) : undefined
  if (slicer) return slicer(bytes.byteOffset + start, end - start)
  const copy = new Uint8Array(end - start)
  copy.set(bytes.subarray(start, end))
  return copy.buffer
}
