/**
 * Payloads that are still what `ship` would make: of functions that captured nothing that can change, and of functions that came from
 * another process that way. A worker that calls what it was sent needs no look into scopes.
 */
import { hash as digest } from 'node:crypto'
import type { ShippedFunction } from './index.ts'

interface Kept {
  readonly shipped: ShippedFunction
  readonly functions: readonly Function[]
  /** own keys that each function had */
  readonly keys: number
}

const kept = new WeakMap<object, Kept>()

/** @param functions - those whose own properties are part of the payload: it holds as long as they get no others */
export function keep(target: object, shipped: ShippedFunction, functions: readonly Function[]): void {
  kept.set(target, { shipped, functions, keys: countKeys(functions) })
}

export function keptFor(target: object): ShippedFunction | undefined {
  const known = kept.get(target)
  return known && countKeys(known.functions) === known.keys ? known.shipped : undefined
}

export function shippedFrom(bytes: Uint8Array, externals: readonly unknown[]): ShippedFunction {
  return { hash: digest('sha256', bytes, 'hex').slice(0, 32), bytes, externals }
}

function countKeys(functions: readonly Function[]): number {
  let count = 0
  for (const fn of functions) count += Reflect.ownKeys(fn).length
  return count
}
