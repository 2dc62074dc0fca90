/**
 * References to objects, and streams of them, as users hold them.
 */
import type { ItemStream } from '../core/item-stream.ts'
import type { ObjectEntry } from '../core/object-entry.ts'
import { current, currentOrNone } from '../core/current.ts'
import { EXTERNAL } from '../core/external.ts'
import { whileBlocked } from '../core/running-task.ts'
import { BeamlineError } from '../errors.ts'

/** What a reference holds, apart from it: the finalizer must not see an entry that was released by hand. */
interface Held {
  entry: ObjectEntry | undefined
}

// Without unregister tokens: a token costs ten times as much as the registration itself.
const collected = new FinalizationRegistry<Held>(letGo)

function letGo(held: Held): void {
  const { entry } = held
  held.entry = undefined
  entry?.unhold()
}

let entryOfRef: (ref: ObjectRef<unknown>) => ObjectEntry

/**
 * A reference to a value that exists, or will, somewhere in the cluster. Not thenable on purpose: an async function may
 * return one. Read it with {@link get}; pass it as an argument and the callee gets the value; put it inside an
 * argument and the callee gets the reference.
 *
 * The object lives as long as any reference to it does, on any process. References are let go when they are collected,
 * by `using`, or by {@link ObjectRef.release}.
 */
export class ObjectRef<T> {
  /** Only for the type system: what the reference refers to. */
  declare readonly type: T
  readonly #held: Held

  static {
    entryOfRef = (ref) => {
      const { entry } = ref.#held
      if (entry) return entry
      throw new BeamlineError('INVALID_ARGUMENT', { what: 'an ObjectRef', got: 'released', expected: 'one that is still held' })
    }
  }

  /** Made by the runtime only. */
  constructor(entry: ObjectEntry) {
    this.#held = { entry: entry.hold() }
    collected.register(this, this.#held)
  }

  /** `<owner process>:<number>`; the same on every process. */
  get id(): string {
    return current().references.name(entryOfRef(this))
  }

  /** Lets go of the object now instead of at collection. The reference cannot be used afterwards. */
  release(): void {
    letGo(this.#held)
  }

  /** {@link ObjectRef.release}, for `using`. */
  [Symbol.dispose](): void {
    this.release()
  }

  /** For people: the id, or that it was released. */
  toString(): string {
    return this.#held.entry ? `ObjectRef(${this.id})` : 'ObjectRef(released)'
  }

  /** The same text: a reference in JSON is for people to read and does not keep the object. */
  toJSON(): string {
    return this.toString()
  }
}

Object.defineProperty(ObjectRef.prototype, EXTERNAL, { value: true })

/** The entry behind a value that is an ObjectRef; undefined for anything else. Throws for a released one. */
export function entryOf(value: unknown): ObjectEntry | undefined {
  return value instanceof ObjectRef ? entryOfRef(value) : undefined
}

const dropped = new FinalizationRegistry<ItemStream>((stream) => stream.stop())

/**
 * The items of a streaming task, as references, in order and while it still runs. Breaking out of the loop, disposing,
 * or dropping the stream stops the producer.
 *
 * @example
 * for await (const ref of numbers.remote(10)) console.log(await get(ref))
 */
export class ObjectRefStream<T> implements AsyncIterableIterator<ObjectRef<T>, undefined> {
  readonly #stream: ItemStream

  /** Made by the runtime only. */
  constructor(stream: ItemStream) {
    this.#stream = stream
    dropped.register(this, stream)
  }

  /** The stream itself: it can be read once. */
  [Symbol.asyncIterator](): this {
    return this
  }

  /** The reference of the next item. Rejects with the error that ended the stream. */
  async next(): Promise<IteratorResult<ObjectRef<T>, undefined>> {
    const entry = await whileBlocked(() => {
      const taken = this.#stream.take()
      return currentOrNone()?.keepAlive.during(taken) ?? taken
    })
    if (!entry) return { done: true, value: undefined }
    const ref = new ObjectRef<T>(entry)
    entry.unhold()
    return { done: false, value: ref }
  }

  /** Stops the producer; what was made but not read is let go. */
  async return(): Promise<IteratorResult<ObjectRef<T>, undefined>> {
    this.#stream.stop()
    return { done: true, value: undefined }
  }

  /** {@link ObjectRefStream.return}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}
