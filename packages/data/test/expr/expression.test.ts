import {
  Bool,
  type DataType,
  DateDay,
  Decimal,
  Dictionary,
  Field,
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
  makeData,
  Null,
  type RecordBatch,
  Schema,
  Struct,
  TimestampMicrosecond,
  TimestampNanosecond,
  TimestampSecond,
  Uint8,
  Uint64,
  Utf8,
  Vector,
  type Data,
  Timestamp,
  TimeUnit,
} from 'apache-arrow'
import { describe, expect, test } from 'vitest'
import { fromColumns } from '../../src/block.ts'
import { bind } from '../../src/expr/bind.ts'
import { evaluate } from '../../src/expr/evaluate.ts'
import { coalesce, col, type Expr, lit, udf, when } from '../../src/expr/expression.ts'
import { textOf } from '../../src/expr/node.ts'
import { dataFromValues, valueReader } from '../../src/values.ts'

function batch(columns: Record<string, readonly [DataType, readonly unknown[]]>): RecordBatch {
  const entries = Object.entries(columns)
  return fromColumns(
    new Schema(entries.map(([name, [type]]) => new Field(name, type, true))),
    entries.map(([, [type, values]]) => dataFromValues(values, type)),
    entries[0]?.[1][1].length ?? 0,
  )
}

function values(expr: Expr, rows: RecordBatch): unknown[] {
  const data = evaluate(bind(expr.node, rows.schema, 'test'), rows)
  return read(data)
}

function read(data: Data): unknown[] {
  const at = valueReader(data.type as DataType, new Vector([data]))
  return Array.from({ length: data.length }, (_, row) => at(row))
}

const typeOf = (expr: Expr, rows: RecordBatch): string => String(bind(expr.node, rows.schema, 'test').type)
const of = (type: DataType, ...column: unknown[]): RecordBatch => batch({ x: [type, column] })
const x = col('x')

const MAX = 2n ** 63n - 1n

describe('integers of 64 bits', () => {
  test('are exact beyond 2^53, also beside values that are small', () => {
    const rows = of(new Int64(), 2n ** 53n + 1n, 5n, null, -(2n ** 62n), MAX)
    expect(values(x.sub(1), rows)).toEqual([2n ** 53n, 4n, null, -(2n ** 62n) - 1n, MAX - 1n])
    expect(values(x.floorDiv(-3), rows)).toEqual([-3002399751580331n, -2n, null, 1537228672809129301n, -3074457345618258603n])
    expect(values(x.mod(10), rows)).toEqual([3n, 5n, null, 6n, 7n])
    expect(values(x.eq(2n ** 53n + 1n), rows)).toEqual([true, false, null, false, false])
    expect(values(x.isIn([MAX, 2n ** 53n]), rows)).toEqual([false, false, null, false, true])
    expect(values(x.cast(new Utf8()), rows)).toEqual(['9007199254740993', '5', null, '-4611686018427387904', '9223372036854775807'])
    expect(values(x.gt(0).and(x.lt(2 ** 60)), rows)).toEqual([true, true, null, false, false])
  })

  test('a product that leaves 2^53 on the way is exact, one that leaves 64 bits fails with its row', () => {
    expect(values(x.mul(x), of(new Int64(), 3_037_000_499n))).toEqual([3_037_000_499n ** 2n])
    expect(() => values(x.mul(x), of(new Int64(), 1n, 3_037_000_500n))).toThrow(
      'x * x in row 1 of a block: the result exceeds the range of 64-bit integers; cast an operand to float64 first',
    )
    expect(() => values(x.neg(), of(new Int64(), -(2n ** 63n)))).toThrow('exceeds the range of 64-bit integers')
  })

  test('what a null row holds does not overflow', () => {
    const data = makeData({ type: new Int64(), length: 2, nullCount: 1, nullBitmap: Uint8Array.of(0b10), data: BigInt64Array.of(MAX, 1n) })
    expect(values(x.add(x), fromColumns(new Schema([new Field('x', new Int64(), true)]), [data], 2))).toEqual([null, 2n])
  })

  test('unsigned ones keep their range', () => {
    const rows = of(new Uint64(), 2n ** 64n - 1n, 7n)
    expect(values(x, rows)).toEqual([2n ** 64n - 1n, 7n])
    expect(values(x.sub(x), rows)).toEqual([0n, 0n])
    expect(typeOf(x.sub(x), rows)).toBe('Uint64')
    expect(() => values(x.sub(lit(8n).cast(new Uint64())), of(new Uint64(), 7n))).toThrow('exceeds the range')
    expect(values(x.gt(-1), rows)).toEqual([true, true])
  })

  test('small integers are added as 64-bit ones', () => {
    const rows = of(new Int8(), 127, -128)
    expect(values(x.mul(1000), rows)).toEqual([127_000n, -128_000n])
    expect(values(x.abs(), rows)).toEqual([127n, 128n])
  })

  test('division by zero is null for integers, and what IEEE 754 says for floats', () => {
    expect(values(x.floorDiv(0), of(new Int32(), 1))).toEqual([null])
    expect(values(x.mod(0), of(new Int32(), 1))).toEqual([null])
    expect(() => values(x.mod(col('y')), batch({ x: [new Int64(), [-1n]], y: [new Uint64(), [2n ** 64n - 1n]] }))).toThrow(
      'exceeds the range of 64-bit integers',
    )
    expect(values(x.div(0), of(new Int32(), 1, -1, 0))).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN])
  })
})

