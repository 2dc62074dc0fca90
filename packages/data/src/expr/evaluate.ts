/**
 * Runs a bound expression on a batch: numbers, truth values and times in loops (`loop.ts`), text, lists and structs column by column.
 */
import { BeamlineError } from '@beamline/runtime'
import { Bool, type Data, type DataType, Field, makeData, Null, type RecordBatch, Schema, Type, Vector } from 'apache-arrow'
import { validityOf } from '../bits.ts'
import { compact, fromColumns, takeRows } from '../block.ts'
import { takeData } from '../take.ts'
import { dataFromValues, valueReader } from '../values.ts'
import type { Bound } from './bind.ts'
import { castColumn } from './cast.ts'
import { columnOf, runLoop } from './loop.ts'
import { inLoop } from './loop-parts.ts'
import { itemsOf, listItems, listLengths, listSlices, listsWith, structField } from './nested.ts'
import type { LiteralValue } from './node.ts'
import { amongBytes, compareBytes, compareToBytes, TextRows, textFunction, TextWriter, truthColumn } from './text.ts'
import { timeFunction } from './time.ts'
import { type Constant, familyOf, plain } from './types.ts'

/**
 * The values of the expression, one for each row.
 *
 * @throws {@link BeamlineError} `EXPRESSION_FAILED` naming the row, the value and what would help; what a function of the user throws
 */
export function evaluate(bound: Bound, batch: RecordBatch): Data {
  if (familyOf(bound.type) === 'null') return repeated(null, bound.type, batch.numRows)
  if (inLoop(bound))
    return columnOf(
      bound.type,
      batch.numRows,
      runLoop(bound, batch.numRows, (leaf) => evaluate(leaf, batch)),
    )
  switch (bound.kind) {
    case 'column':
      return decoded(columnNamed(batch, bound.name))
    case 'constant':
      return repeated(bound.value, bound.type, batch.numRows)
    case 'case':
      return chosen(bound, batch)
    case 'cast':
      return castColumn(evaluate(bound.args[0], batch), bound.type, bound.strict, bound.text)
    case 'udf':
      return called(bound, batch)
    case 'call':
      return call(bound, batch)
  }
}

/** 1 for each row for which the condition is true, 0 where it is false or null. */
export function evaluateCondition(bound: Bound, batch: RecordBatch): Uint8Array {
  if (familyOf(bound.type) === 'null') return new Uint8Array(batch.numRows)
  if (!inLoop(bound)) return bytesOf(evaluate(bound, batch))
  const { values, validity } = runLoop(bound, batch.numRows, (leaf) => evaluate(leaf, batch))
  const keep = values as Uint8Array
  if (validity !== undefined) for (let row = 0; row < keep.length; row++) keep[row] = (keep[row] as number) & (validity[row] as number)
  return keep
}

function bytesOf(truths: Data): Uint8Array {
  const bytes = validityOf(truths)
  const values = truths.values as unknown as Uint8Array
  for (let row = 0; row < bytes.length; row++) if (((values[(truths.offset + row) >> 3] as number) & (1 << ((truths.offset + row) & 7))) === 0) bytes[row] = 0
  return bytes
}

function columnNamed(batch: RecordBatch, name: string): Data {
  return batch.data.children[batch.schema.fields.findIndex((field) => field.name === name)] as Data
}

function decoded(data: Data): Data {
  if (data.type.typeId !== Type.Dictionary) return data
  const validity = validityOf(data)
  const keys = data.values as unknown as Int32Array
  return takeData(
    dictionaryOf(data),
    Int32Array.from({ length: data.length }, (_, row) => (validity[row] === 1 ? Number(keys[row]) : -1)),
  )
}

function dictionaryOf(data: Data): Data {
  const chunks = (data.dictionary as Vector).data
  if (chunks.length === 1) return chunks[0] as Data
  const schema = new Schema([new Field('', (chunks[0] as Data).type, true)])
  return compact(chunks.map((chunk) => fromColumns(schema, [chunk], chunk.length))).data.children[0] as Data
}

