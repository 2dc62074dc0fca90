/**
 * Random tables, and random expressions over them with the SQL that means the same.
 */
import {
  Bool,
  type DataType,
  DateDay,
  Decimal,
  Field,
  Float32,
  Float64,
  Int8,
  Int32,
  Int64,
  type RecordBatch,
  Schema,
  TimestampMicrosecond,
  Uint8,
  Uint32,
  Utf8,
} from 'apache-arrow'
import fc from 'fast-check'
import { fromColumns } from '../../src/block.ts'
import { col, type Expr, lit, when } from '../../src/expr/expression.ts'
import { dataFromValues } from '../../src/values.ts'

export type Kind = 'int' | 'float' | 'decimal' | 'text' | 'bool' | 'date' | 'time'

export const DAY = 86_400_000
const int = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max })
const texts = fc.string({ unit: fc.constantFrom('a', 'b', 'A', ' ', 'é', 'Ω', '日', '🙂', '1', '-'), maxLength: 6 })
const days = int(-40_000, 60_000).map((day) => new Date(day * DAY))
const micros = fc.bigInt({ min: -(10n ** 15n), max: 4n * 10n ** 15n })
const cents = int(-5_000_00, 5_000_00).map((n) => `${n < 0 ? '-' : ''}${Math.floor(Math.abs(n) / 100)}.${String(Math.abs(n) % 100).padStart(2, '0')}`)
const floats = fc.oneof(
  { weight: 6, arbitrary: int(-4_000, 4_000).map((n) => n / 8) },
  { weight: 2, arbitrary: fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -0) },
  { weight: 1, arbitrary: fc.double({ noNaN: true, min: -1e12, max: 1e12 }) },
)

const COLUMNS: readonly { readonly name: string; readonly kind: Kind; readonly type: DataType; readonly values: fc.Arbitrary<unknown> }[] = [
  { name: 'i8', kind: 'int', type: new Int8(), values: int(-128, 127) },
  { name: 'u8', kind: 'int', type: new Uint8(), values: int(0, 255) },
  { name: 'i32', kind: 'int', type: new Int32(), values: int(-10_000, 10_000) },
  { name: 'u32', kind: 'int', type: new Uint32(), values: int(0, 70_000) },
  { name: 'i64', kind: 'int', type: new Int64(), values: fc.bigInt({ min: -100_000n, max: 100_000n }) },
  { name: 'f32', kind: 'float', type: new Float32(), values: floats.map(Math.fround) },
  { name: 'f64', kind: 'float', type: new Float64(), values: floats },
  { name: 'money', kind: 'decimal', type: new Decimal(2, 9, 128), values: cents },
  { name: 'text', kind: 'text', type: new Utf8(), values: texts },
  { name: 'other', kind: 'text', type: new Utf8(), values: texts },
  { name: 'flag', kind: 'bool', type: new Bool(), values: fc.boolean() },
  { name: 'day', kind: 'date', type: new DateDay(), values: days },
  { name: 'at', kind: 'time', type: new TimestampMicrosecond(), values: micros },
]

export type Row = Record<string, unknown>
export const table: fc.Arbitrary<Row[]> = fc.array(fc.record(Object.fromEntries(COLUMNS.map(({ name, values }) => [name, fc.option(values, { freq: 5 })]))), {
  minLength: 1,
  maxLength: 40,
})

export interface Case {
  readonly kind: Kind
  readonly expr: Expr
  readonly sql: string
}

const columnOf = (kinds: readonly Kind[]): fc.Arbitrary<Case> =>
  fc.constantFrom(...COLUMNS.filter(({ kind }) => kinds.includes(kind)).map(({ name, kind }) => ({ kind, expr: col(name), sql: `"${name}"` })))

