/**
 * Expressions over columns: `col('price').mul(col('count')).gt(100)`. A builder only describes; types are checked against the schema when the plan is
 * made, before any task runs, and rows are evaluated in loops over columns, never one object per row.
 *
 * Nulls: an operation on null gives null, but for `and`, `or` (three-valued), `isNull`, `isNotNull`, `fillNull` and `when`. `filter` keeps rows that are true.
 * NaN equals NaN and is greater than every other number, as in DuckDB, Polars and Spark; −0 equals 0.
 * Whole numbers: `add`, `sub`, `mul`, `floorDiv` and `mod` of integers give int64 (uint64 of two uint64) and fail on overflow; `div` gives a float.
 */
import { BeamlineError } from '@beamline/runtime'
import type { DataType } from 'apache-arrow'
import type { ExprNode, FunctionName, LiteralValue, Options, RowFunction } from './node.ts'

/** What stands where an operand is expected: an expression, or a value that stands for itself. */
export type Operand = Expr | LiteralValue

/** An expression whose values read as `T` in rows. Immutable. */
export class Expr<T = unknown> {
  /** Only for the type system: a value. */
  declare readonly value: T
  /** @internal */
  readonly node: ExprNode

  /** @internal */
  constructor(node: ExprNode) {
    this.node = node
  }

  /** Sum; of two texts, one after the other. */
  add(other: Operand): Expr<T> {
    return call('add', [this, other])
  }
  /** Difference. */
  sub(other: Operand): Expr<T> {
    return call('sub', [this, other])
  }
  /** Product. */
  mul(other: Operand): Expr<T> {
    return call('mul', [this, other])
  }
  /** Quotient as a float; division by zero gives ±Infinity or NaN. */
  div(other: Operand): Expr<number> {
    return call('div', [this, other])
  }
  /** Quotient rounded down; null where an integer divisor is zero. */
  floorDiv(other: Operand): Expr<T> {
    return call('floorDiv', [this, other])
  }
  /** What `floorDiv` leaves: it has the sign of the divisor. Null where an integer divisor is zero. */
  mod(other: Operand): Expr<T> {
    return call('mod', [this, other])
  }
  /** This to the power of `exponent`, as a float. */
  pow(exponent: Operand): Expr<number> {
    return call('pow', [this, exponent])
  }
  /** With the other sign. */
  neg(): Expr<T> {
    return call('neg', [this])
  }
  /** Without its sign. */
  abs(): Expr<T> {
    return call('abs', [this])
  }
  /** −1, 0 or 1. */
  sign(): Expr<T> {
    return call('sign', [this])
  }
  /** Square root, as a float; NaN of negative numbers. */
  sqrt(): Expr<number> {
    return call('sqrt', [this])
  }
  /** e to the power of this. */
  exp(): Expr<number> {
    return call('exp', [this])
  }
  /** Natural logarithm; −Infinity of 0, NaN of negative numbers. */
  ln(): Expr<number> {
    return call('ln', [this])
  }
  /** Logarithm to base 2. */
  log2(): Expr<number> {
    return call('log2', [this])
  }
  /** Logarithm to base 10. */
  log10(): Expr<number> {
    return call('log10', [this])
  }
  /** Rounded down. */
  floor(): Expr<T> {
    return call('floor', [this])
  }
  /** Rounded up. */
  ceil(): Expr<T> {
    return call('ceil', [this])
  }
  /** Rounded towards zero. */
  trunc(): Expr<T> {
    return call('trunc', [this])
  }
  /**
   * To the nearest number with so many decimals, halves away from zero.
   *
   * @param decimals - 0 to 15; default 0
   */
  round(decimals = 0): Expr<T> {
    if (!Number.isInteger(decimals) || decimals < 0 || decimals > 15) {
      throw new BeamlineError('INVALID_ARGUMENT', { what: 'decimals of round', got: String(decimals), expected: 'a whole number from 0 to 15' })
    }
    return call('round', [this], { decimals })
  }
  /** Whether it is NaN; false for integers and decimals. */
  isNaN(): Expr<boolean> {
    return call('isNaN', [this])
  }
  /** Whether it is neither NaN nor infinite. */
  isFinite(): Expr<boolean> {
    return call('isFinite', [this])
  }

