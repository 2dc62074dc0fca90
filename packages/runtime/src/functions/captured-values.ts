/**
 * Questions about captured values: how each has to travel, and where in the data something is. Pure.
 */
import { types } from 'node:util'
import type { Integrity } from './payload.ts'

/** Most captured objects are plain data; globals and modules carry a tag, functions, or a prototype of their own. */
export function mayHaveName(value: object): boolean {
  if (types.isProxy(value) || Array.isArray(value) || ArrayBuffer.isView(value)) return false
  if (Symbol.toStringTag in value || Object.getPrototypeOf(value) !== Object.prototype || value === process.env) return true
  const own = Object.values(Object.getOwnPropertyDescriptors(value))
  return own.length === 0 || own.some((descriptor) => !('value' in descriptor) || typeof descriptor.value === 'function')
}

/** Frozen arrays beyond this length travel as data, which is not frozen when it arrives. */
const FROZEN_ITEMS_MAX = 10_000

/** The codec knows data only: objects with accessors, hidden or read-only properties are captured property by property, frozen ones for good. */
export function kindOf(value: object): 'data' | 'object' | 'frozen' {
  const prototype: unknown = Object.getPrototypeOf(value)
  const isArray = Array.isArray(value)
  if (
    isArray
      ? prototype !== Array.prototype || value.length > FROZEN_ITEMS_MAX
      : prototype !== null && prototype !== Object.prototype && prototype !== Function.prototype
  )
    return 'data'
  if (Object.isFrozen(value)) return 'frozen'
  if (isArray) return Object.isExtensible(value) ? 'data' : 'object'
  const isPlain = Object.values(Object.getOwnPropertyDescriptors(value)).every(
    ({ writable, enumerable, configurable }) => writable && enumerable && configurable,
  )
  return isPlain && Object.isExtensible(value) ? 'data' : 'object'
}

export function integrityOf(fn: Function): Integrity | undefined {
  if (Object.isExtensible(fn)) return undefined
  return Object.isFrozen(fn) ? 'frozen' : Object.isSealed(fn) ? 'sealed' : 'not extensible'
}

/** Where in the captured data a function is, for messages. */
export function pathTo(target: unknown, data: readonly unknown[], paths: readonly string[]): string {
  const seen = new Set<unknown>()
  const find = (value: unknown): string | undefined => {
    if (value === target) return ''
    if (typeof value !== 'object' || value === null || seen.has(value)) return undefined
    seen.add(value)
    const entries: Iterable<[unknown, unknown]> = value instanceof Map ? value : value instanceof Set ? value.entries() : Object.entries(value)
    for (const [key, item] of entries) {
      const below = find(item)
      if (below !== undefined) return `${Array.isArray(value) || value instanceof Map ? `[${String(key)}]` : `.${String(key)}`}${below}`
    }
    return undefined
  }
  for (const [index, value] of data.entries()) {
    const below = find(value)
    if (below !== undefined) return `${below.replace(/^\./, '')} of ${paths[index]}`
  }
  return 'a captured function'
}

/** Those of `objects` that the data leads to. */
export function foundIn(data: readonly unknown[], objects: ReadonlySet<object>): ReadonlySet<object> {
  const found = new Set<object>()
  const seen = new Set<unknown>()
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null || seen.has(value) || ArrayBuffer.isView(value)) return
    seen.add(value)
    if (objects.has(value)) found.add(value)
    if (value instanceof Map) for (const entry of value) entry.forEach(visit)
    else if (value instanceof Set) value.forEach(visit)
    else for (const { value: item } of Object.values(Object.getOwnPropertyDescriptors(value))) visit(item)
  }
  data.forEach(visit)
  return found
}
