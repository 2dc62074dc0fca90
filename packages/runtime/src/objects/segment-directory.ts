/**
 * Which segments a node has, who writes them, which objects are in them, and who reads these: decides who gets room, and what leaves the memory
 * for it. Pure: events in, instructions out; files, sockets and clocks are the daemon's.
 *
 *   creating ── fileCreated ──► held by its creator ── returned ──► leaving ── last object gone ──► spare ── granted ──► held …
 *                                   │ creator dies                                                    │ room is needed
 *                                   ▼                                                                 ▼
 *                                orphan ── grace over and last object gone ───────────────────────► unlinked
 *
 * The sum of all segment files never exceeds the capacity. Requests that find no room wait in order; each is answered exactly once.
 * A block is never written again while a process has its object pinned.
 *
 * Over a threshold the objects used least recently are written to spill files while they stay in memory. When a request finds no room, whole
 * segments are emptied of objects that nobody reads: copies of objects of other nodes are dropped, the others go to disk if they are not there
 * yet. A pin brings an object back, into a segment that the node itself writes. Segments of a dead process are unlinked and not recycled, since
 * an owner may still be about to report an object in one.
 */
import { checkBooks } from './store-invariants.ts'
import type { NodeObject, Pin } from './object-table.ts'
import { Room } from './room.ts'
import type {
  DirectoryEvent,
  DirectoryInstruction,
  DirectoryObject,
  ObjectMemory,
  ObjectName,
  StoredObject,
  StoredPlace,
  StoreUsage,
  Use,
} from './segment-directory-events.ts'
import { USES } from './segment-directory-events.ts'
import { isReadable, memoryOf, NODE, type Segment } from './segment-table.ts'
import { Spiller, type SpillRules } from './spiller.ts'
import { StoreBooks } from './store-books.ts'

export interface SegmentDirectoryOptions {
  /** Folder of the segment files. */
  readonly directory: string
  readonly capacityBytes: number
  /** How long a request waits for room before `STORE_FULL`, while nothing is being written to disk; default 10 000. */
  readonly fullTimeoutMs?: number
  /** How long after the death of its writer a segment without objects is kept, since owners may just be reporting one; default 2 000. */
  readonly orphanGraceMs?: number
  /** Whether and when objects are written to disk; default: never. */
  readonly spill?: SpillRules | undefined
}

export class SegmentDirectory {
  readonly #orphanGraceMs: number
  readonly #directory: string
  readonly #books: StoreBooks
  readonly #spiller: Spiller
  readonly #room: Room
  /** Copies that are still arriving, of objects that were made on this node meanwhile: where those lie, as their owner or a reader said. */
  readonly #madeHere = new Map<NodeObject, StoredPlace & { readonly label: string; readonly reported: boolean }>()
  readonly #timers = new Map<number, () => void>()
  #nextTimer = 1
  #roomBytes: number

  constructor({ directory, capacityBytes, fullTimeoutMs = 10_000, orphanGraceMs = 2_000, spill }: SegmentDirectoryOptions) {
    this.#directory = directory
    this.#orphanGraceMs = orphanGraceMs
    this.#books = new StoreBooks(directory, capacityBytes)
    this.#spiller = new Spiller(this.#books, spill)
    this.#room = new Room(this.#books, this.#spiller, { directory, fullTimeoutMs, startTimer: (rang, afterMs) => this.#startTimer(rang, afterMs) })
    this.#roomBytes = capacityBytes
  }

