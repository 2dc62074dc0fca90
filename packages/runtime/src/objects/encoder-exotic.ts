/**
 * The part of the encoder for everything that is not a primitive, an array or a plain object: built-in classes, binary data, errors,
 * registered classes, things of the process; and the sentences of refusals.
 */
import { types } from 'node:util'
import { BeamlineError } from '../errors.ts'
import * as f from './format.ts'
import { namedProperties } from './own-keys.ts'
import { registrationOf, registeredClass } from './registry.ts'
import { cutWindows } from './windows.ts'
import { Writer } from './writer.ts'

const { getPrototypeOf, keys: keysOf, getOwnPropertyNames, getOwnPropertySymbols, getOwnPropertyDescriptor } = Object

interface Kind {
  readonly is: (value: object) => boolean
  readonly write: (encoder: ExoticWriter, value: never) => void
}

export abstract class ExoticWriter extends Writer {
  what = ''
  externalize: ((value: object) => number) | undefined
  /** Keys from the root to the value at hand, for refusals; entries at `depth` and beyond are stale. */
  path: (string | number | Segment)[] = []
  depth = 0
  /** Instances whose own encode function's data is being written. */
  protected open: object[] | undefined
  protected seenCount = 0
  private viewBuffers: ArrayBuffer[] = []
  private viewStarts: number[] = []
  private viewEnds: number[] = []
  private whole: Set<ArrayBuffer> | undefined

  abstract writeValue(value: unknown): void

  override reset(): void {
    super.reset()
    this.externalize = undefined
    this.open = undefined
    this.depth = 0
    if (this.viewBuffers.length > 0) {
      this.viewBuffers.length = 0
      this.viewStarts.length = 0
      this.viewEnds.length = 0
      this.whole = undefined
    }
  }

  protected enter(): void {
    if (++this.depth > f.DEPTH_MAX) {
      this.depth--
      this.refuse(`is nested more than ${f.DEPTH_MAX.toLocaleString('en-US')} levels deep`, 'flatten the structure, for example into an array')
    }
  }

  /** Form of a value whose binary data is all inside; known after {@link writeTrailer}. */
  get form(): number {
    return this.viewBuffers.length === 0 ? f.FORM_BARE : f.FORM_SMALL
  }

  /** Ends the encoding; gives the binary data that must follow it. */
  writeTrailer(): readonly Uint8Array[] {
    if (this.viewBuffers.length === 0) return NO_BUFFERS
    const { viewBuffers: buffers, viewStarts: starts, viewEnds: ends, whole } = this
    const { windows, windowOf, offsets, inlineBytes } = cutWindows({ buffers, starts, ends, whole })
    const start = this.position
    const outside: Uint8Array[] = []
    this.reserve(inlineBytes + windows.length * 10 + 10)
    this.writeVarint(windows.length)
    for (const window of windows) {
      this.writeVarint(window.length)
      if (window.length > f.WINDOW_INLINE_MAX) outside.push(window)
      else {
        this.reserve(window.length)
        this.bytes.set(window, this.position)
        this.position += window.length
      }
    }
    this.writeVarint(windowOf.length)
    for (let i = 0; i < windowOf.length; i++) {
      this.writeVarint(windowOf[i]!)
      this.writeVarint(offsets[i]!)
    }
    this.writeFloat64(this.position - start + 8)
    return outside
  }

  protected writeExotic(value: object, prototype: object): void {
    const kind = KINDS.get(prototype)
    if (kind !== undefined) {
      if (!kind.is(value)) this.refuse(`inherits from ${nameOf(value)} and is none`, 'send plain data')
      kind.write(this, value as never)
      return
    }
    if (f.EXTERNAL_BRAND in value) return this.writeExternal(value, 'belongs to this process', 'send plain data')
    const registration = registrationOf(prototype, value)
    if (types.isNativeError(value) && registration?.encode === undefined) return this.writeError(value, prototype)
    if (registration === undefined) return this.refuseInstance(value, prototype)
    if (registration.encode === undefined) {
      this.bytes[this.position++] = f.CLASS
      this.writeString(registration.name)
      this.writeFields(value as Record<string, unknown>)
      return
    }
    this.bytes[this.position++] = f.CLASS_DATA
    this.writeString(registration.name)
    this.open = [...(this.open ?? []), value]
    this.enter()
    this.path[this.depth] = { text: '<encoded>' }
    this.writeValue(registration.encode(value))
    this.depth--
    this.open = this.open.slice(0, -1)
  }

