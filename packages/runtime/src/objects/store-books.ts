/**
 * The books of a node's store: its segments, objects and spill files, and what it takes to let go of one of them. Every part of the directory
 * works on these; the instructions of the event that is being handled collect here.
 */
import type { DirectoryInstruction, ObjectLost, ObjectName, StoredPlace } from './segment-directory-events.ts'
import { type NodeObject, ObjectTable } from './object-table.ts'
import { NODE, type Segment, SegmentTable } from './segment-table.ts'
import { type SpillFile, SpillFiles } from './spill-files.ts'

export class StoreBooks {
  readonly capacityBytes: number
  readonly segments: SegmentTable
  readonly objects: ObjectTable = new ObjectTable()
  readonly files: SpillFiles = new SpillFiles()
  /** Instructions of the current event, and its time. */
  out: DirectoryInstruction[] = []
  nowMs = 0
  /** Primary objects that were freed by the current event. */
  freedPrimaries: ObjectName[] = []
  /** Nothing more can be emptied until something changes. */
  exhausted = false

  constructor(directory: string, capacityBytes: number) {
    this.capacityBytes = capacityBytes
    this.segments = new SegmentTable(directory)
  }

  /** Room that is nobody's: not in files yet, or in segments that nobody writes. */
  get freeBytes(): number {
    return this.capacityBytes - this.segments.fileBytes + this.segments.spareBytes
  }

  /** Recycles or removes a segment that nobody writes and in which nothing is left. */
  settle(segment: Segment): void {
    if (segment.objects.size > 0) return
    if (segment.state === 'leaving' || (segment.state === 'held' && segment.creator === NODE)) this.segments.spare(segment)
    else if (segment.state === 'orphan' && segment.graceOver) this.unlink(segment)
  }

  unlink(segment: Segment): void {
    this.segments.remove(segment)
    this.out.push({ kind: 'unlinkFile', segment: segment.name, path: segment.path })
  }

  /** Lets go of a freed object once nobody reads, writes or fills its memory. */
  drop(object: NodeObject, reason: string): void {
    const busy = object.pins.size > 0 || object.writing !== undefined || (object.block !== undefined && !object.sealed)
    if (busy) return
    // A process reuses its own blocks without being told.
    const own = object.block?.segment.creator === object.owner
    this.release(object, !own)
    this.gone(object, reason)
  }

  /** It has no memory any more, and nobody wants what is on disk. @param reason - why, for those who look for it later */
  gone(object: NodeObject, reason: string | undefined): void {
    const { slice } = object
    this.objects.remove(object, reason, this.nowMs)
    if (slice) this.releaseSlice(slice.file)
  }

  releaseSlice(file: SpillFile): void {
    if (!this.files.release(file)) return
    this.files.remove(file)
    this.out.push({ kind: 'removeFile', file: file.number })
  }

  /** Takes its memory. @param tell - its creator does not know yet */
  release(object: NodeObject, tell: boolean = true): void {
    const { block, bytes, owner, object: number } = object
    if (!block) return
    const { segment, offset } = block
    this.objects.change(object, () => (object.block = undefined))
    segment.objects.delete(offset)
    segment.blocks?.free(offset, bytes)
    if (tell && segment.state === 'held' && segment.creator !== NODE) this.tellCreator(segment, { segment: segment.name, offset, bytes, owner, object: number })
    this.settle(segment)
    this.exhausted = false
  }

  tellCreator(segment: Segment, block: StoredPlace & ObjectName): void {
    const last = this.out.at(-1)
    if (last?.kind === 'blocksFreed' && last.process === segment.creator && last.giveBack === segment.emptying) (last.blocks as object[]).push(block)
    else this.out.push({ kind: 'blocksFreed', process: segment.creator, blocks: [block], giveBack: segment.emptying })
  }

  pinLost(process: string, pin: number, { owner, object }: ObjectName, reason: string): void {
    const failure: ObjectLost = { code: 'OBJECT_LOST', details: { object: `${owner}:${object}`, reason } }
    this.out.push({ kind: 'pinFailed', process, pin, ...failure })
  }
}
