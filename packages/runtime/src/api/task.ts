/**
 * Remote functions: what `remote(fn)` returns.
 */
import { current } from '../core/current.ts'
import type { Runtime } from '../core/runtime.ts'
import type { ShapeQueue } from '../core/shape-queue.ts'
import type { CallTemplate } from '../core/task-record.ts'
import { EXTERNAL } from '../core/external.ts'
import { BeamlineError } from '../errors.ts'
import { REMOTE, type RemoteParts } from '../functions/remote-handles.ts'
import type { ShippedFunction } from '../functions/index.ts'
import { LIMITS } from '../limits.ts'
import { checkNames, RESOURCE_OPTIONS, type ResourceOptions, childGroup, joinedGroup, toShape, whole } from './options.ts'
import { ObjectRef, ObjectRefStream } from './object-ref.ts'

/** Which exceptions of user code are retried: all, those with one of these codes or class names, or those that a predicate picks. */
export type RetryOn = boolean | readonly string[] | ((error: unknown) => boolean | Promise<boolean>)

export interface TaskOptions extends ResourceOptions {
  /** Shown in errors, lists and the timeline. Default: the function's name. */
  readonly name?: string
  /** Runs again after system failures (a crashed worker) so often at most; -1: no limit. Default 3. 0: at most once. */
  readonly maxRetries?: number
  /** Also run again, within `maxRetries`, after these exceptions. Default false. */
  readonly retryOn?: RetryOn
  /** The function returns an array of so many values, each with a reference of its own. Default 1. */
  readonly returns?: number
  /** Time limit of one attempt in ms; then `TASK_TIMEOUT`. Default: none. */
  readonly timeoutMs?: number
  /** The worker ends after so many calls of this function; 0: never. Default 0. */
  readonly maxCalls?: number
  /** Items that a streaming task may be ahead of its consumer. Default 16. */
  readonly itemsAhead?: number
  /** Values of free variables by name, instead of capturing them. */
  readonly captures?: Readonly<Record<string, unknown>>
}

const TASK_OPTIONS = [...RESOURCE_OPTIONS, 'name', 'maxRetries', 'retryOn', 'returns', 'timeoutMs', 'maxCalls', 'itemsAhead', 'captures']

/** An argument: the value or a reference to it. */
export type Args<A extends readonly unknown[]> = { [K in keyof A]: A[K] | ObjectRef<Awaited<A[K]>> }

/** What a call of a function that returns R gives: a stream of references for generators, else one reference. */
export type RefOf<R> =
  R extends AsyncGenerator<infer T, unknown, never>
    ? ObjectRefStream<T>
    : R extends Generator<infer T, unknown, never>
      ? ObjectRefStream<T>
      : ObjectRef<Awaited<R>>

/** A reference per element of a returned tuple. */
export type RefsOf<R> = Awaited<R> extends infer T extends readonly unknown[] ? { [K in keyof T]: ObjectRef<T[K]> } : never

/** A function that runs on the workers of the cluster; made by {@link remote}. */
export interface RemoteFunction<A extends readonly unknown[], Out> {
  /** Submits a call and returns at once. Arguments that are references are awaited and resolved. */
  remote(...args: Args<A>): Out
  /** The same function with other options. */
  options(options: TaskOptions & { readonly returns?: 1 }): RemoteFunction<A, Out>
}

const generatorPrototype: unknown = Object.getPrototypeOf(function* () {})
const asyncGeneratorPrototype: unknown = Object.getPrototypeOf(async function* () {})

export function isGenerator(fn: Function): boolean {
  const prototype: unknown = Object.getPrototypeOf(fn)
  return prototype === generatorPrototype || prototype === asyncGeneratorPrototype
}

class TaskHandle {
  readonly #fn: Function
  readonly #options: TaskOptions
  readonly #name: string
  #runtime: Runtime | undefined
  #shipped: ShippedFunction | undefined
  #template: CallTemplate | undefined
  #queue: ShapeQueue | undefined
  #group = ''