  writeExternal(value: object, reason: string, hint: string): void {
    if (this.externalize === undefined) this.refuse(reason, hint)
    const index = this.externalize(value)
    this.bytes[this.position++] = f.EXTERNAL
    this.writeVarint(index)
  }

  /** Count, then (key, value)*, of an object that must have data fields only. */
  protected writeFields(value: Record<string, unknown>): void {
    const keys = keysOf(value)
    this.refuseSymbols(value)
    const names = getOwnPropertyNames(value)
    if (names.length !== keys.length) {
      const hidden = names.find((name) => !keys.includes(name))
      this.refuse(`has the non-enumerable property "${hidden}"`, 'only enumerable data fields can travel')
    }
    this.writeVarint(keys.length)
    this.writeProperties(value, keys)
  }

  protected writeProperties(value: Record<string, unknown>, keys: readonly string[]): void {
    this.enter()
    for (const key of keys) {
      const property = getOwnPropertyDescriptor(value, key)!
      this.path[this.depth] = key
      if (property.get !== undefined || property.set !== undefined) this.refuseAccessor()
      this.writeString(key)
      this.writeValue(property.value)
    }
    this.depth--
  }

  startExotic(kind: number, value: object): void {
    this.refuseSymbols(value)
    const extra = getOwnPropertyNames(value).at(-1)
    if (extra !== undefined && !isImplied(kind, extra)) {
      this.refuse(`is a ${nameOf(value)} with the extra property "${extra}"`, 'keep such properties in an object beside it')
    }
    this.bytes[this.position++] = f.EXOTIC
    this.bytes[this.position++] = kind
  }

  writeMap(value: Map<unknown, unknown>): void {
    this.startExotic(f.EXOTIC_MAP, value)
    this.writeVarint(value.size)
    this.enter()
    const { path, depth } = this
    for (const [key, item] of value) {
      path[depth] = KEY_OF_MAP
      this.writeValue(key)
      path[depth] = typeof key === 'object' ? VALUE_OF_MAP : { key }
      this.writeValue(item)
    }
    this.depth--
  }

  writeSet(value: Set<unknown>): void {
    this.startExotic(f.EXOTIC_SET, value)
    this.writeVarint(value.size)
    this.enter()
    this.path[this.depth] = ITEM_OF_SET
    for (const item of value) this.writeValue(item)
    this.depth--
  }

  /** All own properties in their order, each with its key and whether it is enumerable; a `stack` counts as data. */
  writeError(value: Error, prototype: object): void {
    this.bytes[this.position++] = f.EXOTIC
    this.bytes[this.position++] = f.EXOTIC_ERROR
    const builtin = f.ERROR_CLASSES.findIndex((Class) => Class.prototype === prototype)
    if (builtin >= 0) this.bytes[this.position++] = builtin
    else this.writeErrorClass(value, prototype)
    this.refuseSymbols(value)
    const names = getOwnPropertyNames(value)
    this.writeVarint(names.length)
    this.enter()
    for (const name of names) {
      const property = getOwnPropertyDescriptor(value, name)!
      this.path[this.depth] = name
      if ((property.get !== undefined || property.set !== undefined) && name !== 'stack') this.refuseAccessor()
      this.writeString(name)
      this.reserve(16)
      this.bytes[this.position++] = property.enumerable ? 1 : 0
      this.writeValue(name === 'stack' ? value.stack : property.value)
    }
    this.depth--
  }

  /** A class of the user: by registration, else by its name, the built-in that it extends and the `name` that it shows. */
  private writeErrorClass(value: Error, prototype: object): void {
    let base = prototype
    let builtin = -1
    while (builtin < 0 && base !== null) {
      builtin = f.ERROR_CLASSES.findIndex((Class) => Class.prototype === base)
      base = getPrototypeOf(base) as object
    }
    this.bytes[this.position++] = 0x80 | Math.max(builtin, 0)
    const registration = registeredClass(prototype)
    this.writeString(registration?.name ?? nameOf(value))
    this.writeValue(registration !== undefined)
    this.writeValue(inheritedName(prototype))
  }

