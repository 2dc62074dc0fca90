/**
 * Who gets room in the store of a node. Requests wait in order: processes that want a segment and blocked readers first, then those that wait for
 * any of several objects, then arguments of tasks that have not started; among equals by time. Each is answered exactly once. Pure.
 */
import { pageAlign } from './block-allocator.ts'
import type { NodeObject, Pin } from './object-table.ts'
import type { StoreFailure, Use } from './segment-directory-events.ts'
import { USES } from './segment-directory-events.ts'
import { segmentBytesFor } from './segment-sizes.ts'
import { memoryOf, NODE, pageFloor, type Segment } from './segment-table.ts'
import type { Spiller } from './spiller.ts'
import type { StoreBooks } from './store-books.ts'
import { describeHolders } from './store-holders.ts'

interface Request {
  readonly process: string
  /** The process's number of it; of the node's own ones: 0. */
  readonly request: number
  /** Whole pages. */
  readonly bytes: number
  readonly rank: number
  /** Objects that are nowhere else may be written to disk for it; otherwise it does not wait for long. */
  readonly urgent: boolean
  /** The node's own: what the room is for. */
  readonly target: NodeObject | undefined
  waits: boolean
  waitedMs: number
  /** A file could not be made, and why; the next time it fails for good. */
  refused: string | undefined
}

export interface RoomOptions {
  readonly directory: string
  readonly fullTimeoutMs: number
  /** Asks for a call of `rang` after so long. */
  readonly startTimer: (rang: () => void, afterMs: number) => void
}

/** While a request waits, processes are asked again to release memory every so often. */
const ASK_AGAIN_MS = 1_000
/** Part of the capacity that tasks that have not started may take for their arguments. */
const PREFETCH_PART = 0.25

export class Room {
  readonly #books: StoreBooks
  readonly #spiller: Spiller
  readonly #options: RoomOptions
  /** Requests without an answer and without a segment on its way, in the order in which they are served. */
  #waiting: Request[] = []
  /** Segments without a file yet, and for whom they are. */
  readonly #creating = new Map<Segment, Request | undefined>()
  /** Processes were asked to release memory a moment ago. */
  #asked = false

  constructor(books: StoreBooks, spiller: Spiller, options: RoomOptions) {
    this.#books = books
    this.#spiller = spiller
    this.#options = options
  }

  get waiting(): number {
    return this.#waiting.filter(({ waits }) => waits).length
  }

  /** What the first request would fill, if it waits for objects to be written first. */
  get wantedBytes(): number {
    const [first] = this.#waiting
    return first && this.#isAhead(first) ? first.bytes : 0
  }

  /** A process wants a segment. */
  forProcess(process: string, request: number, bytes: number): void {
    this.#add({ process, request, bytes: pageAlign(bytes), rank: 0, urgent: true, target: undefined })
  }

  /** The node wants memory for a copy that is about to arrive. */
  forCopy(target: NodeObject, urgent: boolean): void {
    this.#add({ process: NODE, request: 0, bytes: pageAlign(target.bytes), rank: 0, urgent, target })
  }