const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`
const sqlFloat = (x: number): string => (Number.isNaN(x) ? "'NaN'::DOUBLE" : Number.isFinite(x) ? `(${x})::DOUBLE` : `'${x > 0 ? '' : '-'}Infinity'::DOUBLE`)
export const wide = (sql: string): string => `(${sql})::HUGEINT`
const rest = (a: string, b: string): string => `(((${wide(a)} % ${wide(b)}) + ${wide(b)}) % ${wide(b)})`

/** Arithmetic on operands of these kinds, as SQL with the same meaning. */
function arithmetic(depth: number, kind: 'int' | 'float' | 'decimal'): fc.Arbitrary<Case> {
  const operand = value(kind, depth - 1)
  if (kind === 'int') {
    return fc.tuple(fc.constantFrom('add', 'sub', 'mul', 'floorDiv', 'mod', 'neg', 'abs' as const), operand, operand).map(([fn, a, b]) => {
      const [x, y] = [wide(a.sql), wide(b.sql)]
      if (fn === 'neg' || fn === 'abs') return { kind, expr: a.expr[fn](), sql: fn === 'neg' ? `(-${x})` : `abs(${x})` }
      const infix = { add: '+', sub: '-', mul: '*' }[fn as 'add']
      if (infix !== undefined) return { kind, expr: a.expr[fn as 'add'](b.expr), sql: `(${x} ${infix} ${y})` }
      const divided = fn === 'mod' ? rest(a.sql, b.sql) : `((${x} - ${rest(a.sql, b.sql)}) // ${y})`
      return { kind, expr: a.expr[fn as 'mod'](b.expr), sql: `CASE WHEN ${y} = 0 THEN NULL ELSE ${divided} END` }
    })
  }
  if (kind === 'decimal') {
    return fc.tuple(fc.constantFrom('add', 'sub' as const), operand, operand).map(([fn, a, b]) => {
      return { kind, expr: a.expr[fn](b.expr), sql: `(${a.sql} ${fn === 'add' ? '+' : '-'} ${b.sql})` }
    })
  }
  const number = fc.oneof(operand, value('int', depth - 1))
  return fc.oneof(
    fc.tuple(fc.constantFrom('add', 'sub', 'mul', 'div' as const), operand, number).map(([fn, a, b]): Case => {
      // Float32 arithmetic rounds after each operation, SQL's does not.
      return {
        kind,
        expr: a.expr.cast(new Float64())[fn](b.expr),
        sql: `((${a.sql})::DOUBLE ${{ add: '+', sub: '-', mul: '*', div: '/' }[fn]} (${b.sql})::DOUBLE)`,
      }
    }),
    fc.tuple(fc.constantFrom('neg', 'abs', 'floor', 'ceil', 'trunc' as const), operand).map(([fn, a]): Case => {
      return { kind, expr: a.expr[fn](), sql: fn === 'neg' ? `(-(${a.sql}))` : `${fn}(${a.sql})` }
    }),
  )
}

