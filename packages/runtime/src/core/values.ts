/**
 * Values of this process on their way out and in: what the codec cannot encode itself (references, functions, actor
 * handles) goes beside the bytes; large values go to shared memory.
 */
import { BeamlineError } from '../errors.ts'
import { load, type ShippedFunction, ship } from '../functions/index.ts'
import { REMOTE } from '../functions/remote-handles.ts'
import { LIMITS } from '../limits.ts'
import type { Place, Ref, Shipped, Value } from '../net/gen/peer.ts'
import { decode, encode, encodeInline, write } from '../objects/codec.ts'
import type { ExternalKinds } from './external.ts'
import type { Extras, HeldHandle, ObjectEntry, Stored } from './object-entry.ts'
import type { ObjectStore } from './object-store.ts'
import type { Pin, PinnedMemory } from './pins.ts'
import type { References } from './references.ts'
import { whileBlocked } from './running-task.ts'
import { decodeError, encodeError } from './wire-error.ts'

const EMPTY = new Uint8Array(0)
/** Stands where the codec asks for an index. */
const placeholder = (): void => undefined
const UNDEFINED: Stored = { kind: 'primitive', value: undefined }

type StoredPlace = Extract<Stored, { kind: 'place' }>

/** Collects what one value refers to, in the order in which the codec meets it. */
class ExternalTable {
  readonly refs: ObjectEntry[] = []
  readonly functions: Shipped[] = []
  readonly handles: HeldHandle[] = []
  readonly #seen = new Map<object, number>()
  readonly #kinds: ExternalKinds

  constructor(kinds: ExternalKinds) {
    this.#kinds = kinds
  }

  readonly index = (value: object): number => {
    const seen = this.#seen.get(value)
    if (seen !== undefined) return seen
    const index = this.#add(value)
    this.#seen.set(value, index)
    return index
  }

  #add(value: object): number {
    const handle = this.#kinds.handleOf(value)
    if (handle) return 3 * (this.handles.push(handle) - 1) + 2
    if (typeof value === 'function' || REMOTE in value) return this.addFunction(ship(value))
    const entry = this.#kinds.entryOf(value)
    if (!entry) throw new BeamlineError('INTERNAL', { what: `the codec met an external object of an unknown kind: ${Object.prototype.toString.call(value)}` })
    return 3 * (this.refs.push(entry) - 1)
  }

  addFunction({ hash, bytes, externals }: ShippedFunction): number {
    const message: Shipped = { hash, bytes, externals: externals.map((external) => this.index(external as object)) }
    return 3 * (this.functions.push(message) - 1) + 1
  }

  /** Holds everything in it, for as long as the value is kept. */
  take(): Extras | undefined {
    const { refs, functions, handles } = this
    if (refs.length === 0 && functions.length === 0 && handles.length === 0) return undefined
    for (const entry of refs) entry.hold()
    for (const { lifetime } of handles) lifetime?.hold()
    return { refs, functions, handles }
  }
}

const isSmall = (value: unknown): boolean =>
  value === null ||
  (typeof value !== 'object' && typeof value !== 'function' && (typeof value !== 'string' || value.length < 1024) && typeof value !== 'symbol')

export class Values {
  readonly #references: References
  readonly #store: ObjectStore
  readonly #kinds: ExternalKinds
  readonly #broughtBack: (entry: ObjectEntry, lost: Place) => Promise<void>
  readonly #loaded = new Map<string, Promise<Function>>()

  /** @param broughtBack - resolves when an object whose bytes were not found is ready again, or failed */
  constructor(references: References, store: ObjectStore, kinds: ExternalKinds, broughtBack: (entry: ObjectEntry, lost: Place) => Promise<void>) {
    this.#references = references
    this.#store = store
    this.#kinds = kinds
    this.#broughtBack = broughtBack
  }