  /** The only mutator. Events about segments or objects that are gone already are ignored: messages cross. */
  handle(event: DirectoryEvent, nowMs: number = 0): DirectoryInstruction[] {
    const books = this.#books
    books.out = []
    books.nowMs = nowMs
    this.#apply(event)
    this.#room.serve()
    if (this.#spiller.writeAhead(this.#room.wantedBytes)) this.#room.ask()
    if (books.freedPrimaries.length > 0) {
      books.out.push({ kind: 'primariesFreed', names: books.freedPrimaries })
      books.freedPrimaries = []
    }
    const { roomBytes } = this
    if (roomBytes > this.#roomBytes) books.out.push({ kind: 'roomChanged' })
    this.#roomBytes = roomBytes
    return books.out
  }

  #apply(event: DirectoryEvent): void {
    switch (event.kind) {
      case 'segmentRequested':
        return this.#room.forProcess(event.process, event.request, event.bytes)
      case 'segmentReturned':
        return this.#returned(event.process, event.segment)
      case 'objectsAdded':
        for (const object of event.objects) this.#added(event.process, object)
        return
      case 'objectsFreed':
        for (const object of event.objects) this.#freed(this.#books.objects.get({ owner: event.process, object }), 'its owner released it')
        return
      case 'pinned':
        return this.#pinned(event)
      case 'unpinned':
        for (const number of event.pins) this.#unpinned(this.#books.objects.pinOf(event.process, number))
        return
      case 'processGone':
        return this.#processGone(event.process)
      case 'fileCreated':
        return this.#room.created(event.segment, event.error)
      case 'objectsWritten':
        return this.#written(event.file, event.error)
      case 'objectRead':
        return this.#spiller.restored(event, event.error)
      case 'copyRequested':
        return this.#copyRequested(event)
      case 'copySealed':
        return this.#copyEnded(event, true)
      case 'copyFailed':
        return this.#copyEnded(event, false)
      case 'copiesDropped':
        for (const name of event.names) {
          const copy = this.#books.objects.get(name)
          if (copy?.role === 'copy' && !this.#madeHere.has(copy)) this.#freed(copy, 'it was freed')
        }
        return
      case 'promoted': {
        const copy = this.#books.objects.get(event)
        if (copy && this.find(event) === 'copy') this.#books.objects.change(copy, () => Object.assign(copy, { role: 'primary', label: event.label }))
        return
      }
      case 'demoted': {
        const primary = this.#books.objects.get(event)
        if (primary && !primary.freed && this.find(event) === 'primary') this.#demote(primary)
        return
      }
      case 'timerRang':
        return this.#timerRang(event.timer)
      default:
        event satisfies never
    }
  }

  // ---------------------------------------------------------------- what is here

  get usage(): StoreUsage {
    const { objects, segments, files, capacityBytes } = this.#books
    const { sums } = objects
    return {
      capacityBytes,
      fileBytes: segments.fileBytes,
      spareBytes: segments.spareBytes,
      liveBytes: sums.live,
      segments: segments.size,
      objects: sums.objects,
      waiting: this.#room.waiting,
      pinnedBytes: sums.pinned,
      copyBytes: sums.copies,
      spilledBytes: sums.spilled,
      spilledObjects: sums.spilledObjects,
      spillFileBytes: files.bytes,
      writtenBytes: this.#spiller.writtenBytes,
      restoredBytes: this.#spiller.restoredBytes,
    }
  }

  /** Room for a copy that takes nothing from primary objects: what is free, and copies that nobody reads. */
  get roomBytes(): number {
    return this.#books.freeBytes + this.#books.objects.sums.idleCopies
  }

  /** Objects, biggest first. */
  objects(limit: number = Number.POSITIVE_INFINITY): DirectoryObject[] {
    const all = [...this.#books.objects.values()].map((each): DirectoryObject => {
      const { block, bytes, object, label, owner, role, slice, pins } = each
      const creator = block?.segment.state === 'held' && block.segment.creator !== NODE ? block.segment.creator : ''
      const place = { segment: block?.segment.name ?? '', offset: block?.offset ?? 0, bytes }
      return { ...place, object, label, owner, creator, role, spilled: slice !== undefined && !block, pins: pins.size }
    })
    return all.sort((a, b) => b.bytes - a.bytes).slice(0, limit)
  }

  /** What this node has of an object, in memory or spilled. */
  find(name: ObjectName): 'primary' | 'copy' | undefined {
    const object = this.#books.objects.get(name)
    if (!object || object.freed) return undefined
    return object.role === 'primary' || object.sealed ? object.role : undefined
  }

  /** Where it is in memory, if it is. */
  memory(name: ObjectName): ObjectMemory | undefined {
    const object = this.#books.objects.get(name)
    return object?.block && object.sealed ? memoryOf(object) : undefined
  }

  /** The primary objects, also spilled ones. */
  primaries(): NodeObject[] {
    return [...this.#books.objects.values()].filter(({ role, freed }) => role === 'primary' && !freed)
  }

  // ---------------------------------------------------------------- segments of processes

  #returned(process: string, name: string): void {
    const segment = this.#books.segments.get(name)
    if (segment?.state !== 'held' || segment.creator !== process) return
    segment.state = 'leaving' // the owner's message about its last block may still be on its way
    this.#books.settle(segment)
  }

  #processGone(process: string): void {
    this.#room.processGone(process)
    for (const pin of this.#books.objects.pinsOf(process)) this.#unpinned(pin)
    for (const segment of this.#books.segments.values()) {
      if (segment.state !== 'held' || segment.creator !== process) continue
      segment.state = 'orphan'
      segment.emptying = false
      this.#startTimer(() => {
        segment.graceOver = true
        this.#books.settle(segment)
      }, this.#orphanGraceMs)
    }
    for (const object of this.#books.objects.ownerDied(process)) this.#freed(object, `its owner ${process} died`)
  }

  // ---------------------------------------------------------------- objects

  #added(owner: string, { segment: name, offset, bytes, object, label }: StoredObject): void {
    const place = { segment: name, offset, bytes }
    let known = this.#books.objects.get({ owner, object })
    if (known && isArriving(known) && !known.freed && this.#outrun(known, { ...place, label, reported: true })) return
    known = this.#books.objects.get({ owner, object })
    const segment = this.#books.segments.get(name)
    if (known && !known.freed) {
      this.#books.objects.change(known, () => Object.assign(known, { label, reported: true, role: 'primary' }))
      const there = known.block?.segment === segment && known.block?.offset === offset
      if (!there) this.#superfluous(known, place)
      return
    }
    if (segment && isReadable(segment, place)) this.#place(segment, { owner, object }, place, label, true)
  }

  /** The object is here in another place, as a copy: one is enough. */
  #superfluous({ owner, object }: ObjectName, place: StoredPlace): void {
    const segment = this.#books.segments.get(place.segment)
    if (segment?.state === 'held' && segment.creator !== NODE) this.#books.tellCreator(segment, { ...place, owner, object })
  }