  writeDomException(value: DOMException): void {
    this.bytes[this.position++] = f.EXOTIC
    this.bytes[this.position++] = f.EXOTIC_DOM_EXCEPTION
    this.writeString(value.message)
    this.writeString(value.name)
    this.writeValue(value.stack)
    this.writeValue(Object.hasOwn(value, 'cause'))
    this.writeValue((value as { cause?: unknown }).cause)
  }

  writeBoxed(value: object): void {
    this.startExotic(f.EXOTIC_BOXED, value)
    this.writeValue(value.valueOf())
  }

  writeView(kind: number, value: ArrayBufferView, length: number): void {
    this.refuseSymbols(value)
    const named = namedProperties(value, kind === f.VIEW_DATA_VIEW ? 0 : length)
    if (named) this.refuse(`is a ${nameOf(value)} with the extra property "${named[0]}"`, 'keep such properties in an object beside it')
    this.writeBytes(kind, value.buffer, value.byteOffset, value.byteLength, length)
  }

  /** Remembers where the bytes are; `kind` and `length` (elements) are written here, the bytes later. */
  private writeBytes(kind: number, buffer: ArrayBufferLike, byteOffset: number, byteLength: number, length: number): void {
    if (types.isSharedArrayBuffer(buffer)) this.refuse('is (a view of) a SharedArrayBuffer', 'send a copy: new Uint8Array(shared).slice()')
    const own = buffer as ArrayBuffer
    if (own.resizable) this.refuse('is (a view of) a resizable ArrayBuffer', 'send a copy of fixed length: view.slice()')
    if (own.detached) this.refuse('is (a view of) an ArrayBuffer that was transferred away', 'send it before it is transferred')
    this.bytes[this.position++] = f.VIEW
    this.bytes[this.position++] = kind
    this.writeVarint(length)
    this.viewBuffers.push(own)
    this.viewStarts.push(byteOffset)
    this.viewEnds.push(byteOffset + byteLength)
  }

  writeArrayBuffer(value: ArrayBuffer): void {
    this.refuseSymbols(value)
    const named = namedProperties(value, 0)
    if (named) this.refuse(`is an ArrayBuffer with the extra property "${named[0]}"`, 'keep such properties in an object beside it')
    this.writeBytes(f.VIEW_ARRAY_BUFFER, value, 0, value.byteLength, value.byteLength)
    this.whole ??= new Set()
    this.whole.add(value)
  }

  protected refuseSymbols(value: object): void {
    if (getOwnPropertySymbols(value).length > 0) this.refuse('has a property whose key is a symbol', 'use string keys')
  }

  protected refuseAccessor(): never {
    this.refuse('is a getter or setter', 'copy its value into a plain property, for example with { ...object }')
  }

  refuse(reason: string, hint: string): never {
    throw new BeamlineError('NOT_SERIALIZABLE', { what: this.what, path: formatPath(this.path, this.depth), reason, hint })
  }

  private refuseInstance(value: object, prototype: object): never {
    for (const [matches, reason, hint] of REFUSED) if (matches(value)) this.refuse(reason, hint)
    const name = nameOf(value)
    if (name === 'Object' || getPrototypeOf(prototype) === null) {
      this.refuse('is an object whose prototype is another object', 'copy its properties into a plain object')
    }
    if (ARROW.has(name)) this.refuse(`is an Arrow ${name}`, "import '@beamline/data' in both programs: it lets Arrow values travel")
    this.refuse(`is an instance of ${name}`, `call registerClass(${name}) where the class is defined, or send plain data`)
  }
}

const NO_BUFFERS: readonly Uint8Array[] = []

type Segment = { readonly key: unknown } | { readonly text: string }
const KEY_OF_MAP: Segment = { text: '<key of a Map>' }
const VALUE_OF_MAP: Segment = { text: '.get(<object>)' }
const ITEM_OF_SET: Segment = { text: '<item of a Set>' }

function formatPath(path: readonly (string | number | Segment)[], depth: number): string {
  const parts = path.slice(1, depth + 1)
  const shown = parts.length > 40 ? [...parts.slice(0, 20), { text: ' … ' }, ...parts.slice(-20)] : parts
  return `$${shown.map(formatSegment).join('')}`
}

function formatSegment(segment: string | number | Segment): string {
  if (typeof segment === 'number') return `[${segment}]`
  if (typeof segment === 'string') return /^[\p{ID_Start}_$][\p{ID_Continue}$]*$/u.test(segment) ? `.${segment}` : `[${JSON.stringify(segment)}]`
  return 'text' in segment ? segment.text : `.get(${typeof segment.key === 'string' ? JSON.stringify(segment.key) : String(segment.key)})`
}

