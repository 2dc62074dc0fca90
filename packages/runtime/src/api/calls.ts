/**
 * What users call on references and actors: get, put, wait, cancel, kill, stop, getActor.
 */
import { current } from '../core/current.ts'
import type { HeldHandle, ObjectEntry, Stored } from '../core/object-entry.ts'
import { runningTask } from '../core/running-task.ts'
import type { Runtime } from '../core/runtime.ts'
import { TaskRecord } from '../core/task-record.ts'
import { abortReason, EntryWaiter, type WaitEnd, within } from '../core/waiting.ts'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import { describe } from './explain.ts'
import { type ActorHandle, makeHandle, targetOf } from './actor.ts'
import { entryOf, ObjectRef } from './object-ref.ts'
import { whole } from './options.ts'

/** Options of {@link get}: how long to wait, and what ends the wait. */
export interface GetOptions {
  /** Reject with `GET_TIMEOUT` after so many ms. Default: no limit. 0 polls. */
  readonly timeoutMs?: number
  /** Reject with `CANCELLED` when it aborts. */
  readonly signal?: AbortSignal
}

/** The values behind a reference, an array or a record of references. */
export type Got<T> = T extends ObjectRef<infer V> ? V : { -readonly [K in keyof T]: T[K] extends ObjectRef<infer V> ? V : never }

function refEntry(value: unknown, where: string, at?: number | string): ObjectEntry {
  const entry = entryOf(value)
  if (entry) return entry
  const got = value instanceof Promise ? 'a promise (await it first)' : value === null ? 'null' : typeof value
  throw new BeamlineError('INVALID_ARGUMENT', { what: at === undefined ? where : `${where}, at ${JSON.stringify(at)}`, got, expected: 'an ObjectRef' })
}

/** Waits for entries; lends the CPU of the task that waits. */
async function await_(runtime: Runtime, pending: readonly ObjectEntry[], count: number, failFast: boolean, options: GetOptions): Promise<WaitEnd> {
  const { timeoutMs } = options
  if (timeoutMs !== undefined && (typeof timeoutMs !== 'number' || !(timeoutMs >= 0))) {
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'timeoutMs', got: String(timeoutMs), expected: 'a number of at least 0' })
  }
  const task = runningTask()
  const signals = [options.signal, task?.signal].filter((signal) => signal !== undefined)
  for (const signal of signals) if (signal.aborted) throw abortReason(signal)
  if (timeoutMs === 0) {
    for (const entry of pending) runtime.references.want(entry) // so that a later poll finds it
    return 'timeout'
  }
  const waiter = new EntryWaiter(count, failFast)
  for (const entry of pending) {
    runtime.references.want(entry)
    waiter.watch(entry)
  }
  const signal = signals.length > 1 ? AbortSignal.any(signals) : signals[0]
  task?.block()
  runtime.keepAlive.add()
  try {
    return await waiter.end(timeoutMs, signal)
  } finally {
    runtime.keepAlive.done()
    task?.unblock()
  }
}

async function ready(runtime: Runtime, entries: readonly ObjectEntry[], options: GetOptions): Promise<void> {
  const { timeoutMs } = options
  const since = performance.now()
  let left = options
  for (;;) {
    let pending: ObjectEntry[] | undefined
    for (const entry of entries) {
      if (entry.stored === undefined) {
        pending ??= []
        pending.push(entry)
      } else if (entry.stored.kind === 'error') throw thrown(entry.stored)
    }
    if (!pending) return
    if ((await await_(runtime, pending, pending.length, true, left)) === 'timeout') break
    // One that was ready may have been lost while others were waited for.
    if (timeoutMs !== undefined) left = { ...options, timeoutMs: Math.max(0, timeoutMs - (performance.now() - since)) }
  }
  const late = entries.filter((entry) => entry.stored === undefined)
  const first = late[0]
  throw new BeamlineError('GET_TIMEOUT', {
    pending: late.length,
    total: entries.length,
    timeoutMs: timeoutMs ?? 0,
    first: first ? describe(first).text : '',
  })
}

/** The value, once its bytes are on this machine: they may have to come from another one, or from disk. Lends the CPU of the task that waits. */
async function here<T>(runtime: Runtime, loading: Promise<T>, entries: readonly ObjectEntry[], options: GetOptions, since: number): Promise<T> {
  const { timeoutMs, signal } = options
  const task = runningTask()
  const signals = [signal, task?.signal].filter((each) => each !== undefined)
  const leftMs = timeoutMs === undefined ? undefined : Math.max(LIMITS.mapGraceMs, timeoutMs - (performance.now() - since))
  const late = (): BeamlineError => {
    const [first] = entries
    const where = first ? `object ${runtime.references.name(first)} is ready, and its bytes are on their way to this machine` : ''
    return new BeamlineError('GET_TIMEOUT', { pending: entries.length, total: entries.length, timeoutMs: timeoutMs ?? 0, first: where })
  }
  loading.catch(() => undefined) // nobody may be left who waits for it
  task?.block()
  try {
    return await runtime.keepAlive.during(within(loading, leftMs, signals, late))
  } finally {
    task?.unblock()
  }
}