  /**
   * An object of which a copy is arriving was made on this node. A copy without memory is given up. One that is being written to goes on, and what is
   * done with the object that was made here waits for its end.
   *
   * @returns whether it goes on
   */
  #outrun(copy: NodeObject, made: StoredPlace & { readonly label: string; readonly reported: boolean }): boolean {
    if (copy.block) {
      if (made.reported || !this.#madeHere.has(copy)) this.#madeHere.set(copy, made)
      return true
    }
    const { owner, object } = copy
    this.#room.cancel(copy)
    this.#books.out.push({ kind: 'copyRefused', owner, object, code: 'STORE_UNAVAILABLE', details: { path: this.#directory, reason: 'it was made here' } })
    this.#books.gone(copy, undefined)
    return false
  }

  /** @returns undefined when the block holds something newer already */
  #place(segment: Segment, name: ObjectName, { offset, bytes }: StoredPlace, label: string, reported: boolean): NodeObject | undefined {
    const end = offset + bytes
    const overlapping = [...segment.objects].filter(([start, old]) => start < end && start + old.bytes > offset)
    if (overlapping.some(([, old]) => !isNewer(segment.creator, name, reported, old))) {
      if (reported) this.#books.freedPrimaries.push(name)
      return undefined
    }
    for (const [start, old] of overlapping) {
      segment.objects.delete(start)
      if (!old.freed && old.role === 'primary') this.#books.freedPrimaries.push({ owner: old.owner, object: old.object })
      const reason = 'its memory was used again, so its owner must have released it'
      this.#room.cancel(old)
      for (const pin of this.#books.objects.dismiss(old)) this.#books.pinLost(pin.process, pin.number, old, reason)
      this.#books.objects.change(old, () => (old.block = undefined))
      this.#books.gone(old, reason)
    }
    const object = this.#books.objects.add(name, bytes, { label, role: 'primary', block: { segment, offset }, sealed: true, reported })
    segment.objects.set(offset, object)
    segment.emptying = false
    this.#books.exhausted = false
    return object
  }

  #freed(object: NodeObject | undefined, reason: string): void {
    if (!object || object.freed) return
    this.#books.objects.change(object, () => (object.freed = true))
    this.#room.cancel(object)
    const made = this.#madeHere.get(object)
    this.#madeHere.delete(object)
    // A process reuses its own blocks without being told.
    if (made && this.#books.segments.get(made.segment)?.creator !== object.owner) this.#superfluous(object, made)
    if (object.role === 'primary' || made?.reported === true) this.#books.freedPrimaries.push({ owner: object.owner, object: object.object })
    for (const pin of this.#books.objects.dismiss(object)) this.#books.pinLost(pin.process, pin.number, object, reason)
    this.#books.drop(object, reason)
  }

  // ---------------------------------------------------------------- pins

  #pinned({ process, pin: number, owner, object: id, place, use }: Extract<DirectoryEvent, { kind: 'pinned' }>): void {
    const name = { owner, object: id }
    const again = this.#books.objects.pinOf(process, number)
    if (again) return this.#hurry(again, use)
    let object = this.#books.objects.get(name)
    if (object && isArriving(object) && !object.freed && place && this.#isWithin(place)) {
      if (this.#outrun(object, { ...place, label: '', reported: false })) return void this.#books.objects.pin(object, process, number, use, false)
      object = undefined
    }
    if (!object && place) object = this.#announcedByReader(name, place)
    if (!object || object.freed || isArriving(object)) {
      this.#books.pinLost(process, number, name, object ? 'it is being freed' : this.#books.objects.story(name, this.#books.nowMs))
      return
    }
    if (object.block && this.#room.admits(object, use)) object.block.segment.emptying = false
    const reads = object.block !== undefined && object.sealed && this.#room.admits(object, use)
    const pin = this.#books.objects.pin(object, process, number, use, reads)
    if (!reads) return this.#room.forPin(pin)
    this.#books.out.push({ kind: 'pinned', process, pin: number, memory: memoryOf(object) })
    if (object.waiting.size === 0) return
    this.#room.cancel(object) // it stays in memory anyway
    this.#spiller.admit(object)
  }

  /** The process waits for it by now. */
  #hurry(pin: Pin, use: Use): void {
    if (!pin.object.waiting.has(pin) || USES.indexOf(use) >= USES.indexOf(pin.use)) return
    pin.use = use
    this.#room.forPin(pin)
  }

  #announcedByReader(name: ObjectName, place: StoredPlace): NodeObject | undefined {
    if (!this.#isWithin(place) || this.#books.objects.isGone(name)) return undefined
    return this.#place(this.#books.segments.get(place.segment)!, name, place, '', false)
  }

  #isWithin(place: StoredPlace): boolean {
    const segment = this.#books.segments.get(place.segment)
    return segment !== undefined && isReadable(segment, place)
  }

