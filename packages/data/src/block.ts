/**
 * A block: one Arrow record batch, the unit that tasks exchange through the object store. What is here works on whole blocks
 * (size, slice, concatenate, pick rows or columns) with typed-array loops; how user functions see a block is in `batch.ts`.
 */
import { type Data, type DataType, Field, makeData, RecordBatch, Schema, Struct, Type, Vector } from 'apache-arrow'
import { isSet } from './bits.ts'
import { strideOf, takeData } from './take.ts'

/** What the driver knows about a block without holding it. */
export interface BlockInfo {
  readonly rows: number
  readonly bytes: number
  /** Column names and type texts, to compare schemas across blocks. */
  readonly columns: readonly (readonly [name: string, type: string])[]
}

export function infoOf(batch: RecordBatch): BlockInfo {
  return { rows: batch.numRows, bytes: byteLengthOf(batch), columns: batch.schema.fields.map(({ name, type }) => [name, String(type)] as const) }
}

/** Bytes of all buffers that the batch refers to (shared ones counted each time). */
export function byteLengthOf(batch: RecordBatch): number {
  return batch.data.children.reduce((sum, data) => sum + dataBytes(data), 0)
}

function dataBytes(data: Data): number {
  let bytes = (data.values?.byteLength ?? 0) + (data.valueOffsets?.byteLength ?? 0) + (data.nullBitmap?.byteLength ?? 0) + (data.typeIds?.byteLength ?? 0)
  for (const child of data.children) bytes += dataBytes(child)
  for (const chunk of data.dictionary?.data ?? []) bytes += dataBytes(chunk)
  return bytes
}

export function emptyBatch(schema: Schema): RecordBatch {
  return fromColumns(
    schema,
    schema.fields.map(({ type }) => emptyData(type)),
    0,
  )
}

function emptyData(type: DataType): Data {
  const children = (type.children ?? []).map((child) => emptyData(child.type))
  const offsets =
    type.typeId === Type.LargeUtf8 || type.typeId === Type.LargeBinary || type.typeId === Type.LargeList ? new BigInt64Array(1) : new Int32Array(1)
  return makeData({ type, length: 0, valueOffsets: offsets, children, child: children[0], views: new Uint8Array(0) } as never)
}

/** A batch of these columns, which all hold `rows` values. */
export function fromColumns(schema: Schema, columns: readonly Data[], rows: number): RecordBatch {
  return new RecordBatch(schema, makeData({ type: new Struct(schema.fields), length: rows, nullCount: 0, children: [...columns] }))
}

/** These columns, in this order. */
export function select(batch: RecordBatch, columns: readonly string[]): RecordBatch {
  const fields = columns.map((name) => batch.schema.fields.findIndex((field) => field.name === name))
  const schema = new Schema(
    fields.map((index) => batch.schema.fields[index] as Field),
    batch.schema.metadata,
  )
  return fromColumns(
    schema,
    fields.map((index) => batch.data.children[index] as Data),
    batch.numRows,
  )
}

/**
 * One batch of all rows in order; one batch is returned as it is.
 *
 * @param batches - at least one; all of the same schema
 */
export function concat(batches: readonly RecordBatch[]): RecordBatch {
  const first = batches[0] as RecordBatch
  if (batches.length === 1) return first
  const full = batches.filter((batch) => batch.numRows > 0)
  if (full.length <= 1) return full[0] ?? first
  return compact(full)
}

/** The rows of `batches` copied into fresh, tight buffers. */
export function compact(batches: readonly RecordBatch[]): RecordBatch {
  const { schema } = batches[0] as RecordBatch
  const rows = batches.reduce((sum, batch) => sum + batch.numRows, 0)
  const columns = schema.fields.map((_, index) => concatData(batches.map((batch) => batch.data.children[index] as Data)))
  return fromColumns(schema, columns, rows)
}

/** `length` rows from `offset`, in buffers of their own, so that the slice does not drag its parent along. */
export function copySlice(batch: RecordBatch, offset: number, length: number): RecordBatch {
  return offset === 0 && length === batch.numRows ? batch : compact([batch.slice(offset, offset + length)])
}

/** The rows whose `keep` entry is not 0. */
export function filterRows(batch: RecordBatch, keep: Uint8Array): RecordBatch {
  const rows = new Int32Array(batch.numRows)
  let count = 0
  for (let row = 0; row < keep.length; row++) if (keep[row] !== 0) rows[count++] = row
  return count === batch.numRows ? batch : takeRows(batch, rows.subarray(0, count))
}

/** The rows at these indices. */
export function takeRows(batch: RecordBatch, rows: Int32Array): RecordBatch {
  const columns = batch.data.children.map((data) => takeData(data as Data, rows))
  return fromColumns(batch.schema, columns, rows.length)
}

/** Whether a value of the column is null; null-typed columns hold nothing else. */
const isValid = (data: Data, row: number): boolean => data.nullCount === 0 || isSet(data.nullBitmap as Uint8Array, data.offset + row)

function bitmapOf(length: number, valid: (row: number) => boolean): Uint8Array {
  const bitmap = new Uint8Array((length + 7) >> 3)
  for (let row = 0; row < length; row++) if (valid(row)) bitmap[row >> 3] = (bitmap[row >> 3] as number) | (1 << (row & 7))
  return bitmap
}

