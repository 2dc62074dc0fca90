/**
 * Which chunks of an object that is being pulled are there and verified; those who pass them on wait here for the next ones.
 */

/** Bytes of a chunk, the unit of checksums, of resuming and of passing on; the last one of an object may be shorter. */
export const CHUNK_BYTES: number = 5 * 1_048_576

/** Consecutive chunks: the first one's index, and how many. */
export type ChunkRange = readonly [first: number, count: number]

export function chunkCount(bytes: number): number {
  return Math.ceil(bytes / CHUNK_BYTES)
}

export class Chunks {
  readonly bytes: number
  readonly #present: Uint8Array
  #count = 0
  #ended = false
  #listeners: (() => void)[] = []

  constructor(bytes: number) {
    this.bytes = bytes
    this.#present = new Uint8Array(chunkCount(bytes))
  }

  /** Chunks that are there. */
  get count(): number {
    return this.#count
  }

  get whole(): boolean {
    return this.#count === this.#present.length
  }

  /** No more chunks come: the object is whole, or its pull was given up. */
  get ended(): boolean {
    return this.#ended
  }

  has(index: number): boolean {
    return this.#present[index] === 1
  }

  add(index: number): void {
    if (this.#present[index] !== 0) return
    this.#present[index] = 1
    this.#count++
    this.#tell()
  }

  end(): void {
    this.#ended = true
    this.#tell()
  }

  /** Resolves at the next chunk, or when no more come. */
  changed(): Promise<void> {
    return this.#ended ? Promise.resolve() : new Promise((resolve) => this.#listeners.push(resolve))
  }

  missing(): ChunkRange[] {
    const ranges: [number, number][] = []
    for (let index = 0; index < this.#present.length; index++) {
      if (this.#present[index] === 1) continue
      const last = ranges.at(-1)
      if (last && last[0] + last[1] === index) last[1]++
      else ranges.push([index, 1])
    }
    return ranges
  }

  #tell(): void {
    const listeners = this.#listeners
    this.#listeners = []
    for (const listener of listeners) listener()
  }
}
