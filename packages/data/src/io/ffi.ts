/**
 * Reads Arrow's C data interface out of a 32-bit WebAssembly memory, and copies the buffers out.
 *
 * Not a general importer: only what the parquet-wasm reader exports. Unlike an IPC stream there is one copy, and every type comes
 * through as it is (also large and fixed-size ones). https://arrow.apache.org/docs/format/CDataInterface.html
 */
import {
  Binary,
  Bool,
  type Data,
  type DataType,
  DateDay,
  DateMillisecond,
  Decimal,
  Dictionary,
  Duration,
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
  Interval,
  IntervalUnit,
  LargeBinary,
  LargeList,
  LargeUtf8,
  List,
  Map_,
  makeData,
  Null,
  RecordBatch,
  Schema,
  Struct,
  TimeMicrosecond,
  TimeMillisecond,
  TimeNanosecond,
  Timestamp,
  TimeSecond,
  TimeUnit,
  Type,
  Uint8,
  Uint16,
  Uint32,
  Uint64,
  Utf8,
  Vector,
} from 'apache-arrow'

const FLAG_NULLABLE = 2
const FLAG_KEYS_SORTED = 4

const SIMPLE: Record<string, () => DataType> = {
  n: () => new Null(),
  b: () => new Bool(),
  c: () => new Int8(),
  C: () => new Uint8(),
  s: () => new Int16(),
  S: () => new Uint16(),
  i: () => new Int32(),
  I: () => new Uint32(),
  l: () => new Int64(),
  L: () => new Uint64(),
  e: () => new Float16(),
  f: () => new Float32(),
  g: () => new Float64(),
  z: () => new Binary(),
  Z: () => new LargeBinary(),
  u: () => new Utf8(),
  U: () => new LargeUtf8(),
  tdD: () => new DateDay(),
  tdm: () => new DateMillisecond(),
  tts: () => new TimeSecond(),
  ttm: () => new TimeMillisecond(),
  ttu: () => new TimeMicrosecond(),
  ttn: () => new TimeNanosecond(),
  tiM: () => new Interval(IntervalUnit.YEAR_MONTH),
  tiD: () => new Interval(IntervalUnit.DAY_TIME),
  tin: () => new Interval(IntervalUnit.MONTH_DAY_NANO),
}

const UNITS: Record<string, TimeUnit> = { s: TimeUnit.SECOND, m: TimeUnit.MILLISECOND, u: TimeUnit.MICROSECOND, n: TimeUnit.NANOSECOND }

/** Bytes per value of a fixed-width type; bits are handled apart. */
const WIDTHS: Partial<Record<Type, (type: DataType) => number>> = {
  [Type.Int]: (type) => (type as Int32).bitWidth / 8,
  [Type.Float]: (type) => (type as Float64).ArrayType.BYTES_PER_ELEMENT,
  [Type.Decimal]: (type) => (type as Decimal).bitWidth / 8,
  [Type.Date]: (type) => ((type as DateDay).unit === 0 ? 4 : 8),
  [Type.Time]: (type) => (type as TimeSecond).bitWidth / 8,
  [Type.Timestamp]: () => 8,
  [Type.Duration]: () => 8,
  [Type.Interval]: (type) => [4, 8, 16][(type as Interval).unit] ?? 16,
  [Type.FixedSizeBinary]: (type) => (type as FixedSizeBinary).byteWidth,
}

/**
 * Copy the record batch behind two C structs into JavaScript memory.
 *
 * @param memory - the module's whole memory, taken after the last call into it (growth detaches older buffers)
 * @param arrayAddress - an `ArrowArray` of struct type
 * @param schemaAddress - the `ArrowSchema` of it
 * @throws an `Error` naming the column for a type that has no JavaScript counterpart (run-end encoded, list views)
 */
export function readRecordBatch(memory: ArrayBufferLike, arrayAddress: number, schemaAddress: number): RecordBatch {
  const schema = readSchema(memory, schemaAddress)
  return new RecordBatch(schema, new Reader(memory).data(arrayAddress, new Struct(schema.fields)) as Data<Struct>)
}

/** Copy the schema behind an `ArrowSchema` of struct type. */
export function readSchema(memory: ArrayBufferLike, schemaAddress: number): Schema {
  const reader = new Reader(memory)
  return new Schema(reader.field(schemaAddress).type.children, reader.metadata(schemaAddress))
}

class Reader {
  readonly #view: DataView
  readonly #bytes: Uint8Array

  constructor(memory: ArrayBufferLike) {
    this.#view = new DataView(memory)
    this.#bytes = new Uint8Array(memory)
  }

