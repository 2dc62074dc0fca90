/**
 * How user functions see a block, and how what they return becomes a block again.
 *
 * `columns` (the default): an object with one entry per column, views without copying where the type allows —
 *   numbers without nulls      → the typed array of exactly that type (`Int8Array`, `Float64Array`, `BigInt64Array`, …)
 *   fixed-size lists of those  → a {@link Tensor}: one flat typed array and a shape `[rows, …]`
 *   anything else              → the Arrow `Vector` (text, booleans, times, nested, and every column that has nulls)
 * `rows`: an array of plain objects. `arrow`: the `RecordBatch` itself.
 *
 * Types never depend on the data: a column that keeps its name keeps its type, and a value that does not fit is an error.
 */
import { BeamlineError } from '@beamline/runtime'
import { type Data, type DataType, Field, FixedSizeList, makeData, RecordBatch, Schema, Table, Type, type Vector } from 'apache-arrow'
import { compact, emptyBatch, fromColumns } from './block.ts'
import { arrayType, dataFromValues, type NumericArray, valueReader } from './values.ts'

export type BatchFormat = 'columns' | 'rows' | 'arrow'

/** A column of equally shaped numeric arrays: `shape[0]` rows, flat and row-major. The names are those of ONNX Runtime and friends. */
export interface Tensor<A extends NumericArray = NumericArray> {
  readonly data: A
  readonly shape: readonly number[]
}

/** One column as `batchFormat: 'columns'` hands it out. */
export type Column = NumericArray | Tensor | Vector
/** A batch as `batchFormat: 'columns'` hands it out. */
export type ColumnBatch = Record<string, Column>
/** A row as plain values: see `docs/data.md` for the table of types. */
export type Row = Record<string, unknown>

/** What a batch function may return for one column; `dims` (as ONNX Runtime names it) serves as `shape`. */
export type ColumnLike =
  | NumericArray
  | { readonly data: unknown; readonly shape?: readonly number[]; readonly dims?: readonly number[] }
  | Vector
  | readonly unknown[]
/** What a batch function may return. */
export type BatchLike = Readonly<Record<string, ColumnLike>> | RecordBatch | Table | readonly Row[]

/** Arrow types by column name, for columns whose type is not to be inferred. */
export type ColumnTypes = Readonly<Record<string, DataType>>

/** Where a returned batch comes from, for errors and for the types it inherits. */
export interface ReturnContext {
  /** Such as `mapBatches(Classifier)`. */
  readonly what: string
  readonly input: Schema
  readonly types?: ColumnTypes | undefined
}

const SHAPE_EXTENSION = 'arrow.fixed_shape_tensor'

/** The batch that a user function gets. Views share memory with the block. */
export function toUserBatch(batch: RecordBatch, format: BatchFormat): ColumnBatch | Row[] | RecordBatch {
  if (format === 'arrow') return batch
  if (format === 'rows') return toRows(batch)
  const columns: ColumnBatch = {}
  for (const [index, field] of batch.schema.fields.entries()) columns[field.name] = toColumn(field, batch.getChildAt(index) as Vector)
  return columns
}

function toColumn(field: Field, vector: Vector): Column {
  const data = vector.data[0] as Data
  if (data.nullCount > 0) return vector
  const array = numbersOf(data)
  if (array !== undefined) return array
  if (field.type.typeId === Type.FixedSizeList) {
    const child = data.children[0] as Data
    const size = (field.type as FixedSizeList).listSize
    const flat = child.nullCount === 0 ? numbersOf(child) : undefined
    if (flat !== undefined) return { data: flat.subarray(0, data.length * size) as NumericArray, shape: [data.length, ...(innerShapeOf(field) ?? [size])] }
  }
  return vector
}

function numbersOf(data: Data): NumericArray | undefined {
  const { typeId } = data.type as DataType
  if (typeId === Type.Int) return (data.values as NumericArray).subarray(0, data.length) as NumericArray
  if (typeId !== Type.Float) return undefined
  const values = (data.values as NumericArray).subarray(0, data.length) as NumericArray
  return values instanceof Uint16Array ? new Float16Array(values.buffer as ArrayBuffer, values.byteOffset, values.length) : values
}

