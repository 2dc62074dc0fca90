/**
 * How Arrow data travels between processes: typed arrays beside a schema in Arrow's own encoding. The runtime's codec keeps typed arrays out of band,
 * so a block is copied once into shared memory and its columns are views of it in every reader.
 *
 * Tasks of this package pack and unpack by hand; the registrations at the end let users pass Arrow values to their own tasks and actors.
 */
import { registerType } from '@beamline/runtime'
import { Data, DataType, Field, RecordBatch, RecordBatchReader, Schema, Struct, Table, tableToIPC, Type, Vector } from 'apache-arrow'
import { compact, emptyBatch } from './block.ts'

/** A record batch as plain values that the runtime's codec takes. */
export interface PackedBlock {
  /** An IPC stream with the schema and no batch. */
  readonly schema: Uint8Array
  readonly rows: number
  readonly columns: readonly PackedData[]
}

interface PackedData {
  readonly length: number
  readonly offset: number
  readonly nullCount: number
  readonly offsets: unknown
  readonly values: unknown
  readonly validity: unknown
  readonly typeIds: unknown
  readonly children: readonly PackedData[]
  readonly dictionary: readonly PackedData[] | undefined
  readonly variadic: readonly Uint8Array[]
}

const schemaBytes = new WeakMap<Schema, Uint8Array>()
/** Schemas by their bytes in base64: a reader of many blocks parses each schema once. Few and small; dropped together when they are not few. */
const schemas = new Map<string, Schema>()
const SCHEMAS_MAX = 256

/** Slices are copied tight first, so that their neighbours stay behind. */
export function packBlock(batch: RecordBatch): PackedBlock {
  const tight = batch.data.children.every((data) => isTight(data as Data)) ? batch : compact([batch])
  return { schema: bytesOf(tight.schema), rows: tight.numRows, columns: tight.data.children.map((data) => packData(data as Data)) }
}

export function unpackBlock({ schema: bytes, rows, columns }: PackedBlock): RecordBatch {
  const schema = schemaOf(bytes)
  const children = columns.map((data, i) => unpackData(data, (schema.fields[i] as Field).type))
  return new RecordBatch(schema, new Data(new Struct(schema.fields), 0, rows, 0, undefined, children) as Data<Struct>)
}

function bytesOf(schema: Schema): Uint8Array {
  let bytes = schemaBytes.get(schema)
  if (bytes === undefined) {
    bytes = tableToIPC(new Table([emptyBatch(schema)]), 'stream')
    schemaBytes.set(schema, bytes)
  }
  return bytes
}

function schemaOf(bytes: Uint8Array): Schema {
  const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
  let schema = schemas.get(key)
  if (schema === undefined) {
    if (schemas.size >= SCHEMAS_MAX) schemas.clear()
    schema = RecordBatchReader.from(bytes.slice()).open().schema
    schemas.set(key, schema)
    schemaBytes.set(schema, Buffer.from(key, 'base64'))
  }
  return schema
}

function packData(data: Data): PackedData {
  return {
    length: data.length,
    offset: data.offset,
    nullCount: data.nullCount,
    offsets: data.valueOffsets,
    values: data.values,
    // arrow-js keeps an empty bitmap where there are no nulls.
    validity: data.nullBitmap,
    typeIds: data.typeIds,
    children: data.children.map((child) => packData(child as Data)),
    dictionary: data.dictionary?.data.map((chunk) => packData(chunk as Data)),
    variadic: data.variadicBuffers ?? [],
  }
}

function unpackData(packed: PackedData, type: DataType): Data {
  const { length, offset, nullCount, offsets, values, validity, typeIds, children, dictionary, variadic } = packed
  const fields = (type.children ?? []) as Field[]
  const entries =
    dictionary === undefined ? undefined : new Vector(dictionary.map((chunk) => unpackData(chunk, (type as DataType & { dictionary: DataType }).dictionary)))
  return new Data(
    type,
    offset,
    length,
    nullCount,
    [offsets, values, validity, typeIds] as never,
    children.map((child, i) => unpackData(child, (fields[i] as Field).type)),
    entries,
    variadic,
  )
}

/** Whether the buffers hold nothing but this data's values. */
function isTight(data: Data): boolean {
  if (data.offset !== 0) return false
  const type = data.type as DataType
  const { valueOffsets, length } = data
  const end = valueOffsets === undefined || length === 0 ? undefined : Number(valueOffsets[length])
  switch (type.typeId) {
    case Type.Utf8:
    case Type.Binary:
    case Type.LargeUtf8:
    case Type.LargeBinary:
      return Number(valueOffsets[0]) === 0 && (end === undefined || end === (data.values as Uint8Array).length)
    case Type.List:
    case Type.LargeList:
    case Type.Map:
      return Number(valueOffsets[0]) === 0 && (end === undefined || end === (data.children[0] as Data).length) && isTight(data.children[0] as Data)
    default:
      return data.children.every((child) => isTight(child as Data))
  }
}

/** By shape: other copies of apache-arrow have other classes. */
const isBatch = (value: object): value is RecordBatch =>
  'schema' in value && 'data' in value && value.data instanceof Object && 'numRows' in value && !('batches' in value)

registerType<RecordBatch>({ name: 'arrow.RecordBatch', matches: isBatch, encode: packBlock, decode: unpackBlock as (data: never) => RecordBatch })
registerType<Table>({
  name: 'arrow.Table',
  matches: (value): value is Table => value instanceof Table,
  encode: (table) => ({ schema: bytesOf(table.schema), batches: table.batches.map(packBlock) }),
  decode: ({ schema, batches }: { schema: Uint8Array; batches: PackedBlock[] }) => new Table(schemaOf(schema), batches.map(unpackBlock)),
})
registerType<Vector>({
  name: 'arrow.Vector',
  matches: (value): value is Vector => value instanceof Vector,
  encode: (vector) => ({ schema: bytesOf(new Schema([new Field('', vector.type, true)])), chunks: vector.data.map(packData) }),
  decode: ({ schema, chunks }: { schema: Uint8Array; chunks: PackedData[] }) => {
    const [field] = schemaOf(schema).fields as [Field]
    return new Vector(chunks.map((chunk) => unpackData(chunk, field.type)))
  },
})
registerType<Schema>({
  name: 'arrow.Schema',
  matches: (value): value is Schema => value instanceof Schema,
  encode: bytesOf,
  decode: schemaOf as (data: never) => Schema,
})
registerType<Field>({
  name: 'arrow.Field',
  matches: (value): value is Field => value instanceof Field,
  encode: (field) => bytesOf(new Schema([field])),
  decode: (bytes: Uint8Array) => schemaOf(bytes).fields[0] as Field,
})
registerType<DataType>({
  name: 'arrow.DataType',
  matches: (value): value is DataType => value instanceof DataType,
  encode: (type) => bytesOf(new Schema([new Field('', type, true)])),
  decode: (bytes: Uint8Array) => (schemaOf(bytes).fields[0] as Field).type,
})
