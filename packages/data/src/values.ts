/**
 * Single values: how an Arrow value reads in JavaScript, and how a list of JavaScript values becomes an Arrow column.
 *
 * Reading and writing are inverse for every type, so that a row function that passes a value through keeps it exactly: times finer
 * than a millisecond are bigints of their unit and decimals are text, because `Date` and `number` would round them.
 */
import {
  Binary,
  Bool,
  type Data,
  type DataType,
  DateDay,
  DateMillisecond,
  DateUnit,
  type Decimal,
  type Dictionary,
  Field,
  FixedSizeBinary,
  FixedSizeList,
  Float16,
  Float32,
  Float64,
  Int8,
  Int16,
  Int32,
  Int64,
  List,
  makeData,
  Null,
  Struct,
  Timestamp,
  TimestampMillisecond,
  TimeUnit,
  Type,
  Uint8,
  Uint16,
  Uint32,
  Uint64,
  Utf8,
  type Vector,
} from 'apache-arrow'

/** Typed arrays that a column of numbers may be. */
export type NumericArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float16Array
  | Float32Array
  | Float64Array

const ARRAY_TYPES: readonly (readonly [new (length: number) => NumericArray, () => DataType])[] = [
  [Int8Array, () => new Int8()],
  [Uint8Array, () => new Uint8()],
  [Uint8ClampedArray, () => new Uint8()],
  [Int16Array, () => new Int16()],
  [Uint16Array, () => new Uint16()],
  [Int32Array, () => new Int32()],
  [Uint32Array, () => new Uint32()],
  [BigInt64Array, () => new Int64()],
  [BigUint64Array, () => new Uint64()],
  [Float16Array, () => new Float16()],
  [Float32Array, () => new Float32()],
  [Float64Array, () => new Float64()],
]

/** A function that gives the value in row `i` of `vector`, null where it is null. */
export function valueReader(type: DataType, vector: Vector): (row: number) => unknown {
  const chunks = vector.data
  if (chunks.length === 1) return dataReader(type, chunks[0] as Data)
  const readers = chunks.map((chunk) => dataReader(type, chunk))
  return (row) => {
    let index = 0
    let at = row
    while (at >= (chunks[index] as Data).length) at -= (chunks[index++] as Data).length
    return (readers[index] as (row: number) => unknown)(at)
  }
}

const decoder = new TextDecoder()

/** Type of what a list or map holds. */
const itemType = (type: DataType): DataType => (type.children as Field[])[0]?.type as DataType

function dataReader(type: DataType, data: Data): (row: number) => unknown {
  if (type.typeId === Type.Null) return () => null
  const read = plainReader(type, data)
  if (data.nullCount === 0) return read
  const bitmap = data.nullBitmap as Uint8Array
  return (row) => (((bitmap[(data.offset + row) >> 3] as number) >> ((data.offset + row) & 7)) & 1 ? read(row) : null)
}

function plainReader(type: DataType, data: Data): (row: number) => unknown {
  const values = data.values as Uint8Array
  const offsets = data.valueOffsets as Int32Array
  const span = (row: number): [number, number] => [Number(offsets[row]), Number(offsets[row + 1])]
  switch (type.typeId) {
    case Type.Float:
      if (data.values instanceof Uint16Array) {
        const halves = halvesOf(data.values)
        return (row) => halves[row]
      }
      return (row) => values[row]
    case Type.Bool:
      return (row) => (((values[(data.offset + row) >> 3] as number) >> ((data.offset + row) & 7)) & 1) !== 0
    case Type.Utf8:
    case Type.LargeUtf8:
      return (row) => decoder.decode(values.subarray(...span(row)))
    case Type.Binary:
    case Type.LargeBinary:
      return (row) => values.subarray(...span(row))
    case Type.FixedSizeBinary: {
      const width = (type as FixedSizeBinary).byteWidth
      return (row) => values.subarray(row * width, (row + 1) * width)
    }
    case Type.Date:
      return (type as DateDay).unit === DateUnit.DAY ? (row) => new Date((values[row] as number) * 86_400_000) : (row) => new Date(Number(values[row]))
    case Type.Timestamp: {
      const { unit } = type as Timestamp
      if (unit === TimeUnit.SECOND) return (row) => new Date(Number(values[row]) * 1000)
      return unit === TimeUnit.MILLISECOND ? (row) => new Date(Number(values[row])) : (row) => values[row]
    }
    case Type.Decimal:
      return (row) => decimalText(values as unknown as Uint32Array, row, type as Decimal)
    case Type.List:
    case Type.LargeList:
      return listReader(itemType(type), data, span)
    case Type.FixedSizeList: {
      const size = (type as FixedSizeList).listSize
      return listReader(itemType(type), data, (row) => [row * size, (row + 1) * size])
    }
    case Type.Struct: {
      const readers = (type as Struct).children.map((field: Field, i: number) => [field.name, dataReader(field.type, data.children[i] as Data)] as const)
      return (row) => Object.fromEntries(readers.map(([name, read]) => [name, read(row)]))
    }
    case Type.Map: {
      const entries = data.children[0] as Data
      const [key, value] = (itemType(type) as Struct).children as [Field, Field]
      const readKey = dataReader(key.type, entries.children[0] as Data)
      const readValue = dataReader(value.type, entries.children[1] as Data)
      return (row) => {
        const [from, to] = span(row)
        return new Map(Array.from({ length: to - from }, (_, i) => [readKey(from + i), readValue(from + i)]))
      }
    }
    case Type.Dictionary: {
      const read = valueReader((type as Dictionary).dictionary, data.dictionary as Vector)
      return (row) => read(values[row] as number)
    }
    case Type.Int:
    case Type.Time:
    case Type.Duration:
      return (row) => values[row]
    default:
      throw new TypeError(`values of type ${type} cannot be read one by one; use batchFormat 'arrow'`)
  }
}