  /**
   * A value as its holder keeps it. Synchronous unless it goes to shared memory.
   *
   * @param what - names the value in errors: `the result of task "f"`
   * @param object - identity under which its owner knows the object, asked for only for large values
   * @param inlineMax - bytes up to which it stays in this process; default {@link LIMITS.inlineBytesMax}
   */
  store(value: unknown, what: string, object: () => Ref, inlineMax: number = LIMITS.inlineBytesMax): Stored | Promise<Stored> {
    if (isSmall(value)) return value === undefined ? UNDEFINED : { kind: 'primitive', value }
    const table = new ExternalTable(this.#kinds)
    const encoded = encode(value, what, table.index)
    const extras = table.take()
    if (encoded.byteLength <= inlineMax) {
      const bytes = new Uint8Array(encoded.byteLength)
      write(encoded, bytes)
      return { kind: 'bytes', bytes, extras }
    }
    return this.#store.write(encoded, object()).then(
      (place): Stored => ({ kind: 'place', place, extras }),
      (error: unknown) => {
        if (extras) this.letGo(extras)
        throw error
      },
    )
  }

  /**
   * A function as calls send it ahead, with the hash under which receivers keep it. What it captures is held until
   * `extras` is let go: the function may be called at any time.
   */
  functionToWire(shipped: ShippedFunction): { readonly hash: string; readonly value: Value; readonly extras: Extras | undefined } {
    const table = new ExternalTable(this.#kinds)
    const index = table.addFunction(shipped)
    const bytes = encodeInline(placeholder, 'a function', () => index)
    const extras = table.take()
    const value = this.toWire({ kind: 'bytes', bytes, extras })
    const captured = [
      ...value.refs.map((ref) => `${ref.owner}:${ref.object}`),
      ...value.handles.map((handle) => Buffer.from(handle.description).toString('hex')),
    ]
    return { hash: captured.length > 0 ? `${shipped.hash}:${captured.join()}` : shipped.hash, value, extras }
  }

  letGo(extras: Extras): void {
    for (const entry of extras.refs) entry.unhold()
    for (const { lifetime } of extras.handles) lifetime?.unhold()
  }

  /**
   * The value itself; a promise while its bytes are not in memory here. Throws or rejects with the error that stands in its stead.
   * `entry` is kept while views of it exist.
   */
  load(stored: Stored, entry: ObjectEntry | undefined): unknown {
    switch (stored.kind) {
      case 'primitive':
        return stored.value
      case 'error':
        throw stored.error
      case 'bytes':
        return stored.extras ? this.#decodeWith(stored.bytes, stored.extras) : decode(stored.bytes)
      case 'place': {
        const pin = this.#store.pins.take(stored.place, 'get')
        return pin.memory && this.#store.isReady ? this.#read(stored, entry, pin, pin.memory) : this.#readLater(stored, entry, pin)
      }
    }
  }

  #read({ place, extras }: StoredPlace, entry: ObjectEntry | undefined, pin: Pin, memory: PinnedMemory): unknown {
    entry?.hold()
    const release = (): void => {
      pin.release()
      entry?.unhold()
    }
    let bytes: Uint8Array
    try {
      bytes = this.#store.map(memory, place, release)
    } catch (error) {
      release()
      throw error
    }
    return extras ? this.#decodeWith(bytes, extras) : decode(bytes)
  }

  async #readLater(stored: StoredPlace, entry: ObjectEntry | undefined, pin: Pin): Promise<unknown> {
    entry?.hold()
    try {
      let memory: PinnedMemory
      try {
        await this.#store.ready()
        memory = await pin.ready
      } catch (error) {
        pin.release()
        if (!entry || !BeamlineError.is(error, 'OBJECT_LOST')) throw error
        do await whileBlocked(() => this.#broughtBack(entry, stored.place))
        while (entry.stored === undefined) // it was lost again at once
        return await this.load(entry.stored, entry)
      }
      return await this.#read(stored, entry, pin, memory)
    } finally {
      entry?.unhold()
    }
  }

