import {
  Bool,
  Dictionary,
  Field,
  FixedSizeList,
  Float32,
  Int8,
  Int32,
  Int64,
  RecordBatch,
  Schema,
  tableFromArrays,
  Timestamp,
  TimeUnit,
  Uint8,
  Utf8,
  Vector,
  vectorFromArray,
} from 'apache-arrow'
import { describe, expect, test } from 'vitest'
import { type ColumnBatch, fromUserBatch, type Tensor, toRows, toUserBatch } from '../src/batch.ts'
import { concat, emptyBatch, fromColumns } from '../src/block.ts'
import { packBlock, unpackBlock } from '../src/transfer.ts'
import { dataFromValues } from '../src/values.ts'

const none = new Schema([])
const context = { what: 'mapBatches(f)', input: none }
const typesOf = (batch: RecordBatch): Record<string, string> => Object.fromEntries(batch.schema.fields.map(({ name, type }) => [name, String(type)]))
const columns = (batch: RecordBatch): ColumnBatch => toUserBatch(batch, 'columns') as ColumnBatch
const refusal = (value: unknown, input: Schema = none): string => {
  try {
    fromUserBatch(value, { what: 'mapBatches(f)', input })
  } catch (error) {
    return (error as Error).message
  }
  return 'accepted'
}

describe('what a function gets', () => {
  const schema = new Schema([
    new Field('label', new Int8(), true),
    new Field('id', new Int64(), true),
    new Field('image', new FixedSizeList(2, new Field('item', new Uint8(), true)), true),
    new Field('name', new Utf8(), true),
    new Field('gap', new Int32(), true),
  ])
  const values = [
    [1, 2, 3],
    [1n, 2n, 3n],
    [
      [1, 2],
      [3, 4],
      [5, 6],
    ],
    ['a', 'b', 'c'],
    [1, null, 3],
  ]
  const batch = fromColumns(
    schema,
    schema.fields.map(({ type }, i) => dataFromValues(values[i] as unknown[], type)),
    3,
  )

  test('numbers without nulls are typed arrays, and views of the block', () => {
    const { label, id } = columns(batch)
    expect([label, id]).toEqual([Int8Array.of(1, 2, 3), BigInt64Array.of(1n, 2n, 3n)])
    ;(label as Int8Array)[0] = 9
    expect(batch.getChildAt(0)?.get(0)).toBe(9)
    ;(label as Int8Array)[0] = 1
  })
  test('fixed-size lists of them are tensors; all else is an Arrow vector', () => {
    const { image, name, gap } = columns(batch)
    expect(image).toEqual({ data: Uint8Array.of(1, 2, 3, 4, 5, 6), shape: [3, 2] })
    expect([...(name as Vector)]).toEqual(['a', 'b', 'c'])
    expect([...(gap as Vector)]).toEqual([1, null, 3])
  })
  test('a slice gives its own rows only', () => {
    const { label, image } = columns(batch.slice(1, 2))
    expect(label).toEqual(Int8Array.of(2))
    expect(image).toEqual({ data: Uint8Array.of(3, 4), shape: [1, 2] })
  })
  test('rows are plain objects of exact values', () => {
    expect(toRows(batch)[1]).toEqual({ label: 2, id: 2n, image: Uint8Array.of(3, 4), name: 'b', gap: null })
  })
})

