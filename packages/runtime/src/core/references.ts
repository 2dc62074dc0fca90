/**
 * The references of one process: the objects that it owns, those that it borrows, and the borrowing protocol.
 *
 * Rules that keep an object alive while anybody can still reach it:
 * - Whoever sends a reference holds it until the receiver has borrowed it (a task's arguments until `Done`, a
 *   result's references until `ResultReceived`, the inside of an object as long as the object lives).
 * - A borrower tells the owner with BorrowAdd, and sends nothing that would let go of the outer reference
 *   (`Done`, `ResultReceived`, BorrowRemove) before the owner has confirmed, unless it goes to the owner itself.
 */
import { BeamlineError } from '../errors.ts'
import { nodeOf } from '../net/endpoint.ts'
import type { PeerMessage, Place, Ref, Value } from '../net/gen/peer.ts'
import { type EntryHome, isSamePlace, ObjectEntry, type Producer, type Stored, type Waiter } from './object-entry.ts'

/** What the table needs of its process. */
export interface ReferencePort {
  readonly process: string
  readonly address: string
  /** Numbers what must not be done twice. */
  send(process: string, address: string, message: PeerMessage): void
  /** The object is gone: give back its memory and let go of what it contains. */
  discard(entry: ObjectEntry, stored: Stored): void
  toWire(stored: Stored): Value
  fromWire(value: Value): Stored
  /** Nobody holds an entry of this process. True: it stays, as an argument of a call that may have to run again. */
  staysNeeded(entry: ObjectEntry): boolean
  /** Somebody waits for an object of this process, which may have to be made again. */
  wanted(entry: ObjectEntry): void
  /** The bytes of an object of this process are not at that place. */
  bytesLost(entry: ObjectEntry, place: Place): void
}

const FETCH: Producer = { label: 'fetch' }

const LOST = (object: string, reason: string): BeamlineError => new BeamlineError('OBJECT_LOST', { object, reason })

export class References implements EntryHome {
  readonly #port: ReferencePort
  #next = 1
  /** Owned entries that other processes know by number. */
  readonly #shared = new Map<number, ObjectEntry>()
  readonly #borrowed = new Map<string, Map<number, ObjectEntry>>()
  readonly #newBorrows = new Map<string, { address: string; numbers: number[] }>()
  #flushScheduled = false
  /** BorrowAdd messages per owner that are not confirmed. */
  readonly #unconfirmed = new Map<string, number>()
  #afterConfirmation: (() => void)[] = []
  /** Entries of this process that somebody holds; for leak checks. */
  owned = 0

  constructor(port: ReferencePort) {
    this.#port = port
  }

  /** Takes `count` consecutive numbers and returns the first. */
  reserve(count: number): number {
    const first = this.#next
    this.#next += count
    return first
  }

  /** A pending object of this process. */
  create(number: number = this.reserve(1), home: EntryHome = this): ObjectEntry {
    this.owned++
    return new ObjectEntry(number, home)
  }