  #unpinned(pin: Pin | undefined): void {
    if (!pin) return
    const { object } = pin
    const waited = object.waiting.has(pin)
    this.#books.objects.unpin(pin)
    if (waited) {
      if (object.waiting.size === 0) this.#room.cancel(object)
      return
    }
    if (object.pins.size > 0) return
    this.#books.exhausted = false
    if (object.freed) this.#books.drop(object, 'its owner released it')
    else if (!object.reported) {
      this.#books.release(object, false) // a later report brings it back
      this.#books.gone(object, undefined)
    }
  }

  // ---------------------------------------------------------------- copies

  #copyRequested({ owner, object: id, bytes, urgent }: Extract<DirectoryEvent, { kind: 'copyRequested' }>): void {
    if (this.#books.objects.get({ owner, object: id })) {
      const details = { path: this.#directory, reason: `it has ${owner}:${id} already` }
      this.#books.out.push({ kind: 'copyRefused', owner, object: id, code: 'STORE_UNAVAILABLE', details })
      return
    }
    const copy = this.#books.objects.add({ owner, object: id }, bytes, { label: '', role: 'copy', block: undefined, sealed: false, reported: true })
    this.#room.forCopy(copy, urgent)
  }

  #copyEnded(name: ObjectName, whole: boolean): void {
    const copy = this.#books.objects.get(name)
    if (!copy?.block || copy.role !== 'copy' || copy.sealed) return
    const made = this.#madeHere.get(copy)
    this.#madeHere.delete(copy)
    this.#books.objects.change(copy, () => (copy.sealed = true))
    if (copy.freed) return this.#books.drop(copy, 'it was freed')
    if (whole) {
      if (made?.reported) this.#added(copy.owner, { ...made, object: copy.object })
      if (copy.waiting.size > 0) this.#spiller.admit(copy)
      return
    }
    const waited = this.#books.objects.dismiss(copy)
    this.#books.release(copy)
    this.#books.gone(copy, made ? undefined : 'it did not arrive')
    if (made?.reported) this.#added(copy.owner, { ...made, object: copy.object })
    for (const { process, number, use } of waited) this.#pinned({ kind: 'pinned', process, pin: number, ...name, place: made, use })
  }

  #demote(primary: NodeObject): void {
    this.#books.objects.change(primary, () => (primary.role = 'copy'))
    if (primary.block || primary.waiting.size > 0) return
    this.#books.gone(primary, 'another node has it')
  }

  // ---------------------------------------------------------------- disk and time

  #written(file: number, error: string | undefined): void {
    if (this.#spiller.written(file, error)) this.#room.moved()
    else if (error !== undefined) this.#startTimer(() => this.#spiller.retry(), this.#spiller.retryMs)
  }

  #startTimer(rang: () => void, afterMs: number): void {
    const timer = this.#nextTimer++
    this.#timers.set(timer, rang)
    this.#books.out.push({ kind: 'startTimer', timer, afterMs })
  }

  #timerRang(timer: number): void {
    const rang = this.#timers.get(timer)
    this.#timers.delete(timer)
    rang?.()
  }

  /** @throws {@link BeamlineError} `INTERNAL` when the books do not balance; for tests and BEAMLINE_VALIDATE=1 */
  checkInvariants(): void {
    checkBooks(this.#books)
  }
}

/** A copy that is not whole. */
function isArriving({ role, sealed }: NodeObject): boolean {
  return role === 'copy' && !sealed
}

/**
 * Whether what a process says of a block is newer than what is known of it. A creator uses the blocks of its own objects again without being told,
 * those of others only once the node knows that they are free. Reports of one process come in order, the word of a reader at any time.
 */
function isNewer(creator: string, { owner, object }: ObjectName, reported: boolean, known: NodeObject): boolean {
  if (known.owner !== creator) return false
  return owner !== creator || known.reported || (!reported && object > known.object)
}