  static {
    // It travels as what it was made of.
    const get = function (this: TaskHandle): RemoteParts {
      return { target: this.#fn, options: this.#options as RemoteParts['options'] }
    }
    Object.defineProperties(this.prototype, { [EXTERNAL]: { value: true }, [REMOTE]: { get } })
  }

  constructor(fn: Function, options: TaskOptions) {
    checkNames('a task', options, TASK_OPTIONS)
    this.#fn = fn
    this.#options = options
    this.#name = options.name ?? (fn.name || 'anonymous')
    toShape(options, 1) // refuse bad options now rather than at the first call
    if (options.maxRetries !== undefined) whole('maxRetries', options.maxRetries, -1)
    if (options.returns !== undefined) whole('returns', options.returns, 1)
    if (options.timeoutMs !== undefined) whole('timeoutMs', options.timeoutMs, 1)
    if (options.maxCalls !== undefined) whole('maxCalls', options.maxCalls, 0)
    if (options.itemsAhead !== undefined) whole('itemsAhead', options.itemsAhead, 1)
    if (isGenerator(fn) && (options.returns ?? 1) !== 1) {
      throw new BeamlineError('INVALID_ARGUMENT', {
        what: `returns of the generator "${this.#name}"`,
        got: String(options.returns),
        expected: 'no such option: it streams',
      })
    }
  }

  options(options: TaskOptions): TaskHandle {
    return new TaskHandle(this.#fn, { ...this.#options, ...options })
  }

  remote(...args: unknown[]): unknown {
    const runtime = current(`${this.#name}.remote()`)
    const shipped = runtime.ship(this.#fn, this.#options.captures)
    const joined = joinedGroup(this.#options)
    if (shipped !== this.#shipped || runtime !== this.#runtime || joined !== this.#group) this.#prepare(runtime, shipped, joined)
    const record = runtime.submitter.submit(this.#template as CallTemplate, args, this.#queue as ShapeQueue)
    if (record.stream) return new ObjectRefStream(record.stream)
    const [only] = record.outputs
    if (record.outputs.length === 1 && only) return new ObjectRef(only)
    return record.outputs.map((entry) => new ObjectRef(entry))
  }

  #prepare(runtime: Runtime, shipped: ShippedFunction, joined: string): void {
    const { maxRetries = LIMITS.retriesMax, retryOn = false, returns = 1, timeoutMs, maxCalls = 0, itemsAhead = LIMITS.streamItemsAhead } = this.#options
    const { hash, value, extras } = runtime.values.functionToWire(shipped)
    this.#shipped = shipped
    if (this.#runtime === runtime && this.#template?.hash === hash && this.#group === joined) {
      if (extras) runtime.values.letGo(extras) // its template holds the same
      return
    }
    const retryRule = retryOn === false ? undefined : runtime.values.store(retryOn, `retryOn of "${this.#name}"`, () => ({ owner: '', address: '', object: 0 }))
    if (retryRule instanceof Promise)
      throw new BeamlineError('INVALID_ARGUMENT', { what: 'retryOn', got: 'a very large value', expected: 'true, codes, or a small predicate' })
    this.#template = {
      name: this.#name,
      hash,
      function: value,
      returns,
      streaming: isGenerator(this.#fn),
      itemsMax: itemsAhead,
      actor: '',
      method: '',
      concurrencyGroup: '',
      retryOn: retryRule && runtime.values.toWire(retryRule),
      maxCalls,
      maxRetries,
      timeoutMs,
      group: childGroup(this.#options, joined),
    }
    if (extras) runtime.whenUnused(this.#template, extras)
    this.#group = joined
    const shape = { ...toShape(this.#options, 1, joined), retriable: maxRetries !== 0 }
    this.#queue = runtime.submitter.leases.queueFor(shape, maxRetries === 0 || timeoutMs !== undefined, this.#name)
    this.#runtime = runtime
  }
}

export function remoteFunction(fn: Function, options: TaskOptions): TaskHandle {
  return new TaskHandle(fn, options)
}
