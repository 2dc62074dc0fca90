/**
 * Which segments a node has, who writes them, and which live objects are in them: decides who gets room. Pure: events in, instructions
 * out; files, sockets and clocks are the daemon's.
 *
 *   creating ── fileCreated ──► held by its creator ── returned ──► leaving ── last object freed ──► spare ── granted ──► held …
 *                                   │ creator dies                                                    │ room is needed
 *                                   ▼                                                                 ▼
 *                                orphan ── grace over and last object freed ───────────────────────► unlinked
 *
 * The sum of all segment files never exceeds the capacity. Requests that find no room wait in order; each is answered exactly once.
 * Memory of a dead process is never written again, since others may still read it: its blocks are retired and its segments unlinked.
 */
import { BeamlineError } from '../errors.ts'
import { pageAlign } from './block-allocator.ts'
import type {
  DirectoryEvent,
  DirectoryInstruction,
  DirectoryObject,
  ObjectPlace,
  OwnedPlace,
  StoredObject,
  StoredPlace,
  StoreUsage,
} from './segment-directory-events.ts'
import { segmentBytesFor } from './segment-sizes.ts'
import { describeHolders } from './store-holders.ts'

export interface SegmentDirectoryOptions {
  /** Folder of the segment files. */
  readonly directory: string
  readonly capacityBytes: number
  /** How long a request waits for room before `STORE_FULL`; default 10 000. */
  readonly fullTimeoutMs?: number
  /** How long after the death of its writer a segment without objects is kept, since owners may just be reporting one; default 2 000. */
  readonly orphanGraceMs?: number
}

/** While a request waits, processes are asked again to release memory every so often. */
const ASK_AGAIN_MS = 1_000

interface LiveObject extends StoredObject {
  readonly owner: string
  /** Who reads it. */
  readonly pins: Set<string>
  /** Not yet by its owner, only by a reader. */
  reported: boolean
  /** Its owner needs it no longer, or is dead; it stays until nobody reads it. */
  freed: boolean
  retired: boolean
}

interface Segment {
  readonly name: string
  readonly path: string
  readonly bytes: number
  /** creating: no file yet. held: `creator` writes it. leaving: returned, objects not all freed. orphan: creator dead. spare: empty, nobody writes it. */
  state: 'creating' | 'held' | 'leaving' | 'orphan' | 'spare'
  creator: string
  /** By offset. */
  readonly objects: Map<number, LiveObject>
  /** Orphans: the time in which owners may still report objects in it is over. */
  graceOver: boolean
  /** Holds a block of a dead owner: unlinked instead of recycled. */
  retired: boolean
  /** creating: the request that it is for. */
  for: Request | undefined
}

interface Request {
  readonly process: string
  readonly request: number
  readonly bytes: number
  waits: boolean
  waitedMs: number
  /** A file could not be made, and why; the next time it fails for good. */
  refused: string | undefined
}

export class SegmentDirectory {
  readonly #directory: string
  readonly #capacityBytes: number
  readonly #fullTimeoutMs: number
  readonly #orphanGraceMs: number
  readonly #segments = new Map<string, Segment>()
  /** Requests without an answer and without a segment on its way, oldest first. */
  #waiting: Request[] = []
  readonly #timers = new Map<number, Request | Segment>()
  /** By process and its number of the pin. */
  readonly #pins = new Map<string, Map<number, LiveObject>>()
  #nextSegment = 1
  #nextTimer = 1
  #fileBytes = 0
  #liveBytes = 0
  #liveObjects = 0
  #out: DirectoryInstruction[] = []

  constructor({ directory, capacityBytes, fullTimeoutMs = 10_000, orphanGraceMs = 2_000 }: SegmentDirectoryOptions) {
    this.#directory = directory
    this.#capacityBytes = capacityBytes
    this.#fullTimeoutMs = fullTimeoutMs
    this.#orphanGraceMs = orphanGraceMs
  }

  /** The only mutator. Events about segments or objects that are gone already are ignored: messages cross. */
  handle(event: DirectoryEvent): DirectoryInstruction[] {
    this.#out = []
    switch (event.kind) {
      case 'segmentRequested':
        this.#requested(event)
        break
      case 'segmentReturned':
        this.#returned(event.process, event.segment)
        break
      case 'objectsAdded':
        for (const object of event.objects) this.#added(event.process, object)
        break
      case 'objectsFreed':
        for (const place of event.places) this.#objectFreed(event.process, place)
        break
      case 'pinned':
        this.#pinned(event)
        break
      case 'unpinned':
        for (const pin of event.pins) this.#unpinned(event.process, pin)
        break
      case 'processGone':
        this.#processGone(event.process)
        break
      case 'fileCreated':
        this.#fileCreated(event.segment, event.error)
        break
      case 'timerRang':
        this.#timerRang(event.timer)
        break
      default:
        event satisfies never
    }
    this.#serve()
    return this.#out
  }

