/**
 * Finds own properties of arrays that are not elements, without paying for the elements.
 */
import { inspect } from 'node:util'

/** Above this, util.inspect is faster than Object.keys. */
const KEYS_MAX = 64

export function isIndex(key: string): boolean {
  const index = Number(key) >>> 0
  return index !== 4_294_967_295 && String(index) === key
}

/** Enumerable own keys that are no elements; undefined: none. The result of a regular expression has some. */
export function namedProperties(value: object, length: number): string[] | undefined {
  if (length > KEYS_MAX && !hasNamed(value, length)) return undefined
  const keys = Object.keys(value)
  const last = keys.at(-1)
  if (last === undefined || isIndex(last)) return undefined // engines list elements first
  return keys.filter((key) => !isIndex(key))
}

/** Object.keys makes a string per element; util.inspect asks the engine for the other properties only, in constant time. */
function hasNamed(value: object, length: number): boolean {
  const options = { maxArrayLength: 0, depth: 0, customInspect: false, breakLength: Number.POSITIVE_INFINITY }
  return !inspect(value, options).endsWith(`[ ... ${length} more items ]`)
}
