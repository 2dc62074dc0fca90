/**
 * Which parts of a segment are free: page-aligned blocks, first fit, neighbours merged. Pure numbers; touches no memory.
 *
 * First fit from the front reuses pages that were written before, and those are many times faster than fresh ones.
 */
import { BeamlineError } from '../errors.ts'

export const PAGE_BYTES = 4096

export function pageAlign(bytes: number): number {
  return Math.max(PAGE_BYTES, Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES)
}

export class BlockAllocator {
  readonly bytes: number
  #freeBytes: number
  /** Free ranges in order of their start; no two touch. */
  readonly #starts: number[] = [0]
  readonly #ends: number[]
  readonly #taken = new Map<number, number>()

  /** @param bytes - a multiple of {@link PAGE_BYTES} */
  constructor(bytes: number) {
    this.bytes = bytes
    this.#freeBytes = bytes
    this.#ends = [bytes]
  }

  get freeBytes(): number {
    return this.#freeBytes
  }

  /** Offset of a block of at least `bytes`, or undefined when no free range is long enough. */
  allocate(bytes: number): number | undefined {
    const size = pageAlign(bytes)
    const starts = this.#starts
    const ends = this.#ends
    for (let i = 0; i < starts.length; i++) {
      const start = starts[i]!
      if (ends[i]! - start < size) continue
      if (ends[i]! - start === size) {
        starts.splice(i, 1)
        ends.splice(i, 1)
      } else starts[i] = start + size
      this.#taken.set(start, size)
      this.#freeBytes -= size
      return start
    }
    return undefined
  }

  /**
   * @param bytes - as asked for in `allocate`
   * @throws {@link BeamlineError} `INTERNAL` for a block that is not taken: freeing twice would give it to two objects
   */
  free(offset: number, bytes: number): void {
    const size = this.#taken.get(offset)
    if (size !== pageAlign(bytes)) {
      throw new BeamlineError('INTERNAL', {
        what: `freed ${bytes} bytes at ${offset}, where ${size === undefined ? 'no block' : `a block of ${size}`} is taken`,
      })
    }
    this.#taken.delete(offset)
    this.#freeBytes += size
    const starts = this.#starts
    const ends = this.#ends
    const end = offset + size
    const at = this.#firstFrom(end)
    const joinsPrevious = at > 0 && ends[at - 1] === offset
    const joinsNext = at < starts.length && starts[at] === end
    if (joinsPrevious && joinsNext) {
      ends[at - 1] = ends[at]!
      starts.splice(at, 1)
      ends.splice(at, 1)
    } else if (joinsPrevious) ends[at - 1] = end
    else if (joinsNext) starts[at] = offset
    else {
      starts.splice(at, 0, offset)
      ends.splice(at, 0, end)
    }
  }

  /** Index of the first free range that starts at or after `position`. */
  #firstFrom(position: number): number {
    let low = 0
    let high = this.#starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#starts[middle]! < position) low = middle + 1
      else high = middle
    }
    return low
  }
}