  field(address: number): Field {
    const format = this.#string(this.#pointer(address))
    const name = this.#string(this.#pointer(address + 4))
    const flags = this.#view.getUint32(address + 16, true)
    const count = this.#long(address + 24)
    const list = this.#pointer(address + 32)
    const dictionary = this.#pointer(address + 36)
    const children = Array.from({ length: count }, (_, i) => this.field(this.#pointer(list + i * 4)))
    let type = typeOf(format, children, flags, name)
    if (dictionary !== 0) type = new Dictionary(this.field(dictionary).type, type as Int32)
    return new Field(name, type, (flags & FLAG_NULLABLE) !== 0, this.metadata(address))
  }

  metadata(schemaAddress: number): Map<string, string> {
    const entries = new Map<string, string>()
    let at = this.#pointer(schemaAddress + 8)
    if (at === 0) return entries
    const count = this.#view.getInt32(at, true)
    at += 4
    const next = (): string => {
      const length = this.#view.getInt32(at, true)
      const text = decoder.decode(this.#bytes.subarray(at + 4, at + 4 + length))
      at += 4 + length
      return text
    }
    for (let i = 0; i < count; i++) entries.set(next(), next())
    return entries
  }

  data(address: number, type: DataType): Data {
    const offset = this.#long(address + 16)
    const length = this.#long(address) + offset
    const buffers = this.#pointer(address + 40)
    const list = this.#pointer(address + 44)
    const dictionary = this.#pointer(address + 48)
    const buffer = (index: number, bytes: number): Uint8Array => {
      const at = this.#pointer(buffers + index * 4)
      return at === 0 ? new Uint8Array(bytes) : this.#bytes.slice(at, at + bytes)
    }
    const child = (index: number, of: DataType): Data => this.data(this.#pointer(list + index * 4), of)

    // Without a validity buffer nothing is null, whatever null_count says; with one, arrow-js counts for itself.
    const valid = type.typeId === Type.Null || this.#pointer(buffers) === 0
    const nulls = valid ? { nullCount: 0 } : { nullBitmap: buffer(0, (length + 7) >> 3) }
    const common = { length, ...nulls }
    const whole = ((): Data => {
      if (dictionary !== 0) {
        const keys = (type as Dictionary).indices
        const bytes = buffer(1, length * (keys.bitWidth / 8))
        const values = new Vector([this.data(dictionary, (type as Dictionary).dictionary)])
        return makeData({ ...common, type: type as Dictionary, data: typed(keys.ArrayType as typeof Int32Array, bytes) as never, dictionary: values })
      }
      switch (type.typeId) {
        case Type.Null:
          return makeData({ type: type as Null, length })
        case Type.Bool:
          return makeData({ ...common, type: type as Bool, data: buffer(1, (length + 7) >> 3) })
        case Type.Binary:
        case Type.Utf8: {
          const valueOffsets = typed(Int32Array, buffer(1, (length + 1) * 4))
          return makeData({ ...common, type: type as Utf8, valueOffsets, data: buffer(2, valueOffsets[length] ?? 0) })
        }
        case Type.LargeBinary:
        case Type.LargeUtf8: {
          const valueOffsets = typed(BigInt64Array, buffer(1, (length + 1) * 8))
          return makeData({ ...common, type: type as LargeUtf8, valueOffsets, data: buffer(2, Number(valueOffsets[length] ?? 0n)) })
        }
        case Type.List:
        case Type.Map:
          return makeData({ ...common, type: type as List, valueOffsets: typed(Int32Array, buffer(1, (length + 1) * 4)), child: child(0, itemType(type)) })
        case Type.LargeList:
          return makeData({
            ...common,
            type: type as LargeList,
            valueOffsets: typed(BigInt64Array, buffer(1, (length + 1) * 8)),
            child: child(0, itemType(type)),
          })
        case Type.FixedSizeList:
          return makeData({ ...common, type: type as FixedSizeList, child: child(0, itemType(type)) })
        case Type.Struct:
          return makeData({ ...common, type: type as Struct, children: type.children.map((field: Field, i: number) => child(i, field.type)) })
        default: {
          const width = WIDTHS[type.typeId as Type]
          if (width === undefined) throw new Error(`values of type ${type} are not supported`)
          return makeData({ ...common, type: type as Int32, data: typed(type.ArrayType, buffer(1, length * width(type))) as never })
        }
      }
    })()
    return offset === 0 ? whole : whole.slice(offset, length - offset)
  }

  #pointer(address: number): number {
    return this.#view.getUint32(address, true)
  }

  #long(address: number): number {
    return Number(this.#view.getBigInt64(address, true))
  }

  #string(address: number): string {
    return decoder.decode(this.#bytes.subarray(address, this.#bytes.indexOf(0, address)))
  }
}

const decoder = new TextDecoder()
const itemType = (type: DataType): DataType => (type.children as Field[])[0]?.type as DataType

function typed<T>(ArrayType: new (buffer: ArrayBufferLike, offset: number, length: number) => T, bytes: Uint8Array): T {
  const size = (ArrayType as unknown as { BYTES_PER_ELEMENT: number }).BYTES_PER_ELEMENT
  return new ArrayType(bytes.buffer, bytes.byteOffset, bytes.byteLength / size)
}

function typeOf(format: string, children: Field[], flags: number, name: string): DataType {
  const simple = SIMPLE[format]
  if (simple !== undefined) return simple()
  const child = children[0] as Field
  const colon = format.indexOf(':')
  const head = colon < 0 ? format : format.slice(0, colon)
  const rest = colon < 0 ? '' : format.slice(colon + 1)
  switch (head) {
    case 'd': {
      const [precision, scale, bits] = rest.split(',').map(Number)
      return new Decimal(scale as number, precision as number, bits ?? 128)
    }
    case 'w':
      return new FixedSizeBinary(Number(rest))
    case '+l':
      return new List(child)
    case '+L':
      return new LargeList(child)
    case '+w':
      return new FixedSizeList(Number(rest), child)
    case '+s':
      return new Struct(children)
    case '+m':
      return new Map_(child as never, (flags & FLAG_KEYS_SORTED) !== 0)
  }
  const unit = UNITS[head[2] ?? '']
  if (unit !== undefined && head.startsWith('ts')) return new Timestamp(unit, rest === '' ? null : rest)
  if (unit !== undefined && head.startsWith('tD')) return new Duration(unit)
  throw new Error(`column ${name}: the Arrow type with format "${format}" is not supported`)
}