type Offsets = Int32Array | BigInt64Array

function concatData(parts: readonly Data[]): Data {
  const first = parts[0] as Data
  const type = first.type as DataType
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  const nullCount = parts.reduce((sum, part) => sum + (type.typeId === Type.Null ? 0 : part.nullCount), 0)
  const locate = locator(parts)
  const nulls = nullCount === 0 ? { nullCount: 0 } : { nullCount, nullBitmap: bitmapOf(length, (row) => locate(row, isValid)) }
  const common = { type, length, ...nulls }
  switch (type.typeId) {
    case Type.Null:
      return makeData({ type, length } as never)
    case Type.Bool:
      return makeData({ ...common, data: bitmapOf(length, (row) => locate(row, (part, at) => isSet(part.values as Uint8Array, part.offset + at))) } as never)
    case Type.Binary:
    case Type.Utf8:
    case Type.LargeBinary:
    case Type.LargeUtf8: {
      const valueOffsets = concatOffsets(parts, length)
      const data = new Uint8Array(Number(valueOffsets[length]))
      let at = 0
      for (const part of parts) {
        const bytes = (part.values as Uint8Array).subarray(Number(part.valueOffsets[0]), Number(part.valueOffsets[part.length]))
        data.set(bytes, at)
        at += bytes.length
      }
      return makeData({ ...common, valueOffsets, data } as never)
    }
    case Type.List:
    case Type.LargeList:
    case Type.Map: {
      const children = parts.map((part) => {
        const from = Number(part.valueOffsets[0])
        return (part.children[0] as Data).slice(from, Number(part.valueOffsets[part.length]) - from)
      })
      return makeData({ ...common, valueOffsets: concatOffsets(parts, length), child: concatData(children) } as never)
    }
    case Type.FixedSizeList:
      return makeData({ ...common, child: concatData(parts.map((part) => part.children[0] as Data)) } as never)
    case Type.Struct:
      return makeData({ ...common, children: type.children.map((_: Field, i: number) => concatData(parts.map((part) => part.children[i] as Data))) } as never)
    case Type.Dictionary:
      return concatDictionaries(parts, common)
    default: {
      const stride = strideOf(first)
      const data = new (type.ArrayType as new (length: number) => Int32Array)(length * stride)
      let at = 0
      for (const part of parts) {
        const values = (part.values as Int32Array).subarray(0, part.length * stride)
        data.set(values, at)
        at += values.length
      }
      return makeData({ ...common, data } as never)
    }
  }
}

/** Values of one dictionary after the other, keys moved accordingly; keys widen to int32 because the joined dictionary is longer. */
function concatDictionaries(parts: readonly Data[], common: { length: number }): Data {
  const vectors = parts.map((part) => part.dictionary as Vector)
  const shared = vectors.every((vector) => vector === vectors[0])
  const dictionary = shared ? (vectors[0] as Vector) : new Vector([concatData(vectors.map((vector) => concatData(vector.data)))])
  const { ArrayType } = ((parts[0] as Data).type as unknown as { indices: DataType }).indices
  const data = new (ArrayType as new (length: number) => Int32Array)(common.length)
  let at = 0
  let base = 0
  for (const [index, part] of parts.entries()) {
    const keys = part.values as Int32Array
    for (let row = 0; row < part.length; row++) data[at++] = (keys[row] as number) + base
    if (!shared) base += (vectors[index] as Vector).length
  }
  if (at > 0 && base > 2 ** (8 * data.BYTES_PER_ELEMENT - 1))
    throw new RangeError(`a dictionary of ${base} values does not fit ${data.BYTES_PER_ELEMENT}-byte keys`)
  return makeData({ ...common, data, dictionary } as never)
}

function concatOffsets(parts: readonly Data[], length: number): Offsets {
  const large = ((parts[0] as Data).valueOffsets as unknown) instanceof BigInt64Array
  if (large) {
    const offsets = new BigInt64Array(length + 1)
    let at = 0
    for (const part of parts) {
      const from = part.valueOffsets as unknown as BigInt64Array
      const shift = (offsets[at] as bigint) - (from[0] as bigint)
      for (let row = 1; row <= part.length; row++) offsets[++at] = (from[row] as bigint) + shift
    }
    return offsets
  }
  const offsets = new Int32Array(length + 1)
  let at = 0
  for (const part of parts) {
    const from = part.valueOffsets
    const shift = (offsets[at] as number) - (from[0] as number)
    for (let row = 1; row <= part.length; row++) {
      const offset = (from[row] as number) + shift
      if (offset > 0x7fff_ffff) throw new RangeError(`a block's text or list column would exceed 2 GiB; use smaller blocks`)
      offsets[++at] = offset
    }
  }
  return offsets
}

function locator(parts: readonly Data[]): <T>(row: number, read: (part: Data, at: number) => T) => T {
  let index = 0
  let start = 0
  return (row, read) => {
    if (row < start) {
      index = 0
      start = 0
    }
    while (row >= start + (parts[index] as Data).length) start += (parts[index++] as Data).length
    return read(parts[index] as Data, row - start)
  }
}
