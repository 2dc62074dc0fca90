/**
 * One walk over a value that writes its bytes, or refuses with the path of what cannot travel. Nothing is read twice, nothing guessed:
 * getters, hidden properties, symbols and unknown classes are refused instead of being dropped.
 *
 * Hot loops are written out by hand: a small plain object costs well under a microsecond.
 */
import { types } from 'node:util'
import { ExoticWriter } from './encoder-exotic.ts'
import * as f from './format.ts'
import { isIndex, namedProperties } from './own-keys.ts'

const objectPrototype = Object.prototype
const arrayPrototype = Array.prototype
const { getPrototypeOf, keys: keysOf, getOwnPropertyNames, getOwnPropertySymbols, getOwnPropertyDescriptor } = Object

/** Objects met so far are searched one by one up to this many, through a Map above. */
const SEEN_LINEAR_MAX = 12

export class Encoder extends ExoticWriter {
  private seen: unknown[] = new Array(SEEN_LINEAR_MAX)
  private seenMap: Map<unknown, number> | undefined
  private shapes: (readonly string[])[] = []
  private shapeLast = 0

  /** Forgets the value; called after every encode, also a failed one. */
  override reset(): void {
    super.reset()
    const { seen } = this
    const n = Math.min(this.seenCount, SEEN_LINEAR_MAX)
    for (let i = 0; i < n; i++) seen[i] = undefined
    this.seenMap = undefined
    this.seenCount = 0
    if (this.shapes.length > 0) this.shapes.length = 0
    this.shapeLast = 0
  }

  override writeValue(value: unknown): void {
    if (this.limit - this.position < 16) this.reserve(16)
    switch (typeof value) {
      case 'number':
        return this.writeNumber(value)
      case 'string':
        return this.writeString(value)
      case 'boolean':
        this.bytes[this.position++] = value ? f.TRUE : f.FALSE
        return
      case 'undefined':
        this.bytes[this.position++] = f.UNDEFINED
        return
      case 'object':
        if (value === null) this.bytes[this.position++] = f.NULL
        else this.writeObject(value)
        return
      case 'bigint':
        return this.writeBigInt(value)
      case 'function':
        if (this.writeIfSeen(value)) return
        return this.writeExternal(value, 'is a function', 'send data instead, or pass the function itself to remote()')
      default:
        this.refuse('is a symbol', 'symbols exist in one process only; use a string')
    }
  }

  private writeObject(value: object): void {
    if (this.writeIfSeen(value)) return
    if (types.isProxy(value)) {
      // Actor handles are proxies and say so.
      if (f.EXTERNAL_BRAND in value) return this.writeExternal(value, 'belongs to this process', 'send plain data')
      this.refuse('is a Proxy', 'send the object behind it')
    }
    const prototype = getPrototypeOf(value) as object | null
    if (prototype === objectPrototype) this.writePlain(value as Record<string, unknown>)
    else if (prototype === arrayPrototype && Array.isArray(value)) this.writeArray(value)
    else if (prototype === null) this.writeNullPrototype(value as Record<string, unknown>)
    else this.writeExotic(value, prototype)
  }

  /** Numbers the object when it is new, so that the same object later is a reference. */
  private writeIfSeen(value: object): boolean {
    const { seen, seenCount } = this
    if (this.seenMap !== undefined) {
      const at = this.seenMap.get(value)
      if (at !== undefined) return this.writeReference(value, at)
      this.seenMap.set(value, seenCount)
    } else {
      for (let i = 0; i < seenCount; i++) if (seen[i] === value) return this.writeReference(value, i)
      if (seenCount < SEEN_LINEAR_MAX) seen[seenCount] = value
      else {
        const map = new Map<unknown, number>()
        for (let i = 0; i < seenCount; i++) map.set(seen[i], i)
        map.set(value, seenCount)
        this.seenMap = map
      }
    }
    this.seenCount = seenCount + 1
    return false
  }

  private writeReference(value: object, index: number): true {
    if (this.open !== undefined && this.open.includes(value)) {
      this.refuse('is reached again from what its own encode function gave', 'leave the reference to itself out of that data')
    }
    this.bytes[this.position++] = f.REFERENCE
    this.writeVarint(index)
    return true
  }