describe('floats', () => {
  test('of 32 and 16 bits round after each operation', () => {
    const rows = of(new Float32(), 0.1, 16_777_216)
    expect(values(x.add(x).add(1), rows)).toEqual([Math.fround(Math.fround(0.1) * 2 + 1), Math.fround(33_554_433)])
    expect(typeOf(x.add(1), rows)).toBe('Float32')
    expect(typeOf(x.add(col('y')), batch({ x: [new Float32(), [1]], y: [new Int32(), [1]] }))).toBe('Float64')
    expect(values(x.eq(0.1), rows)).toEqual([true, false])
    expect(values(x.mul(x), of(new Float16(), 300))).toEqual([90_000])
  })

  test('NaN equals NaN and is greater than everything, −0 equals 0', () => {
    const rows = of(new Float64(), Number.NaN, -0, Number.POSITIVE_INFINITY)
    expect(values(x.eq(Number.NaN), rows)).toEqual([true, false, false])
    expect(values(x.gt(Number.POSITIVE_INFINITY), rows)).toEqual([true, false, false])
    expect(values(x.le(Number.NaN), rows)).toEqual([true, true, true])
    expect(values(x.eq(0), rows)).toEqual([false, true, false])
    expect(values(x.isIn([Number.NaN, 0]), rows)).toEqual([true, true, false])
  })

  test('round halves away from zero, to decimals as they are written', () => {
    expect(values(x.round(), of(new Float64(), 2.5, -2.5, 0.49999999999999994, -0.2))).toEqual([3, -3, 0, -0])
    expect(values(x.round(2), of(new Float64(), 1.005, -1.005, 1e300, 1e-300))).toEqual([1.01, -1.01, 1e300, 0])
    expect(values(x.round(15), of(new Float64(), 1e20, 12_345_678_901.25, Number.NaN, Number.NEGATIVE_INFINITY))).toEqual([
      1e20,
      12_345_678_901.25,
      Number.NaN,
      Number.NEGATIVE_INFINITY,
    ])
    expect(() => x.round(-1)).toThrow('decimals of round is -1; expected a whole number from 0 to 15')
  })
})

describe('constants', () => {
  test('are rounded to a narrow float only where that does not change what they mean', () => {
    expect(values(x.lt(16_777_217), of(new Float32(), 16_777_216))).toEqual([true])
    expect(values(x.eq(1e300), of(new Float32(), Number.POSITIVE_INFINITY))).toEqual([false])
    expect(values(x.fillNull(1e300), of(new Float32(), null, 1))).toEqual([1e300, 1])
    expect(values(x.eq(1e-50), of(new Float32(), 0))).toEqual([false])
    expect(values(x.eq(0.1), of(new Float16(), 0.1))).toEqual([true])
    expect(values(x.isIn([0.1]), of(new Float16(), 0.1))).toEqual([true])
  })
  test('beyond 2^53 and with an exponent are found by isIn as by eq', () => {
    expect(values(x.isIn([2 ** 53]), of(new Int64(), 2n ** 53n, 1n))).toEqual([true, false])
    expect(values(x.isIn([2 ** 63]), of(new Uint64(), 2n ** 63n))).toEqual([true])
    expect(values(x.isIn([1e-7]), of(new Decimal(7, 20, 128), '0.0000001'))).toEqual([true])
    expect(values(x.isIn([1e21]), of(new Decimal(0, 38, 128), '1000000000000000000000'))).toEqual([true])
  })
  test('never wrap around: what a type does not hold makes a wider one, or is refused', () => {
    expect(typeOf(x.fillNull(1e10), of(new Decimal(2, 9, 128), '1.00', null))).toBe('Decimal[22e+2]')
    expect(() => values(x.fillNull(new Date('9999-01-01')), of(new TimestampNanosecond(), null))).toThrow('cast them to one type')
    expect(values(x.lt(new Date('9999-01-01')), of(new TimestampNanosecond(), 0n))).toEqual([true])
  })
})