const callers = new WeakSet<Error>()

/** The error of a failed object, with the stack of the first `get` that met it below the remote one. */
function thrown(stored: Stored): Error {
  const error = stored.kind === 'error' ? stored.error : new BeamlineError('INTERNAL', { what: 'a ready object without a value' })
  if (callers.has(error)) return error
  callers.add(error)
  const here = new Error('get').stack
    ?.split('\n')
    .filter((line) => line.startsWith('    at ') && !line.includes(import.meta.url.slice(0, import.meta.url.lastIndexOf('/'))))
  if (here && here.length > 0) error.stack = `${error.stack}\n    --- awaited here ---\n${here.join('\n')}`
  return error
}

/**
 * The value of a reference; of an array or record of references, all their values in one go.
 *
 * Large arrays come back as views of shared memory, without a copy; writing to them changes a private page.
 *
 * @throws the error of the first that failed: `TASK_FAILED` with the user's exception as `cause`, or a system error
 * @throws {@link BeamlineError} `GET_TIMEOUT`, `CANCELLED`
 * @example
 * const sum: number = await get(add.remote(1, 2))
 * const { a, b } = await get({ a: refA, b: refB })
 */
export function get<T>(ref: ObjectRef<T>, options?: GetOptions): Promise<T>
export function get<const R extends readonly ObjectRef<unknown>[] | Readonly<Record<string, ObjectRef<unknown>>>>(
  refs: R,
  options?: GetOptions,
): Promise<Got<R>>
export async function get(refs: unknown, options: GetOptions = {}): Promise<unknown> {
  const runtime = current('get()')
  if (refs instanceof ObjectRef) {
    const entry = entryOf(refs) as ObjectEntry
    const since = performance.now()
    if (entry.stored === undefined || entry.stored.kind === 'error') {
      entry.hold() // the reference may be released while this waits
      try {
        await ready(runtime, [entry], options)
        const value = runtime.values.load(entry.stored as unknown as Stored, entry)
        return value instanceof Promise ? await here(runtime, value, [entry], options, since) : value
      } finally {
        entry.unhold()
      }
    }
    const value = runtime.values.load(entry.stored, entry)
    return value instanceof Promise ? await here(runtime, value, [entry], options, since) : value
  }
  if (Array.isArray(refs))
    return await getAll(
      runtime,
      Array.from(refs, (ref, i) => refEntry(ref, 'element of get()', i)),
      options,
    )
  if (typeof refs !== 'object' || refs === null) refEntry(refs, 'the argument of get()')
  const keys = Object.keys(refs as object)
  const entries = keys.map((key) => refEntry((refs as Record<string, unknown>)[key], 'property of get()', key))
  const values = await getAll(runtime, entries, options)
  return Object.fromEntries(keys.map((key, i) => [key, values[i]]))
}

async function getAll(runtime: Runtime, entries: readonly ObjectEntry[], options: GetOptions): Promise<unknown[]> {
  const since = performance.now()
  for (const entry of entries) entry.hold()
  try {
    await ready(runtime, entries, options)
    const values: unknown[] = []
    let waits = false
    for (const entry of entries) {
      const value = runtime.values.load(entry.stored as Stored, entry)
      waits ||= value instanceof Promise
      values.push(value)
    }
    return waits ? await here(runtime, Promise.all(values), entries, options, since) : values
  } finally {
    for (const entry of entries) entry.unhold()
  }
}

/**
 * Store a value and get a reference to it. Values over 100 KiB go to shared memory, in one copy and without a round
 * trip while this process has room in its slabs; when the store is full this waits for room.
 *
 * @throws {@link BeamlineError} `NOT_SERIALIZABLE` with the path of what cannot be stored, `STORE_FULL` naming the biggest holders
 */
export async function put<T>(value: T): Promise<ObjectRef<T>> {
  const runtime = current('put()')
  if (value instanceof ObjectRef)
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'the argument of put()', got: 'an ObjectRef', expected: 'a value; the reference is one already' })
  const task = runningTask()
  const stored = runtime.storeOwned(value, 'the argument of put()', task ? `put in ${task.name}` : 'put')
  const entry = stored instanceof Promise ? await stored : stored
  const ref = new ObjectRef<T>(entry)
  entry.unhold()
  return ref
}

/** Options of {@link wait}. */
export interface WaitOptions extends GetOptions {
  /** How many must be ready. Default 1; 0 only looks. */
  readonly count?: number
}

let waitStamp = 0

