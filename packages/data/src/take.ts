/**
 * Picks rows of a column, in any order and as often as wanted: the copy that filters, sorts and joins end in.
 */
import { type Data, type DataType, makeData, Type } from 'apache-arrow'
import { isSet } from './bits.ts'

/** Text and lists shorter than this are copied byte by byte: a call that copies costs more. */
const SHORT = 24

/**
 * The rows of `data` at `rows`; null where an index is negative. Cost: the bytes of the rows picked, copied once.
 */
export function takeData(data: Data, rows: Int32Array): Data {
  const type = data.type as DataType
  const { length } = rows
  if (type.typeId === Type.Null) return makeData({ type, length } as never)
  const common = { type, length, ...takenNulls(data, rows) }
  switch (type.typeId) {
    case Type.Bool: {
      const bits = new Uint8Array((length + 7) >> 3)
      const values = data.values as Uint8Array
      for (let i = 0; i < length; i++) {
        const row = rows[i] as number
        if (row >= 0 && isSet(values, data.offset + row)) bits[i >> 3] = (bits[i >> 3] as number) | (1 << (i & 7))
      }
      return makeData({ ...common, data: bits } as never)
    }
    case Type.Struct:
      return makeData({ ...common, children: data.children.map((child) => takeData(child as Data, rows)) } as never)
    case Type.FixedSizeList: {
      const size = (type as DataType & { listSize: number }).listSize
      const inner = new Int32Array(length * size)
      for (let i = 0; i < length; i++) {
        const row = rows[i] as number
        for (let k = 0; k < size; k++) inner[i * size + k] = row < 0 ? -1 : row * size + k
      }
      return makeData({ ...common, child: takeData(data.children[0] as Data, inner) } as never)
    }
    case Type.Binary:
    case Type.Utf8:
    case Type.LargeBinary:
    case Type.LargeUtf8: {
      const offsets = takenOffsets(data, rows)
      return makeData({ ...common, valueOffsets: offsets, data: takenBytes(data, rows, Number(offsets[length])) } as never)
    }
    case Type.List:
    case Type.LargeList:
    case Type.Map: {
      const offsets = takenOffsets(data, rows)
      const from = data.valueOffsets
      const inner = new Int32Array(Number(offsets[length]))
      let at = 0
      for (let i = 0; i < length; i++) {
        const row = rows[i] as number
        if (row < 0) continue
        const end = Number(from[row + 1])
        for (let item = Number(from[row]); item < end; item++) inner[at++] = item
      }
      return makeData({ ...common, valueOffsets: offsets, child: takeData(data.children[0] as Data, inner) } as never)
    }
    default:
      return makeData({ ...common, data: takenValues(data, rows), ...(data.dictionary === undefined ? {} : { dictionary: data.dictionary }) } as never)
  }
}

function takenNulls(data: Data, rows: Int32Array): { nullCount: number; nullBitmap?: Uint8Array } {
  const { length } = rows
  const from = data.nullCount > 0 ? (data.nullBitmap as Uint8Array) : undefined
  const bitmap = new Uint8Array((length + 7) >> 3)
  let nullCount = 0
  for (let i = 0; i < length; i++) {
    const row = rows[i] as number
    if (row >= 0 && (from === undefined || isSet(from, data.offset + row))) bitmap[i >> 3] = (bitmap[i >> 3] as number) | (1 << (i & 7))
    else nullCount++
  }
  return nullCount === 0 ? { nullCount } : { nullCount, nullBitmap: bitmap }
}

function takenOffsets(data: Data, rows: Int32Array): Int32Array | BigInt64Array {
  const from = data.valueOffsets
  const { length } = rows
  const sizes = new Float64Array(length + 1)
  let total = 0
  for (let i = 0; i < length; i++) {
    const row = rows[i] as number
    if (row >= 0) total += Number(from[row + 1]) - Number(from[row])
    sizes[i + 1] = total
  }
  if ((from as unknown) instanceof BigInt64Array) return BigInt64Array.from(sizes, BigInt)
  if (total > 0x7fff_ffff) throw new RangeError(`a block's text or list column would hold ${total} bytes or items, more than 2 GiB; use smaller blocks`)
  return Int32Array.from(sizes)
}

function takenBytes(data: Data, rows: Int32Array, total: number): Uint8Array {
  const from = data.values as Uint8Array
  const offsets = data.valueOffsets
  const to = new Uint8Array(total)
  let at = 0
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as number
    if (row < 0) continue
    const start = Number(offsets[row])
    let last = row
    while (i + 1 < rows.length && rows[i + 1] === last + 1) {
      last++
      i++
    }
    const end = Number(offsets[last + 1])
    if (end - start < SHORT) for (let byte = start; byte < end; byte++) to[at++] = from[byte] as number
    else {
      to.set(from.subarray(start, end), at)
      at += end - start
    }
  }
  return to
}

function takenValues(data: Data, rows: Int32Array): ArrayBufferView {
  const stride = strideOf(data)
  const from = data.values as unknown as Int32Array
  // Not the type's own: that of a dictionary is the one of its values, not of its keys.
  const to = new (from.constructor as new (length: number) => Int32Array)(rows.length * stride)
  if (stride === 1) {
    copyEach(from, to, rows)
  } else {
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number
      if (row < 0) continue
      for (let k = 0; k < stride; k++) to[i * stride + k] = from[row * stride + k] as number
    }
  }
  return to
}

function copyEach(from: Int32Array, to: Int32Array, rows: Int32Array): void {
  // 64-bit values as pairs of words: a BigInt for each would cost more than the copy.
  if ((from as unknown) instanceof BigInt64Array || (from as unknown) instanceof BigUint64Array) {
    const words = new Int32Array(from.buffer, from.byteOffset, from.length * 2)
    const out = new Int32Array(to.buffer, to.byteOffset, to.length * 2)
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i] as number
      if (row < 0) continue
      out[2 * i] = words[2 * row] as number
      out[2 * i + 1] = words[2 * row + 1] as number
    }
    return
  }
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as number
    if (row >= 0) to[i] = from[row] as number
  }
}

/** Array elements per value of a fixed-width column (4 words for a decimal, 16 bytes for 16-byte binary). */
export function strideOf(data: Data): number {
  const type = data.type as DataType & { byteWidth?: number; bitWidth?: number; unit?: number }
  if (type.typeId === Type.FixedSizeBinary) return type.byteWidth as number
  if (type.typeId === Type.Decimal) return (type.bitWidth as number) / 32
  if (type.typeId === Type.Interval) return [1, 2, 4][type.unit as number] ?? 4
  return 1
}