function nameOf(value: object): string {
  const { constructor } = value as { constructor?: unknown }
  return typeof constructor === 'function' && typeof constructor.name === 'string' && constructor.name ? constructor.name : 'an anonymous class'
}

/** Own properties that come with the kind: lastIndex of a RegExp, characters and length of a boxed string. */
function isImplied(kind: number, name: string): boolean {
  return (kind === f.EXOTIC_REGEXP && name === 'lastIndex') || (kind === f.EXOTIC_BOXED && name === 'length')
}

function inheritedName(prototype: object): unknown {
  const { name } = prototype as { name?: unknown }
  return typeof name === 'string' ? name : undefined
}

const ARROW: ReadonlySet<string> = new Set(['Table', 'RecordBatch', 'Vector'])

const REFUSED: readonly (readonly [(value: object) => boolean, string, string])[] = [
  [types.isPromise, 'is a Promise', 'await it first'],
  [types.isWeakMap, 'is a WeakMap', 'its entries cannot be listed; use a Map'],
  [types.isWeakSet, 'is a WeakSet', 'its items cannot be listed; use a Set'],
  [(value) => value instanceof WeakRef, 'is a WeakRef', 'send the object that it refers to'],
  [types.isGeneratorObject, 'is a running generator', 'send the items, or the generator function'],
  [types.isMapIterator, 'is an iterator', 'send an array of the items'],
  [types.isSetIterator, 'is an iterator', 'send an array of the items'],
  [types.isSharedArrayBuffer, 'is a SharedArrayBuffer', 'send a copy: new Uint8Array(shared).slice()'],
  [types.isExternal, 'is a native handle', 'send data instead'],
]

const KINDS: ReadonlyMap<object, Kind> = new Map<object, Kind>([
  kind<Map<unknown, unknown>>(Map, types.isMap, (encoder, value) => encoder.writeMap(value)),
  kind<Set<unknown>>(Set, types.isSet, (encoder, value) => encoder.writeSet(value)),
  kind<Date>(Date, types.isDate, (encoder, value) => {
    encoder.startExotic(f.EXOTIC_DATE, value)
    encoder.writeFloat64(Date.prototype.getTime.call(value))
  }),
  kind<RegExp>(RegExp, types.isRegExp, (encoder, value) => {
    encoder.startExotic(f.EXOTIC_REGEXP, value)
    encoder.writeString(value.source)
    encoder.writeString(value.flags)
    encoder.writeValue(value.lastIndex)
  }),
  kind<URL>(URL, isUrl, (encoder, value) => {
    encoder.startExotic(f.EXOTIC_URL, value)
    encoder.writeString(value.href)
  }),
  kind<DOMException>(DOMException, types.isNativeError, (encoder, value) => encoder.writeDomException(value)),
  ...[Number, String, Boolean, BigInt].map((Class) => kind<object>(Class, types.isBoxedPrimitive, (encoder, value) => encoder.writeBoxed(value))),
  ...f.ERROR_CLASSES.map((Class) => kind<Error>(Class, types.isNativeError, (encoder, value) => encoder.writeError(value, Class.prototype))),
  kind<ArrayBuffer>(ArrayBuffer, types.isArrayBuffer, (encoder, value) => encoder.writeArrayBuffer(value)),
  kind<DataView>(DataView, types.isDataView, (encoder, value) => encoder.writeView(f.VIEW_DATA_VIEW, value, value.byteLength)),
  kind<Buffer>(Buffer, types.isUint8Array, (encoder, value) => encoder.writeView(f.VIEW_BUFFER, value, value.length)),
  ...f.TYPED_ARRAYS.map((Class, index) =>
    kind<Uint8Array>(Class, types.isTypedArray, (encoder, value) => encoder.writeView(f.VIEW_TYPED + index, value, value.length)),
  ),
])

/** One row of the table: objects with this prototype that really are what it promises. */
function kind<T extends object>(
  Class: { readonly prototype: object },
  is: (value: object) => boolean,
  write: (encoder: ExoticWriter, value: T) => void,
): [object, Kind] {
  return [Class.prototype, { is, write: write as Kind['write'] }]
}

function isUrl(value: object): boolean {
  try {
    return URL.prototype.toString.call(value).length > 0
  } catch {
    return false
  }
}
