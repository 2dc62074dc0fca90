/**
 * A first-in first-out queue that tasks, actors and drivers share. The items live in an actor; a Queue travels like a handle of it.
 */
import { randomBytes } from 'node:crypto'
import { abortReason } from '../core/waiting.ts'
import { BeamlineError } from '../errors.ts'
import { registerClass } from '../objects/registry.ts'
import type { ActorHandle } from './actor.ts'
import { get, type GetOptions, getActor } from './calls.ts'
import type { ObjectRef } from './object-ref.ts'
import { checkNames, whole } from './options.ts'
import { QueueActor, type QueueAnswer } from './queue-actor.ts'
import { remote } from './remote.ts'

/** Options of a {@link Queue}. */
export interface QueueOptions {
  /** Items that it holds at most; then `put` waits. 0: no limit. Default 0. */
  readonly maxSize?: number
  /** Name under which {@link Queue.find} finds it. Default: anonymous. */
  readonly name?: string
  /** Default: that of the driver. */
  readonly namespace?: string
  /** Outlives the program that made it. Default false. Needs a name. */
  readonly detached?: boolean
  /** With a name: use the queue of that name when there is one. Default false. */
  readonly getIfExists?: boolean
}

/** Options of {@link Queue.getBatch}. */
export interface QueueBatchOptions extends GetOptions {
  /** Wait until so many items are there (or the queue is closed). Default 1. */
  readonly min?: number
}

const QUEUE_OPTIONS = ['maxSize', 'name', 'namespace', 'detached', 'getIfExists']
/** Calls that wait must not keep others out. */
const WAITING_MAX = 1_000_000

type Actor<T> = ActorHandle<QueueActor<T>>

/** A queue that is there already. */
class Existing {
  readonly actor: Actor<unknown>
  readonly maxSize: number
  readonly name: string

  constructor(actor: unknown, maxSize: number, name: string) {
    this.actor = actor as Actor<unknown>
    this.maxSize = maxSize
    this.name = name
  }
}

/**
 * Items come out in the order in which they went in, each to exactly one `get`; callers are served in order of arrival. Items are copied
 * into the queue and survive whoever put them; put a reference inside an object to pass a large value on without a copy
 * (`queue.put({ image: ref })`; then the process that made it must live). The queue ends with its last handle unless it is detached.
 *
 * A call that its caller gives up (time limit, signal, death of its process) takes nothing and puts nothing, with one exception: an
 * item on its way to a task that is cancelled or dies at that moment is lost.
 *
 * @example
 * const queue = new Queue<number>({ maxSize: 100 })
 * producer.remote(queue)
 * for await (const item of queue) console.log(item) // until somebody closes it
 */
export class Queue<T> implements AsyncIterable<T>, AsyncDisposable {
  /** 0: no limit. */
  readonly maxSize: number
  /** "" when it has none. */
  readonly name: string
  readonly #actor: Actor<T>

  /** @throws {@link BeamlineError} `INVALID_ARGUMENT`, `NOT_INITIALIZED` */
  constructor(options: QueueOptions = {}) {
    if (options instanceof Existing) {
      this.maxSize = options.maxSize
      this.name = options.name
      this.#actor = options.actor as Actor<T>
      return
    }
    checkNames('a Queue', options, QUEUE_OPTIONS)
    const { maxSize = 0, name = '', ...others } = options
    this.maxSize = whole('maxSize', maxSize, 0)
    this.name = name
    const group = (method: string): { limit: number; methods: string[] } => ({ limit: WAITING_MAX, methods: [method] })
    const concurrencyGroups = { put: group('put'), take: group('take') }
    this.#actor = remote(QueueActor<T>, { ...others, ...(name === '' ? {} : { name }), concurrencyGroups }).remote(maxSize)
  }

