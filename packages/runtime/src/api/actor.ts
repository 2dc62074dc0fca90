/**
 * Remote classes and actor handles: what `remote(Class)` returns.
 */
import { types } from 'node:util'
import { current } from '../core/current.ts'
import type { ActorClient, ActorDescription, MethodInfo } from '../core/actors.ts'
import type { HeldHandle, ObjectEntry } from '../core/object-entry.ts'
import type { CallTemplate } from '../core/task-record.ts'
import { EXTERNAL } from '../core/external.ts'
import { BeamlineError } from '../errors.ts'
import { REMOTE, type RemoteParts } from '../functions/remote-handles.ts'
import { LIMITS } from '../limits.ts'
import { ObjectRef, ObjectRefStream } from './object-ref.ts'
import { checkNames, RESOURCE_OPTIONS, type ResourceOptions, childGroup, joinedGroup, toShape, whole } from './options.ts'
import { type Args, isGenerator, type RefOf } from './task.ts'

export interface ActorOptions extends ResourceOptions {
  /** Name under which {@link getActor} finds it. Default: anonymous. */
  readonly name?: string
  /** Default: that of the driver. */
  readonly namespace?: string
  /** Lives until it is stopped, whatever becomes of its creator. Default false. Needs a name. */
  readonly detached?: boolean
  /** With a name: use the actor of that name when there is one. Default false. */
  readonly getIfExists?: boolean
  /** Starts again after a crash so often at most, with a new instance; -1: no limit. Default 0. */
  readonly maxRestarts?: number
  /** Calls that a crash interrupted are repeated so often; -1: no limit. Default 0: at most once. */
  readonly maxTaskRetries?: number
  /** Calls at once. Default: 1, or 1000 when the class has async methods. */
  readonly maxConcurrency?: number
  /** Named groups of methods with limits of their own: `{ io: { limit: 8, methods: ['read'] } }`. */
  readonly concurrencyGroups?: Readonly<Record<string, { readonly limit: number; readonly methods: readonly string[] }>>
  /** Calls of one process that wait or run, beyond which further ones are refused; 0: no limit. Default 0. */
  readonly maxPendingCalls?: number
  /** How long a stop in order may take, in ms, before the worker is killed. Default 30,000. */
  readonly stopTimeoutMs?: number
  /** Values of free variables by name, instead of capturing them. */
  readonly captures?: Readonly<Record<string, unknown>>
}

const ACTOR_OPTIONS = [
  ...RESOURCE_OPTIONS,
  'name',
  'namespace',
  'detached',
  'getIfExists',
  'maxRestarts',
  'maxTaskRetries',
  'maxConcurrency',
  'concurrencyGroups',
  'maxPendingCalls',
  'stopTimeoutMs',
  'captures',
]

type AnyMethod = (...args: never[]) => unknown

/** One method of an actor. */
export interface ActorMethod<A extends readonly unknown[], Out> {
  /** Calls the method; the calls that one process makes of one actor start in order. */
  remote(...args: Args<A>): Out
}

/** The methods of class C, callable from any process that has the handle. */
export type ActorHandle<C> = {
  readonly [K in keyof C as C[K] extends AnyMethod ? (K extends string ? K : never) : never]: C[K] extends (...args: infer A) => infer R
    ? ActorMethod<A, RefOf<R>>
    : never
}

export interface RemoteClass<A extends readonly unknown[], C> {
  /** Starts an actor and returns its handle at once. */
  remote(...args: Args<A>): ActorHandle<C>
  /** The same class with other options. */
  options(options: ActorOptions): RemoteClass<A, C>
}

/** What a handle's proxy stands for. */
class HandleTarget {
  readonly held: HeldHandle
  readonly #client: ActorClient
  readonly #methods = new Map<string, ActorMethod<unknown[], unknown>>()
  /** A method that somebody took from the handle keeps it, and so the actor. */
  handle: object | undefined = undefined

  constructor(held: HeldHandle, client: ActorClient) {
    this.held = held
    this.#client = client
  }

  get client(): ActorClient {
    return this.#client
  }