export function condition(depth: number): fc.Arbitrary<Case> {
  const kind = 'bool' as const
  const compared = (kinds: readonly Kind[]): fc.Arbitrary<Case> =>
    fc
      .tuple(fc.constantFrom(...kinds), fc.constantFrom(...kinds), fc.constantFrom('eq', 'ne', 'lt', 'le', 'gt', 'ge' as const))
      .chain(([x, y, fn]) => fc.tuple(fc.constant(fn), value(x, depth - 1), value(y, depth - 1)))
      .map(([fn, a, b]) => ({ kind, expr: a.expr[fn](b.expr), sql: `(${a.sql} ${{ eq: '=', ne: '<>', lt: '<', le: '<=', gt: '>', ge: '>=' }[fn]} ${b.sql})` }))
  const any = fc.constantFrom<Kind>('int', 'float', 'text', 'bool', 'date', 'time', 'decimal').chain((of) => value(of, depth - 1))
  const leaves = [
    columnOf(['bool']),
    compared(['int', 'float']),
    compared(['int', 'decimal']),
    compared(['text']),
    compared(['date', 'time']),
    any.map((a): Case => ({ kind, expr: a.expr.isNull(), sql: `(${a.sql} IS NULL)` })),
    any.map((a): Case => ({ kind, expr: a.expr.isNotNull(), sql: `(${a.sql} IS NOT NULL)` })),
    value('float', depth - 1).map((a): Case => ({ kind, expr: a.expr.isNaN(), sql: `isnan(${a.sql})` })),
    fc
      .tuple(value('int', depth - 1), fc.array(fc.option(int(-130, 130)), { minLength: 1, maxLength: 5 }))
      .map(([a, values]): Case => ({ kind, expr: a.expr.isIn(values), sql: `(${wide(a.sql)} IN (${values.map((one) => one ?? 'NULL').join(', ')}))` })),
    fc.tuple(value('text', depth - 1), fc.array(fc.option(texts), { minLength: 1, maxLength: 5 })).map(
      ([a, values]): Case => ({
        kind,
        expr: a.expr.isIn(values),
        sql: `(${a.sql} IN (${values.map((one) => (one === null ? 'NULL' : quoted(one))).join(', ')}))`,
      }),
    ),
    fc.tuple(value('text', depth - 1), texts, fc.constantFrom('contains', 'startsWith', 'endsWith' as const)).map(
      ([a, part, fn]): Case => ({
        kind,
        expr: a.expr.str[fn](part),
        sql: `${{ contains: 'contains', startsWith: 'starts_with', endsWith: 'ends_with' }[fn]}(${a.sql}, ${quoted(part)})`,
      }),
    ),
  ]
  if (depth <= 0) return fc.oneof(...leaves)
  const inner = condition(depth - 1)
  return fc.oneof(
    ...leaves,
    inner.map((a): Case => ({ kind, expr: a.expr.not(), sql: `(NOT ${a.sql})` })),
    fc
      .tuple(fc.constantFrom('and', 'or' as const), inner, inner)
      .map(([fn, a, b]): Case => ({ kind, expr: a.expr[fn](b.expr), sql: `(${a.sql} ${fn} ${b.sql})` })),
  )
}

