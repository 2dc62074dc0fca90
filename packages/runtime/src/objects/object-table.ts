/**
 * The objects of a node: where the bytes of each are, who reads it, and the sums over all of them. Pure books.
 *
 * An object is a *primary* one, reported by its owner, which goes when that one frees it; or a *copy* of an object of another node, which the
 * node may evict. Its bytes are in memory (`block`), in a spill file (`slice`), or in both: then it is *clean*, and its memory can be had at once.
 * It is *idle* while it is whole in memory and nobody reads it: only then its memory may be taken. Idle objects stand in the order of their last use.
 */
import type { Segment } from './segment-table.ts'
import type { ObjectName, Use } from './segment-directory-events.ts'
import type { SpillFile } from './spill-files.ts'

export interface NodeObject extends ObjectName {
  readonly bytes: number
  label: string
  role: 'primary' | 'copy'
  block: { readonly segment: Segment; readonly offset: number } | undefined
  slice: { readonly file: SpillFile; readonly from: number } | undefined
  /** Its bytes are all in `block`; false while they are being read back or received. */
  sealed: boolean
  /** By its owner; false while only a reader told of it. */
  reported: boolean
  /** The file that it is being written to. */
  writing: SpillFile | undefined
  /** Its owner needs it no longer, or is dead; it stays until nobody reads it. */
  freed: boolean
  /** Who reads it, and who waits for its bytes. */
  readonly pins: Set<Pin>
  readonly waiting: Set<Pin>
  /** Order of last use. */
  used: number
}

export interface Pin {
  readonly process: string
  readonly number: number
  use: Use
  readonly object: NodeObject
}

export interface ObjectSums {
  objects: number
  /** In memory. */
  live: number
  /** Primary objects in memory that are in no spill file. */
  dirty: number
  writing: number
  pinned: number
  /** Read only by tasks that have not started. */
  prefetched: number
  copies: number
  idleCopies: number
  spilled: number
  spilledObjects: number
}

/** Of objects that went, the latest so many are remembered for the errors of those who look for them. */
const STORIES_MAX = 10_000
const DEAD_OWNERS_MAX = 100_000

export class ObjectTable {
  readonly #all = new Map<string, NodeObject>()
  readonly #pins = new Map<string, Map<number, Pin>>()
  readonly #stories = new Map<string, { readonly reason: string; readonly atMs: number }>()
  readonly #deadOwners = new Set<string>()
  /** Idle objects, least recently used first: those that must be written before their memory can be had, and the others. */
  readonly idleDirty: Set<NodeObject> = new Set()
  readonly idleClean: Set<NodeObject> = new Set()
  readonly sums: ObjectSums = { objects: 0, live: 0, dirty: 0, writing: 0, pinned: 0, prefetched: 0, copies: 0, idleCopies: 0, spilled: 0, spilledObjects: 0 }
  #clock = 0

  values(): Iterable<NodeObject> {
    return this.#all.values()
  }

  get({ owner, object }: ObjectName): NodeObject | undefined {
    return this.#all.get(`${owner}:${object}`)
  }

  add(name: ObjectName, bytes: number, facts: Pick<NodeObject, 'label' | 'role' | 'block' | 'sealed' | 'reported'>): NodeObject {
    const added: NodeObject = {
      owner: name.owner,
      object: name.object,
      bytes,
      ...facts,
      slice: undefined,
      writing: undefined,
      freed: false,
      pins: new Set(),
      waiting: new Set(),
      used: ++this.#clock,
    }
    const key = `${name.owner}:${name.object}`
    this.#all.set(key, added)
    this.#stories.delete(key)
    this.#count(added, 1)
    return added
  }

  /** Every change of what an object is goes through here, so that the sums follow. */
  change(object: NodeObject, apply: (object: NodeObject) => void): void {
    this.#count(object, -1)
    apply(object)
    this.#count(object, 1)
  }

