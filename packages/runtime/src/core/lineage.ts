/**
 * Lineage: how this process brings back objects of its own whose bytes are lost with a node or a disk.
 *
 * A finished call is kept while somebody can reach a result of it that lies in the store (or holds references), so that it can run again.
 * Its arguments are kept for it as *needed*: their bytes may be freed meanwhile, they are made again first, and so on back. Small values
 * stay as they are. What put() stored cannot be made again.
 *
 *            bytes lost                 none                  run again
 *   ready ─────────────► copy searched ──────► pending ─────────────────► ready, or failed with OBJECT_LOST
 *     ▲                        │ found                     ▲
 *     └────────────────────────┘          wanted           │
 *   needed only, bytes freed ──────────────────────────────┘
 *
 * Pure: the port does the sending. Chains of calls may be long, so nothing here recurses along them.
 */
import { BeamlineError, type ErrorDetails } from '../errors.ts'
import type { Place } from '../net/gen/peer.ts'
import { type Extras, isSamePlace, type ObjectEntry, type Producer, type Stored } from './object-entry.ts'
import { type CallTemplate, type Dependency, TaskRecord } from './task-record.ts'

type StoredPlace = Extract<Stored, { kind: 'place' }>

export interface LineagePort {
  /** Asks for another copy of the object; answered by {@link Lineage.copyFound}. */
  findCopy(entry: ObjectEntry, place: Place): void
  /** The object lies there now. */
  own(place: Place, entry: ObjectEntry, label: string): void
  /** Runs a finished call again; returns why it cannot. */
  rerun(record: TaskRecord): string | undefined
  /** A running stream must not wait for its consumer any more, who waits for an item that it may be past. */
  hurry(record: TaskRecord): void
  /** The bytes are not needed: give back their memory and let go of what they contain. */
  discard(entry: ObjectEntry, stored: Stored): void
  /** The live entry of a reference that was borrowed before; the caller holds it at once. */
  borrowAgain(entry: ObjectEntry): ObjectEntry
  /** Why a node is gone; undefined while it is not. */
  whyDead(node: string): string | undefined
  name(entry: ObjectEntry): string
}

/** What a call is kept for, and what for its sake. */
export class Kept {
  /** Results that it can make again and that somebody needs, by number. */
  readonly results: Map<number, ObjectEntry> = new Map()
  /** Of the specification: arguments and bookkeeping. */
  readonly bytes: number
  /** How often it was run again. */
  reruns = 0
  /** Its arguments are needed, not held. */
  shelved = false
  /** References inside its stored arguments, while shelved. */
  inside: readonly ObjectEntry[] = []

  constructor(bytes: number) {
    this.bytes = bytes
  }
}

/** In place of a maker: why a ready object cannot be made again. */
export class Unrepeatable implements Producer {
  readonly label: string
  readonly why: string

  constructor(label: string, why: string) {
    this.label = label
    this.why = why
  }
}

/** Another copy of a lost object is looked for. */
export class CopySearch implements Producer {
  maker: Producer | undefined
  readonly lost: StoredPlace

  constructor(maker: Producer | undefined, lost: StoredPlace) {
    this.maker = maker
    this.lost = lost
  }

  get label(): string {
    return this.maker?.label ?? 'a task'
  }
}

/** Memory of a record and its entries, about. */
const RECORD_BYTES = 1_024
const NO_ENTRIES: readonly ObjectEntry[] = []

export class Lineage {
  readonly #port: LineagePort
  readonly #bytesMax: number
  /** Oldest first. */
  readonly #kept = new Set<TaskRecord>()
  /** Kept calls per template, whose function counts once. */
  readonly #templates = new Map<CallTemplate, number>()
  #bytes = 0
  /** Entries that kept calls need as arguments, with how many do. */
  readonly #needed = new Map<ObjectEntry, number>()
  #work: (() => void)[] = []
  #working = false
  /** Where lost objects lay, for their story. */
  readonly #lostAt = new WeakMap<ObjectEntry, Place>()

  constructor(port: LineagePort, bytesMax: number) {
    this.#port = port
    this.#bytesMax = bytesMax
  }

