/**
 * What leaves the memory of a node, and how it comes back: emptying segments for those that wait for room, writing objects to spill files ahead
 * of that, and reading them again. Pure: decides which objects, the daemon moves the bytes.
 */
import type { ObjectMemory, ObjectName } from './segment-directory-events.ts'
import { isClean, isIdle, type NodeObject } from './object-table.ts'
import { memoryOf } from './segment-table.ts'
import type { SpillFile } from './spill-files.ts'
import { filesOf, segmentsToEmpty } from './spill-plan.ts'
import type { StoreBooks } from './store-books.ts'

export interface SpillRules {
  /** Objects are written ahead while those that are in memory only take more than this part of the capacity. */
  readonly threshold: number
  /** A spill file is at least so large, or has so many objects, if there is that much to write. */
  readonly fileBytes: number
  readonly fileObjectsMax: number
  /** Nothing is written for so long after a write that failed. */
  readonly retryMs: number
}

export const SPILL_RULES: SpillRules = { threshold: 0.8, fileBytes: 100_000_000, fileObjectsMax: 2_000, retryMs: 2_000 }

export class Spiller {
  readonly #books: StoreBooks
  readonly #rules: SpillRules | undefined
  /** What is being written, in the order in the file. */
  readonly #writes = new Map<SpillFile, readonly NodeObject[]>()
  /** Why nothing is written to disk at the moment. */
  #refused: string | undefined
  /** The last write failed. */
  #failing = false
  #largest = 0
  writtenBytes = 0
  restoredBytes = 0

  /** @param rules - undefined: nothing is ever written to disk */
  constructor(books: StoreBooks, rules: SpillRules | undefined) {
    this.#books = books
    this.#rules = rules
  }

  /** Something is on its way to disk, and is likely to arrive. */
  get isWriting(): boolean {
    return this.#writes.size > 0 && !this.#failing
  }

  /** Why nothing more is written to disk; "" while it is. */
  get refusal(): string {
    return this.#rules ? (this.#refused ?? '') : 'writing objects to disk is switched off'
  }

