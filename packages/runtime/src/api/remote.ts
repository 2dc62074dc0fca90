/**
 * `remote()`: functions become tasks, classes become actors.
 */
import { BeamlineError } from '../errors.ts'
import { setRemote } from '../functions/remote-handles.ts'
import { type ActorOptions, type RemoteClass, remoteClass } from './actor.ts'
import { type Args, type RefOf, type RefsOf, type RemoteFunction, remoteFunction, type TaskOptions } from './task.ts'

type AnyFunction = (...args: never[]) => unknown
type AnyClass = new (...args: never[]) => object

/**
 * Make a function or class callable on the workers of the cluster.
 *
 * The function travels with what it captures, as it is at each call; what cannot travel exactly is refused with
 * `NOT_SERIALIZABLE`. Its arguments may be values or references; a reference is awaited and its value passed.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT` for an unknown or impossible option
 * @example
 * const add = remote((a: number, b: number) => a + b, { maxRetries: 5 })
 * const sum = await get(add.remote(1, add.remote(2, 3)))
 *
 * class Counter { #n = 0; add(k: number) { return (this.#n += k) } }
 * const counter = remote(Counter, { maxRestarts: 2 }).remote()
 * await get(counter.add.remote(5))
 */
export function remote<C extends AnyClass>(Class: C, options?: ActorOptions): RemoteClass<ConstructorParameters<C>, InstanceType<C>>
export function remote<F extends AnyFunction>(
  fn: F,
  options: TaskOptions & { readonly returns: number },
): {
  /** Submits a call and returns one reference per result at once. */
  remote(...args: Args<Parameters<F>>): RefsOf<ReturnType<F>>
}
export function remote<F extends AnyFunction>(fn: F, options?: TaskOptions): RemoteFunction<Parameters<F>, RefOf<ReturnType<F>>>
export function remote(target: unknown, options: object = {}): unknown {
  if (typeof target !== 'function') {
    throw new BeamlineError('INVALID_ARGUMENT', {
      what: 'the argument of remote()',
      got: target === null ? 'null' : typeof target,
      expected: 'a function or a class',
    })
  }
  return isClass(target) ? remoteClass(target, options as ActorOptions) : remoteFunction(target, options as TaskOptions)
}

const isClass = (fn: Function): boolean => /^class\b/.test(Function.prototype.toString.call(fn))

setRemote((target, options) => (isClass(target) ? remoteClass(target, options as ActorOptions) : remoteFunction(target, options as TaskOptions)))