  /** Calls that are kept, their bytes, and entries kept as arguments; for lists and leak checks. */
  get usage(): { readonly calls: number; readonly bytes: number; readonly needed: number } {
    return { calls: this.#kept.size, bytes: this.#bytes, needed: this.#needed.size }
  }

  // ---------------------------------------------------------------- keeping

  /** A call made this entry: its value is in the store or holds references. */
  made(record: TaskRecord, entry: ObjectEntry): void {
    const { template } = record
    if (template.maxRetries === 0) {
      const option = template.actor === '' ? 'maxRetries' : 'maxTaskRetries'
      entry.producer = new Unrepeatable(template.name, `"${template.name}" made it and may not run twice (${option} is 0)`)
      return
    }
    if (!record.kept) {
      record.kept = new Kept(RECORD_BYTES + record.args.length + storedBytes(record))
      this.#kept.add(record)
      this.#count(record, 1)
    }
    record.kept.results.set(entry.number, entry)
    entry.producer = record
    if (this.#bytes > this.#bytesMax) this.#evictOldest()
  }

  #count({ template, kept }: TaskRecord, sign: 1 | -1): void {
    const calls = this.#templates.get(template) ?? 0
    if (calls + sign === 0) this.#templates.delete(template)
    else this.#templates.set(template, calls + sign)
    const isShared = sign === 1 ? calls > 0 : calls > 1
    const functionBytes = isShared ? 0 : (template.function?.inline.length ?? 0)
    this.#bytes += sign * ((kept as Kept).bytes + functionBytes)
  }

  #evictOldest(): void {
    for (const record of this.#kept) {
      if (this.#bytes <= this.#bytesMax) return
      if (record.phase === 'done') this.#evict(record, `its lineage was evicted: this process keeps at most ${this.#bytesMax} bytes of finished calls`)
    }
  }

  /** The call is not run again; its results stay while they last. */
  #evict(record: TaskRecord, why: string): void {
    for (const entry of record.kept?.results.values() ?? []) {
      const marker = new Unrepeatable(record.template.name, why)
      if (entry.producer instanceof CopySearch) entry.producer.maker = marker
      else if (entry.stored?.kind !== 'error') entry.producer = marker
    }
    record.kept?.results.clear()
    this.#unkeep(record)
  }

  /** Gives up calls with arguments in the store, which is short of room. */
  releaseStored(): void {
    for (const record of this.#kept) {
      if (record.phase !== 'done' || storedOf(record)?.kind !== 'place') continue
      this.#evict(record, 'the store was short of room, and the large arguments of its call were given up')
    }
  }