  get usage(): StoreUsage {
    return {
      capacityBytes: this.#capacityBytes,
      fileBytes: this.#fileBytes,
      liveBytes: this.#liveBytes,
      segments: this.#segments.size,
      objects: this.#liveObjects,
      waiting: this.#waiting.length,
    }
  }

  /** Live objects, biggest first. */
  objects(limit: number = Number.POSITIVE_INFINITY): DirectoryObject[] {
    const all: DirectoryObject[] = []
    for (const segment of this.#segments.values()) {
      const creator = segment.state === 'held' ? segment.creator : ''
      for (const { offset, bytes, object, label, owner } of segment.objects.values()) {
        all.push({ segment: segment.name, offset, bytes, object, label, owner, creator })
      }
    }
    return all.sort((a, b) => b.bytes - a.bytes).slice(0, limit)
  }

  #requested({ process, request, bytes }: { process: string; request: number; bytes: number }): void {
    const wanted: Request = { process, request, bytes: pageAlign(bytes), waits: false, waitedMs: 0, refused: undefined }
    if (wanted.bytes > this.#capacityBytes) this.#failFull(wanted)
    else this.#waiting.push(wanted)
  }

  #returned(process: string, name: string): void {
    const segment = this.#segments.get(name)
    if (segment?.state !== 'held' || segment.creator !== process) return
    segment.state = 'leaving' // the owner's message about its last block may still be on its way
    this.#settle(segment)
  }

  #added(owner: string, object: StoredObject): void {
    const segment = this.#segments.get(object.segment)
    if (!segment || !isReadable(segment, object)) return
    const known = segment.objects.get(object.offset)
    if (known && known.owner === owner && known.object === object.object && known.bytes === object.bytes && !known.freed) {
      segment.objects.set(object.offset, Object.assign(known, { label: object.label, reported: true }))
    } else this.#add(segment, owner, object, true)
  }

  #add(segment: Segment, owner: string, { offset, bytes, object, label }: StoredObject, reported: boolean): LiveObject {
    // A block that its creator reused is reported by its new owner, maybe before the old owner reports that it is free.
    const end = offset + bytes
    for (const old of segment.objects.values()) {
      if (old.offset < end && old.offset + old.bytes > offset) this.#forget(segment, old)
    }
    const added = { segment: segment.name, offset, bytes, object, label, owner, pins: new Set<string>(), reported, freed: false, retired: false }
    segment.objects.set(offset, added)
    this.#liveBytes += bytes
    this.#liveObjects++
    return added
  }

  #objectFreed(owner: string, { segment, offset, object: number }: ObjectPlace): void {
    const object = this.#segments.get(segment)?.objects.get(offset)
    if (object?.owner === owner && object.object === number) this.#free(object, false)
  }

  /** @param retired - the owner is dead: nobody knows who still reads the block, so it must not be written again */
  #free(object: LiveObject, retired: boolean): void {
    object.freed = true
    object.retired ||= retired
    if (object.pins.size > 0) return
    const segment = this.#segments.get(object.segment)!
    this.#forget(segment, object)
    if (object.retired) segment.retired = true
    this.#settle(segment)
    const { owner, object: number, offset, bytes } = object
    if (segment.state !== 'held' || segment.creator === owner) return // a process reuses its own blocks without being told
    const freed = { segment: segment.name, offset, bytes, owner, object: number }
    const last = this.#out.at(-1)
    if (last?.kind === 'blocksFreed' && last.process === segment.creator && last.retired === object.retired) (last.places as OwnedPlace[]).push(freed)
    else this.#out.push({ kind: 'blocksFreed', process: segment.creator, places: [freed], retired: object.retired })
  }

  #pinned({ process, pin, owner, object: number, place }: Extract<DirectoryEvent, { kind: 'pinned' }>): void {
    const segment = this.#segments.get(place.segment)
    const known = segment?.objects.get(place.offset)
    let object = known?.owner === owner && known.object === number ? known : undefined
    if (!segment || !isReadable(segment, place) || (known && !known.freed && !object)) {
      const reason = `its memory in ${place.segment} is not there any more`
      this.#out.push({ kind: 'pinFailed', process, pin, code: 'OBJECT_LOST', details: { object: `${owner}:${number}`, reason } })
      return
    }
    object ??= this.#add(segment, owner, { ...place, object: number, label: '' }, false)
    let pins = this.#pins.get(process)
    if (!pins) this.#pins.set(process, (pins = new Map()))
    pins.set(pin, object)
    object.pins.add(`${process}:${pin}`)
    this.#out.push({ kind: 'pinned', process, pin, path: segment.path, segment: segment.name, offset: object.offset, bytes: object.bytes })
  }

  #unpinned(process: string, pin: number): void {
    const pins = this.#pins.get(process)
    const object = pins?.get(pin)
    if (!pins || !object) return
    pins.delete(pin)
    if (pins.size === 0) this.#pins.delete(process)
    if (!object.pins.delete(`${process}:${pin}`) || object.pins.size > 0) return
    if (object.freed) this.#free(object, object.retired)
    else if (!object.reported) this.#forget(this.#segments.get(object.segment)!, object)
  }

  #processGone(process: string): void {
    this.#waiting = this.#waiting.filter((request) => request.process !== process)
    for (const pin of [...(this.#pins.get(process)?.keys() ?? [])]) this.#unpinned(process, pin)
    const owned: LiveObject[] = []
    for (const segment of this.#segments.values()) {
      if (segment.state === 'creating' && segment.for?.process === process) segment.for = undefined
      if (segment.state === 'held' && segment.creator === process) {
        segment.state = 'orphan'
        this.#startTimer(segment, this.#orphanGraceMs)
      }
      for (const object of segment.objects.values()) if (object.owner === process) owned.push(object)
    }
    for (const object of owned) this.#free(object, true)
  }

  /** Recycles or removes a segment that nobody writes and in which nothing is left. */
  #settle(segment: Segment): void {
    if (segment.objects.size > 0) return
    if (segment.state === 'leaving' && !segment.retired) segment.state = 'spare'
    else if (segment.state === 'leaving' || (segment.state === 'orphan' && segment.graceOver)) this.#unlink(segment)
  }

  #forget(segment: Segment, object: LiveObject): void {
    if (segment.objects.get(object.offset) !== object) return
    segment.objects.delete(object.offset)
    object.pins.clear()
    this.#liveBytes -= object.bytes
    this.#liveObjects--
  }

  #fileCreated(name: string, error: string | undefined): void {
    const segment = this.#segments.get(name)
    if (segment?.state !== 'creating') return
    const request = segment.for
    segment.for = undefined
    if (error === undefined) {
      if (request) this.#grant(segment, request)
      else segment.state = 'spare'
      return
    }
    this.#segments.delete(name)
    this.#fileBytes -= segment.bytes
    if (!request) return
    if (request.refused === undefined) {
      // The machine has less room than the capacity says: try once more without the spare segments.
      request.refused = error
      for (const spare of this.#spares()) this.#unlink(spare)
      this.#waiting.unshift(request)
    } else {
      const details = { path: this.#directory, reason: `${error} (a segment of ${segment.bytes} bytes; ${this.#fileBytes} bytes are in use)` }
      this.#out.push({ kind: 'fail', process: request.process, request: request.request, code: 'STORE_UNAVAILABLE', details })
    }
  }

  #timerRang(timer: number): void {
    const subject = this.#timers.get(timer)
    this.#timers.delete(timer)
    if (!subject) return
    if ('state' in subject) {
      subject.graceOver = true
      if (subject.state === 'orphan') this.#settle(subject)
      return
    }
    const at = this.#waiting.indexOf(subject)
    if (at < 0) return
    if (subject.waitedMs < this.#fullTimeoutMs) return this.#wait(subject, at === 0)
    this.#waiting.splice(at, 1)
    this.#failFull(subject)
  }

  /** Serves waiting requests in order for as long as the first one finds room. */
  #serve(): void {
    for (let request = this.#waiting[0]; request && this.#find(request); request = this.#waiting[0]) this.#waiting.shift()
    this.#waiting.forEach((request, at) => {
      if (!request.waits) this.#wait(request, at === 0)
    })
  }

  /** A spare segment that fits, else a new one, if need be in place of spares that do not. */
  #find(request: Request): boolean {
    const spares = this.#spares()
    const fitting = spares.filter((spare) => spare.bytes >= request.bytes).sort((a, b) => a.bytes - b.bytes)[0]
    const held = this.#heldBy(request.process)
    const size = segmentBytesFor(request.bytes, held, this.#capacityBytes)
    // A spare far larger than a new one would be is left for whoever needs that much, while there is room for a new one.
    const free = this.#capacityBytes - this.#fileBytes
    if (fitting && (fitting.bytes <= size * 2 || free < size)) {
      this.#grant(fitting, request)
      return true
    }
    const spareBytes = spares.reduce((sum, spare) => sum + spare.bytes, 0)
    const room = free + spareBytes
    if (request.bytes > room) return false
    const bytes = size <= room ? size : Math.max(request.bytes, pageFloor(room / 2))
    for (const spare of spares.sort((a, b) => a.bytes - b.bytes)) {
      if (bytes <= this.#capacityBytes - this.#fileBytes) break
      this.#unlink(spare)
    }
    this.#create(request, bytes)
    return true
  }

  #create(request: Request, bytes: number): void {
    const name = `segment-${this.#nextSegment++}`
    const path = `${this.#directory}/${name}`
    this.#segments.set(name, { name, path, bytes, state: 'creating', creator: '', objects: new Map(), graceOver: false, retired: false, for: request })
    this.#fileBytes += bytes
    this.#out.push({ kind: 'createFile', segment: name, path, bytes })
  }

  #grant(segment: Segment, { process, request }: Request): void {
    segment.state = 'held'
    segment.creator = process
    this.#out.push({ kind: 'grant', process, request, segment: segment.name, path: segment.path, bytes: segment.bytes })
  }

  #unlink(segment: Segment): void {
    this.#segments.delete(segment.name)
    this.#fileBytes -= segment.bytes
    this.#out.push({ kind: 'unlinkFile', segment: segment.name, path: segment.path })
  }

  #spares(): Segment[] {
    return [...this.#segments.values()].filter((segment) => segment.state === 'spare')
  }

  #heldBy(process: string): number {
    let segments = 0
    for (const segment of this.#segments.values()) if (segment.creator === process && segment.state === 'held') segments++
    return segments
  }

  #wait(request: Request, first: boolean): void {
    if (first) this.#out.push({ kind: 'releaseMemory' })
    const afterMs = Math.max(1, Math.min(ASK_AGAIN_MS, this.#fullTimeoutMs - request.waitedMs))
    request.waits = true
    request.waitedMs += afterMs
    this.#startTimer(request, afterMs)
  }

  #startTimer(subject: Request | Segment, afterMs: number): void {
    const timer = this.#nextTimer++
    this.#timers.set(timer, subject)
    this.#out.push({ kind: 'startTimer', timer, afterMs })
  }

  #failFull({ process, request, bytes }: Request): void {
    const details = {
      wantedBytes: bytes,
      usedBytes: this.#fileBytes,
      capacityBytes: this.#capacityBytes,
      holders: describeHolders(this.objects(), this.#fileBytes - this.#liveBytes),
    }
    this.#out.push({ kind: 'fail', process, request, code: 'STORE_FULL', details })
  }

  /** @throws {@link BeamlineError} `INTERNAL` when the books do not balance; for tests and BEAMLINE_VALIDATE=1 */
  checkInvariants(): void {
    let fileBytes = 0
    let liveBytes = 0
    let objects = 0
    const wrong = (what: string): never => {
      throw new BeamlineError('INTERNAL', { what: `segment directory: ${what}` })
    }
    for (const segment of this.#segments.values()) {
      fileBytes += segment.bytes
      objects += segment.objects.size
      let end = 0
      for (const object of [...segment.objects.values()].sort((a, b) => a.offset - b.offset)) {
        liveBytes += object.bytes
        if (object.offset < end) wrong(`objects overlap in ${segment.name}`)
        end = object.offset + object.bytes
      }
      if (end > segment.bytes) wrong(`an object ends behind ${segment.name}`)
      if ((segment.state === 'spare' || segment.state === 'creating') && segment.objects.size > 0) wrong(`${segment.state} ${segment.name} has objects`)
      if (segment.state !== 'creating' && segment.for) wrong(`${segment.state} ${segment.name} belongs to a request`)
    }
    if (fileBytes !== this.#fileBytes || liveBytes !== this.#liveBytes || objects !== this.#liveObjects) wrong('the totals are off')
    if (fileBytes > this.#capacityBytes) wrong(`${fileBytes} bytes of files exceed the capacity of ${this.#capacityBytes}`)
  }
}

function isReadable(segment: Segment, { offset, bytes }: StoredPlace): boolean {
  return segment.state !== 'creating' && segment.state !== 'spare' && offset + bytes <= segment.bytes
}

function pageFloor(bytes: number): number {
  return bytes - (bytes % pageAlign(1))
}