  /** Equal. */
  eq(other: Operand): Expr<boolean> {
    return call('eq', [this, other])
  }
  /** Not equal. */
  ne(other: Operand): Expr<boolean> {
    return call('ne', [this, other])
  }
  /** Less. Text is compared by code points. */
  lt(other: Operand): Expr<boolean> {
    return call('lt', [this, other])
  }
  /** Less or equal. */
  le(other: Operand): Expr<boolean> {
    return call('le', [this, other])
  }
  /** Greater. */
  gt(other: Operand): Expr<boolean> {
    return call('gt', [this, other])
  }
  /** Greater or equal. */
  ge(other: Operand): Expr<boolean> {
    return call('ge', [this, other])
  }
  /** Both ends belong to it. */
  between(low: Operand, high: Operand): Expr<boolean> {
    return this.ge(low).and(this.le(high))
  }
  /** Null where the value is null, and where it is not found but null is among `values`. */
  isIn(values: readonly LiteralValue[]): Expr<boolean> {
    return call('isIn', [this], { values: [...values] })
  }
  /** The opposite of `isIn`; null where that is null. */
  notIn(values: readonly LiteralValue[]): Expr<boolean> {
    return this.isIn(values).not()
  }
  /** Whether there is no value. */
  isNull(): Expr<boolean> {
    return call('isNull', [this])
  }
  /** Whether there is a value. */
  isNotNull(): Expr<boolean> {
    return call('isNotNull', [this])
  }
  /** `other` where this is null. */
  fillNull(other: Operand): Expr<T> {
    return call('coalesce', [this, other])
  }

  /** False where one side is false, true where both are true, else null. */
  and(other: Operand): Expr<boolean> {
    return call('and', [this, other])
  }
  /** True where one side is true, false where both are false, else null. */
  or(other: Operand): Expr<boolean> {
    return call('or', [this, other])
  }
  /** The opposite; null of null. */
  not(): Expr<boolean> {
    return call('not', [this])
  }

  /**
   * The same value as another type. A value that the type does not hold exactly (1.5 as an integer, 300 as int8, "x" as a number) is an error that names it;
   * floats round to the nearest one of a narrower float type.
   */
  cast(type: DataType): Expr {
    return new Expr({ kind: 'cast', arg: this.node, type, strict: true })
  }
  /** As `cast`, with null in place of the error. */
  tryCast(type: DataType): Expr {
    return new Expr({ kind: 'cast', arg: this.node, type, strict: false })
  }

  /** Functions of text. */
  get str(): TextFunctions {
    return new TextFunctions(this)
  }
  /** Functions of dates and timestamps, in UTC. */
  get dt(): TimeFunctions {
    return new TimeFunctions(this)
  }
  /** Functions of lists. */
  get list(): ListFunctions {
    return new ListFunctions(this)
  }
  /** Fields of structs. */
  get struct(): StructFunctions {
    return new StructFunctions(this)
  }
}

/** Functions of text. Characters are Unicode code points. */
export class TextFunctions {
  readonly #text: Expr

  /** @internal */
  constructor(text: Expr) {
    this.#text = text
  }