  /** @param reason - why, for those who look for it later */
  remove(object: NodeObject, reason: string | undefined, nowMs: number): void {
    const key = `${object.owner}:${object.object}`
    if (this.#all.get(key) !== object) return
    this.#all.delete(key)
    this.#count(object, -1)
    this.#stories.delete(key)
    if (reason !== undefined) this.#stories.set(key, { reason, atMs: nowMs })
    if (this.#stories.size > STORIES_MAX) this.#stories.delete(this.#stories.keys().next().value as string)
    for (const pin of object.pins) this.#forget(pin)
    object.pins.clear()
  }

  /** What is known of an object that is not here. */
  story({ owner, object }: ObjectName, nowMs: number): string {
    const story = this.#stories.get(`${owner}:${object}`)
    if (story) return `${story.reason}, ${((nowMs - story.atMs) / 1000).toFixed(1)} s ago`
    return this.#deadOwners.has(owner) ? 'its owner is dead' : 'this node has never had it, or has forgotten it'
  }

  ownerDied(owner: string): NodeObject[] {
    this.#deadOwners.add(owner)
    if (this.#deadOwners.size > DEAD_OWNERS_MAX) this.#deadOwners.delete(this.#deadOwners.values().next().value as string)
    return [...this.#all.values()].filter((object) => object.owner === owner)
  }

  /** It was here, or its owner is dead: where it was may be something else. */
  isGone({ owner, object }: ObjectName): boolean {
    return this.#deadOwners.has(owner) || this.#stories.has(`${owner}:${object}`)
  }

  // ---------------------------------------------------------------- pins

  /** The process reads it, or waits until it may. */
  pin(object: NodeObject, process: string, number: number, use: Use, reads: boolean): Pin {
    const pin = { process, number, use, object }
    let pins = this.#pins.get(process)
    if (!pins) this.#pins.set(process, (pins = new Map()))
    pins.set(number, pin)
    this.change(object, () => {
      object.used = ++this.#clock
      if (reads) object.pins.add(pin)
      else object.waiting.add(pin)
    })
    return pin
  }

  pinOf(process: string, number: number): Pin | undefined {
    return this.#pins.get(process)?.get(number)
  }

  unpin(pin: Pin): void {
    this.#forget(pin)
    this.change(pin.object, ({ pins, waiting }) => {
      pins.delete(pin)
      waiting.delete(pin)
    })
  }

  pinsOf(process: string): Pin[] {
    return [...(this.#pins.get(process)?.values() ?? [])]
  }

  /** Those who waited read it now. */
  admit(object: NodeObject): Pin[] {
    const admitted = [...object.waiting]
    this.change(object, ({ pins, waiting }) => {
      for (const pin of admitted) pins.add(pin)
      waiting.clear()
    })
    return admitted
  }

  /** Those who waited wait no longer. */
  dismiss(object: NodeObject): Pin[] {
    const dismissed = [...object.waiting]
    for (const pin of dismissed) this.#forget(pin)
    this.change(object, ({ waiting }) => waiting.clear())
    return dismissed
  }

  #forget({ process, number }: Pin): void {
    const pins = this.#pins.get(process)
    pins?.delete(number)
    if (pins?.size === 0) this.#pins.delete(process)
  }

  #count(object: NodeObject, sign: 1 | -1): void {
    const { sums } = this
    const { bytes, block, slice, role } = object
    const idle = isIdle(object)
    sums.objects += sign
    if (block) {
      sums.live += sign * bytes
      if (role === 'copy') sums.copies += sign * bytes
      else if (!slice) sums.dirty += sign * bytes
      if (object.pins.size > 0) sums.pinned += sign * bytes
      if (isPrefetched(object)) sums.prefetched += sign * bytes
      if (role === 'copy' && idle) sums.idleCopies += sign * bytes
    } else if (slice) {
      sums.spilled += sign * bytes
      sums.spilledObjects += sign
    }
    if (object.writing) sums.writing += sign * bytes
    if (!idle) return
    const set = isClean(object) ? this.idleClean : this.idleDirty
    if (sign > 0) set.add(object)
    else set.delete(object)
  }
}

/** Also while tasks that have not started wait to read it: it comes back for them. */
export function isIdle({ block, sealed, reported, writing, freed, pins }: NodeObject): boolean {
  return block !== undefined && sealed && reported && !writing && !freed && pins.size === 0
}

/** Also while it comes back for them. */
function isPrefetched({ block, sealed, pins, waiting }: NodeObject): boolean {
  const readers = block && !sealed ? waiting : pins
  for (const { use } of readers) if (use !== 'argument') return false
  return readers.size > 0
}

/** Its memory can be had without writing it anywhere. */
export function isClean({ role, slice }: NodeObject): boolean {
  return role === 'copy' || slice !== undefined
}
