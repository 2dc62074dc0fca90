/**
 * How large a new segment is. Small objects share slabs; a large object gets a segment of about its size, rounded so that the
 * next object of nearly that size fits into it when it is recycled.
 */
import { pageAlign } from './block-allocator.ts'

const MiB = 1_048_576
/** A process's first slab is small: reserving it costs time and most processes never need more. */
const FIRST_SLAB_BYTES = 16 * MiB
const SLAB_BYTES = 64 * MiB

/**
 * @param bytes - what must fit
 * @param held - segments that the process holds already
 */
export function segmentBytesFor(bytes: number, held: number, capacityBytes: number): number {
  const slab = Math.min(held === 0 ? FIRST_SLAB_BYTES : SLAB_BYTES, Math.floor(capacityBytes / 16))
  if (bytes <= slab / 4) return pageAlign(slab)
  // Steps of one eighth of the next power of two: at most 12.5 % more than asked for.
  const step = Math.max(MiB / 4, 2 ** Math.ceil(Math.log2(bytes)) / 16)
  return Math.ceil(bytes / step) * step
}
