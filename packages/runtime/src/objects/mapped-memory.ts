/**
 * Which ArrayBuffers are windows on memory that is mapped from a file, and how to get an ArrayBuffer over a part of one.
 *
 * The decoder asks here, so it needs neither koffi nor knowledge of segments: `array.buffer` of a decoded array is then exactly
 * what it was in the sender, without a copy.
 */

/** Gives an ArrayBuffer over a part of the mapping that keeps it alive; offset from its start and length in bytes. */
export type Slicer = (offset: number, length: number) => ArrayBuffer

const slicers = new WeakMap<ArrayBufferLike, Slicer>()

export function markMapped(buffer: ArrayBuffer, slicer: Slicer): void {
  slicers.set(buffer, slicer)
}

/**
 * Copies, unless `bytes` is the head of mapped memory: then `start` and `end` may lie behind it, and small parts cost more
 * than a copy (2 µs).
 */
export function sliceBuffer(bytes: Uint8Array, start: number, end: number): ArrayBuffer {
  const slicer = slicers.get(bytes.buffer)
  if (slicer && end > bytes.length) return slicer(start, end - start)
  const copy = new Uint8Array(end - start)
  copy.set(bytes.subarray(start, end))
  return copy.buffer
}