  get borrowedCount(): number {
    let count = 0
    for (const entries of this.#borrowed.values()) count += entries.size
    return count
  }

  /** `<owner>:<number>`, for people. */
  name(entry: ObjectEntry): string {
    return `${entry.owner ?? this.#port.process}:${entry.number}`
  }

  /** The form in which a reference leaves the process. */
  toRef(entry: ObjectEntry): Ref {
    if (entry.owner !== undefined) return { owner: entry.owner, address: entry.ownerAddress ?? '', object: entry.number }
    if (!entry.shared) {
      entry.shared = true
      this.#shared.set(entry.number, entry)
    }
    return { owner: this.#port.process, address: this.#port.address, object: entry.number }
  }

  /** The entry of a reference that arrived. The caller holds it at once. */
  borrow(ref: Ref): ObjectEntry {
    if (ref.owner === this.#port.process) {
      const entry = this.#shared.get(ref.object)
      if (entry) return entry
      const lost = this.create(ref.object)
      lost.settle({ kind: 'error', error: LOST(`${ref.owner}:${ref.object}`, 'its owner released it') })
      return lost
    }
    let entries = this.#borrowed.get(ref.owner)
    if (!entries) {
      entries = new Map()
      this.#borrowed.set(ref.owner, entries)
    }
    let entry = entries.get(ref.object)
    if (!entry) {
      entry = new ObjectEntry(ref.object, this, ref.owner, ref.address)
      entries.set(ref.object, entry)
      this.#announce(ref)
    }
    return entry
  }

  #announce(ref: Ref): void {
    const batch = this.#newBorrows.get(ref.owner)
    if (batch) batch.numbers.push(ref.object)
    else {
      this.#newBorrows.set(ref.owner, { address: ref.address, numbers: [ref.object] })
      this.#unconfirmed.set(ref.owner, (this.#unconfirmed.get(ref.owner) ?? 0) + 1)
    }
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    queueMicrotask(() => this.#flushBorrows())
  }

  #flushBorrows(): void {
    this.#flushScheduled = false
    for (const [owner, { address, numbers }] of this.#newBorrows) {
      this.#port.send(owner, address, { body: { $case: 'borrowAdd', value: { objects: numbers, number: 0 } } })
    }
    this.#newBorrows.clear()
  }

  /** Runs `action`, which sends to `receiver`, once every owner knows what this process has borrowed so far. */
  whenBorrowed(receiver: string, action: () => void): void {
    if (this.#newBorrows.size > 0) this.#flushBorrows()
    if (this.#unconfirmed.size === 0 || (this.#unconfirmed.size === 1 && this.#unconfirmed.has(receiver))) action()
    else this.#afterConfirmation.push(action)
  }

  borrowConfirmed(owner: string): void {
    const left = (this.#unconfirmed.get(owner) ?? 0) - 1
    if (left > 0) this.#unconfirmed.set(owner, left)
    else this.#unconfirmed.delete(owner)
    this.#releaseBarrier()
  }

  #releaseBarrier(): void {
    if (this.#unconfirmed.size > 0) return
    const actions = this.#afterConfirmation
    this.#afterConfirmation = []
    for (const action of actions) action()
  }

  /** Somebody waits for the object: asks its owner, or has it made again when this process is that. */
  want(entry: ObjectEntry): void {
    if (entry.owner === undefined) this.#port.wanted(entry)
    else if (!entry.stored && !entry.producer) this.#request(entry, entry.owner, undefined)
  }

  #request(entry: ObjectEntry, owner: string, lost: Place | undefined): void {
    entry.producer = FETCH
    if (this.#newBorrows.size > 0) this.#flushBorrows()
    this.#port.send(owner, entry.ownerAddress ?? '', { body: { $case: 'objectRequest', value: { objects: [entry.number], lost } } })
  }

  /** A reader found no bytes at the place: the entry is pending until the owner has said where they are now, or why they are nowhere. */
  lost(entry: ObjectEntry, place: Place): void {
    if (entry.owner === undefined) return this.#port.bytesLost(entry, place)
    const { stored } = entry
    if (stored ? stored.kind !== 'place' || !isSamePlace(stored.place, place) : entry.producer !== undefined) return // news came, or are on their way
    if (stored) {
      entry.unsettle(undefined)
      this.#port.discard(entry, stored)
    }
    if (this.#borrowed.get(entry.owner)?.get(entry.number) === entry) this.#request(entry, entry.owner, place)
    else entry.settle({ kind: 'error', error: this.#ownerDied(entry, `and so are the bytes, which lay on node ${place.node}`) })
  }

  objectArrived(owner: string, number: number, value: Value): void {
    const stored = this.#port.fromWire(value)
    const entry = this.#borrowed.get(owner)?.get(number)
    if (!entry?.settle(stored)) this.#port.discard(new ObjectEntry(number, this, owner), stored)
  }

  /** An entry that nobody holds: free what it stands for, or tell its owner. */
  dropped(entry: ObjectEntry): void {
    const { owner } = entry
    if (owner === undefined) {
      if (this.#port.staysNeeded(entry)) return
      if (entry.shared) this.#shared.delete(entry.number)
      this.owned--
    } else {
      const entries = this.#borrowed.get(owner)
      if (entries?.get(entry.number) === entry) {
        entries.delete(entry.number)
        if (entries.size === 0) this.#borrowed.delete(owner)
        this.whenBorrowed(owner, () =>
          this.#port.send(owner, entry.ownerAddress ?? '', { body: { $case: 'borrowRemove', value: { objects: [entry.number], number: 0 } } }),
        )
      }
    }
    if (entry.stored) this.#port.discard(entry, entry.stored)
  }

  // ---------------------------------------------------------------- as owner

  /** An object of this process by its number; undefined when nobody else ever knew it, or nobody holds it. */
  find(number: number): ObjectEntry | undefined {
    return this.#shared.get(number)
  }

  /** Owners at that node of what this process borrows. */
  ownersAt(node: string): string[] {
    const owners: string[] = []
    for (const [owner, entries] of this.#borrowed) {
      const [any] = entries.values()
      if (any && nodeOf(any.ownerAddress ?? '') === node) owners.push(owner)
    }
    return owners
  }

  /** Objects of this process whose bytes are in the store of a node. */
  *stored(): Iterable<{ readonly entry: ObjectEntry; readonly place: Place }> {
    for (const entry of this.#shared.values()) if (entry.stored?.kind === 'place') yield { entry, place: entry.stored.place }
  }

  borrowAdded(process: string, numbers: readonly number[]): void {
    for (const number of numbers) this.#shared.get(number)?.addBorrower(process)
  }

  borrowRemoved(process: string, numbers: readonly number[]): void {
    for (const number of numbers) this.#shared.get(number)?.removeBorrower(process)
  }

  /** Sends each requested object when it is ready. `lost`: the asker did not find it at that place. */
  objectsRequested(numbers: readonly number[], lost: Place | undefined, reply: (number: number, value: Value) => void): void {
    for (const number of numbers) {
      const entry = this.#shared.get(number)
      if (!entry) {
        const error = LOST(`${this.#port.process}:${number}`, 'its owner released it')
        reply(number, this.#port.toWire({ kind: 'error', error }))
        continue
      }
      if (lost) this.#port.bytesLost(entry, lost)
      this.#port.wanted(entry)
      if (entry.stored) reply(number, this.#port.toWire(entry.stored))
      else {
        const waiter: Waiter = { entryReady: (ready) => reply(number, this.#port.toWire(ready.stored as Stored)) }
        entry.addWaiter(waiter)
      }
    }
  }

  #ownerDied(entry: ObjectEntry, why: string): BeamlineError {
    return new BeamlineError('OWNER_DIED', { object: this.name(entry), owner: entry.owner as string, why })
  }

  /** A process is gone: what it borrowed is let go, what it owned and was not here yet is lost. */
  processLost(process: string, why: string = ''): void {
    for (const entry of [...this.#shared.values()]) entry.removeBorrower(process, true)
    const entries = this.#borrowed.get(process)
    this.#borrowed.delete(process)
    this.#newBorrows.delete(process)
    this.#unconfirmed.delete(process)
    for (const entry of entries?.values() ?? []) {
      if (!entry.stored) entry.settle({ kind: 'error', error: this.#ownerDied(entry, why) })
    }
    this.#releaseBarrier()
  }

  /** The node is gone: nothing pending can become ready. */
  failAll(error: Error): void {
    for (const entries of this.#borrowed.values()) for (const entry of entries.values()) entry.settle({ kind: 'error', error })
  }
}
