/**
 * Reads what the encoder wrote. Trusts the bytes: they come from a process of the same cluster, over an authenticated connection.
 */
import { BeamlineError } from '../errors.ts'
import { makeError } from './decoder-errors.ts'
import * as f from './format.ts'
import { sliceBuffer } from './mapped-memory.ts'
import { registrationNamed } from './registry.ts'
import { COMPILE_AFTER, type ShapeReader, shapeReader } from './shape-reader.ts'

const { fromCharCode } = String
const KEY_CACHE_SIZE = 1024
const keyCache: string[] = new Array<string>(KEY_CACHE_SIZE).fill('')
const floatBytes: Uint8Array = new Uint8Array(8)
const float: Float64Array = new Float64Array(floatBytes.buffer)
const bigint: BigInt64Array = new BigInt64Array(floatBytes.buffer)

export type Internalize = (index: number) => unknown

interface Shape {
  readonly keys: readonly string[]
  uses: number
  read: ShapeReader | undefined
}

export class Decoder {
  private readonly bytes: Uint8Array
  private readonly internalize: Internalize | undefined
  private position: number
  private text: Buffer | undefined
  readonly objects: unknown[] = []
  private shapes: Shape[] | undefined
  private windows: (ArrayBuffer | (() => ArrayBuffer))[] = []
  private views: number[] = []
  private viewNext = 0

  constructor(bytes: Uint8Array, internalize: Internalize | undefined) {
    this.bytes = bytes
    this.internalize = internalize
    this.position = 1
    const form = bytes[0]
    if (form === f.FORM_BARE) return
    let end = bytes.length
    if (form === f.FORM_BUFFERS) {
      this.position = 8
      end = this.readFloat64()
    } else if (form !== f.FORM_SMALL) throw new BeamlineError('INTERNAL', { what: `bytes of the unknown form ${form}` })
    const body = this.position
    this.position = end - 8
    this.position = end - this.readFloat64()
    this.readTrailer(end)
    this.position = body
  }

  private readTrailer(end: number): void {
    const { bytes } = this
    const count = this.readVarint()
    let outside = end
    for (let i = 0; i < count; i++) {
      const length = this.readVarint()
      if (length <= f.WINDOW_INLINE_MAX) {
        const start = this.position
        this.windows.push(() => sliceBuffer(bytes, start, start + length))
        this.position += length
      } else {
        const start = Math.ceil(outside / f.ALIGNMENT) * f.ALIGNMENT
        this.windows.push(() => sliceBuffer(bytes, start, start + length))
        outside = start + length
      }
    }
    const views = this.readVarint()
    for (let i = 0; i < views * 2; i++) this.views.push(this.readVarint())
  }

  readValue(): unknown {
    const { bytes } = this
    const tag = bytes[this.position++]!
    if (tag < 0x80) return tag
    if (tag < 0xc0) return this.readAscii(tag & 0x3f)
    if (tag < 0xd0) return this.readArray(tag & 0x0f)
    if (tag < 0xe0) return this.readObject(tag & 0x0f)
    switch (tag) {
      case f.NULL:
        return null
      case f.UNDEFINED:
        return undefined
      case f.FALSE:
        return false
      case f.TRUE:
        return true
      case f.INT8:
        return (bytes[this.position++]! << 24) >> 24
      case f.INT16: {
        const at = this.position
        this.position = at + 2
        return ((bytes[at]! | (bytes[at + 1]! << 8)) << 16) >> 16
      }
      case f.INT32:
        return this.readInt32()
      case f.FLOAT64:
        return this.readFloat64()
      case f.BIGINT64:
        this.readFloat64()
        return bigint[0]
      case f.BIGINT: {
        const negative = bytes[this.position++] === 1
        const value = BigInt(`0x${this.readValue() as string}`)
        return negative ? -value : value
      }
      case f.STRING_ASCII:
        return this.readText('latin1')
      case f.STRING_UTF8:
        return this.readText('utf8')
      case f.STRING_UTF16:
        return this.readText('utf16le')
      case f.REFERENCE:
        return this.objects[this.readVarint()]
      case f.ARRAY:
        return this.readArray(this.readVarint())
      case f.ARRAY_INT32:
      case f.ARRAY_FLOAT64:
        return this.readPacked(tag)
      case f.ARRAY_NAMED:
        return this.readProperties(this.readValue() as Record<string, unknown>)
      case f.OBJECT:
        return this.readObject(this.readVarint())
      case f.OBJECT_SHAPE:
        return this.readOfShape(this.shapes![bytes[this.position++]!]!)
      case f.OBJECT_NULL:
        return this.readProperties(this.keep({ __proto__: null } as unknown as Record<string, unknown>))
      case f.EXTERNAL:
        return this.readExternal()
      case f.VIEW:
        return this.readView()
      case f.EXOTIC:
        return this.readExotic()
      case f.CLASS: {
        const { prototype } = registrationNamed(this.readValue() as string)
        return this.readProperties(this.keep(Object.create(prototype) as Record<string, unknown>))
      }
      case f.CLASS_DATA: {
        const slot = this.objects.push(undefined) - 1
        const { decode } = registrationNamed(this.readValue() as string)
        return (this.objects[slot] = decode!(this.readValue()))
      }
      default:
        throw new BeamlineError('INTERNAL', { what: `unknown tag 0x${tag.toString(16)} at byte ${this.position - 1} of an encoded value` })
    }
  }

