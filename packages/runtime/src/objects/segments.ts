/**
 * This process's side of the store: the segments that it writes, and its mappings of sealed objects.
 *
 * Not here: who owns which object, and when one may be freed. A freed block is reused at once and without a message, because pages
 * that were written before are twenty times faster than fresh ones.
 */
import { BlockAllocator, pageAlign } from './block-allocator.ts'
import { headLength } from './format.ts'
import { openMapping, prepareMemory, releaseMemory } from './mapping.ts'
import type { StoredPlace } from './segment-directory-events.ts'

export interface GrantedSegment {
  readonly segment: string
  readonly path: string
  readonly bytes: number
}

/** Room for one object: write through `view`, then tell others the place. */
export interface Block extends StoredPlace {
  readonly path: string
  readonly view: Uint8Array
}

interface HeldSegment extends GrantedSegment {
  readonly buffer: ArrayBuffer
  readonly blocks: BlockAllocator
  /** Smaller blocks stay out of a segment that was made for one large object: the next large one would find no room. */
  readonly blockMin: number
}

interface Waiting {
  readonly bytes: number
  readonly resolve: (block: Block) => void
  readonly reject: (error: Error) => void
}

/** Objects up to this size share slabs; larger ones get a segment of about their size. */
const SHARED_MAX = 16 * 1_048_576
/** Empty segments kept for the next object; the one emptied last is kept whatever its size. */
const EMPTY_KEPT_BYTES = 512 * 1_048_576

/** @see SegmentPool */
export class SegmentPool {
  readonly #request: (bytes: number) => Promise<GrantedSegment>
  readonly #giveBack: (segment: string) => void
  /** In the order in which they were granted or last emptied. */
  readonly #held = new Map<string, HeldSegment>()
  /** Allocations that wait for a slab; one request is out for all of them. */
  #waitingForSlab: Waiting[] = []
  /** Large allocations; one request each. */
  readonly #waitingForOwn = new Set<Waiting>()
  #slabRequested = false
  #requested = 0
  /** Empty segments were asked back while others were on their way here: those go back too, unless somebody needs them. */
  #short = false
  #closed = false

  /**
   * @param request - asks the node for a segment with room for that many bytes
   * @param giveBack - returns a segment in which nothing is left
   */
  constructor(request: (bytes: number) => Promise<GrantedSegment>, giveBack: (segment: string) => void) {
    this.#request = request
    this.#giveBack = giveBack
  }

  /** Bytes of the segments that this process may write. */
  get heldBytes(): number {
    let bytes = 0
    for (const segment of this.#held.values()) bytes += segment.bytes
    return bytes
  }

  /**
   * Room for `bytes`; at once while a held segment fits, else after the node granted one.
   *
   * @throws (rejects) {@link BeamlineError} `STORE_FULL`, or why there is no node
   */
  allocate(bytes: number): Block | Promise<Block> {
    const block = this.#take(bytes)
    if (block) return block
    return new Promise((resolve, reject) => {
      const waiting = { bytes, resolve, reject }
      if (bytes > SHARED_MAX) {
        this.#waitingForOwn.add(waiting)
        void this.#requestFor(bytes, (error) => {
          if (this.#waitingForOwn.delete(waiting)) reject(error)
        })
      } else {
        this.#waitingForSlab.push(waiting)
        this.#requestSlab()
      }
    })
  }

  /** The block may be written again: its object is gone and nobody reads it. Blocks of segments given back are ignored. */
  free(segment: string, offset: number, bytes: number): void {
    const held = this.#held.get(segment)
    if (!held) return
    held.blocks.free(offset, bytes)
    this.#serveWaiting()
    if (!isEmpty(held)) return
    this.#held.delete(segment)
    this.#held.set(segment, held)
    this.#boundEmpty()
  }

  /** The bytes of an object in a segment that this process writes. */
  view(segment: string, offset: number, bytes: number): Uint8Array | undefined {
    const held = this.#held.get(segment)
    return held && new Uint8Array(held.buffer, offset, bytes)
  }