  static {
    registerClass<Queue<unknown>>(Queue, {
      name: 'beamline.Queue',
      encode: (queue) => [queue.#actor, queue.maxSize, queue.name],
      decode: ([actor, maxSize, name]: [Actor<unknown>, number, string]) => new Queue(new Existing(actor, maxSize, name)),
    })
  }

  /**
   * The queue of that name.
   *
   * @throws {@link BeamlineError} `ACTOR_NOT_FOUND`
   */
  static async find<T>(name: string, options: { readonly namespace?: string } = {}): Promise<Queue<T>> {
    const actor = await getActor<QueueActor<T>>(name, options)
    return new Queue<T>(new Existing(actor, await get(actor.limit.remote()), name))
  }

  /**
   * Adds an item; waits for room.
   *
   * @param options.timeoutMs - 0: only if there is room now
   * @throws {@link BeamlineError} `QUEUE_FULL` after `timeoutMs`, `QUEUE_CLOSED`, `CANCELLED` by `signal`; `ACTOR_DIED` when the queue is gone
   */
  async put(item: T, options: GetOptions = {}): Promise<void> {
    await this.putBatch([item], options)
  }

  /**
   * Adds items side by side, all or none; waits for room for all. A batch larger than `maxSize` goes in when the queue is empty.
   *
   * @throws as {@link put}
   */
  async putBatch(items: readonly T[], options: GetOptions = {}): Promise<void> {
    if (items.length === 0) return
    await this.#wait(
      (ticket, timeoutMs) => this.#actor.put.remote(ticket, items, timeoutMs),
      options,
      (size) => {
        return new BeamlineError('QUEUE_FULL', { queue: this.#label, timeoutMs: options.timeoutMs ?? 0, size, maxSize: this.maxSize })
      },
    )
  }

  /**
   * Takes the oldest item; waits for one.
   *
   * @param options.timeoutMs - 0: only if there is one now
   * @throws {@link BeamlineError} `QUEUE_EMPTY` after `timeoutMs`, `QUEUE_CLOSED` when it is closed and empty, `CANCELLED` by `signal`; `ACTOR_DIED` when the queue is gone
   */
  async get(options: GetOptions = {}): Promise<T> {
    const [item] = await this.getBatch(1, options)
    return item as T
  }

  /**
   * Takes up to `max` of the oldest items as soon as there are `min`.
   *
   * @throws as {@link get}
   */
  async getBatch(max: number, options: QueueBatchOptions = {}): Promise<T[]> {
    whole('max', max, 1)
    const min = whole('min', options.min ?? 1, 1)
    if (min > max) throw new BeamlineError('INVALID_ARGUMENT', { what: 'min', got: String(min), expected: `at most max (${max})` })
    const { timeoutMs = 0 } = options
    return await this.#wait(
      (ticket, limit) => this.#actor.take.remote(ticket, min, max, limit),
      options,
      () => {
        return new BeamlineError('QUEUE_EMPTY', { queue: this.#label, timeoutMs })
      },
    )
  }

  /** Items in it now. */
  async size(): Promise<number> {
    return await get(this.#actor.size.remote())
  }

  /** Ends it: nothing more can be put, waiting puts fail, and who takes gets what is left and then `QUEUE_CLOSED`. */
  async close(): Promise<void> {
    await get(this.#actor.close.remote())
  }

  /** Takes items until the queue is closed and empty. Several loops, also in several processes, share the items. */
  async *[Symbol.asyncIterator](): AsyncGenerator<T, undefined> {
    for (;;) {
      let item: T
      try {
        item = await this.get()
      } catch (error) {
        if (BeamlineError.is(error, 'QUEUE_CLOSED')) return
        throw error
      }
      yield item
    }
  }

  /** {@link Queue.close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  get #label(): string {
    return this.name === '' ? 'without a name' : `"${this.name}"`
  }

  async #wait(
    call: (ticket: string, timeoutMs: number) => ObjectRef<QueueAnswer<T>>,
    options: GetOptions,
    late: (size: number) => BeamlineError,
  ): Promise<T[]> {
    const { timeoutMs = Number.POSITIVE_INFINITY, signal } = options
    if (!(timeoutMs >= 0)) throw new BeamlineError('INVALID_ARGUMENT', { what: 'timeoutMs', got: String(timeoutMs), expected: 'a number of at least 0' })
    if (signal?.aborted) throw abortReason(signal)
    const ticket = randomBytes(8).toString('hex')
    using ref = call(ticket, timeoutMs)
    // The actor decides whether the call was served before.
    const withdraw = (): void => this.#actor.withdraw.remote(ticket).release()
    signal?.addEventListener('abort', withdraw, { once: true })
    try {
      const answer = await get(ref)
      if ('items' in answer) return [...answer.items]
      if (answer.refused === 'closed') throw new BeamlineError('QUEUE_CLOSED', { queue: this.#label })
      throw answer.refused === 'timeout' ? late(answer.size) : signal ? abortReason(signal) : late(answer.size)
    } finally {
      signal?.removeEventListener('abort', withdraw)
    }
  }
}
