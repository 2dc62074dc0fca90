/**
 * The strictest comparison: prototypes, own keys in their order, holes, -0, binary data, and the same sharing of objects inside.
 * Written apart from the codec on purpose; slow.
 */
import { types } from 'node:util'

/** Where two values differ first, or undefined when no program could tell them apart by their data. */
export function difference(expected: unknown, actual: unknown): string | undefined {
  const partners = new Map<object, object>()
  const taken = new Set<object>()
  const visit = (a: unknown, b: unknown, path: string): string | undefined => {
    if (typeof a !== 'object' || a === null || typeof b !== 'object' || b === null)
      return Object.is(a, b) ? undefined : `${path}: ${String(a)} became ${String(b)}`
    const partner = partners.get(a)
    if (partner !== undefined) return partner === b ? undefined : `${path}: is another object than before`
    if (taken.has(b)) return `${path}: two objects became one`
    partners.set(a, b)
    taken.add(b)
    if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return `${path}: the prototype differs`
    const found = inside(a, b, path, visit)
    if (found !== undefined) return found
    if (types.isTypedArray(a)) return undefined
    const keysA = Reflect.ownKeys(a)
    const keysB = Reflect.ownKeys(b)
    if (keysA.length !== keysB.length || keysA.some((key, i) => key !== keysB[i])) return `${path}: keys ${keysA.map(String)} became ${keysB.map(String)}`
    for (const key of keysA) {
      const propertyA = Object.getOwnPropertyDescriptor(a, key)
      const propertyB = Object.getOwnPropertyDescriptor(b, key)
      if (propertyA?.enumerable !== propertyB?.enumerable) return `${path}.${String(key)}: enumerable differs`
      const difference = visit(Reflect.get(a, key), Reflect.get(b, key), `${path}.${String(key)}`)
      if (difference !== undefined) return difference
    }
    return undefined
  }
  return visit(expected, actual, '$')
}

type Visit = (a: unknown, b: unknown, path: string) => string | undefined

function inside(a: object, b: object, path: string, visit: Visit): string | undefined {
  if (a instanceof Map) return compareList([...a].flat(), [...(b as typeof a)].flat(), `${path}<map>`, visit)
  if (a instanceof Set) return compareList([...a], [...(b as typeof a)], `${path}<set>`, visit)
  if (a instanceof Date) return visit(a.getTime(), (b as Date).getTime(), `${path}<time>`)
  if (a instanceof RegExp) return visit(String(a), String(b), `${path}<source>`)
  if (a instanceof URL) return visit(a.href, (b as URL).href, `${path}<href>`)
  if (types.isBoxedPrimitive(a)) return visit(a.valueOf(), b.valueOf(), `${path}<boxed>`)
  if (ArrayBuffer.isView(a)) return compareBytes(a, b as typeof a, path)
  if (a instanceof ArrayBuffer) return compareBytes(new Uint8Array(a), new Uint8Array(b as ArrayBuffer), path)
  return undefined
}

function compareList(a: readonly unknown[], b: readonly unknown[], path: string, visit: Visit): string | undefined {
  if (a.length !== b.length) return `${path}: ${a.length} became ${b.length}`
  for (let i = 0; i < a.length; i++) {
    const found = visit(a[i], b[i], `${path}[${i}]`)
    if (found !== undefined) return found
  }
  return undefined
}

function compareBytes(a: ArrayBufferView, b: ArrayBufferView, path: string): string | undefined {
  const bytesA = Buffer.from(a.buffer, a.byteOffset, a.byteLength)
  const bytesB = Buffer.from(b.buffer, b.byteOffset, b.byteLength)
  return bytesA.equals(bytesB) ? undefined : `${path}: the bytes differ`
}