describe('decimals', () => {
  test('of 256 bits are chosen from and negated as they are', () => {
    const wide = new Decimal(2, 50, 256)
    expect(values(x.neg(), of(wide, '1.50', '-2.25', null))).toEqual(['-1.50', '2.25', null])
    expect(values(x.fillNull(0), of(wide, '1.50', '-2.25', null))).toEqual(['1.50', '-2.25', '0.00'])
    const mixed = batch({ x: [new Decimal(2, 9, 256), ['1.50', null]], y: [new Decimal(2, 9, 128), ['3.00', '4.00']] })
    expect(values(coalesce(x, col('y')), mixed)).toEqual(['1.50', '4.00'])
  })
  const rows = of(new Decimal(2, 20, 128), '1.10', '-99999999999999999.99', null)
  test('add, multiply and compare without rounding', () => {
    expect(values(x.add(x), rows)).toEqual(['2.20', '-199999999999999999.98', null])
    expect(values(x.mul(x), rows)).toEqual(['1.2100', '9999999999999999998000000000000000.0001', null])
    expect(values(x.gt(1), rows)).toEqual([true, false, null])
    expect(values(x.eq(1.1), rows)).toEqual([true, false, null])
    expect(values(x.cast(new Float64()), rows)).toEqual([1.1, -1e17, null])
    expect(() => values(x.mul(x).mul(1000), rows)).toThrow('exceeds 38 digits')
  })
  test('are made of numbers and text that fit them', () => {
    expect(values(x.cast(new Decimal(2, 5, 128)), of(new Float64(), 1.25, -0.1))).toEqual(['1.25', '-0.10'])
    expect(() => values(x.cast(new Decimal(1, 5, 128)), of(new Float64(), 1.25))).toThrow('1.25 has no exact value')
    expect(() => values(x.cast(new Int32()), of(new Decimal(2, 9, 128), '1.50'))).toThrow('1.5 has no exact value of type Int32')
    expect(values(x.tryCast(new Decimal(2, 4, 128)), of(new Utf8(), '12.5', '100.00', 'x', '0.001'))).toEqual(['12.50', null, null, null])
  })
})

describe('casts', () => {
  test('refuse what the type does not hold, tryCast gives null', () => {
    const rows = of(new Float64(), 1, 1.5, 300, Number.NaN, null)
    expect(values(x.tryCast(new Int8()), rows)).toEqual([1, null, null, null, null])
    expect(() => values(x.cast(new Int8()), rows)).toThrow(
      'cast(x, Int8) in row 1 of a block: 1.5 has no exact value of type Int8; round or filter before, or use tryCast, which gives null instead',
    )
    expect(values(x.tryCast(new Int64()), of(new Float64(), 2 ** 63, -(2 ** 63), 2 ** 53))).toEqual([null, -(2n ** 63n), 2n ** 53n])
    expect(values(x.tryCast(new Uint8()), of(new Int16(), -1, 255, 256))).toEqual([null, 255, null])
  })
  test('between text and values', () => {
    expect(values(x.tryCast(new Int64()), of(new Utf8(), '12', '+7', '-0', ' 1', '1.0', '9223372036854775808', ''))).toEqual([
      12n,
      7n,
      0n,
      null,
      null,
      null,
      null,
    ])
    expect(values(x.tryCast(new Float64()), of(new Utf8(), '1e3', '.5', '-inf', 'NaN', '0x10', ''))).toEqual([
      1000,
      0.5,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      null,
      null,
    ])
    expect(values(x.tryCast(new Bool()), of(new Utf8(), 'true', 'FALSE', '1', 'constructor'))).toEqual([true, false, null, null])
    expect(values(x.tryCast(new TimestampNanosecond()), of(new Utf8(), '9999-01-01', '1970-01-01'))).toEqual([null, 0n])
    expect(values(x.tryCast(new DateDay()), of(new Utf8(), '2024-02-29', '2023-02-29', '2024-02-29T00:00'))).toEqual([new Date('2024-02-29'), null, null])
    expect(values(x.cast(new TimestampMicrosecond()), of(new Utf8(), '2024-01-02 03:04:05.123456', '2024-01-02T03:04:05+02:00'))).toEqual([
      1_704_164_645_123_456n,
      1_704_157_445_000_000n,
    ])
    expect(values(x.cast(new Utf8()), of(new TimestampMicrosecond('UTC'), -1n, 0n))).toEqual(['1969-12-31T23:59:59.999999Z', '1970-01-01T00:00:00.000000Z'])
    expect(values(x.cast(new Utf8()), of(new Float64(), -0, 1e21))).toEqual(['-0', '1e+21'])
  })
  test('between times are exact or refused', () => {
    const rows = of(new TimestampSecond(), new Date('2024-05-01T00:00:00Z'), new Date('2024-05-01T00:00:01Z'))
    expect(values(x.cast(new TimestampNanosecond()), rows)).toEqual([1_714_521_600_000_000_000n, 1_714_521_601_000_000_000n])
    expect(values(x.tryCast(new DateDay()), rows)).toEqual([new Date('2024-05-01'), null])
    expect(values(x.cast(new Int64()), rows)).toEqual([1_714_521_600n, 1_714_521_601n])
  })
})

