/**
 * What one process knows of one object: whether it is ready, what stands for it, who still needs it.
 *
 * An entry exists in the owner of the object and in every borrower. It is the memory that a pending task costs,
 * so it has few fields and creates its lists on demand. It holds no codec and sends nothing.
 */
import type { Place, Shipped } from '../net/gen/peer.ts'

/** A reference, function or actor handle inside a value, as its holder keeps it. */
export interface Extras {
  readonly refs: readonly ObjectEntry[]
  readonly functions: readonly Shipped[]
  readonly handles: readonly HeldHandle[]
}

/** An actor handle inside a value: its description, and the entry that keeps the actor alive (none for detached actors). */
export interface HeldHandle {
  readonly description: Uint8Array
  readonly lifetime: ObjectEntry | undefined
}

/** What stands for a ready object. */
export type Stored =
  | { readonly kind: 'primitive'; readonly value: unknown }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array; readonly extras: Extras | undefined }
  | { readonly kind: 'place'; readonly place: Place; readonly extras: Extras | undefined }
  | { readonly kind: 'error'; readonly error: Error }

/** Told once for each pending entry that it was added to. */
export interface Waiter {
  entryReady(entry: ObjectEntry): void
}

/** What becomes of an entry that nobody holds any longer. */
export interface EntryHome {
  dropped(entry: ObjectEntry): void
}

/** What makes a pending object, for `cancel` and `explain`; of a ready one in the store, what could make it again. */
export interface Producer {
  readonly label: string
}

export function isSamePlace(a: Place, b: Place): boolean {
  return a.node === b.node && a.segment === b.segment && a.offset === b.offset
}

export class ObjectEntry {
  /** Number of the object at its owner. */
  readonly number: number
  /** Process that owns it; undefined: this one. */
  readonly owner: string | undefined
  /** Where the owner listens; undefined: here. */
  readonly ownerAddress: string | undefined
  readonly home: EntryHome
  /** Local handles, uses by unfinished tasks, containers, and views of its memory. */
  holds = 0
  /** Undefined while pending. */
  stored: Stored | undefined = undefined
  producer: Producer | undefined = undefined
  /** Known to others by its number. Owner only. */
  shared = false
  /** Processes that hold it, with how often they said so. Owner only. */
  borrowers: Map<string, number> | undefined = undefined
  /** Stamp of the last `wait` that saw it, to drop duplicates without a set. */
  seenBy = 0
  #waiters: Waiter | Waiter[] | undefined = undefined

  constructor(number: number, home: EntryHome, owner?: string, ownerAddress?: string) {
    this.number = number
    this.home = home
    this.owner = owner
    this.ownerAddress = ownerAddress
  }

  hold(): this {
    this.holds++
    return this
  }

  unhold(): void {
    if (--this.holds === 0 && !this.borrowers?.size) this.home.dropped(this)
  }

  /** Somebody here or elsewhere can still reach it. */
  get isHeld(): boolean {
    return this.holds > 0 || (this.borrowers !== undefined && this.borrowers.size > 0)
  }

  addBorrower(process: string): void {
    this.borrowers ??= new Map()
    this.borrowers.set(process, (this.borrowers.get(process) ?? 0) + 1)
  }

  /** Forgets one borrow of `process`, or all of them. */
  removeBorrower(process: string, all = false): void {
    const count = this.borrowers?.get(process)
    if (!count) return
    if (count > 1 && !all) this.borrowers?.set(process, count - 1)
    else this.borrowers?.delete(process)
    if (this.holds === 0 && !this.borrowers?.size) this.home.dropped(this)
  }

  /** Makes it ready, once; later calls do nothing and return false. */
  settle(stored: Stored): boolean {
    if (this.stored !== undefined) return false
    this.stored = stored
    this.producer = undefined
    const waiters = this.#waiters
    this.#waiters = undefined
    if (waiters === undefined) return true
    if (Array.isArray(waiters)) for (const waiter of waiters) waiter.entryReady(this)
    else waiters.entryReady(this)
    return true
  }

  /** Makes it pending again: what stood for it is gone, and `producer` shall bring it back. */
  unsettle(producer: Producer | undefined): void {
    this.stored = undefined
    this.producer = producer
  }

  /** Only while pending. */
  addWaiter(waiter: Waiter): void {
    if (this.#waiters === undefined) this.#waiters = waiter
    else if (Array.isArray(this.#waiters)) this.#waiters.push(waiter)
    else this.#waiters = [this.#waiters, waiter]
  }

  removeWaiter(waiter: Waiter): void {
    if (this.#waiters === waiter) this.#waiters = undefined
    else if (Array.isArray(this.#waiters)) {
      const at = this.#waiters.indexOf(waiter)
      if (at >= 0) this.#waiters.splice(at, 1)
    }
  }
}