  /**
   * Memory that must not fill with objects that are nowhere else: those on disk need it to be read again, also when the disk takes no more. Not
   * kept when nothing can be written anyway because all of it is read.
   */
  get reservedBytes(): number {
    const { objects, capacityBytes } = this.#books
    if (!this.#rules || objects.sums.spilledObjects === 0) return 0
    if (!this.#failing && this.#writes.size === 0 && objects.idleDirty.size === 0) return 0
    return Math.min(this.#largest, (1 - this.#rules.threshold) * capacityBytes)
  }

  get #canWrite(): boolean {
    return this.#rules !== undefined && this.#refused === undefined
  }

  /** So much is free, or on its way to be. */
  get comingBytes(): number {
    let bytes = this.#books.freeBytes
    for (const segment of this.#books.segments.values()) if (segment.emptying) bytes += segment.bytes
    return bytes
  }

  /**
   * Starts to empty segments until `bytes` are free or on their way to be.
   *
   * @param write - objects that are in no spill file may be written to one
   * @returns whether there is more room at once
   */
  makeRoom(bytes: number, write: boolean): boolean {
    const books = this.#books
    if (books.exhausted) return false
    const coming = this.comingBytes
    if (bytes <= coming) return false
    const before = books.freeBytes
    const chosen = segmentsToEmpty(books.segments.values(), bytes - coming, write && this.#canWrite)
    const dirty: NodeObject[] = []
    for (const segment of chosen) {
      segment.emptying = true
      if (segment.objects.size === 0) books.out.push({ kind: 'blocksFreed', process: segment.creator, blocks: [], giveBack: true })
      for (const object of [...segment.objects.values()]) {
        if (object.writing) continue // it leaves once that is done
        if (isClean(object)) this.#evict(object)
        else dirty.push(object)
      }
    }
    this.#write(dirty)
    books.exhausted = write && chosen.length === 0
    return books.freeBytes > before
  }

  #evict(object: NodeObject): void {
    this.#books.release(object)
    if (object.role === 'copy') this.#books.gone(object, 'this node had a copy, and needed the room')
  }

  /**
   * Keeps a part of the memory clean, so that it can be had at once when it is needed.
   *
   * @param wantedBytes - that are about to be filled
   * @returns whether anything is written for it
   */
  writeAhead(wantedBytes: number): boolean {
    if (!this.#canWrite) return false
    const { objects, capacityBytes } = this.#books
    const { threshold, fileBytes } = this.#rules!
    const over = objects.sums.dirty - objects.sums.writing + wantedBytes - threshold * capacityBytes
    if (over <= 0 || objects.idleDirty.size === 0) return false
    const goal = Math.max(over, Math.min(fileBytes, capacityBytes / 8))
    const chosen: NodeObject[] = []
    let bytes = 0
    for (const object of objects.idleDirty) {
      if (bytes >= goal) break
      chosen.push(object)
      bytes += object.bytes
    }
    this.#write(chosen)
    return true
  }

  #write(objects: readonly NodeObject[]): void {
    if (objects.length === 0) return
    const { fileBytes, fileObjectsMax } = this.#rules!
    for (const part of filesOf(objects, { bytes: fileBytes, objectsMax: fileObjectsMax })) {
      const file = this.#books.files.create(
        part.reduce((sum, { bytes }) => sum + bytes, 0),
        part.length,
      )
      for (const object of part) {
        this.#books.objects.change(object, () => (object.writing = file))
        this.#largest = Math.max(this.#largest, object.bytes)
      }
      this.#writes.set(file, part)
      this.#books.out.push({ kind: 'writeObjects', file: file.number, objects: part.map(memoryOf) })
    }
  }

  /** @returns whether it succeeded; false also for a file that nobody waits for */
  written(number: number, error: string | undefined): boolean {
    const books = this.#books
    const file = books.files.get(number)
    const objects = file && this.#writes.get(file)
    if (!file || !objects) return false
    this.#writes.delete(file)
    books.exhausted = false
    this.#failing = error !== undefined
    this.#refused = error
    if (error === undefined) this.writtenBytes += file.bytes
    let from = 0
    for (const object of objects) {
      const slice = { file, from }
      from += object.bytes
      const here = books.objects.get(object) === object // its creator may have used the block again: then it was freed
      const kept = here && !object.freed && error === undefined
      if (here) books.objects.change(object, () => Object.assign(object, { writing: undefined, slice: kept ? slice : undefined }))
      if (!kept) file.live--
      if (here) this.#settled(object, error === undefined)
    }
    file.written = true
    if (file.live === 0) {
      books.files.remove(file)
      if (error === undefined) books.out.push({ kind: 'removeFile', file: number })
    }
    return error === undefined
  }

  #settled(object: NodeObject, written: boolean): void {
    if (object.freed) return this.#books.drop(object, 'its owner released it')
    const segment = object.block?.segment
    if (!segment?.emptying) return
    if (!written) segment.emptying = false
    else if (isIdle(object)) this.#evict(object)
  }

  /** Writing may be tried again. */
  retry(): void {
    this.#refused = undefined
    this.#books.exhausted = false
  }

  get retryMs(): number {
    return this.#rules!.retryMs
  }

  /** Its bytes are wanted in this memory. */
  restore({ owner, object, slice }: NodeObject, memory: ObjectMemory): void {
    this.#books.out.push({ kind: 'readObject', owner, object, file: slice!.file.number, from: slice!.from, memory })
  }

  /** It is in memory: those who waited read it now. */
  admit(object: NodeObject): void {
    const { objects, out } = this.#books
    if (object.waiting.size > 0) object.block!.segment.emptying = false
    for (const { process, number } of objects.admit(object)) out.push({ kind: 'pinned', process, pin: number, memory: memoryOf(object) })
  }

  /** Outcome of {@link restore}: those who waited read it, or learn that it is lost. */
  restored(name: ObjectName, error: string | undefined): void {
    const books = this.#books
    const object = books.objects.get(name)
    if (!object?.block || object.sealed || !object.slice) return
    books.objects.change(object, () => (object.sealed = true))
    if (object.freed) return books.drop(object, 'its owner released it')
    if (error === undefined) {
      this.restoredBytes += object.bytes
      return this.admit(object)
    }
    const reason = `it was written to disk and cannot be read back: ${error}`
    for (const pin of books.objects.dismiss(object)) books.pinLost(pin.process, pin.number, name, reason)
    books.release(object)
    books.gone(object, reason)
  }
}