describe('text', () => {
  test('patterns, groups, parts and padding', () => {
    const rows = of(new Utf8(), 'a-1', 'bé-22', null, '')
    expect(values(x.str.matches(/\d{2}/g), rows)).toEqual([false, true, null, false])
    expect(values(x.str.extract(/(\w)-(\d+)/, 2), rows)).toEqual(['1', null, null, null])
    expect(values(x.str.replace(/(\d)/g, '<$1>'), rows)).toEqual(['a-<1>', 'bé-<2><2>', null, ''])
    expect(values(x.str.split('-'), rows)).toEqual([['a', '1'], ['bé', '22'], null, ['']])
    expect(values(x.str.split('-').list.get(-1), rows)).toEqual(['1', '22', null, ''])
    expect(values(x.str.padStart(5, '日本'), rows)).toEqual(['日本a-1', 'bé-22', null, '日本日本日'])
    expect(values(x.str.slice(-2), rows)).toEqual(['-1', '22', null, ''])
    expect(values(x.str.len(), rows)).toEqual([3, 5, null, 0])
    expect(values(x.str.byteLen(), rows)).toEqual([3, 6, null, 0])
  })

  test('patterns start anew in every row, and an empty text is found between characters', () => {
    const rows = of(new Utf8(), 'ab', 'ab', 'ba')
    expect(values(x.str.replace(/a/y, 'X'), rows)).toEqual(['Xb', 'Xb', 'ba'])
    expect(values(x.str.matches(/a/gy), rows)).toEqual([true, true, false])
    expect(values(x.str.extract(/a/g), rows)).toEqual(['a', 'a', 'a'])
    expect(values(x.str.replace('', '-'), of(new Utf8(), 'a🙂'))).toEqual(['-a-🙂-'])
  })

  test('of a slice needs memory for the slice', () => {
    const rows = of(new Utf8(), ...new Array<string>(1_000).fill('some text')).slice(10, 12)
    for (const expr of [x.str.upper(), x.add('!'), x.str.replace('s', 't')]) {
      const { values: bytes } = evaluate(bind(expr.node, rows.schema, 'test'), rows)
      expect((bytes as Uint8Array).buffer.byteLength).toBeLessThan(200)
    }
  })

  test('of 64-bit offsets takes constants, and nulls of no type compare as null', () => {
    const rows = batch({ x: [new LargeUtf8(), ['a', 'b', null]], n: [new Null(), [null, null, null]] })
    expect(values(when(x.eq('a'), x).otherwise('z'), rows)).toEqual(['a', 'z', 'z'])
    expect(values(x.fillNull('z'), rows)).toEqual(['a', 'b', 'z'])
    expect(values(x.eq(col('n')), rows)).toEqual([null, null, null])
    expect(values(col('n').lt('a'), rows)).toEqual([null, null, null])
  })

  test('a search finds nothing across the border of two rows', () => {
    expect(values(x.str.contains('ab'), of(new Utf8(), 'xa', 'bx', 'ab', 'aab', null, 'ab'))).toEqual([false, false, true, true, null, true])
  })

  test('dictionaries give what their values give', () => {
    const type = new Dictionary(new Utf8(), new Int32())
    const data = makeData({
      type,
      length: 4,
      nullBitmap: Uint8Array.of(0b1011),
      data: Int32Array.of(1, 0, 0, 1),
      dictionary: new Vector([dataFromValues(['low', 'high'], new Utf8())]),
    } as never)
    const rows = fromColumns(new Schema([new Field('x', type, true)]), [data], 4)
    expect(values(x.eq('high'), rows)).toEqual([true, false, null, true])
    expect(values(x.str.upper(), rows)).toEqual(['HIGH', 'LOW', null, 'HIGH'])
    expect(values(x.isIn(['low', 'none']), rows)).toEqual([false, true, null, false])
    expect(values(x.add('!'), rows)).toEqual(['high!', 'low!', null, 'high!'])
    expect(values(x, rows)).toEqual(['high', 'low', null, 'high'])
    expect(values(when(x.eq('high'), x).otherwise('none'), rows)).toEqual(['high', 'none', 'none', 'high'])
  })

  test('dictionaries within lists and structs give what their values give', () => {
    const type = new Dictionary(new Int64(), new Int8())
    const keys = { type, length: 4, nullBitmap: Uint8Array.of(0b1011), data: Int8Array.of(1, 0, 0, 1) }
    const data = makeData({ ...keys, dictionary: new Vector([dataFromValues([5n, 2n ** 60n], new Int64())]) } as never)
    const struct = new Struct([new Field('a', type, true)])
    const inStruct = makeData({ type: struct, length: 4, nullBitmap: Uint8Array.of(0b1110), children: [data] } as never)
    const structs = fromColumns(new Schema([new Field('x', struct, true)]), [inStruct], 4)
    expect(values(x.struct.field('a'), structs)).toEqual([null, 5n, null, 2n ** 60n])
    expect(typeOf(x.struct.field('a'), structs)).toBe('Int64')
    expect(values(x.struct.field('a').add(1), structs)).toEqual([null, 6n, null, 2n ** 60n + 1n])
    const list = new List(new Field('item', type, true))
    const inList = makeData({ type: list, length: 2, valueOffsets: Int32Array.of(0, 2, 4), child: data } as never)
    const lists = fromColumns(new Schema([new Field('x', list, true)]), [inList], 2)
    expect(values(x.list.get(-1), lists)).toEqual([5n, 2n ** 60n])
    expect(values(x.list.contains(5), lists)).toEqual([true, false])
    expect(values(x.list.get(0).eq(2n ** 60n), lists)).toEqual([true, null])
  })
})