  private writePlain(value: Record<string, unknown>): void {
    const keys = keysOf(value)
    const n = keys.length
    if (getOwnPropertyNames(value).length !== n) this.refuseHidden(value, keys)
    if (getOwnPropertySymbols(value).length !== 0) {
      if (f.EXTERNAL_BRAND in value) return this.writeExternal(value, 'belongs to this process', 'send plain data')
      this.refuse('has a property whose key is a symbol', 'use string keys')
    }
    const shape = this.findShape(keys)
    if (shape >= 0) {
      this.bytes[this.position++] = f.OBJECT_SHAPE
      this.bytes[this.position++] = shape
    } else {
      if (n < 16) this.bytes[this.position++] = f.FIX_OBJECT | n
      else {
        this.bytes[this.position++] = f.OBJECT
        this.writeVarint(n)
      }
      for (let i = 0; i < n; i++) this.writeString(keys[i]!)
      if (n > 0 && n <= f.SHAPE_KEYS_MAX && this.shapes.length < f.SHAPES_MAX) {
        this.shapeLast = this.shapes.length
        this.shapes.push(keys)
      }
    }
    this.enter()
    const { path, depth } = this
    for (let i = 0; i < n; i++) {
      const key = keys[i]!
      const property = getOwnPropertyDescriptor(value, key)!
      path[depth] = key
      if (property.get !== undefined || property.set !== undefined) this.refuseAccessor()
      this.writeValue(property.value)
    }
    this.depth--
  }

  private findShape(keys: readonly string[]): number {
    const { shapes, shapeLast } = this
    if (shapes.length === 0) return -1
    if (sameKeys(shapes[shapeLast]!, keys)) return shapeLast
    for (let i = 0; i < shapes.length; i++) {
      if (sameKeys(shapes[i]!, keys)) return (this.shapeLast = i)
    }
    return -1
  }

  private writeNullPrototype(value: Record<string, unknown>): void {
    if (types.isModuleNamespaceObject(value)) this.refuse('is a module namespace', 'import the module where it is used')
    this.bytes[this.position++] = f.OBJECT_NULL
    this.writeFields(value)
  }

  private writeArray(value: readonly unknown[]): void {
    const n = value.length
    const named = namedProperties(value, n)
    if (getOwnPropertySymbols(value).length !== 0) this.refuse('has a property whose key is a symbol', 'use string keys')
    if (named) this.bytes[this.position++] = f.ARRAY_NAMED
    if (n >= f.PACKED_MIN && this.writePacked(value)) return
    if (n < 16) this.bytes[this.position++] = f.FIX_ARRAY | n
    else {
      this.bytes[this.position++] = f.ARRAY
      this.writeVarint(n)
    }
    this.enter()
    const { path, depth } = this
    for (let i = 0; i < n; i++) {
      path[depth] = i
      const element = value[i]
      if (element === undefined && !Object.hasOwn(value, i)) {
        this.writeSparse(value, i)
        break
      }
      this.writeValue(element)
    }
    this.depth--
    if (named) {
      this.writeVarint(named.length)
      this.writeProperties(value as never, named)
    }
  }

  /** Elements from `start`, which is a hole, as (index, value) pairs: an array of a million holes costs what it holds. */
  private writeSparse(value: readonly unknown[], start: number): void {
    const present = keysOf(value).filter((key) => isIndex(key) && Number(key) > start)
    this.reserve(16) // no value begins here, so nobody has
    this.bytes[this.position++] = f.SPARSE_REST
    this.writeVarint(present.length)
    for (const key of present) {
      this.writeVarint(Number(key))
      this.path[this.depth] = Number(key)
      this.writeValue(value[Number(key)])
    }
  }

  private writePacked(value: readonly unknown[]): boolean {
    const n = value.length
    let integers = true
    for (let i = 0; i < n; i++) {
      const element = value[i]
      if (typeof element !== 'number') return false
      if (integers && ((element | 0) !== element || (element === 0 && 1 / element < 0))) integers = false
    }
    const size = integers ? 4 : 8
    this.bytes[this.position++] = integers ? f.ARRAY_INT32 : f.ARRAY_FLOAT64
    this.writeVarint(n)
    this.reserve(n * size)
    const { view } = this
    let position = this.position
    if (integers) for (let i = 0; i < n; i++, position += 4) view.setInt32(position, value[i] as number, true)
    else for (let i = 0; i < n; i++, position += 8) view.setFloat64(position, value[i] as number, true)
    this.position = position
    return true
  }

  private refuseHidden(value: object, keys: readonly string[]): never {
    const hidden = getOwnPropertyNames(value).find((name) => !keys.includes(name))
    this.refuse(`has the non-enumerable property "${hidden}"`, 'only plain data can travel; copy what is needed into a new object')
  }
}

function sameKeys(a: readonly string[], b: readonly string[]): boolean {
  const n = a.length
  if (n !== b.length) return false
  for (let i = 0; i < n; i++) if (a[i] !== b[i]) return false
  return true
}