describe('what a function returns', () => {
  test('typed arrays keep their exact type', () => {
    const batch = fromUserBatch(
      { a: Int8Array.of(1), b: Uint16Array.of(2), c: BigUint64Array.of(3n), d: Float32Array.of(4), e: Float16Array.of(1.5), f: Uint8ClampedArray.of(7) },
      context,
    )
    expect(typesOf(batch)).toEqual({ a: 'Int8', b: 'Uint16', c: 'Uint64', d: 'Float32', e: 'Float16', f: 'Uint8' })
    expect(toRows(batch)).toEqual([{ a: 1, b: 2, c: 3n, d: 4, e: 1.5, f: 7 }])
  })
  test('plain arrays get the type of their values', () => {
    const batch = fromUserBatch({ s: ['a', null], n: [1, 2.5], b: [true, false], i: [1n, 2n], t: [new Date(1), null], l: [['x'], []] }, context)
    expect(typesOf(batch)).toEqual({ s: 'Utf8', n: 'Float64', b: 'Bool', i: 'Int64', t: 'Timestamp<MILLISECOND>', l: 'List<Utf8>' })
    expect(toRows(batch)[0]).toEqual({ s: 'a', n: 1, b: true, i: 1n, t: new Date(1), l: ['x'] })
  })
  test('tensors become fixed-size lists and keep a deeper shape', () => {
    const batch = fromUserBatch({ x: { data: Float32Array.from({ length: 24 }, (_, i) => i), dims: [2, 3, 4] } }, context)
    expect(typesOf(batch)).toEqual({ x: 'FixedSizeList[12]<Float32>' })
    expect((columns(unpackBlock(packBlock(batch))).x as Tensor).shape).toEqual([2, 3, 4])
  })
  test('Arrow vectors, batches and tables pass', () => {
    const table = tableFromArrays({ a: Int32Array.of(1, 2) })
    expect(toRows(fromUserBatch(table, context))).toEqual([{ a: 1 }, { a: 2 }])
    expect(toRows(fromUserBatch({ v: vectorFromArray(['x', 'y']) }, context))).toEqual([{ v: 'x' }, { v: 'y' }])
    const batch = table.batches[0] as RecordBatch
    expect(fromUserBatch(batch, context)).toBe(batch)
  })
  test('rows become columns; a column that keeps its name keeps its type', () => {
    const input = new Schema([new Field('label', new Int8(), true), new Field('at', new Timestamp(TimeUnit.MICROSECOND, 'UTC'), true)])
    const batch = fromUserBatch(
      [
        { label: 1, at: 5n, extra: 1 },
        { label: null, at: null, extra: 2 },
      ],
      { what: 'map(f)', input },
    )
    expect(typesOf(batch)).toEqual({ label: 'Int8', at: 'Timestamp<MICROSECOND, UTC>', extra: 'Float64' })
    expect(toRows(batch)).toEqual([
      { label: 1, at: 5n, extra: 1 },
      { label: null, at: null, extra: 2 },
    ])
  })
  test('declared types win over inferred ones', () => {
    expect(typesOf(fromUserBatch({ x: [1, 2] }, { ...context, types: { x: new Int32() } }))).toEqual({ x: 'Int32' })
    expect(typesOf(fromUserBatch([], { ...context, types: { x: new Int32() } }))).toEqual({})
  })
  test('no type depends on the data: values that do not fit are refused by column, row and value', () => {
    const input = new Schema([new Field('label', new Int8(), true)])
    expect(refusal([{ label: 300 }], input)).toMatch(/^mapBatches\(f\): column "label": the value 300 in row 0 does not fit Int8; the column keeps the type/)
    expect(refusal({ x: ['a', 1] })).toMatch(/column "x": the value 1 in row 1 does not fit Utf8/)
    expect(refusal({ x: [1.5, 'b'] })).toMatch(/column "x": the value "b" in row 1 does not fit Float64/)
    expect(refusal({ x: Int8Array.of(1) }, none)).toBe('accepted')
  })
  test('columns of different lengths, shapes that do not hold, and things that are no batch are refused', () => {
    expect(refusal({ a: Int8Array.of(1, 2), b: ['x'] })).toContain('column "b" has 1 rows, column "a" has 2')
    expect(refusal({ a: { data: Float32Array.of(1, 2, 3), shape: [2, 2] } })).toContain('column "a" has 3 values but the shape [2, 2], which holds 4')
    expect(refusal(undefined)).toContain('it returned undefined')
    expect(refusal(7)).toContain('it returned a number')
    expect(refusal({ a: 7 })).toContain('column "a" is a number')
    expect(refusal([{ a: 1 }, { a: 1, b: 2 }])).toContain('row 1 has the column "b", which row 0 lacks')
    expect(refusal([{ a: 1 }, 5])).toContain('row 1 is a number')
  })
})

describe('a block on its way', () => {
  test('is the same after packing, and a slice leaves its neighbours behind', () => {
    const long = fromUserBatch({ text: Array.from({ length: 1000 }, (_, i) => `text ${i}`) }, context)
    const slice = long.slice(500, 502)
    const packed = packBlock(slice)
    expect(toRows(unpackBlock(packed))).toEqual([{ text: 'text 500' }, { text: 'text 501' }])
    expect((packed.columns[0] as { values: Uint8Array }).values.length).toBe(16)
  })
  test('keeps schemas with field metadata, and dictionaries', () => {
    const dictionary = vectorFromArray(['a', 'b', 'a'], new Dictionary(new Utf8(), new Int32()))
    const schema = new Schema([
      new Field('d', dictionary.type, true, new Map([['k', 'v']])),
      new Field('b', new Bool(), true),
      new Field('f', new Float32(), false),
    ])
    const batch = fromColumns(
      schema,
      [dictionary.data[0] as never, dataFromValues([true, null, false], new Bool()), dataFromValues([1, 2, 3], new Float32())],
      3,
    )
    const result = unpackBlock(packBlock(concat([batch, batch])))
    expect(toRows(result)).toEqual([...toRows(batch), ...toRows(batch)])
    expect(result.schema.fields[0]?.metadata).toEqual(new Map([['k', 'v']]))
    expect(result.schema.fields.map(({ nullable }) => nullable)).toEqual([true, true, false])
    expect(unpackBlock(packBlock(emptyBatch(schema))).numRows).toBe(0)
  })
})