describe('lists and structs', () => {
  const lists = of(new List(new Field('item', new Int32(), true)), [1, null, 3], [], null, [4])
  test('items', () => {
    expect(values(x.list.len(), lists)).toEqual([3, 0, null, 1])
    expect(values(x.list.get(0), lists)).toEqual([1, null, null, 4])
    expect(values(x.list.get(-1), lists)).toEqual([3, null, null, 4])
    expect(values(x.list.slice(1).list.len(), lists)).toEqual([2, 0, null, 0])
    expect(values(x.list.contains(3), lists)).toEqual([true, false, null, false])
    const fixed = of(new FixedSizeList(2, new Field('item', new Float32(), true)), [1, 2], [3, 4], [5, 6]).slice(1)
    expect(values(x.list.get(1), fixed)).toEqual([4, 6])
    expect(values(x.list.contains(5), fixed)).toEqual([false, true])
  })
  test('fields are null where their struct is', () => {
    const type = new Struct([new Field('a', new Int32(), true), new Field('b', new Utf8(), true)])
    expect(values(x.struct.field('b').add('!'), of(type, { a: 1, b: 'one' }, null, { a: 2, b: null }))).toEqual(['one!', null, null])
  })
})

describe('choices', () => {
  test('evaluate a value only for the rows that ask for it', () => {
    const rows = of(new Utf8(), '12', 'x', null)
    expect(values(when(x.str.matches(/^\d+$/), x.cast(new Int64())).otherwise(-1), rows)).toEqual([12n, -1n, -1n])
    const numbers = of(new Int64(), MAX, 1n)
    expect(values(when(x.lt(10), x.add(1)).otherwise(0), numbers)).toEqual([0n, 2n])
    expect(values(coalesce(x.tryCast(new Int64()), x.str.len().cast(new Int64())), rows)).toEqual([12n, 1n, null])
  })
  test('leave columns alone that they do not name', () => {
    const rows = batch({ x: [new Utf8(), ['a', null]], y: [new Int32(), [1, 2]] })
    const untouched = (): never => {
      throw new Error('it was read')
    }
    Object.defineProperty(rows.data.children[1], 'values', { get: untouched })
    expect(values(when(x.eq('a'), x).otherwise('b'), rows)).toEqual(['a', 'b'])
    expect(values(coalesce(x, 'c'), rows)).toEqual(['a', 'c'])
    expect(() => values(col('y'), rows)).toThrow('it was read')
  })
  test('of different numbers give the type that holds both', () => {
    const rows = batch({ a: [new Int32(), [1, null]], b: [new Float64(), [0.5, 0.5]] })
    expect(values(col('a').fillNull(col('b')), rows)).toEqual([1, 0.5])
    expect(() => values(when(col('a').isNull(), 'none').otherwise(col('a')), rows)).toThrow('its values are Utf8 and Int32; cast them to one type')
  })
  test('the first condition that is true decides; unknown ones do not', () => {
    const rows = of(new Int32(), 1, 5, null)
    expect(values(when(x.lt(3), 'low').when(x.lt(9), 'middle').otherwise('none'), rows)).toEqual(['low', 'middle', 'none'])
  })
})