  /** A pin waits for its object: until that is back from disk, or until a task that has not started may have it. */
  forPin({ object, use }: Pin): void {
    const rank = USES.indexOf(use)
    const waiting = this.#waiting.find(({ target }) => target === object)
    if (waiting && waiting.rank <= rank) return
    if (waiting) this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
    else if ([...this.#creating.values()].some((request) => request?.target === object) || (object.block && !object.sealed)) return
    this.#add({ process: NODE, request: 0, bytes: pageAlign(object.bytes), rank, urgent: true, target: object })
  }

  /**
   * Whether an object may be read now for that use. Tasks that have not started take only a part of the memory for their arguments: those that run
   * need the rest to finish.
   */
  admits(object: NodeObject, use: Use): boolean {
    if (use !== 'argument' || object.pins.size > 0 || object.role === 'copy') return true
    let bytes = this.#books.objects.sums.prefetched
    for (const request of this.#creating.values()) if (request?.target && request.rank === USES.indexOf('argument')) bytes += request.bytes
    return bytes === 0 || bytes + object.bytes <= PREFETCH_PART * this.#books.capacityBytes
  }

  #add(wanted: Omit<Request, 'waits' | 'waitedMs' | 'refused'>): void {
    const request = { ...wanted, waits: false, waitedMs: 0, refused: undefined }
    if (request.bytes > this.#books.capacityBytes) return this.#failFull(request)
    const at = this.#waiting.findIndex(({ rank }) => rank > request.rank)
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, request)
  }

  processGone(process: string): void {
    this.#forget((request) => request.process === process)
  }

  /** Nobody wants memory for it any more. */
  cancel(target: NodeObject): void {
    this.#forget((request) => request.target === target)
  }

  #forget(isGone: (request: Request) => boolean): void {
    this.#waiting = this.#waiting.filter((request) => !isGone(request))
    for (const [segment, request] of this.#creating) if (request && isGone(request)) this.#creating.set(segment, undefined)
  }

  /** Serves waiting requests in order for as long as the first one finds room. */
  serve(): void {
    for (const request of [...this.#waiting]) {
      if (this.#isHeldBack(request)) break
      if (this.#isAhead(request)) break
      let outcome = this.#attempt(request)
      while (outcome === 'full' && this.#spiller.makeRoom(request.bytes, request.urgent)) outcome = this.#attempt(request)
      if (outcome === 'soon') continue
      if (outcome === 'full' && request.urgent) break
      this.#waiting.splice(this.#waiting.indexOf(request), 1)
      if (outcome === 'full') this.#failFull(request)
    }
    this.#waiting.forEach((request, at) => {
      if (!request.waits && !this.#isHeldBack(request)) this.#wait(request, at === 0)
    })
  }

  /** It would fill memory that is needed to read what is on disk; more goes there meanwhile. */
  #isAhead({ target, bytes }: Request): boolean {
    const reserved = target ? 0 : this.#spiller.reservedBytes
    return reserved > 0 && this.#books.objects.sums.dirty + bytes + reserved > this.#books.capacityBytes
  }

  /** It waits for tasks to end, not for room. */
  #isHeldBack({ target, rank }: Request): boolean {
    return target !== undefined && rank === USES.indexOf('argument') && !this.admits(target, 'argument')
  }

  #attempt(request: Request): 'served' | 'soon' | 'full' {
    const { target, bytes } = request
    if (target?.block) {
      this.#spiller.admit(target)
      return 'served'
    }
    if (target) {
      for (const segment of this.#books.segments.values()) {
        const fits = segment.creator === NODE && segment.shared && !segment.emptying && isSmall(bytes, segment)
        const offset = fits ? segment.blocks?.allocate(bytes) : undefined
        if (offset === undefined) continue
        this.#fill(target, segment, offset)
        return 'served'
      }
      for (const [segment, other] of this.#creating) if (other?.target && isSmall(bytes, segment) && isSmall(other.bytes, segment)) return 'soon'
    }
    return this.#findSegment(request) ? 'served' : 'full'
  }

  /** A spare segment that fits, else a new one, if need be in place of spares that do not. */
  #findSegment(request: Request): boolean {
    const { segments, capacityBytes, freeBytes } = this.#books
    const spares = segments.spares()
    const fitting = spares.find((spare) => spare.bytes >= request.bytes)
    const size = segmentBytesFor(request.bytes, segments.heldBy(request.process), capacityBytes)
    // A spare far larger than a new one would be is left for whoever needs that much, while there is room for a new one.
    if (fitting && (fitting.bytes <= size * 2 || capacityBytes - segments.fileBytes < size)) {
      this.#grant(fitting, request)
      return true
    }
    if (request.bytes > freeBytes) return false
    const bytes = size <= freeBytes ? size : Math.max(request.bytes, pageFloor(freeBytes / 2))
    for (const spare of spares) {
      if (bytes <= capacityBytes - segments.fileBytes) break
      this.#books.unlink(spare)
    }
    const segment = segments.create(bytes)
    this.#creating.set(segment, request)
    this.#books.out.push({ kind: 'createFile', segment: segment.name, path: segment.path, bytes })
    return true
  }

  #grant(segment: Segment, { process, request, target, bytes }: Request): void {
    this.#books.segments.grant(segment, process)
    if (target) {
      segment.shared = isSmall(bytes, segment)
      this.#fill(target, segment, segment.blocks!.allocate(bytes)!)
    } else this.#books.out.push({ kind: 'grant', process, request, segment: segment.name, path: segment.path, bytes: segment.bytes })
  }

  #fill(target: NodeObject, segment: Segment, offset: number): void {
    this.#books.objects.change(target, () => Object.assign(target, { block: { segment, offset }, sealed: false }))
    segment.objects.set(offset, target)
    const memory = memoryOf(target)
    if (target.slice) this.#spiller.restore(target, memory)
    else this.#books.out.push({ kind: 'copyGranted', owner: target.owner, object: target.object, memory })
  }