/** Plain row objects. Reading a column value by value is decoding work: prefer columns where speed counts. */
export function toRows(batch: RecordBatch): Row[] {
  const rows: Row[] = Array.from({ length: batch.numRows }, () => ({}))
  for (const [index, { name, type }] of batch.schema.fields.entries()) {
    const vector = batch.getChildAt(index) as Vector
    const read = valueReader(type, vector)
    for (let row = 0; row < rows.length; row++) (rows[row] as Row)[name] = read(row)
  }
  return rows
}

/**
 * The block of what a batch function returned.
 *
 * @throws {@link BeamlineError} `BATCH_INVALID` naming the function, the column, and both lengths or the value that does not fit
 */
export function fromUserBatch(value: unknown, context: ReturnContext): RecordBatch {
  if (value instanceof RecordBatch) return value
  if (value instanceof Table)
    return value.batches.length === 0 ? emptyBatch(value.schema) : value.batches.length === 1 ? (value.batches[0] as RecordBatch) : compact(value.batches)
  if (Array.isArray(value)) return fromRows(value as readonly Row[], context)
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
    throw invalid(context, `it returned ${describe(value)}`, 'return an object of columns, an array of row objects, or an Arrow RecordBatch or Table')
  }
  const fields: Field[] = []
  const columns: Data[] = []
  let first: string | undefined
  let rows = 0
  for (const [name, column] of Object.entries(value)) {
    const { field, data } = fromColumn(name, column, context)
    if (first === undefined) {
      first = name
      rows = data.length
    } else if (data.length !== rows) {
      throw invalid(context, `column "${name}" has ${data.length} rows, column "${first}" has ${rows}`, 'all columns of a batch must have equally many')
    }
    fields.push(field)
    columns.push(data)
  }
  return fromColumns(new Schema(fields), columns, rows)
}

/**
 * A block of plain rows. The columns are those of the first row; a missing value is null.
 *
 * @throws {@link BeamlineError} `BATCH_INVALID` when a later row has a column that the first one lacks, or a value does not fit
 */
export function fromRows(rows: readonly Row[], context: ReturnContext): RecordBatch {
  const first = rows[0]
  if (first === undefined) return emptyBatch(declared(context))
  const names = Object.keys(first)
  const known = new Set(names)
  for (const [index, row] of rows.entries()) {
    if (typeof row !== 'object' || row === null || Array.isArray(row))
      throw invalid(context, `row ${index} is ${describe(row)}`, 'a row is an object of values by column name')
    for (const name of Object.keys(row)) {
      if (!known.has(name))
        throw invalid(context, `row ${index} has the column "${name}", which row 0 lacks`, 'give every row the same columns, null where there is no value')
    }
  }
  const fields: Field[] = []
  const columns: Data[] = []
  for (const name of names) {
    const { field, data } = fromValues(
      name,
      rows.map((row) => row[name]),
      context,
    )
    fields.push(field)
    columns.push(data)
  }
  return fromColumns(new Schema(fields), columns, rows.length)
}

/** With no rows to look at, the output has the columns of the input and the declared types. */
function declared({ input, types }: ReturnContext): Schema {
  return new Schema(input.fields.map((field) => (types?.[field.name] === undefined ? field : new Field(field.name, types[field.name] as DataType, true))))
}

type FieldData = { readonly field: Field; readonly data: Data }

function fromColumn(name: string, column: unknown, context: ReturnContext): FieldData {
  const array = arrayType(column)
  const wanted = context.types?.[name]
  if (array !== undefined) {
    const data = makeData({ type: array, length: (column as NumericArray).length, nullCount: 0, data: bits(column as NumericArray) } as never) as Data
    return checked(name, { field: new Field(name, array, true), data }, wanted, context)
  }
  if (Array.isArray(column)) return fromValues(name, column, context)
  if (isVector(column)) return checked(name, fromVector(name, column, context), wanted, context)
  const tensor = column as { data?: unknown; shape?: readonly number[]; dims?: readonly number[] } | null
  const shape = typeof tensor === 'object' ? (tensor?.shape ?? tensor?.dims) : undefined
  if (tensor !== null && shape !== undefined) return checked(name, fromTensor(name, tensor.data, shape, context), wanted, context)
  throw invalid(context, `column "${name}" is ${describe(column)}`, 'a column is a typed array, an array of values, { data, shape }, or an Arrow Vector')
}