describe('times', () => {
  test('before 1970 and of nanoseconds', () => {
    const rows = of(new TimestampNanosecond(), -1n, 1_709_210_096_789_000_001n)
    expect(values(x.dt.year(), rows)).toEqual([1969, 2024])
    expect(values(x.dt.millisecond(), rows)).toEqual([999, 789])
    expect(values(x.dt.truncate('month'), rows)).toEqual([-2_678_400_000_000_000n, 1_706_745_600_000_000_000n])
    expect(values(x.gt(new Date(0)), rows)).toEqual([false, true])
    const far = of(new Int64(), 2n ** 62n)
    expect(() => values(x.cast(new TimestampSecond()).dt.date(), far)).toThrow('dt.date in row 0 of a block: the result exceeds the range of int32')
    expect(values(x.cast(new TimestampSecond()).tryCast(new Utf8()), far)).toEqual([null])
    expect(values(x.cast(new DateDay()).tryCast(new Utf8()), of(new Int32(), 2 ** 31 - 1, 0))).toEqual([null, '1970-01-01'])
    expect(() => values(x.dt.truncate('year'), of(new TimestampNanosecond(), -(2n ** 63n)))).toThrow('exceeds the range of Timestamp<NANOSECOND>')
  })
  test('of a zone that is not UTC are refused', () => {
    expect(() => values(x.dt.hour(), of(new Timestamp(TimeUnit.MILLISECOND, 'Europe/Berlin'), new Date(0)))).toThrow('these functions know UTC only')
  })
  test('compare with dates, not with text', () => {
    const rows = of(new DateDay(), new Date('2024-05-01'))
    expect(values(x.lt(new Date('2024-05-01T12:00:00Z')), rows)).toEqual([true])
    expect(() => values(x.lt('2024-05-02'), rows)).toThrow(
      'x < "2024-05-02": Date32<DAY> and Utf8 cannot be compared; compare with a Date, such as new Date("2024-05-01")',
    )
  })
})

test('a function of the user gets plain values and must return its type', () => {
  const shout = udf((text: string | null, n: number) => (text === null ? null : text.repeat(n)), new Utf8())
  expect(values(shout(x, 2), of(new Utf8(), 'a', null))).toEqual(['aa', null])
  expect(() => values(udf(() => 1, new Utf8())(), of(new Utf8(), 'a'))).toThrow('the value 1 in row 0 does not fit Utf8')
})

test('what stands for no value is refused where it is written', () => {
  expect(() => x.add({} as never)).toThrow('a value in an expression is of type object; expected col(name), or a number')
  expect(() => lit(new Date(Number.NaN))).toThrow('an invalid Date')
})

test('expressions read as they are meant', () => {
  const expr = when(x.add(1).mul(2).gt(3).and(x.isNotNull()), x.str.lower()).otherwise(lit('n'))
  expect(textOf(expr.node)).toBe('case when (((x + 1) * 2) > 3) and isNotNull(x) then str.lower(x) otherwise "n" end')
})