  /** The file of a segment was made, or not. */
  created(name: string, error: string | undefined): void {
    const { segments } = this.#books
    const segment = segments.get(name)
    if (segment?.state !== 'creating') return
    const request = this.#creating.get(segment)
    this.#creating.delete(segment)
    if (error === undefined) {
      if (request) this.#grant(segment, request)
      else segments.spare(segment)
      return
    }
    segments.remove(segment)
    if (!request) return
    if (request.refused === undefined) {
      // The machine has less room than the capacity says: try once more without the spare segments.
      request.refused = error
      for (const spare of segments.spares()) this.#books.unlink(spare)
      this.#waiting.unshift(request)
    } else {
      const reason = `${error} (a segment of ${segment.bytes} bytes; ${segments.fileBytes} bytes are in use)`
      this.#fail(request, { code: 'STORE_UNAVAILABLE', details: { path: this.#options.directory, reason } })
    }
  }

  #fail({ process, request, target }: Request, failure: StoreFailure): void {
    const { objects, out } = this.#books
    if (!target) {
      out.push({ kind: 'fail', process, request, ...failure })
      return
    }
    for (const pin of objects.dismiss(target)) out.push({ kind: 'pinFailed', process: pin.process, pin: pin.number, ...failure })
    if (target.slice) return
    out.push({ kind: 'copyRefused', owner: target.owner, object: target.object, ...failure })
    this.#books.gone(target, 'there was no room for it')
  }

  #failFull(request: Request): void {
    const { objects, segments, capacityBytes } = this.#books
    this.#fail(request, {
      code: 'STORE_FULL',
      details: {
        wantedBytes: request.bytes,
        usedBytes: segments.fileBytes,
        capacityBytes,
        holders: describeHolders([...objects.values()], segments.fileBytes - objects.sums.live),
        pinnedBytes: objects.sums.pinned,
        spilledBytes: objects.sums.spilled,
        spilling: this.#spiller.refusal,
      },
    })
  }

  // ---------------------------------------------------------------- time

  #wait(request: Request, first: boolean): void {
    if (first && (request.waitedMs > 0 || this.#spiller.comingBytes < request.bytes)) this.ask()
    const afterMs = Math.max(1, Math.min(ASK_AGAIN_MS, this.#options.fullTimeoutMs - request.waitedMs))
    request.waits = true
    request.waitedMs += afterMs
    this.#options.startTimer(() => this.#waited(request), afterMs)
  }

  #waited(request: Request): void {
    const at = this.#waiting.indexOf(request)
    if (at < 0) return
    // Creators that were asked for empty segments may have put something into them.
    for (const segment of this.#books.segments.values()) if (segment.objects.size === 0) segment.emptying = false
    this.#books.exhausted = false
    if (this.#spiller.isWriting) this.moved()
    if (request.waitedMs < this.#options.fullTimeoutMs) return this.#wait(request, at === 0)
    this.#waiting.splice(at, 1)
    this.#failFull(request)
  }

  /** Objects are on their way to disk: those that wait may hope on. */
  moved(): void {
    for (const request of this.#waiting) request.waitedMs = 0
  }

  /** Has every process release memory, once in a while. */
  ask(): void {
    if (this.#asked) return
    this.#asked = true
    this.#books.out.push({ kind: 'releaseMemory' })
    this.#options.startTimer(() => {
      this.#asked = false
    }, ASK_AGAIN_MS)
  }
}

/** Whether a segment of the node is shared by several objects of that size. */
function isSmall(bytes: number, segment: Segment): boolean {
  return bytes <= segment.bytes / 4
}