function call(bound: Extract<Bound, { kind: 'call' }>, batch: RecordBatch): Data {
  const { fn, args, options } = bound
  const [first, second] = args as [Bound, Bound | undefined]
  if (fn === 'coalesce') return firstOf(args, bound.type, batch)
  if (fn.startsWith('str.') && fn !== 'str.concat') return perEntry(first, batch, (data) => textFunction(fn, [data], options))
  if (fn === 'str.concat') return textFunction(fn, [evaluate(first, batch), evaluate(second as Bound, batch)], options)
  if (fn === 'isIn') return perEntry(first, batch, (data) => among(data, options['values'] as readonly LiteralValue[]))
  if (second !== undefined) {
    const constant = second.kind === 'constant' ? second.value : undefined
    if (constant === null || args.some(({ type }) => familyOf(type) === 'null')) return repeated(null, bound.type, batch.numRows)
    const of = COMPARISONS[fn] as (order: number) => boolean
    if (constant !== undefined) return perEntry(first, batch, (data) => ordered(compareToBytes(new TextRows(data), bytesOfConstant(constant)), of, [data]))
    const [a, b] = [evaluate(first, batch), evaluate(second, batch)]
    return ordered(compareBytes(new TextRows(a), new TextRows(b)), of, [a, b])
  }
  const data = evaluate(first, batch)
  switch (fn) {
    case 'list.len':
      return listLengths(data)
    case 'list.get':
      return decoded(listItems(data, options['index'] as number))
    case 'list.slice':
      return listSlices(data, options['start'] as number, options['end'] as number | undefined)
    case 'list.contains': {
      const item = itemsOf(data)
      const values = (options['values'] as readonly LiteralValue[]).filter((value) => value !== null)
      return listsWith(data, bytesOf(evaluate(isAmong(item.type, values), fromColumns(new Schema([new Field('item', item.type, true)]), [item], item.length))))
    }
    case 'struct.field':
      return decoded(structField(data, options['name'] as string))
    default:
      if (fn.startsWith('dt.')) return timeFunction(fn, data, options)
      throw new BeamlineError('INTERNAL', { what: `nothing evaluates ${fn} of ${first.type}` })
  }
}

const isAmong = (type: DataType, values: readonly LiteralValue[]): Bound => ({
  kind: 'call',
  type: new Bool(),
  fn: 'isIn',
  args: [{ kind: 'column', type: plain(type), name: 'item' }],
  options: { values },
  text: 'list.contains',
})

const COMPARISONS: Partial<Record<string, (order: number) => boolean>> = {
  eq: (order) => order === 0,
  ne: (order) => order !== 0,
  lt: (order) => order < 0,
  le: (order) => order <= 0,
  gt: (order) => order > 0,
  ge: (order) => order >= 0,
}

/** A function of single values: of a dictionary's entries where the column has one. */
function perEntry(arg: Bound, batch: RecordBatch, fn: (data: Data) => Data): Data {
  const raw = arg.kind === 'column' ? columnNamed(batch, arg.name) : undefined
  if (raw?.type.typeId !== Type.Dictionary) return fn(evaluate(arg, batch))
  const entries = fn(dictionaryOf(raw))
  const validity = validityOf(raw)
  const keys = raw.values as unknown as Int32Array
  return takeData(
    entries,
    Int32Array.from({ length: raw.length }, (_, row) => (validity[row] === 1 ? Number(keys[row]) : -1)),
  )
}

function among(data: Data, values: readonly LiteralValue[]): Data {
  const rows = new TextRows(data)
  const found = amongBytes(
    rows,
    values.filter((value) => value !== null).map((value) => bytesOfConstant(value as string | Uint8Array)),
  )
  if (!values.includes(null)) return truthColumn(found, rows.nulls())
  return columnOf(new Bool(), data.length, { values: found, validity: found.slice() })
}

function bytesOfConstant(value: Constant): Uint8Array {
  return typeof value === 'string' ? Buffer.from(value) : (value as Uint8Array)
}

function ordered(order: Int8Array, test: (order: number) => boolean, sides: readonly Data[]): Data {
  const values = new Uint8Array(order.length)
  for (let row = 0; row < order.length; row++) values[row] = test(order[row] as number) ? 1 : 0
  const nullable = sides.filter((side) => side.nullCount > 0).map(validityOf)
  const [validity, other] = nullable
  if (validity !== undefined && other !== undefined)
    for (let row = 0; row < validity.length; row++) validity[row] = (validity[row] as number) & (other[row] as number)
  return columnOf(new Bool(), order.length, { values, validity })
}