  /** Number of characters, as int32. */
  len(): Expr<number> {
    return call('str.len', [this.#text])
  }
  /** Bytes in UTF-8, as int32. */
  byteLen(): Expr<number> {
    return call('str.byteLen', [this.#text])
  }
  /** In lower case, in no particular language. */
  lower(): Expr<string> {
    return call('str.lower', [this.#text])
  }
  /** In upper case, in no particular language. */
  upper(): Expr<string> {
    return call('str.upper', [this.#text])
  }
  /** Without white space at both ends. */
  trim(): Expr<string> {
    return call('str.trim', [this.#text])
  }
  /** Without white space at its start. */
  trimStart(): Expr<string> {
    return call('str.trimStart', [this.#text])
  }
  /** Without white space at its end. */
  trimEnd(): Expr<string> {
    return call('str.trimEnd', [this.#text])
  }
  /** Whether the text `part` is found anywhere. */
  contains(part: string): Expr<boolean> {
    return call('str.contains', [this.#text], { part })
  }
  /** Whether it begins with the text `part`. */
  startsWith(part: string): Expr<boolean> {
    return call('str.startsWith', [this.#text], { part })
  }
  /** Whether it ends with the text `part`. */
  endsWith(part: string): Expr<boolean> {
    return call('str.endsWith', [this.#text], { part })
  }
  /** Whether the pattern is found anywhere. */
  matches(pattern: RegExp): Expr<boolean> {
    return call('str.matches', [this.#text], { pattern })
  }
  /** What a group of the first match holds (0: the whole match); null without a match. */
  extract(pattern: RegExp, group = 0): Expr<string> {
    return call('str.extract', [this.#text], { pattern, group })
  }
  /** Every occurrence of a text, or of a pattern with the flag `g`; the first one of a pattern without it. As in JavaScript, `$1` is a group of a pattern. */
  replace(what: string | RegExp, by: string): Expr<string> {
    return call('str.replace', [this.#text], { what, by })
  }
  /** Characters from `start` (negative: from the end) up to `end`, which is left out. */
  slice(start: number, end?: number): Expr<string> {
    return call('str.slice', [this.#text], { start, end })
  }
  /** The parts between separators, as a list. */
  split(separator: string): Expr<string[]> {
    return call('str.split', [this.#text], { separator })
  }
  /** With `fill` before it until it has `length` characters; longer texts stay as they are. */
  padStart(length: number, fill = ' '): Expr<string> {
    return call('str.padStart', [this.#text], { length, fill })
  }
  /** With `fill` after it until it has `length` characters; longer texts stay as they are. */
  padEnd(length: number, fill = ' '): Expr<string> {
    return call('str.padEnd', [this.#text], { length, fill })
  }
}

/** A stretch of time that `dt.truncate` cuts to. */
export type TimeStep = 'year' | 'quarter' | 'month' | 'week' | 'day' | 'hour' | 'minute' | 'second'

/** Functions of dates and timestamps. Numbers are int32. Timestamps of other zones than UTC are refused. */
export class TimeFunctions {
  readonly #time: Expr

  /** @internal */
  constructor(time: Expr) {
    this.#time = time
  }

  /** The year, negative before the year 0. */
  year(): Expr<number> {
    return call('dt.year', [this.#time])
  }
  /** 1 to 4. */
  quarter(): Expr<number> {
    return call('dt.quarter', [this.#time])
  }
  /** 1 to 12. */
  month(): Expr<number> {
    return call('dt.month', [this.#time])
  }
  /** 1 to 31. */
  day(): Expr<number> {
    return call('dt.day', [this.#time])
  }
  /** 0 to 23. */
  hour(): Expr<number> {
    return call('dt.hour', [this.#time])
  }
  /** 0 to 59. */
  minute(): Expr<number> {
    return call('dt.minute', [this.#time])
  }
  /** 0 to 59. */
  second(): Expr<number> {
    return call('dt.second', [this.#time])
  }
  /** 0 to 999. */
  millisecond(): Expr<number> {
    return call('dt.millisecond', [this.#time])
  }
  /** 1 (Monday) to 7 (Sunday). */
  weekday(): Expr<number> {
    return call('dt.weekday', [this.#time])
  }
  /** 1 to 366. */
  dayOfYear(): Expr<number> {
    return call('dt.dayOfYear', [this.#time])
  }
  /** The day, as date32. */
  date(): Expr<Date> {
    return call('dt.date', [this.#time])
  }
  /** The start of the step that the time lies in; weeks start on Monday. */
  truncate(step: TimeStep): Expr {
    return call('dt.truncate', [this.#time], { step })
  }
}

/** Functions of lists, of any length or a fixed one. */
export class ListFunctions {
  readonly #list: Expr

  /** @internal */
  constructor(list: Expr) {
    this.#list = list
  }

  /** Number of items, as int32. */
  len(): Expr<number> {
    return call('list.len', [this.#list])
  }
  /** The item at an index (negative: from the end); null where the list is shorter. */
  get(index: number): Expr {
    return call('list.get', [this.#list], { index })
  }
  /** Items from `start` (negative: from the end) up to `end`, which is left out. */
  slice(start: number, end?: number): Expr {
    return call('list.slice', [this.#list], { start, end })
  }
  /** Whether an item equals `value`; nulls in the list equal nothing. */
  contains(value: LiteralValue): Expr<boolean> {
    return call('list.contains', [this.#list], { values: [value] })
  }
}

/** What is in a struct. */
export class StructFunctions {
  readonly #struct: Expr

  /** @internal */
  constructor(struct: Expr) {
    this.#struct = struct
  }

  /** The field of this name; null where the struct is. */
  field(name: string): Expr {
    return call('struct.field', [this.#struct], { name })
  }
}

/**
 * The values of a column.
 *
 * @example
 * ds.filter(col('label').isNotNull().and(col('score').gt(0.5)))
 */
export function col<T = unknown>(name: string): Expr<T> {
  return new Expr({ kind: 'column', name })
}

/** The same value in every row; needed only where an expression starts with a value. */
export function lit<T extends LiteralValue>(value: T): Expr<T> {
  return new Expr({ kind: 'literal', value: checkedLiteral(value) })
}

/** A choice that still lacks what all other rows get. */
export interface Choice {
  /** What rows get for which no condition before and this one is true. */
  when(condition: Expr, value: Operand): Choice
  /** What all other rows get, also those for which no condition is known. */
  otherwise(value: Operand): Expr
}

/**
 * The value behind the first condition that is true. Only the value that is chosen is evaluated for a row.
 *
 * @example
 * ds.withColumn('size', when(col('n').lt(10), 'small').when(col('n').lt(100), 'medium').otherwise('large'))
 */
export function when(condition: Expr, value: Operand): Choice {
  return choiceOf([[condition.node, nodeOf(value)]])
}

function choiceOf(branches: readonly (readonly [when: ExprNode, then: ExprNode])[]): Choice {
  return {
    when: (condition, value) => choiceOf([...branches, [condition.node, nodeOf(value)]]),
    otherwise: (value) => new Expr({ kind: 'case', branches, otherwise: nodeOf(value) }),
  }
}

/** The first of the values that is not null. */
export function coalesce(...values: readonly [Operand, ...Operand[]]): Expr {
  return call('coalesce', values)
}

/**
 * A function of the user as an expression: called once per row with plain values (null for null), so much slower than the functions here.
 *
 * @param type - of what it returns
 * @example
 * const host = udf((url: string) => new URL(url).host, new Utf8())
 * ds.withColumn('host', host(col('url')))
 */
export function udf<A extends unknown[], T>(fn: (...values: A) => T, type: DataType): (...args: Operand[]) => Expr<T> {
  return (...args) => new Expr({ kind: 'udf', name: fn.name || 'udf', fn: fn as RowFunction, args: args.map(nodeOf), type })
}

function call<T>(fn: FunctionName, args: readonly Operand[], options: Options = {}): Expr<T> {
  return new Expr({ kind: 'call', fn, args: args.map(nodeOf), options })
}

function nodeOf(value: Operand): ExprNode {
  return value instanceof Expr ? value.node : { kind: 'literal', value: checkedLiteral(value) }
}

function checkedLiteral<T>(value: T): T {
  const fits =
    value === null ||
    ['number', 'bigint', 'string', 'boolean'].includes(typeof value) ||
    (value instanceof Date && !Number.isNaN(value.getTime())) ||
    value instanceof Uint8Array
  if (fits) return value
  throw new BeamlineError('INVALID_ARGUMENT', {
    what: 'a value in an expression',
    got: value instanceof Date ? 'an invalid Date' : `of type ${typeof value}`,
    expected: 'col(name), or a number, bigint, text, boolean, Date, Uint8Array or null',
  })
}