/**
 * Wait until at least `count` of `refs` are ready (with a value or an error), without reading them.
 *
 * @param refs - any number; duplicates count once
 * @param options.timeoutMs - on timeout the call *resolves*, with fewer ready; 0 polls
 * @returns `ready` and `pending`, in the order of `refs`; together exactly the distinct ones
 */
export async function wait<T extends ObjectRef<unknown>>(refs: readonly T[], options: WaitOptions = {}): Promise<{ ready: T[]; pending: T[] }> {
  const runtime = current('wait()')
  const count = options.count === undefined ? Math.min(1, refs.length) : whole('count', options.count, 0)
  const now = partition(refs)
  if (count > now.ready.length + now.pending.length) {
    const expected = `at most ${now.ready.length + now.pending.length}, the distinct references given`
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'count', got: String(count), expected })
  }
  if (now.ready.length >= count) return now
  const pending = now.pending.map((ref) => entryOf(ref) as ObjectEntry)
  await await_(runtime, pending, count - now.ready.length, false, options)
  return partition(refs)
}

/** One pass: a loop that waits for one of a thousand references after another looks at half a million of them. */
function partition<T extends ObjectRef<unknown>>(refs: readonly T[]): { ready: T[]; pending: T[] } {
  const stamp = ++waitStamp
  const ready: T[] = []
  const pending: T[] = []
  for (let i = 0; i < refs.length; i++) {
    const ref = refs[i] as T
    const entry = refEntry(ref, 'element of wait()', i)
    if (entry.seenBy === stamp) continue
    entry.seenBy = stamp
    if (entry.stored === undefined) pending.push(ref)
    else ready.push(ref)
  }
  return { ready, pending }
}

/** Options of {@link cancel}. */
export interface CancelOptions {
  /** Kill the worker when the task runs. Default false: its signal aborts and its waits reject. */
  readonly force?: boolean
}

/**
 * Cancel the task behind a reference, with the tasks that it submitted. A queued task is dropped; a running one sees
 * its signal abort ({@link currentTask}); its result fails with `CANCELLED` at once. A finished one stays as it is.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT` for an object that another process owns
 */
export function cancel(ref: ObjectRef<unknown>, options: CancelOptions = {}): void {
  const runtime = current('cancel()')
  const entry = refEntry(ref, 'the argument of cancel()')
  if (entry.owner !== undefined) {
    throw new BeamlineError('INVALID_ARGUMENT', {
      what: 'the argument of cancel()',
      got: `a reference owned by process ${entry.owner}`,
      expected: 'a task that this process submitted',
    })
  }
  if (entry.producer instanceof TaskRecord) runtime.submitter.cancel(entry.producer, options.force ?? false, 'by cancel()')
}

function target(actor: unknown, call: string): NonNullable<ReturnType<typeof targetOf>> {
  const found = targetOf(actor)
  if (found) return found
  throw new BeamlineError('INVALID_ARGUMENT', { what: `the argument of ${call}`, got: typeof actor, expected: 'an actor handle' })
}

/** End an actor now, with SIGKILL. Its calls fail with `ACTOR_DIED`. With `restart` it may start again by its `maxRestarts`. */
export function kill(actor: object, options: { readonly restart?: boolean } = {}): void {
  current('kill()').actors.kill(target(actor, 'kill()').client, !(options.restart ?? false))
}

/** Ask an actor to finish its running calls, run its `[Symbol.asyncDispose]`, and end. Resolves when it has. */
export async function stop(actor: object): Promise<void> {
  const { client } = target(actor, 'stop()')
  const { actors, keepAlive } = current('stop()')
  await keepAlive.during(client.settled())
  if (client.state !== 'DEAD') actors.stop(client, 'by stop()')
  await keepAlive.during(client.dead())
}

/**
 * The handle of a named actor.
 *
 * @param options.namespace - default: that of this program
 * @throws {@link BeamlineError} `ACTOR_NOT_FOUND`
 */
export async function getActor<C>(name: string, options: { readonly namespace?: string } = {}): Promise<ActorHandle<C>> {
  const runtime = current('getActor()')
  const namespace = options.namespace ?? runtime.namespace
  const held: HeldHandle | undefined = await runtime.actors.lookup(name, namespace)
  if (!held) throw new BeamlineError('ACTOR_NOT_FOUND', { name, namespace })
  return makeHandle(held) as ActorHandle<C>
}

/** The task or actor call that runs this code. */
export interface CurrentTask {
  readonly name: string
  /** `<owner>:<number>` */
  readonly id: string
  /** 0 for the first run, one more for each retry. */
  readonly attempt: number
  /** Process id of the worker, 16 hex digits. */
  readonly worker: string
  /** Aborts when the task is cancelled. */
  readonly signal: AbortSignal
}

/** The running task; undefined in the driver. */
export function currentTask(): CurrentTask | undefined {
  const task = runningTask()
  if (!task) return undefined
  return { name: task.name, id: `${task.owner}:${task.number}`, attempt: task.attempt, worker: current().process, signal: task.signal }
}