  private keep<T>(object: T): T {
    this.objects.push(object)
    return object
  }

  private readVarint(): number {
    const { bytes } = this
    let byte = bytes[this.position++]!
    if (byte < 0x80) return byte
    let value = byte & 0x7f
    let scale = 128
    do {
      byte = bytes[this.position++]!
      value += (byte & 0x7f) * scale
      scale *= 128
    } while (byte >= 0x80)
    return value
  }

  private readInt32(): number {
    const { bytes, position: at } = this
    this.position = at + 4
    return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
  }

  private readFloat64(): number {
    const { bytes, position: at } = this
    this.position = at + 8
    for (let i = 0; i < 8; i++) floatBytes[i] = bytes[at + i]!
    return float[0]!
  }

  private readText(encoding: 'latin1' | 'utf8' | 'utf16le'): string {
    const size = this.readVarint()
    const start = this.position
    this.position += size
    return this.slice(encoding, start, start + size)
  }

  private slice(encoding: 'latin1' | 'utf8' | 'utf16le', start: number, end: number): string {
    this.text ??= Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength)
    return this.text.toString(encoding, start, end)
  }

  /** Short strings are made of their codes: a call into the engine's own decoder costs more. Reading past the end gives zeros, cut off again. */
  private readAscii(length: number): string {
    const { bytes, position: at } = this
    this.position = at + length
    if (length <= 8) {
      if (length === 0) return ''
      const eight = fromCharCode(bytes[at]!, bytes[at + 1]!, bytes[at + 2]!, bytes[at + 3]!, bytes[at + 4]!, bytes[at + 5]!, bytes[at + 6]!, bytes[at + 7]!)
      return length === 8 ? eight : eight.slice(0, length)
    }
    if (length > 16) return this.slice('latin1', at, at + length)
    const sixteen = fromCharCode(
      bytes[at]!,
      bytes[at + 1]!,
      bytes[at + 2]!,
      bytes[at + 3]!,
      bytes[at + 4]!,
      bytes[at + 5]!,
      bytes[at + 6]!,
      bytes[at + 7]!,
      bytes[at + 8]!,
      bytes[at + 9]!,
      bytes[at + 10]!,
      bytes[at + 11]!,
      bytes[at + 12]!,
      bytes[at + 13]!,
      bytes[at + 14]!,
      bytes[at + 15]!,
    )
    return length === 16 ? sixteen : sixteen.slice(0, length)
  }

  /** Keys repeat from value to value: the last one with the same bytes is taken again. */
  private readKey(): string {
    const { bytes, position } = this
    const tag = bytes[position]!
    if (tag < 0x80 || tag >= 0xc0) return this.readValue() as string
    const length = tag & 0x3f
    const at = position + 1
    let hash = length
    for (let i = 0; i < length; i++) hash = (Math.imul(hash, 31) + bytes[at + i]!) | 0
    const slot = hash & (KEY_CACHE_SIZE - 1)
    const cached = keyCache[slot]!
    if (cached.length === length) {
      let i = 0
      while (i < length && cached.charCodeAt(i) === bytes[at + i]) i++
      if (i === length) {
        this.position = at + length
        return cached
      }
    }
    return (keyCache[slot] = this.readValue() as string)
  }

  private readArray(length: number): unknown[] {
    const array: unknown[] = this.keep([])
    for (let i = 0; i < length; i++) {
      if (this.bytes[this.position] === f.SPARSE_REST) {
        this.position++
        for (let left = this.readVarint(); left > 0; left--) {
          const index = this.readVarint()
          array[index] = this.readValue()
        }
        array.length = length
        break
      }
      array.push(this.readValue())
    }
    return array
  }

  private readPacked(tag: number): number[] {
    const length = this.readVarint()
    const array: number[] = this.keep([])
    const size = tag === f.ARRAY_INT32 ? 4 : 8
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + this.position, length * size)
    this.position += length * size
    if (size === 4) for (let i = 0; i < length; i++) array.push(view.getInt32(i * 4, true))
    else for (let i = 0; i < length; i++) array.push(view.getFloat64(i * 8, true))
    return array
  }

  private readObject(count: number): Record<string, unknown> {
    const keys = new Array<string>(count)
    for (let i = 0; i < count; i++) keys[i] = this.readKey()
    if (count > 0 && count <= f.SHAPE_KEYS_MAX) {
      this.shapes ??= []
      if (this.shapes.length < f.SHAPES_MAX) this.shapes.push({ keys, uses: 0, read: undefined })
    }
    return this.readShaped(keys)
  }

  private readOfShape(shape: Shape): Record<string, unknown> {
    if (shape.read !== undefined) return shape.read(this)
    if (++shape.uses === COMPILE_AFTER) shape.read = shapeReader(shape.keys)
    return this.readShaped(shape.keys)
  }

  private readShaped(keys: readonly string[]): Record<string, unknown> {
    const object: Record<string, unknown> = {}
    this.objects.push(object)
    for (let i = 0; i < keys.length; i++) {
      const key = keys[i]!
      if (key === '__proto__') define(object, key, this.readValue())
      else object[key] = this.readValue()
    }
    return object
  }

  /** Count, then (key, value)*. Defines, so that a setter in the prototype of a class does not run. */
  private readProperties<T extends object>(object: T): T {
    const count = this.readVarint()
    for (let i = 0; i < count; i++) {
      const key = this.readKey()
      define(object, key, this.readValue())
    }
    return object
  }

  private readExternal(): unknown {
    const slot = this.objects.push(undefined) - 1
    const index = this.readVarint()
    if (this.internalize === undefined) throw new BeamlineError('INTERNAL', { what: 'a value with references was decoded without them' })
    return (this.objects[slot] = this.internalize(index))
  }

  private readView(): unknown {
    const kind = this.bytes[this.position++]!
    const length = this.readVarint()
    const at = this.viewNext
    this.viewNext += 2
    const window = this.views[at]!
    const offset = this.views[at + 1]!
    let buffer = this.windows[window]!
    if (typeof buffer === 'function') buffer = this.windows[window] = buffer()
    if (kind === f.VIEW_ARRAY_BUFFER) return this.keep(buffer)
    if (kind === f.VIEW_DATA_VIEW) return this.keep(new DataView(buffer, offset, length))
    if (kind === f.VIEW_BUFFER) return this.keep(Buffer.from(buffer, offset, length))
    return this.keep(new f.TYPED_ARRAYS[kind - f.VIEW_TYPED]!(buffer, offset, length))
  }

  private readExotic(): unknown {
    const kind = this.bytes[this.position++]
    switch (kind) {
      case f.EXOTIC_MAP: {
        const map = this.keep(new Map<unknown, unknown>())
        for (let left = this.readVarint(); left > 0; left--) {
          const key = this.readValue()
          map.set(key, this.readValue())
        }
        return map
      }
      case f.EXOTIC_SET: {
        const set = this.keep(new Set<unknown>())
        for (let left = this.readVarint(); left > 0; left--) set.add(this.readValue())
        return set
      }
      case f.EXOTIC_DATE:
        return this.keep(new Date(this.readFloat64()))
      case f.EXOTIC_REGEXP: {
        const regexp = this.keep(new RegExp(this.readValue() as string, this.readValue() as string))
        regexp.lastIndex = this.readValue() as number
        return regexp
      }
      case f.EXOTIC_URL:
        return this.keep(new URL(this.readValue() as string))
      case f.EXOTIC_BOXED:
        return this.keep(Object(this.readValue()))
      case f.EXOTIC_DOM_EXCEPTION:
        return this.readDomException()
      case f.EXOTIC_ERROR:
        return this.readError()
      default:
        throw new BeamlineError('INTERNAL', { what: `unknown kind ${kind} at byte ${this.position - 1} of an encoded value` })
    }
  }

  private readError(): Error {
    const builtin = this.bytes[this.position++]!
    const custom = (builtin & 0x80) !== 0
    const className = custom ? (this.readValue() as string) : ''
    const registered = custom ? (this.readValue() as boolean) : false
    const inheritedName = custom ? (this.readValue() as string | undefined) : undefined
    const error = this.keep(makeError(builtin & 0x7f, custom ? { className, registered, inheritedName } : undefined))
    let hasStack = false
    for (let left = this.readVarint(); left > 0; left--) {
      const name = this.readKey()
      const enumerable = this.bytes[this.position++] === 1
      const value = this.readValue()
      if (name === 'stack') hasStack = true
      if (name === 'stack' && Object.hasOwn(error, 'stack') && !enumerable)
        error.stack = value as string // may be an accessor: stays one
      else Object.defineProperty(error, name, { value, writable: true, configurable: true, enumerable })
    }
    if (!hasStack) delete error.stack
    return error
  }

  private readDomException(): DOMException {
    const slot = this.objects.push(undefined) - 1
    const message = this.readValue() as string
    const name = this.readValue() as string
    const stack = this.readValue()
    const exception = new DOMException(message, name)
    this.objects[slot] = exception
    Object.defineProperty(exception, 'stack', { value: stack, writable: true, configurable: true, enumerable: false })
    const hasCause = this.readValue() as boolean
    const cause = this.readValue()
    if (hasCause) Object.defineProperty(exception, 'cause', { value: cause, writable: true, configurable: true, enumerable: false })
    return exception
  }
}

function define(object: object, key: string, value: unknown): void {
  Object.defineProperty(object, key, { value, writable: true, configurable: true, enumerable: true })
}