export function value(kind: Kind, depth: number): fc.Arbitrary<Case> {
  const column = columnOf([kind])
  const constants: Partial<Record<Kind, fc.Arbitrary<Case>>> = {
    int: int(-300, 300).map((n) => ({ kind, expr: lit(n), sql: `(${n})::BIGINT` })),
    // Exact as float32, whose type constants take beside such a column.
    float: fc
      .oneof(
        int(-400, 400).map((n) => n / 8 + 1 / 16),
        fc.constant(Number.NaN),
      )
      .map((x) => ({ kind, expr: lit(x), sql: sqlFloat(x) })),
    text: texts.map((text) => ({ kind, expr: lit(text), sql: quoted(text) })),
    date: days.map((day) => ({ kind, expr: lit(day).cast(new DateDay()), sql: `(DATE '1970-01-01' + ${day.getTime() / DAY})` })),
  }
  const constant = constants[kind]
  const leaves = constant === undefined ? [column] : [column, column, constant]
  if (kind === 'bool') return depth <= 0 ? column : condition(depth)
  if (depth <= 0) return fc.oneof(...leaves)
  const inner = value(kind, depth - 1)
  const made: fc.Arbitrary<Case>[] = [
    fc.tuple(condition(depth - 1), inner, inner).map(([c, a, b]): Case => {
      return { kind, expr: when(c.expr, a.expr).otherwise(b.expr), sql: `(CASE WHEN ${c.sql} THEN ${a.sql} ELSE ${b.sql} END)` }
    }),
    fc.tuple(inner, inner).map(([a, b]): Case => ({ kind, expr: a.expr.fillNull(b.expr), sql: `coalesce(${a.sql}, ${b.sql})` })),
  ]
  if (kind === 'int' || kind === 'float' || kind === 'decimal') made.push(arithmetic(depth, kind))
  if (kind === 'int') {
    made.push(value('text', depth - 1).map((a): Case => ({ kind, expr: a.expr.str.len(), sql: `length(${a.sql})` })))
    const parts = { year: 'year', quarter: 'quarter', month: 'month', day: 'day', weekday: 'isodow', dayOfYear: 'dayofyear' } as const
    const clock = { hour: 'hour', minute: 'minute', second: 'second' } as const
    made.push(
      fc
        .tuple(fc.constantFrom(...(Object.keys(parts) as (keyof typeof parts)[])), value('date', depth - 1))
        .map(([fn, a]): Case => ({ kind, expr: a.expr.dt[fn](), sql: `${parts[fn]}(${a.sql})` })),
      fc
        .tuple(fc.constantFrom(...(Object.keys(parts) as (keyof typeof parts)[])), value('time', depth - 1))
        .map(([fn, a]): Case => ({ kind, expr: a.expr.dt[fn](), sql: `${parts[fn]}(${a.sql})` })),
      fc
        .tuple(fc.constantFrom(...(Object.keys(clock) as (keyof typeof clock)[])), value('time', depth - 1))
        .map(([fn, a]): Case => ({ kind, expr: a.expr.dt[fn](), sql: `${clock[fn]}(${a.sql})` })),
    )
  }
  if (kind === 'date') made.push(value('time', depth - 1).map((a): Case => ({ kind, expr: a.expr.dt.date(), sql: `(${a.sql})::DATE` })))
  if (kind === 'time') {
    made.push(
      fc.tuple(fc.constantFrom('year', 'quarter', 'month', 'week', 'day', 'hour', 'minute', 'second' as const), inner).map(
        ([step, a]): Case => ({
          kind,
          expr: a.expr.dt.truncate(step),
          sql: `date_trunc('${step}', ${a.sql})`,
        }),
      ),
    )
  }
  if (kind === 'float') made.push(value('int', depth - 1).map((a): Case => ({ kind, expr: a.expr.cast(new Float64()), sql: `(${a.sql})::DOUBLE` })))
  if (kind === 'text') {
    made.push(
      fc.tuple(inner, inner).map(([a, b]): Case => ({ kind, expr: a.expr.add(b.expr), sql: `(${a.sql} || ${b.sql})` })),
      fc.tuple(fc.constantFrom('lower', 'upper' as const), inner).map(([fn, a]): Case => ({ kind, expr: a.expr.str[fn](), sql: `${fn}(${a.sql})` })),
      fc
        .tuple(inner, int(0, 4), int(0, 4))
        .map(([a, from, count]): Case => ({ kind, expr: a.expr.str.slice(from, from + count), sql: `substring(${a.sql}, ${from + 1}, ${count})` })),
      fc
        .tuple(inner, fc.constantFrom('a', 'é', '🙂', ' '), texts)
        .map(([a, what, by]): Case => ({ kind, expr: a.expr.str.replace(what, by), sql: `replace(${a.sql}, ${quoted(what)}, ${quoted(by)})` })),
      value('int', depth - 1).map((a): Case => ({ kind, expr: a.expr.cast(new Utf8()), sql: `(${a.sql})::VARCHAR` })),
    )
  }
  return fc.oneof(...leaves, ...made)
}

export const schema: Schema = new Schema(COLUMNS.map(({ name, type }) => new Field(name, type, true)))

export function batchOf(rows: readonly Row[]): RecordBatch {
  return fromColumns(
    schema,
    COLUMNS.map(({ name, type }) =>
      dataFromValues(
        rows.map((row) => row[name]),
        type,
      ),
    ),
    rows.length,
  )
}

/** Shown as SQL when a test fails. */
export const shown = (one: Case): Case => Object.assign({}, one, { [fc.toStringMethod]: () => one.sql })