function fromTensor(name: string, values: unknown, shape: readonly number[], context: ReturnContext): FieldData {
  const type = arrayType(values)
  if (type === undefined)
    throw invalid(context, `column "${name}" has ${describe(values)} as its data`, 'the data of { data, shape } is a typed array of numbers')
  const flat = values as NumericArray
  const elements = shape.reduce((product, size) => product * size, 1)
  if (flat.length !== elements || shape.length === 0) {
    throw invalid(
      context,
      `column "${name}" has ${flat.length} values but the shape [${shape.join(', ')}], which holds ${elements}`,
      'the product of the shape is the number of values',
    )
  }
  const [rows = 0, ...inner] = shape
  const child = makeData({ type, length: flat.length, nullCount: 0, data: bits(flat) } as never) as Data
  if (inner.length === 0) return { field: new Field(name, type, true), data: child }
  const list = new FixedSizeList(
    inner.reduce((product, size) => product * size, 1),
    new Field('item', type, true),
  )
  const extension = { 'ARROW:extension:name': SHAPE_EXTENSION, 'ARROW:extension:metadata': JSON.stringify({ shape: inner }) }
  const metadata = inner.length === 1 ? undefined : new Map(Object.entries(extension))
  return { field: new Field(name, list, true, metadata), data: makeData({ type: list, length: rows, nullCount: 0, child }) }
}

function innerShapeOf(field: Field): number[] | undefined {
  if (field.metadata.get('ARROW:extension:name') !== SHAPE_EXTENSION) return undefined
  return (JSON.parse(field.metadata.get('ARROW:extension:metadata') ?? '{}') as { shape?: number[] }).shape
}

function fromVector(name: string, vector: Vector, { input }: ReturnContext): FieldData {
  const kept = input.fields.find((field) => field.name === name)
  const field = kept !== undefined && String(kept.type) === String(vector.type) ? kept : new Field(name, vector.type, true)
  if (vector.data.length === 1) return { field, data: vector.data[0] as Data }
  const schema = new Schema([field])
  return { field, data: compact(vector.data.map((data) => fromColumns(schema, [data], data.length))).data.children[0] as Data }
}

function fromValues(name: string, values: readonly unknown[], context: ReturnContext): FieldData {
  const kept = context.input.fields.find((field) => field.name === name)
  const wanted = context.types?.[name] ?? kept?.type
  try {
    const data = dataFromValues(values, wanted)
    return { field: kept !== undefined && kept.type === wanted ? kept : new Field(name, data.type as DataType, true), data }
  } catch (error) {
    const inherited = kept !== undefined && context.types?.[name] === undefined
    const hint = inherited
      ? `the column keeps the type that it has in the input; use another name, or pass { types: { ${name}: … } } with the Arrow type that you want`
      : `pass { types: { ${name}: … } } with the Arrow type that you want`
    throw invalid(context, `column "${name}": ${(error as Error).message}`, hint)
  }
}

/** A column that came with a type of its own must be of the declared one. */
function checked(name: string, column: FieldData, wanted: DataType | undefined, context: ReturnContext): FieldData {
  if (wanted === undefined || String(wanted) === String(column.field.type)) return column
  throw invalid(context, `column "${name}" is ${column.field.type}, but its declared type is ${wanted}`, 'return the declared type, or correct the declaration')
}

function bits(array: NumericArray): NumericArray {
  if (array instanceof Float16Array) return new Uint16Array(array.buffer as ArrayBuffer, array.byteOffset, array.length)
  return array instanceof Uint8ClampedArray ? new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.length) : array
}

/** By shape rather than class: functions may come with their own copy of apache-arrow. */
function isVector(value: unknown): value is Vector {
  return typeof value === 'object' && value !== null && Array.isArray((value as Vector).data) && (value as Vector).type !== undefined
}

function invalid({ what }: ReturnContext, reason: string, hint: string): BeamlineError {
  return new BeamlineError('BATCH_INVALID', { what, reason, hint })
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'object') return `an object of class ${value.constructor?.name ?? 'null'}`
  return `a ${typeof value}`
}
