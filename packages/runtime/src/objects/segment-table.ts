/**
 * The segments of a node: files, who writes each, and which objects' blocks lie where. Pure books; who gets a segment is decided by the
 * directory, and the states are drawn there.
 */
import { BlockAllocator, pageAlign } from './block-allocator.ts'
import type { NodeObject } from './object-table.ts'
import type { ObjectMemory } from './segment-directory-events.ts'

/** Creator of the segments that the node itself writes: restored objects, and copies of objects of other nodes. */
export const NODE = 'node'

export interface Segment {
  readonly name: string
  readonly path: string
  readonly bytes: number
  /** creating: no file yet. held: `creator` writes it. leaving: returned, objects not all gone. orphan: creator dead. spare: empty, nobody writes it. */
  state: 'creating' | 'held' | 'leaving' | 'orphan' | 'spare'
  creator: string
  /** By offset. */
  readonly objects: Map<number, NodeObject>
  /** Held by the node: what is free in it. */
  blocks: BlockAllocator | undefined
  /** Held by the node: for many objects, or for one large one. */
  shared: boolean
  /** Orphans: the time in which owners may still report objects in it is over. */
  graceOver: boolean
  /** Room is needed and this segment was chosen: its objects leave the memory, and its creator is asked to give it back. */
  emptying: boolean
}

export class SegmentTable {
  readonly #directory: string
  readonly #all = new Map<string, Segment>()
  readonly #spares = new Set<Segment>()
  #next = 1
  fileBytes = 0
  spareBytes = 0

  constructor(directory: string) {
    this.#directory = directory
  }

  get size(): number {
    return this.#all.size
  }

  get(name: string): Segment | undefined {
    return this.#all.get(name)
  }

  values(): Iterable<Segment> {
    return this.#all.values()
  }

  /** Smallest first. */
  spares(): Segment[] {
    return [...this.#spares].sort((a, b) => a.bytes - b.bytes)
  }

  create(bytes: number): Segment {
    const name = `segment-${this.#next++}`
    const segment: Segment = {
      name,
      path: `${this.#directory}/${name}`,
      bytes,
      state: 'creating',
      creator: '',
      objects: new Map(),
      blocks: undefined,
      shared: false,
      graceOver: false,
      emptying: false,
    }
    this.#all.set(name, segment)
    this.fileBytes += bytes
    return segment
  }

  /** From now on `creator` writes it. */
  grant(segment: Segment, creator: string): void {
    if (this.#spares.delete(segment)) this.spareBytes -= segment.bytes
    segment.state = 'held'
    segment.creator = creator
    segment.blocks = creator === NODE ? new BlockAllocator(segment.bytes) : undefined
  }

  /** Nobody writes it and nothing is in it. */
  spare(segment: Segment): void {
    segment.state = 'spare'
    segment.creator = ''
    segment.blocks = undefined
    segment.emptying = false
    this.#spares.add(segment)
    this.spareBytes += segment.bytes
  }

  remove(segment: Segment): void {
    if (this.#spares.delete(segment)) this.spareBytes -= segment.bytes
    this.#all.delete(segment.name)
    this.fileBytes -= segment.bytes
  }

  heldBy(process: string): number {
    let count = 0
    for (const { creator, state } of this.#all.values()) if (creator === process && state === 'held') count++
    return count
  }
}

export function memoryOf({ block, bytes }: NodeObject): ObjectMemory {
  const { segment, offset } = block!
  return { segment: segment.name, path: segment.path, segmentBytes: segment.bytes, offset, bytes }
}

/** Whether there can be an object of a process. */
export function isReadable(segment: Segment, { offset, bytes }: { readonly offset: number; readonly bytes: number }): boolean {
  return segment.state !== 'creating' && segment.state !== 'spare' && segment.creator !== NODE && offset + bytes <= segment.bytes
}

export function pageFloor(bytes: number): number {
  return bytes - (bytes % pageAlign(1))
}
