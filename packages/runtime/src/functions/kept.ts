/**
 * Payloads that are still what `ship` would make: of functions that captured nothing that can change, and of functions that came from
 * another process that way. A worker that calls what it was sent needs no look into scopes.
 */
import { hash as digest } from 'node:crypto'
import type { ShippedFunction } from './index.ts'

interface Kept {
  readonly shipped: ShippedFunction
  readonly looks: readonly Look[]
}

/** What could be changed of a function object from outside, as it was. */
interface Look {
  readonly fn: Function
  readonly parent: unknown
  readonly keys: number
  /** undefined for arrow functions and the like */
  readonly prototype: object | undefined
  readonly prototypeKeys: number
  /** methods and accessors of a class: static ones and those of its prototype */
  readonly members: readonly { readonly holder: object; readonly key: string | symbol; readonly value: unknown }[]
}

const kept = new WeakMap<object, Kept>()

/** @param functions - those whose own properties are part of the payload: it holds as long as they stay as they are */
export function keep(target: object, shipped: ShippedFunction, functions: readonly Function[]): void {
  kept.set(target, { shipped, looks: functions.map(lookAt) })
}

export function keptFor(target: object): ShippedFunction | undefined {
  const known = kept.get(target)
  if (!known) return undefined
  for (const look of known.looks) if (!isUnchanged(look)) return undefined
  return known.shipped
}

export function shippedFrom(bytes: Uint8Array, externals: readonly unknown[]): ShippedFunction {
  return { hash: digest('sha256', bytes, 'hex').slice(0, 32), bytes, externals }
}

function lookAt(fn: Function): Look {
  const holders: object[] = isClass(fn) ? [fn, fn.prototype as object] : []
  const members = holders.flatMap((holder) =>
    Reflect.ownKeys(holder).flatMap((key) => {
      const value: unknown = Object.getOwnPropertyDescriptor(holder, key)?.value
      return typeof value === 'function' ? [{ holder, key, value }] : []
    }),
  )
  const own: unknown = fn.prototype
  const prototype = typeof own === 'object' && own !== null ? own : undefined
  const prototypeKeys = prototype ? Reflect.ownKeys(prototype).length : 0
  return { fn, parent: Object.getPrototypeOf(fn), keys: Reflect.ownKeys(fn).length, prototype, prototypeKeys, members }
}

function isUnchanged(look: Look): boolean {
  const { fn, prototype, members } = look
  if (Reflect.ownKeys(fn).length !== look.keys || Object.getPrototypeOf(fn) !== look.parent) return false
  if (prototype && (fn.prototype !== prototype || Reflect.ownKeys(prototype).length !== look.prototypeKeys)) return false
  for (const { holder, key, value } of members) if ((holder as Record<string | symbol, unknown>)[key] !== value) return false
  return true
}

function isClass(fn: Function): boolean {
  return Object.getOwnPropertyDescriptor(fn, 'prototype')?.writable === false
}