  #decodeWith(bytes: Uint8Array, extras: Extras): unknown {
    const { refs, handles } = extras
    // By index; an object that stands in several places of the value is made once.
    const made: unknown[] = []
    const internalize = (index: number): unknown => {
      const at = Math.floor(index / 3)
      made[index] ??= index % 3 === 0 ? this.#kinds.makeRef(refs[at] as ObjectEntry) : this.#kinds.makeHandle(handles[at] as HeldHandle)
      return made[index]
    }
    if (extras.functions.length === 0) return decode(bytes, internalize)
    return Promise.all(extras.functions.map((shipped) => this.#loadFunction(shipped, internalize))).then((functions) => {
      functions.forEach((fn, at) => {
        made[3 * at + 1] = fn
      })
      return decode(bytes, internalize)
    })
  }

  #loadFunction(shipped: Shipped, internalize: (index: number) => unknown): Promise<Function> {
    if (shipped.externals.length > 0) return load(shipped.bytes, shipped.externals.map(internalize))
    let loaded = this.#loaded.get(shipped.hash)
    if (loaded)
      this.#loaded.delete(shipped.hash) // to the end: the first is the one unused for longest
    else {
      loaded = load(shipped.bytes, [])
      loaded.catch(() => this.#loaded.delete(shipped.hash))
    }
    this.#loaded.set(shipped.hash, loaded)
    const [oldest] = this.#loaded.keys()
    if (this.#loaded.size > LIMITS.functionsKeptMax && oldest !== undefined) this.#loaded.delete(oldest)
    return loaded
  }

  toWire(stored: Stored): Value {
    switch (stored.kind) {
      case 'primitive':
        return { inline: encodePrimitive(stored.value), place: undefined, error: EMPTY, refs: [], functions: [], handles: [] }
      case 'error':
        return { inline: EMPTY, place: undefined, error: encodeError(stored.error), refs: [], functions: [], handles: [] }
      case 'bytes':
        return { inline: stored.bytes, place: undefined, error: EMPTY, ...this.#extrasToWire(stored.extras) }
      case 'place':
        return { inline: EMPTY, place: stored.place, error: EMPTY, ...this.#extrasToWire(stored.extras) }
    }
  }

  #extrasToWire(extras: Extras | undefined): Pick<Value, 'refs' | 'functions' | 'handles'> {
    if (!extras) return { refs: [], functions: [], handles: [] }
    return {
      refs: extras.refs.map((entry) => this.#references.toRef(entry)),
      functions: extras.functions as Shipped[],
      handles: extras.handles.map(({ description, lifetime }) => ({ description, lifetime: lifetime && this.#references.toRef(lifetime) })),
    }
  }

  /** A value that arrived; everything that it refers to is borrowed and held. */
  fromWire(value: Value): Stored {
    if (value.error.length > 0) return { kind: 'error', error: decodeError(value.error) }
    const extras = this.#extrasFromWire(value)
    if (value.place) return { kind: 'place', place: value.place, extras }
    return extras ? { kind: 'bytes', bytes: value.inline.slice(), extras } : fromInline(value.inline)
  }

  #extrasFromWire(value: Value): Extras | undefined {
    if (value.refs.length === 0 && value.functions.length === 0 && value.handles.length === 0) return undefined
    return {
      refs: value.refs.map((ref) => this.#references.borrow(ref).hold()),
      functions: value.functions,
      handles: value.handles.map(({ description, lifetime }) => ({
        description,
        lifetime: lifetime && this.#references.borrow(lifetime).hold(),
      })),
    }
  }
}

/** Primitive values on the wire; undefined takes no bytes. */
export function encodePrimitive(value: unknown): Uint8Array {
  return value === undefined ? EMPTY : encodeInline(value, 'a value')
}

/** Small values without references: primitives are decoded at once, the rest is copied out of its frame. */
export function fromInline(bytes: Uint8Array): Stored {
  if (bytes.length === 0) return UNDEFINED
  if (bytes.length <= LIMITS.tinyBytesMax) {
    const value = decode(bytes)
    if (typeof value !== 'object' || value === null) return { kind: 'primitive', value }
  }
  return { kind: 'bytes', bytes: bytes.slice(), extras: undefined }
}
