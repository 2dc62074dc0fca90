/**
 * Slicing, joining and filtering blocks against plain arrays, over every type that a block can hold, with and without nulls.
 */
import {
  Binary,
  Bool,
  type DataType,
  DateDay,
  Decimal,
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
  LargeUtf8,
  List,
  type RecordBatch,
  Schema,
  Struct,
  TimestampMicrosecond,
  TimestampMillisecond,
  Uint8,
  Utf8,
} from 'apache-arrow'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toRows } from '../../src/batch.ts'
import { compact, concat, copySlice, emptyBatch, filterRows, fromColumns } from '../../src/block.ts'
import { dataFromValues } from '../../src/values.ts'

const int = (bits: number): fc.Arbitrary<number> => fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 })
const bytes = (options: { minLength?: number; maxLength?: number }): fc.Arbitrary<Uint8Array> => fc.uint8Array(options)
const item = (type: DataType): Field => new Field('item', type, true)

const TYPES: readonly (readonly [DataType, fc.Arbitrary<unknown>])[] = [
  [new Int8(), int(8)],
  [new Int16(), int(16)],
  [new Int32(), int(32)],
  [new Uint8(), fc.nat(255)],
  [new Int64(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })],
  [new Float16(), fc.constantFrom(0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY)],
  [new Float32(), fc.float()],
  [new Float64(), fc.double()],
  [new Bool(), fc.boolean()],
  [new Utf8(), fc.string({ unit: 'grapheme', maxLength: 8 })],
  [new LargeUtf8(), fc.string({ maxLength: 8 })],
  [new Binary(), bytes({ maxLength: 8 })],
  [new FixedSizeBinary(3), bytes({ minLength: 3, maxLength: 3 })],
  [new DateDay(), fc.integer({ min: -50_000, max: 50_000 }).map((day) => new Date(day * 86_400_000))],
  [new TimestampMillisecond(), fc.date({ noInvalidDate: true })],
  [new TimestampMicrosecond('UTC'), fc.bigInt({ min: -(2n ** 60n), max: 2n ** 60n })],
  [
    new Decimal(2, 20, 128),
    fc
      .bigInt({ min: -(10n ** 18n), max: 10n ** 18n })
      .map(
        (n) =>
          `${n < 0n ? '-' : ''}${String(n < 0n ? -n : n)
            .padStart(3, '0')
            .replace(/(..)$/, '.$1')}`,
      )
      .filter((text) => text !== '-0.00'),
  ],
  [new List(item(new Utf8())), fc.array(fc.option(fc.string({ maxLength: 4 })), { maxLength: 4 })],
  [new FixedSizeList(4, item(new Uint8())), bytes({ minLength: 4, maxLength: 4 })],
  [
    new Struct([new Field('a', new Int32(), true), new Field('b', new Utf8(), true)]),
    fc.record({ a: fc.option(int(32)), b: fc.option(fc.string({ maxLength: 4 })) }),
  ],
]

type Rows = Record<string, unknown>[]

const table: fc.Arbitrary<{ types: DataType[]; rows: Rows }> = fc.uniqueArray(fc.nat(TYPES.length - 1), { minLength: 1, maxLength: 5 }).chain((picked) => {
  const row = Object.fromEntries(picked.map((index, i) => [`c${i}`, fc.option((TYPES[index] as (typeof TYPES)[number])[1], { freq: 4 })]))
  return fc.record({
    types: fc.constant(picked.map((index) => (TYPES[index] as (typeof TYPES)[number])[0])),
    rows: fc.array(fc.record(row) as fc.Arbitrary<Record<string, unknown>>, { maxLength: 40 }),
  })
})

function blockOf({ types, rows }: { types: DataType[]; rows: Rows }): RecordBatch {
  const schema = new Schema(types.map((type, i) => new Field(`c${i}`, type, true)))
  return fromColumns(
    schema,
    types.map((type, i) =>
      dataFromValues(
        rows.map((row) => row[`c${i}`]),
        type,
      ),
    ),
    rows.length,
  )
}

const rowsOf = (batch: RecordBatch): Rows => toRows(batch)

describe('a block', () => {
  test('gives back the values that it was made of', () => {
    fc.assert(
      fc.property(table, (t) => {
        expect(rowsOf(blockOf(t))).toEqual(t.rows)
      }),
    )
  })

  test('is the same after it is cut anywhere and joined', () => {
    fc.assert(
      fc.property(table, fc.array(fc.nat(40), { maxLength: 5 }), (t, cuts) => {
        const block = blockOf(t)
        const at = [0, ...cuts.map((cut) => Math.min(cut, block.numRows)).sort((a, b) => a - b), block.numRows]
        const parts = at.slice(1).map((end, i) => block.slice(at[i], end))
        const joined = concat(parts)
        expect(rowsOf(joined)).toEqual(rowsOf(block))
        expect(String(joined.schema)).toBe(String(block.schema))
        // Joining slices of a joined block: offsets that do not begin at 0.
        expect(rowsOf(compact([joined.slice(Math.floor(block.numRows / 3)), joined.slice(0, Math.floor(block.numRows / 3))]))).toEqual([
          ...rowsOf(block).slice(Math.floor(block.numRows / 3)),
          ...rowsOf(block).slice(0, Math.floor(block.numRows / 3)),
        ])
      }),
    )
  })

  test('keeps exactly the rows that a filter marks, also when it is a slice itself', () => {
    fc.assert(
      fc.property(table, fc.nat(10), fc.infiniteStream(fc.boolean()), (t, skip, marks) => {
        const whole = blockOf(t)
        const block = whole.slice(Math.min(skip, whole.numRows))
        const keep = Uint8Array.from({ length: block.numRows }, () => (marks.next().value ? 1 : 0))
        expect(rowsOf(filterRows(block, keep))).toEqual(rowsOf(block).filter((_, i) => keep[i] === 1))
      }),
    )
  })

  test('of no rows keeps its schema through every operation', () => {
    fc.assert(
      fc.property(table, (t) => {
        const block = emptyBatch(blockOf(t).schema)
        for (const result of [concat([block, block]), compact([block, block]), filterRows(block, new Uint8Array(0)), copySlice(block, 0, 0)]) {
          expect(result.numRows).toBe(0)
          expect(String(result.schema)).toBe(String(block.schema))
        }
      }),
    )
  })
})