  /** Gives every empty segment back to the node. */
  releaseEmpty(): void {
    this.#short = this.#requested > 0
    for (const held of [...this.#held.values()]) if (isEmpty(held)) this.#drop(held)
  }

  /** Forgets everything; what waits is rejected. */
  close(): void {
    this.#closed = true
    const error = new Error('the object store of this process is closed')
    for (const waiting of [...this.#waitingForSlab, ...this.#waitingForOwn]) waiting.reject(error)
    this.#waitingForSlab = []
    this.#waitingForOwn.clear()
    for (const { buffer } of this.#held.values()) releaseMemory(buffer)
    this.#held.clear()
  }

  #take(bytes: number): Block | undefined {
    for (const held of this.#held.values()) {
      if (held.blocks.freeBytes < bytes || bytes < held.blockMin) continue
      const offset = held.blocks.allocate(bytes)
      if (offset === undefined) continue
      return { segment: held.segment, path: held.path, offset, bytes, view: new Uint8Array(held.buffer, offset, bytes) }
    }
    return undefined
  }

  #requestSlab(): void {
    if (this.#slabRequested || this.#waitingForSlab.length === 0) return
    this.#slabRequested = true
    void this.#requestFor(this.#waitingForSlab[0]!.bytes, (error) => {
      const waiting = this.#waitingForSlab
      this.#waitingForSlab = []
      for (const { reject } of waiting) reject(error)
    }).finally(() => {
      this.#slabRequested = false
      this.#requestSlab()
    })
  }

  async #requestFor(bytes: number, fail: (error: Error) => void): Promise<void> {
    let granted: GrantedSegment | undefined
    this.#requested++
    try {
      granted = await this.#request(pageAlign(bytes))
      const buffer = openMapping({ path: granted.path, offset: 0, bytes: granted.bytes }, 'shared', () => {})
      const forOne = bytes > SHARED_MAX
      if (forOne) await prepareMemory(buffer) // of a slab, often only a part is ever used
      if (this.#closed) return releaseMemory(buffer)
      const blockMin = forOne ? granted.bytes / 4 : 0
      this.#held.set(granted.segment, { ...granted, buffer, blocks: new BlockAllocator(granted.bytes), blockMin })
    } catch (error) {
      if (granted) this.#giveBack(granted.segment) // it cannot be mapped
      return fail(error as Error)
    } finally {
      this.#requested--
    }
    this.#serveWaiting()
    if (this.#short) this.releaseEmpty()
    else this.#boundEmpty()
  }

  #serveWaiting(): void {
    for (const waiting of this.#waitingForOwn) {
      const block = this.#take(waiting.bytes)
      if (!block) continue
      this.#waitingForOwn.delete(waiting)
      waiting.resolve(block)
    }
    while (this.#waitingForSlab.length > 0) {
      const block = this.#take(this.#waitingForSlab[0]!.bytes)
      if (!block) return
      this.#waitingForSlab.shift()!.resolve(block)
    }
  }

  /** Keeps the empty segments that were used last, up to the bound. */
  #boundEmpty(): void {
    let kept = 0
    let newest = true
    for (const held of [...this.#held.values()].reverse()) {
      if (!isEmpty(held)) continue
      kept += held.bytes
      if (!newest && kept > EMPTY_KEPT_BYTES) this.#drop(held)
      newest = false
    }
  }

  #drop(held: HeldSegment): void {
    this.#held.delete(held.segment)
    releaseMemory(held.buffer)
    this.#giveBack(held.segment)
  }
}

function isEmpty({ blocks, bytes }: HeldSegment): boolean {
  return blocks.freeBytes === bytes
}

/** Maps sealed objects for reading. */
export class ObjectMapper {
  #mappedBytes = 0

  /** Bytes of objects that are mapped because something here still refers to them. */
  get mappedBytes(): number {
    return this.#mappedBytes
  }

  /**
   * A sealed object for `decode`, without a copy: its structure; `decode` reaches the binary data behind it. Writes to it stay in this
   * process and in this mapping.
   *
   * @param onCollected - runs once, after the last view of the bytes was collected and the memory unmapped
   * @throws when the file is gone or cannot be mapped
   */
  map(place: { readonly path: string; readonly offset: number; readonly bytes: number }, onCollected: () => void): Uint8Array {
    const onUnmapped = (): void => {
      this.#mappedBytes -= place.bytes
      onCollected()
    }
    const buffer = openMapping(place, 'private', onUnmapped, (header) => headLength(header, place.bytes))
    this.#mappedBytes += place.bytes
    return new Uint8Array(buffer)
  }

  /** Nothing to undo: mappings go when their last view is collected, or with the process. */
  close(): void {}
}