  method(name: string): ActorMethod<unknown[], unknown> {
    let method = this.#methods.get(name)
    if (!method) {
      const info = this.#client.description.methods[name]
      if (!info) {
        const { className, methods } = this.#client.description
        throw new BeamlineError('INVALID_ARGUMENT', {
          what: `method "${name}" of actor ${className}`,
          got: 'not there',
          expected: `one of ${Object.keys(methods).join(', ') || 'none: it has no methods'}`,
        })
      }
      const template = methodTemplate(this.#client.description, name, info)
      method = { remote: (...args) => this.#call(template, args) }
      this.#methods.set(name, method)
    }
    return method
  }

  #call(template: CallTemplate, args: unknown[]): unknown {
    const client = this.#client
    const runtime = current(`${template.name}.remote()`)
    const { maxPendingCalls } = client.description
    if (maxPendingCalls > 0 && client.pending >= maxPendingCalls) {
      throw new BeamlineError('PENDING_CALLS_LIMIT', { actor: client.description.className, pending: client.pending, max: maxPendingCalls })
    }
    const record = runtime.submitter.submitCall(template, args, client, this.held.lifetime)
    const [output] = record.outputs
    return record.stream ? new ObjectRefStream(record.stream) : new ObjectRef(output as ObjectEntry)
  }
}

function methodTemplate(description: ActorDescription, method: string, info: MethodInfo): CallTemplate {
  const { actor, className, maxTaskRetries } = description
  return {
    name: `${className}.${method}`,
    hash: '',
    function: undefined,
    returns: 1,
    streaming: info.streaming,
    itemsMax: LIMITS.streamItemsAhead,
    actor,
    method,
    concurrencyGroup: info.concurrencyGroup,
    retryOn: undefined,
    maxCalls: 0,
    maxRetries: maxTaskRetries,
    timeoutMs: undefined,
    group: '',
  }
}

const released = new FinalizationRegistry<ObjectEntry>((entry) => entry.unhold())
const targets = new WeakMap<object, HandleTarget>()

/** A handle from its description; holds the actor's lifetime until it is collected. */
export function makeHandle(held: HeldHandle, client?: ActorClient): object {
  const target = new HandleTarget(held, client ?? current('an actor handle').actors.clientOf(held))
  const { className, actor } = target.client.description
  const handle = new Proxy(Object.create(null) as object, {
    get: (_, property) => {
      if (property === EXTERNAL) return true
      if (property === Symbol.toStringTag) return `ActorHandle ${className}`
      if (property === 'toString' || property === 'toJSON') return () => `ActorHandle(${className} ${actor})`
      // A handle is no promise, whatever `await` asks.
      if (typeof property === 'symbol' || property === 'then') return undefined
      return target.method(property)
    },
    has: (_, property) => property === EXTERNAL || (typeof property === 'string' && property in target.client.description.methods),
    set: (_, property) => {
      throw new BeamlineError('INVALID_ARGUMENT', {
        what: `property ${String(property)} of an actor handle`,
        got: 'assigned',
        expected: 'a method call: state lives in the actor',
      })
    },
  })
  targets.set(handle, target)
  target.handle = handle
  if (held.lifetime) {
    held.lifetime.hold()
    released.register(handle, held.lifetime)
  }
  return handle
}

/** What is behind a value that is an actor handle; undefined for anything else. */
export function targetOf(value: unknown): { readonly held: HeldHandle; readonly client: ActorClient } | undefined {
  return typeof value === 'object' && value !== null ? targets.get(value) : undefined
}

/** Methods of a class that callers may use, up its chain of prototypes. */
function methodsOf(Class: Function, groups: ActorOptions['concurrencyGroups']): { methods: Record<string, MethodInfo>; hasAsync: boolean } {
  const methods: Record<string, MethodInfo> = {}
  let hasAsync = false
  const groupOf = (name: string): string => Object.entries(groups ?? {}).find(([, { methods: names }]) => names.includes(name))?.[0] ?? ''
  for (
    let prototype = Class.prototype as object | null;
    prototype && prototype !== Object.prototype;
    prototype = Object.getPrototypeOf(prototype) as object | null
  ) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
      if (name === 'constructor' || typeof value !== 'function' || name in methods) continue
      if (types.isAsyncFunction(value)) hasAsync = true
      methods[name] = { streaming: isGenerator(value as Function), concurrencyGroup: groupOf(name) }
    }
  }
  for (const [group, { methods: names }] of Object.entries(groups ?? {})) {
    for (const name of names) {
      if (!methods[name])
        throw new BeamlineError('INVALID_ARGUMENT', { what: `concurrencyGroups.${group}`, got: `"${name}"`, expected: `methods of ${Class.name}` })
    }
  }
  return { methods, hasAsync }
}