  #unkeep(record: TaskRecord): void {
    const { kept } = record
    if (!kept) return
    this.#kept.delete(record)
    this.#count(record, -1)
    record.kept = undefined
    if (!kept.shelved) return
    for (const { entry } of record.dependencies) this.#unneed(entry)
    for (const entry of kept.inside) this.#unneed(entry)
    if (!(record.storedArgs instanceof Promise)) record.storedArgs?.unhold()
  }

  /** The call is done and at no worker. True: its arguments are kept for it, as far as they must be; false: let them go. */
  shelve(record: TaskRecord): boolean {
    const { kept } = record
    if (!kept) return false
    if (kept.results.size === 0) {
      this.#unkeep(record)
      return false
    }
    kept.shelved = true
    for (const { entry } of record.dependencies) this.#need(entry)
    const stored = storedOf(record)
    const extras = extrasOf(stored)
    if (stored && extras) {
      kept.inside = extras.refs
      ;(record.storedArgs as ObjectEntry).stored = { ...(stored as StoredPlace), extras: { ...extras, refs: NO_ENTRIES } }
      for (const entry of kept.inside) this.#need(entry)
    }
    return true
  }

  /** Needed instead of held. What others own is only remembered: it is there again if its owner still has it. */
  #need(entry: ObjectEntry): void {
    if (entry.owner === undefined) this.#needed.set(entry, (this.#needed.get(entry) ?? 0) + 1)
    entry.unhold()
  }

  #unneed(entry: ObjectEntry): void {
    if (entry.owner !== undefined) return
    const count = (this.#needed.get(entry) ?? 0) - 1
    if (count > 0) this.#needed.set(entry, count)
    else {
      this.#needed.delete(entry)
      if (!entry.isHeld) this.#later(() => entry.isHeld || this.#needed.has(entry) || entry.home.dropped(entry))
    }
  }

  /** Held instead of needed, for a run; pending entries are made again. */
  #unshelve(record: TaskRecord, kept: Kept): void {
    const take = (entry: ObjectEntry): ObjectEntry => {
      if (entry.owner !== undefined) return this.#port.borrowAgain(entry).hold()
      entry.hold()
      this.#unneed(entry)
      return entry
    }
    kept.shelved = false
    record.dependencies = record.dependencies.map(({ index, entry }): Dependency => ({ index, entry: take(entry) }))
    const stored = storedOf(record)
    const extras = extrasOf(stored)
    if (stored && extras) (record.storedArgs as ObjectEntry).stored = { ...(stored as StoredPlace), extras: { ...extras, refs: kept.inside.map(take) } }
    kept.inside = NO_ENTRIES
    for (const { entry } of record.dependencies) this.want(entry)
  }

  needs(entry: ObjectEntry): boolean {
    return this.#needed.size > 0 && this.#needed.has(entry)
  }

  /** Nobody holds the entry. True: it stays, since a kept call needs it; its bytes are given back if they can be made again, or were put. */
  dropped(entry: ObjectEntry): boolean {
    const { producer } = entry
    if (this.needs(entry)) {
      const { stored } = entry
      if (stored?.kind === 'place' || (producer instanceof TaskRecord && extrasOf(stored))) {
        entry.unsettle(producer)
        this.#port.discard(entry, stored as Stored)
      }
      return true
    }
    if (producer instanceof CopySearch) {
      entry.producer = undefined
      this.#port.discard(entry, producer.lost)
      this.#forget(producer.maker, entry)
    } else this.#forget(producer, entry)
    return false
  }

  #forget(maker: Producer | undefined, entry: ObjectEntry): void {
    if (!(maker instanceof TaskRecord) || maker.kept?.results.get(entry.number) !== entry) return
    maker.kept.results.delete(entry.number)
    if (maker.kept.results.size === 0 && maker.kept.shelved) this.#later(() => maker.kept?.results.size === 0 && maker.kept.shelved && this.#unkeep(maker))
  }

  // ---------------------------------------------------------------- bringing back

  /** Somebody waits for an object of this process: it is made again if its bytes were freed or lay on a node that is gone. */
  want(entry: ObjectEntry): void {
    const { stored, producer } = entry
    if (entry.owner !== undefined) return
    if (stored === undefined) {
      if (producer instanceof Unrepeatable || (producer instanceof TaskRecord && producer.phase === 'done')) this.#later(() => this.#remake(entry))
    } else if (stored.kind === 'place' && this.#port.whyDead(stored.place.node) !== undefined) this.lost(entry, stored.place)
  }

  /** Nothing was found at the place. Does nothing when the object is elsewhere by now. */
  lost(entry: ObjectEntry, place: Place): void {
    const { stored, producer } = entry
    if (stored?.kind !== 'place' || !isSamePlace(stored.place, place)) return
    this.#lostAt.set(entry, place)
    entry.unsettle(new CopySearch(producer, stored))
    this.#port.findCopy(entry, place)
  }

  /** The entry is about to get another value, while a copy of the lost one is looked for. */
  superseded(entry: ObjectEntry): void {
    const { producer } = entry
    if (!(producer instanceof CopySearch)) return
    entry.producer = producer.maker
    this.#port.discard(entry, producer.lost)
  }

  /** The answer of `findCopy`. */
  copyFound(entry: ObjectEntry, place: Place | undefined): void {
    const search = entry.producer
    if (!(search instanceof CopySearch)) {
      // Nobody wants it any more.
      if (place) {
        this.#port.own(place, entry, 'found')
        this.#port.discard(entry, { kind: 'place', place, extras: undefined })
      }
      return
    }
    const { maker, lost } = search
    entry.producer = maker
    if (place) {
      // The node that has it knows it by its name: to give back what is lost there would be to give back this.
      if (place.node !== lost.place.node) {
        // What is inside goes on with the copy.
        this.#port.discard(entry, { ...lost, extras: undefined })
        this.#port.own(place, entry, search.label)
      }
      entry.settle({ ...lost, place })
      entry.producer = maker
      if (!entry.isHeld) this.dropped(entry)
      return
    }
    this.#port.discard(entry, lost)
    this.#later(() => this.#remake(entry))
  }

  #remake(entry: ObjectEntry): void {
    const maker = entry.producer
    if (entry.stored !== undefined || (!entry.isHeld && !this.needs(entry))) return
    if (maker instanceof Unrepeatable) return this.#fail(entry, maker.why)
    if (!(maker instanceof TaskRecord)) return
    // It is on its way, or made again after the end.
    if (maker.phase !== 'done') return maker.stream && this.#port.hurry(maker)
    const { kept, template } = maker
    if (!kept) return this.#fail(entry, `"${template.name}" made it and is not kept any more`)
    if (template.maxRetries >= 0 && kept.reruns >= template.maxRetries) {
      const option = template.actor === '' ? 'maxRetries' : 'maxTaskRetries'
      return this.#fail(entry, `"${template.name}" was run again ${kept.reruns} times to bring it back, which is its ${option}`)
    }
    kept.reruns++
    maker.rebuilding = true
    if (kept.shelved) this.#unshelve(maker, kept)
    const why = this.#port.rerun(maker)
    if (why === undefined) return
    maker.rebuilding = false
    this.shelve(maker)
    for (const each of [...kept.results.values()]) if (each.stored === undefined) this.#fail(each, why)
    this.#evict(maker, why)
  }

  /** A kept call ended, its results are settled. With an error it is not kept any longer. */
  ended(record: TaskRecord, error: Error | undefined): void {
    const { kept } = record
    record.rebuilding = false
    if (!kept) return
    for (const entry of [...kept.results.values()]) {
      if (entry.stored !== undefined) {
        if (entry.stored.kind === 'error') kept.results.delete(entry.number)
      } else if (entry.producer === record && entry.isHeld) {
        if (error) this.#fail(entry, `running "${record.template.name}" again failed: ${error.message}`, error)
        else this.#later(() => this.#remake(entry)) // lost again while it ran
      }
    }
    if (error) this.#evict(record, `a later run of "${record.template.name}" failed: ${error.message}`)
  }

  /** The failure of a result whose call was run again for it, and failed. */
  rerunFailed(record: TaskRecord, error: Error): BeamlineError {
    const first = record.outputs.find(({ stored }) => stored === undefined)
    const reason = `running "${record.template.name}" again failed: ${error.message}`
    return first ? this.#error(first, reason, error) : new BeamlineError('OBJECT_LOST', { object: 'a result', reason }, { cause: error })
  }

  #fail(entry: ObjectEntry, reason: string, cause?: Error): void {
    const error = this.#error(entry, reason, cause)
    this.#forget(entry.producer, entry)
    entry.settle({ kind: 'error', error })
  }

  #error(entry: ObjectEntry, why: string, cause: Error | undefined): BeamlineError {
    const { producer } = entry
    const details: ErrorDetails<'OBJECT_LOST'> = { object: this.#port.name(entry), reason: why }
    if (producer) details.madeBy = producer.label
    if (producer instanceof TaskRecord && producer.kept) details.reruns = producer.kept.reruns
    const place = this.#lostAt.get(entry)
    if (place) {
      details.node = place.node
      const whyDead = this.#port.whyDead(place.node)
      if (whyDead !== undefined) details.nodeLost = whyDead
    }
    return new BeamlineError('OBJECT_LOST', details, cause ? { cause } : undefined)
  }

  // ---------------------------------------------------------------- long chains

  #later(step: () => void): void {
    this.#work.push(step)
    this.#run()
  }

  #run(): void {
    if (this.#working) return
    this.#working = true
    try {
      for (let steps = this.#work; steps.length > 0; steps = this.#work) {
        this.#work = []
        for (const step of steps) step()
      }
    } finally {
      this.#working = false
    }
  }
}

export function extrasOf(stored: Stored | undefined): Extras | undefined {
  return stored?.kind === 'bytes' || stored?.kind === 'place' ? stored.extras : undefined
}

function storedOf(record: TaskRecord): Stored | undefined {
  return record.storedArgs instanceof Promise ? undefined : record.storedArgs?.stored
}

function storedBytes(record: TaskRecord): number {
  const stored = storedOf(record)
  return stored?.kind === 'place' ? stored.place.bytes : stored?.kind === 'bytes' ? stored.bytes.length : 0
}