/** Half floats live in Arrow as their bits. */
const halvesOf = (bits: NumericArray): Float16Array => new Float16Array(bits.buffer as ArrayBuffer, bits.byteOffset, bits.length)

/** Lists of plain numbers are typed arrays (views), other lists are arrays. */
function listReader(inner: DataType, data: Data, span: (row: number) => [number, number]): (row: number) => unknown {
  const child = data.children[0] as Data
  if (child.nullCount === 0 && (inner.typeId === Type.Int || inner.typeId === Type.Float)) {
    const values = child.values as Int32Array | Uint16Array
    const numbers = inner.typeId === Type.Float && values instanceof Uint16Array ? halvesOf(values) : values
    return (row) => numbers.subarray(...span(row))
  }
  const read = dataReader(inner, child)
  return (row) => {
    const [from, to] = span(row)
    return Array.from({ length: to - from }, (_, i) => read(from + i))
  }
}

function decimalText(words: Uint32Array, row: number, { scale, bitWidth }: Decimal): string {
  const count = bitWidth / 32
  let unscaled = 0n
  for (let i = count - 1; i >= 0; i--) unscaled = (unscaled << 32n) | BigInt(words[row * count + i] as number)
  unscaled = BigInt.asIntN(bitWidth, unscaled)
  if (scale <= 0) return `${unscaled * 10n ** BigInt(-scale)}`
  const digits = `${unscaled < 0n ? -unscaled : unscaled}`.padStart(scale + 1, '0')
  return `${unscaled < 0n ? '-' : ''}${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}

/**
 * A column of `values`, of the given type or else of the type that the kind of value stands for: number → float64, bigint → int64, string → utf8,
 * boolean → bool, Date → timestamp[ms], Uint8Array → binary, other typed arrays and arrays → list, plain objects → struct. `undefined` is null.
 *
 * @throws an `Error` that names the row and the value which does not fit; callers add the column
 */
export function dataFromValues(values: readonly unknown[], type: DataType = inferType(values)): Data {
  const { length } = values
  const bitmap = new Uint8Array((length + 7) >> 3)
  let nullCount = 0
  for (let row = 0; row < length; row++) {
    if (values[row] === null || values[row] === undefined) nullCount++
    else bitmap[row >> 3] = (bitmap[row >> 3] as number) | (1 << (row & 7))
  }
  const common = { type, length, ...(nullCount === 0 ? { nullCount } : { nullCount, nullBitmap: bitmap }) }
  const each = (visit: (value: unknown, row: number) => void): void => {
    for (let row = 0; row < length; row++) if (values[row] !== null && values[row] !== undefined) visit(values[row], row)
  }
  switch (type.typeId) {
    case Type.Null:
      each((value, row) => fail(value, row, type))
      return makeData({ type: new Null(), length })
    case Type.Bool: {
      const data = new Uint8Array((length + 7) >> 3)
      each((value, row) => {
        if (typeof value !== 'boolean') fail(value, row, type)
        if (value === true) data[row >> 3] = (data[row >> 3] as number) | (1 << (row & 7))
      })
      return makeData({ ...common, data } as never)
    }
    case Type.Utf8:
    case Type.LargeUtf8:
      return variable(common, each, (value, row) => (typeof value === 'string' ? encoder.encode(value) : fail(value, row, type)))
    case Type.Binary:
    case Type.LargeBinary:
      return variable(common, each, (value, row) => (value instanceof Uint8Array ? value : fail(value, row, type)))
    case Type.FixedSizeBinary: {
      const width = (type as FixedSizeBinary).byteWidth
      const data = new Uint8Array(length * width)
      each((value, row) => data.set(value instanceof Uint8Array && value.length === width ? value : fail(value, row, type), row * width))
      return makeData({ ...common, data } as never)
    }
    case Type.Int:
    case Type.Time:
    case Type.Duration:
    case Type.Float: {
      const { ArrayType } = type
      const data: NumericArray = new (ArrayType as new (length: number) => NumericArray)(length)
      const target = type.typeId === Type.Float && ArrayType === Uint16Array ? halvesOf(data) : data
      const wide = data instanceof BigInt64Array || data instanceof BigUint64Array
      each((value, row) => {
        const exact = wide && typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value
        if (typeof exact !== (wide ? 'bigint' : 'number')) fail(value, row, type)
        ;(target as Float64Array)[row] = exact as number
        if (type.typeId !== Type.Float && target[row] !== exact) fail(value, row, type)
      })
      return makeData({ ...common, data } as never)
    }
    case Type.Date:
    case Type.Timestamp:
      return times(common, type as Timestamp, each)
    case Type.Decimal: {
      const { bitWidth, scale } = type as Decimal
      const data = new Uint32Array((length * bitWidth) / 32)
      each((value, row) => {
        let unscaled = unscaledOf(value, scale) ?? (fail(value, row, type) as never)
        if (BigInt.asIntN(bitWidth, unscaled) !== unscaled) fail(value, row, type)
        for (let i = 0; i < bitWidth / 32; i++, unscaled >>= 32n) data[(row * bitWidth) / 32 + i] = Number(unscaled & 0xffff_ffffn)
      })
      return makeData({ ...common, data } as never)
    }
    case Type.List:
    case Type.LargeList: {
      const items: unknown[] = []
      const large = type.typeId === Type.LargeList
      const valueOffsets = large ? new BigInt64Array(length + 1) : new Int32Array(length + 1)
      for (let row = 0; row < length; row++) {
        const value = values[row]
        if (value !== null && value !== undefined) items.push(...Array.from(listOf(value) ?? fail(value, row, type)))
        valueOffsets[row + 1] = (large ? BigInt(items.length) : items.length) as never
      }
      return makeData({ ...common, valueOffsets, child: dataFromValues(items, itemType(type)) } as never)
    }
    case Type.FixedSizeList: {
      const { listSize } = type as FixedSizeList
      const items: unknown[] = new Array(length * listSize).fill(null)
      each((value, row) => {
        const list = listOf(value)
        if (list?.length !== listSize) fail(value, row, type)
        for (let i = 0; i < listSize; i++) items[row * listSize + i] = (list as ArrayLike<unknown>)[i]
      })
      const child = (type as FixedSizeList).children[0] as Field
      if (nullCount > 0 && (child.type.typeId === Type.Int || child.type.typeId === Type.Float)) {
        const zero = child.type.typeId === Type.Int && child.type.bitWidth === 64 ? 0n : 0
        for (let i = 0; i < items.length; i++) if (values[Math.floor(i / listSize)] == null) items[i] = zero
      }
      return makeData({ ...common, child: dataFromValues(items, child.type) } as never)
    }
    case Type.Struct: {
      each((value, row) => typeof value === 'object' || fail(value, row, type))
      const children = (type as Struct).children.map((field: Field) =>
        dataFromValues(
          values.map((value) => (value as Record<string, unknown> | null)?.[field.name]),
          field.type,
        ),
      )
      return makeData({ ...common, children } as never)
    }
    case Type.Map: {
      const entries: { key: unknown; value: unknown }[] = []
      const valueOffsets = new Int32Array(length + 1)
      for (let row = 0; row < length; row++) {
        const map = values[row]
        if (map instanceof Map) for (const [key, value] of map) entries.push({ key, value })
        else if (map !== null && map !== undefined) fail(map, row, type)
        valueOffsets[row + 1] = entries.length
      }
      const struct = itemType(type) as Struct
      const [key, value] = struct.children as [Field, Field]
      const children = [
        dataFromValues(
          entries.map((entry) => entry.key),
          key.type,
        ),
        dataFromValues(
          entries.map((entry) => entry.value),
          value.type,
        ),
      ]
      return makeData({ ...common, valueOffsets, child: makeData({ type: struct, length: entries.length, nullCount: 0, children }) } as never)
    }
    default:
      throw new TypeError(`a column of type ${type} cannot be made of single values; return an Arrow Vector`)
  }
}

type Each = (visit: (value: unknown, row: number) => void) => void
type Common = { readonly type: DataType; readonly length: number; readonly nullCount: number; readonly nullBitmap?: Uint8Array }

const encoder = new TextEncoder()

function variable(common: Common, each: Each, encode: (value: unknown, row: number) => Uint8Array): Data {
  const parts: (Uint8Array | undefined)[] = new Array(common.length)
  let bytes = 0
  each((value, row) => {
    const part = encode(value, row)
    parts[row] = part
    bytes += part.length
  })
  const large = common.type.typeId === Type.LargeUtf8 || common.type.typeId === Type.LargeBinary
  const valueOffsets = large ? new BigInt64Array(common.length + 1) : new Int32Array(common.length + 1)
  const data = new Uint8Array(bytes)
  let at = 0
  for (let row = 0; row < common.length; row++) {
    const part = parts[row]
    if (part !== undefined) {
      data.set(part, at)
      at += part.length
    }
    valueOffsets[row + 1] = (large ? BigInt(at) : at) as never
  }
  return makeData({ ...common, valueOffsets, data } as never)
}

function times(common: Common, type: Timestamp | DateDay | DateMillisecond, each: Each): Data {
  const date = (type as DataType).typeId === Type.Date
  const days = date && (type as DateDay).unit === DateUnit.DAY
  const data = days ? new Int32Array(common.length) : new BigInt64Array(common.length)
  const perMs = date ? 1n : ({ [TimeUnit.MILLISECOND]: 1n, [TimeUnit.MICROSECOND]: 1_000n, [TimeUnit.NANOSECOND]: 1_000_000n }[type.unit as 1 | 2 | 3] ?? 0n)
  each((value, row) => {
    const ms = value instanceof Date ? value.getTime() : Number.NaN
    if (days) {
      if (!Number.isInteger(ms / 86_400_000)) fail(value, row, type)
      ;(data as Int32Array)[row] = ms / 86_400_000
    } else if (typeof value === 'bigint') {
      ;(data as BigInt64Array)[row] = value
    } else {
      if (!Number.isInteger(perMs === 0n ? ms / 1000 : ms)) fail(value, row, type)
      ;(data as BigInt64Array)[row] = perMs === 0n ? BigInt(ms / 1000) : BigInt(ms) * perMs
    }
  })
  return makeData({ ...common, data } as never)
}

/** The integer behind a decimal's text, or undefined when it is no number or has more digits after the point than the type. */
function unscaledOf(value: unknown, scale: number): bigint | undefined {
  const match = /^(-?)(\d+)(?:\.(\d+))?$/.exec(String(value))
  if (match === null) return undefined
  const [, sign, whole = '', fraction = ''] = match
  if (scale < 0) return undefined
  if (fraction.length > scale) return undefined
  const digits = BigInt(whole + fraction.padEnd(scale, '0'))
  return sign === '-' ? -digits : digits
}

function listOf(value: unknown): ArrayLike<unknown> | undefined {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView)) ? (value as unknown as ArrayLike<unknown>) : undefined
}

function inferType(values: Iterable<unknown>): DataType {
  for (const value of values) {
    if (value === null || value === undefined) continue
    if (typeof value === 'number') return new Float64()
    if (typeof value === 'bigint') return new Int64()
    if (typeof value === 'string') return new Utf8()
    if (typeof value === 'boolean') return new Bool()
    if (value instanceof Date) return new TimestampMillisecond()
    if (value instanceof Uint8Array) return new Binary()
    const inner = arrayType(value)
    if (inner !== undefined) return new List(new Field('item', inner, true))
    if (Array.isArray(value)) return new List(new Field('item', inferType(itemsOf(values)), true))
    if (Object.getPrototypeOf(value) === Object.prototype) {
      return new Struct(Object.keys(value as object).map((name) => new Field(name, inferType(fieldsOf(values, name)), true)))
    }
    throw new TypeError(`values of class ${(value as object).constructor?.name ?? 'null'} have no Arrow type`)
  }
  return new Null()
}

function* itemsOf(lists: Iterable<unknown>): Iterable<unknown> {
  for (const list of lists) if (Array.isArray(list)) yield* list
}

function* fieldsOf(objects: Iterable<unknown>, name: string): Iterable<unknown> {
  for (const object of objects) yield (object as Record<string, unknown> | null | undefined)?.[name]
}

function fail(value: unknown, row: number, type: DataType): never {
  const text = typeof value === 'string' ? JSON.stringify(value) : typeof value === 'bigint' ? `${value}n` : String(value)
  throw new TypeError(`the value ${text.length > 60 ? `${text.slice(0, 60)}…` : text} in row ${row} does not fit ${type}`)
}

/** The Arrow type of a typed array; undefined for anything else. */
export function arrayType(value: unknown): DataType | undefined {
  if (!ArrayBuffer.isView(value)) return undefined
  return ARRAY_TYPES.find(([ArrayType]) => value instanceof ArrayType)?.[1]()
}