class ClassHandle {
  readonly #Class: Function
  readonly #options: ActorOptions
  readonly #methods: Record<string, MethodInfo>
  readonly #maxConcurrency: number

  static {
    // It travels as what it was made of.
    const get = function (this: ClassHandle): RemoteParts {
      return { target: this.#Class, options: this.#options as RemoteParts['options'] }
    }
    Object.defineProperties(this.prototype, { [EXTERNAL]: { value: true }, [REMOTE]: { get } })
  }

  constructor(Class: Function, options: ActorOptions) {
    checkNames('an actor', options, ACTOR_OPTIONS)
    toShape(options, 0)
    const { maxRestarts = 0, maxTaskRetries = 0, maxPendingCalls = 0, stopTimeoutMs = LIMITS.actorStopMs, detached, name, getIfExists } = options
    whole('maxRestarts', maxRestarts, -1)
    whole('maxTaskRetries', maxTaskRetries, -1)
    whole('maxPendingCalls', maxPendingCalls, 0)
    whole('stopTimeoutMs', stopTimeoutMs, 0)
    if ((detached || getIfExists) && !name)
      throw new BeamlineError('INVALID_ARGUMENT', { what: 'name', got: 'absent', expected: 'a name, for detached and getIfExists' })
    for (const [group, { limit }] of Object.entries(options.concurrencyGroups ?? {})) whole(`concurrencyGroups.${group}.limit`, limit, 1)
    const { methods, hasAsync } = methodsOf(Class, options.concurrencyGroups)
    this.#Class = Class
    this.#options = options
    this.#methods = methods
    this.#maxConcurrency = whole('maxConcurrency', options.maxConcurrency ?? (hasAsync ? LIMITS.asyncActorConcurrency : 1), 1)
  }

  options(options: ActorOptions): ClassHandle {
    return new ClassHandle(this.#Class, { ...this.#options, ...options })
  }

  remote(...args: unknown[]): object {
    const className = this.#Class.name || 'anonymous class'
    const runtime = current(`${className}.remote()`)
    const {
      name = '',
      namespace = runtime.namespace,
      detached = false,
      getIfExists = false,
      maxRestarts = 0,
      maxTaskRetries = 0,
      maxPendingCalls = 0,
    } = this.#options
    const { hash, value, extras } = runtime.values.functionToWire(runtime.ship(this.#Class, this.#options.captures))
    const joined = joinedGroup(this.#options)
    const template: CallTemplate = {
      name: className,
      hash,
      function: value,
      returns: 1,
      streaming: false,
      itemsMax: 0,
      actor: '',
      method: 'constructor',
      concurrencyGroup: '',
      retryOn: undefined,
      maxCalls: 0,
      maxRetries: 0,
      timeoutMs: undefined,
      group: childGroup(this.#options, joined),
    }
    const groups = Object.entries(this.#options.concurrencyGroups ?? {}).map(([group, { limit }]): [string, number] => [group, limit])
    const { held, client } = runtime.actors.create({
      template,
      args,
      shape: { ...toShape(this.#options, 0, joined), retriable: maxRestarts !== 0 },
      name,
      namespace,
      detached,
      getIfExists,
      maxRestarts,
      maxConcurrency: this.#maxConcurrency,
      concurrencyGroups: Object.fromEntries(groups),
      stopTimeoutMs: this.#options.stopTimeoutMs ?? LIMITS.actorStopMs,
      description: { className, name, methods: this.#methods, maxTaskRetries, maxPendingCalls },
    })
    if (extras) void client.dead().then(() => runtime.values.letGo(extras))
    return makeHandle(held, client)
  }
}

export function remoteClass(Class: Function, options: ActorOptions): ClassHandle {
  return new ClassHandle(Class, options)
}
