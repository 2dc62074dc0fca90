/**
 * A pool of equal actors that share a stream of calls. Runs in the process that made it; the actors may be anybody's.
 */
import { BeamlineError } from '../errors.ts'
import { cancel, get } from './calls.ts'
import type { ObjectRef } from './object-ref.ts'
import { whole } from './options.ts'

/** Options of an {@link ActorPool}. */
export interface ActorPoolOptions {
  /** Calls that one actor has at a time, running or waiting in its queue. Default 1. */
  readonly callsPerActor?: number
}

/** How a call is made: `(actor) => actor.predict.remote(batch)`. */
export type PoolCall<A, T> = (actor: A) => ObjectRef<T>

interface Member<A> {
  readonly actor: A
  calls: number
}

/** One submitted call. */
interface Job<T> {
  readonly value: Promise<T>
  /** The call of the actor, once it was made. */
  ref: ObjectRef<T> | undefined
  dropped: boolean
}

/**
 * Hands calls to whichever of its actors is free, at most `callsPerActor` to each; further calls wait here in order. An actor that
 * dies leaves the pool, and the call that it ran fails with `ACTOR_DIED`; when the last one has died every call fails until {@link add}.
 *
 * @example
 * const pool = new ActorPool([Model.remote(), Model.remote()])
 * for await (const scores of pool.map((model, batch) => model.score.remote(batch), batches)) console.log(scores)
 */
export class ActorPool<A extends object> {
  readonly #members: Member<A>[] = []
  readonly #callsPerActor: number
  readonly #waiting: ((member: Member<A> | undefined) => void)[] = []
  /** Submitted with {@link submit} and not fetched, oldest first. */
  readonly #submitted = new Set<Job<unknown>>()
  /** Why the last actor is gone. */
  #lost: unknown

  constructor(actors: Iterable<A>, options: ActorPoolOptions = {}) {
    this.#callsPerActor = whole('callsPerActor', options.callsPerActor ?? 1, 1)
    for (const actor of actors) this.add(actor)
    if (this.size === 0) throw new BeamlineError('INVALID_ARGUMENT', { what: 'the actors of an ActorPool', got: 'none', expected: 'at least one' })
  }

  /** Actors in the pool. */
  get size(): number {
    return this.#members.length
  }

  /** Actors that have no call of this pool. */
  get idle(): number {
    return this.#members.filter((member) => member.calls === 0).length
  }

  /** Calls that wait for a free actor. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** One more actor; it takes calls that wait at once. */
  add(actor: A): void {
    const member: Member<A> = { actor, calls: 0 }
    this.#members.push(member)
    this.#serve(member)
  }

  /** Takes an idle actor out of the pool; undefined when all are busy. */
  takeIdle(): A | undefined {
    const at = this.#members.findIndex((member) => member.calls === 0)
    return at < 0 ? undefined : this.#members.splice(at, 1)[0]?.actor
  }