function repeated(value: Constant, type: DataType, rows: number): Data {
  if (value === null || familyOf(type) === 'null') {
    return type.typeId === Type.Null ? makeData({ type: new Null(), length: rows }) : dataFromValues(new Array(rows).fill(null), type)
  }
  if (typeof value === 'string' && type.typeId === Type.Utf8) {
    const writer = new TextWriter(rows, rows * value.length)
    for (let row = 0; row < rows; row++) writer.push(value)
    return writer.finish()
  }
  return dataFromValues(new Array(rows).fill(value), type)
}

/** Each value is evaluated for just the rows that ask for it, so that what cannot be evaluated for others does not matter. */
function chosen({ branches, otherwise, type }: Extract<Bound, { kind: 'case' }>, whole: RecordBatch): Data {
  const batch = withOnly([...branches.flat(), otherwise], whole)
  const parts: { readonly rows: Int32Array; readonly data: Data }[] = []
  let left: Int32Array = Int32Array.from({ length: batch.numRows }, (_, row) => row)
  for (const [when, then] of branches) {
    const keep = evaluateCondition(when, left.length === batch.numRows ? batch : takeRows(batch, left))
    const rows = left.filter((_, i) => keep[i] === 1)
    if (rows.length > 0) parts.push({ rows, data: evaluate(then, takeRows(batch, rows)) })
    left = left.filter((_, i) => keep[i] !== 1)
  }
  if (left.length > 0 || parts.length === 0) parts.push({ rows: left, data: evaluate(otherwise, takeRows(batch, left)) })
  return scattered(parts, type, batch.numRows)
}

function firstOf(args: readonly Bound[], type: DataType, whole: RecordBatch): Data {
  const batch = withOnly(args, whole)
  const parts: { readonly rows: Int32Array; readonly data: Data }[] = []
  let left: Int32Array = Int32Array.from({ length: batch.numRows }, (_, row) => row)
  for (const [index, arg] of args.entries()) {
    const data = evaluate(arg, left.length === batch.numRows ? batch : takeRows(batch, left))
    const validity = index === args.length - 1 ? new Uint8Array(left.length).fill(1) : validityOf(data)
    const found = Int32Array.from({ length: left.length }, (_, row) => row).filter((row) => validity[row] === 1)
    if (found.length > 0) parts.push({ rows: left.filter((_, i) => validity[i] === 1), data: takeData(data, found) })
    left = left.filter((_, i) => validity[i] !== 1)
    if (left.length === 0) break
  }
  return parts.length === 0 ? repeated(null, type, batch.numRows) : scattered(parts, type, batch.numRows)
}

/** The columns that are read: to pick rows of others would copy them for nothing. */
function withOnly(bounds: readonly Bound[], batch: RecordBatch): RecordBatch {
  const names = new Set<string>()
  for (const bound of bounds) namesIn(bound, names)
  const fields = batch.schema.fields.filter(({ name }) => names.has(name))
  return fromColumns(
    new Schema(fields),
    fields.map(({ name }) => columnNamed(batch, name)),
    batch.numRows,
  )
}

function namesIn(bound: Bound, into: Set<string>): void {
  if (bound.kind === 'column') into.add(bound.name)
  else if (bound.kind === 'case') for (const part of [...bound.branches.flat(), bound.otherwise]) namesIn(part, into)
  else if (bound.kind !== 'constant') for (const arg of bound.args) namesIn(arg, into)
}

/** One column of parts, each of which belongs to certain rows. */
function scattered(parts: readonly { readonly rows: Int32Array; readonly data: Data }[], type: DataType, rows: number): Data {
  const schema = new Schema([new Field('', type, true)])
  const all = compact(parts.map(({ data }) => fromColumns(schema, [data], data.length))).data.children[0] as Data
  const order = new Int32Array(rows)
  let at = 0
  for (const part of parts) for (const row of part.rows) order[row] = at++
  return takeData(all, order)
}

function called({ fn, args, type, name }: Extract<Bound, { kind: 'udf' }>, batch: RecordBatch): Data {
  const columns = args.map((arg) => evaluate(arg, batch))
  const readers = columns.map((data) => valueReader(data.type as DataType, new Vector([data])))
  const values = Array.from({ length: batch.numRows }, (_, row) => fn(...readers.map((read) => read(row))))
  try {
    return dataFromValues(values, type)
  } catch (error) {
    throw new BeamlineError(
      'BATCH_INVALID',
      { what: `udf ${name}`, reason: (error as Error).message, hint: 'return what fits its type, or declare another one' },
      { cause: error },
    )
  }
}