  /**
   * Results in the order of `values`. Draws values only as fast as results are taken: at most twice as many calls are made ahead as
   * the pool has room for. Ends at the first failure with its error; leaving the loop cancels what still runs.
   */
  async *map<V, T>(call: (actor: A, value: V) => ObjectRef<T>, values: Iterable<V> | AsyncIterable<V>): AsyncGenerator<T, undefined> {
    const source = iterate(values)
    const window: Job<T>[] = []
    try {
      for (let more = true; more || window.length > 0; ) {
        while (more && window.length < 2 * this.#room()) {
          const { done, value } = await source.next()
          if (done) more = false
          else window.push(this.#start((actor) => call(actor, value)))
        }
        const first = window[0]
        if (first) yield await first.value
        window.shift()
      }
    } finally {
      for (const job of window) drop(job)
      await source.return?.()
    }
  }

  /** Like {@link map}, with results in the order in which they become ready. */
  async *mapUnordered<V, T>(call: (actor: A, value: V) => ObjectRef<T>, values: Iterable<V> | AsyncIterable<V>): AsyncGenerator<T, undefined> {
    const source = iterate(values)
    const running = new Map<Job<T>, Promise<Job<T>>>()
    try {
      for (let more = true; more || running.size > 0; ) {
        while (more && running.size < 2 * this.#room()) {
          const { done, value } = await source.next()
          if (done) more = false
          else {
            const job = this.#start((actor) => call(actor, value))
            running.set(job, settled(job))
          }
        }
        if (running.size === 0) return
        const job = await Promise.race(running.values())
        running.delete(job)
        yield await job.value
      }
    } finally {
      for (const job of running.keys()) drop(job)
      await source.return?.()
    }
  }

  /** Makes a call as soon as an actor is free. Fetch its result with {@link getNext} or {@link getNextUnordered}. */
  submit<T>(call: PoolCall<A, T>): void {
    this.#submitted.add(this.#start(call))
  }

  /** Whether there are submitted calls whose results were not fetched. */
  get hasNext(): boolean {
    return this.#submitted.size > 0
  }

  /**
   * The result of the oldest submitted call that was not fetched. Rejects with its error.
   *
   * @throws {@link BeamlineError} `INVALID_ARGUMENT` when there is none
   */
  async getNext<T = unknown>(): Promise<T> {
    const [job] = this.#submitted
    if (!job) throw nothingSubmitted('getNext()')
    this.#submitted.delete(job)
    return (await job.value) as T
  }

  /** The result of whichever submitted call is ready first. */
  async getNextUnordered<T = unknown>(): Promise<T> {
    if (this.#submitted.size === 0) throw nothingSubmitted('getNextUnordered()')
    for (;;) {
      const job = await Promise.race([...this.#submitted].map(settled))
      // Another call of this method may have been faster.
      if (this.#submitted.delete(job)) return (await job.value) as T
      if (this.#submitted.size === 0) throw nothingSubmitted('getNextUnordered()')
    }
  }

  #room(): number {
    return Math.max(1, this.#members.length * this.#callsPerActor)
  }

  #start<T>(call: PoolCall<A, T>): Job<T> {
    const member = this.#free()
    const run = async (job: { ref: ObjectRef<T> | undefined; dropped: boolean }): Promise<T> => {
      const isLost = this.#lost !== undefined && this.size === 0
      const actor = member ?? (isLost ? undefined : await new Promise<Member<A> | undefined>((resolve) => this.#waiting.push(resolve)))
      if (!actor) throw this.#lost
      try {
        if (job.dropped) throw new BeamlineError('CANCELLED', { task: 'a call of an ActorPool', reason: 'its results are not wanted any more' })
        job.ref = call(actor.actor)
        return await get(job.ref)
      } catch (error) {
        if (BeamlineError.is(error, 'ACTOR_DIED')) this.#remove(actor, error)
        throw error
      } finally {
        job.ref?.release()
        job.ref = undefined
        actor.calls--
        this.#serve(actor)
      }
    }
    const job: { value: Promise<T>; ref: ObjectRef<T> | undefined; dropped: boolean } = {
      value: Promise.resolve() as Promise<never>,
      ref: undefined,
      dropped: false,
    }
    job.value = run(job)
    // Whoever fetches it sees the error.
    job.value.catch(() => undefined)
    return job
  }

  /** Takes a place at the actor with the fewest calls; undefined when all are full. */
  #free(): Member<A> | undefined {
    let best: Member<A> | undefined
    for (const member of this.#members) if (member.calls < (best?.calls ?? this.#callsPerActor)) best = member
    if (best) best.calls++
    return best
  }

  #serve(member: Member<A>): void {
    while (this.#members.includes(member) && member.calls < this.#callsPerActor) {
      const next = this.#waiting.shift()
      if (!next) return
      member.calls++
      next(member)
    }
  }

  #remove(member: Member<A>, error: unknown): void {
    const at = this.#members.indexOf(member)
    if (at >= 0) this.#members.splice(at, 1)
    if (this.#members.length > 0) return
    this.#lost = error
    for (const next of this.#waiting.splice(0)) next(undefined)
  }
}

function iterate<V>(values: Iterable<V> | AsyncIterable<V>): AsyncIterator<V> | { next(): IteratorResult<V>; return?: () => unknown } {
  return Symbol.asyncIterator in values ? values[Symbol.asyncIterator]() : values[Symbol.iterator]()
}

function settled<T>(job: Job<T>): Promise<Job<T>> {
  return job.value.then(
    () => job,
    () => job,
  )
}

function drop(job: Job<unknown>): void {
  ;(job as { dropped: boolean }).dropped = true
  if (job.ref) cancel(job.ref)
}

const nothingSubmitted = (call: string): BeamlineError =>
  new BeamlineError('INVALID_ARGUMENT', { what: call, got: 'called without a submitted call', expected: 'submit() first; hasNext says whether there is one' })
