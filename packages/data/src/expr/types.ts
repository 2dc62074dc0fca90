/**
 * What the functions of expressions know about Arrow types: families, the type that two values have in common, and constants in a column's own terms.
 */
import {
  type DataType,
  DateUnit,
  Decimal,
  type Dictionary,
  Float32,
  Float64,
  Int8,
  Int16,
  Int32,
  Int64,
  TimeUnit,
  Type,
  Uint8,
  Uint16,
  Uint32,
  Uint64,
} from 'apache-arrow'
import { decimalOf, digits, f16round } from './loop-help.ts'
import type { LiteralValue } from './node.ts'

export type Family =
  | 'null'
  | 'bool'
  | 'int'
  | 'float'
  | 'decimal'
  | 'text'
  | 'binary'
  | 'date'
  | 'timestamp'
  | 'time'
  | 'duration'
  | 'list'
  | 'struct'
  | 'other'

const FAMILIES: Partial<Record<Type, Family>> = {
  [Type.Null]: 'null',
  [Type.Bool]: 'bool',
  [Type.Int]: 'int',
  [Type.Float]: 'float',
  [Type.Decimal]: 'decimal',
  [Type.Utf8]: 'text',
  [Type.LargeUtf8]: 'text',
  [Type.Binary]: 'binary',
  [Type.LargeBinary]: 'binary',
  [Type.FixedSizeBinary]: 'binary',
  [Type.Date]: 'date',
  [Type.Timestamp]: 'timestamp',
  [Type.Time]: 'time',
  [Type.Duration]: 'duration',
  [Type.List]: 'list',
  [Type.LargeList]: 'list',
  [Type.FixedSizeList]: 'list',
  [Type.Struct]: 'struct',
}

/** Of the values, where the type is a dictionary. */
export function familyOf(type: DataType): Family {
  return FAMILIES[plain(type).typeId as Type] ?? 'other'
}

/** The type of the values behind a dictionary; other types as they are. */
export function plain(type: DataType): DataType {
  return type.typeId === Type.Dictionary ? (type as Dictionary).dictionary : type
}

/** Texts of decimals do not tell their width. */
export const sameType = (a: DataType, b: DataType): boolean => String(a) === String(b) && (a as Decimal).bitWidth === (b as Decimal).bitWidth

const NUMERIC: ReadonlySet<Family> = new Set(['int', 'float', 'decimal'])
export const isNumeric = (type: DataType): boolean => NUMERIC.has(familyOf(type))

/** Values of 64 bits and more: numbers of JavaScript hold them only while they are small. */
export function isWide(type: DataType): boolean {
  if (type.typeId === Type.Int || type.typeId === Type.Time) return (type as Int64).bitWidth === 64
  if (type.typeId === Type.Date) return (type as DataType & { unit: DateUnit }).unit === DateUnit.MILLISECOND
  return type.typeId === Type.Timestamp || type.typeId === Type.Duration || type.typeId === Type.Decimal
}

/** Types whose values one loop over the rows can hold in a variable. */
const SCALAR: ReadonlySet<Family> = new Set(['bool', 'int', 'float', 'decimal', 'date', 'timestamp', 'time', 'duration'])
export const isScalar = (type: DataType): boolean => SCALAR.has(familyOf(type))

/** How many of its units a second has. */
export function perSecond(type: DataType): number {
  return [1, 1_000, 1_000_000, 1_000_000_000][(type as DataType & { unit: TimeUnit }).unit] as number
}

/** Smallest and largest value of an integer type. */
export function rangeOf(type: DataType): readonly [min: bigint, max: bigint] {
  const { bitWidth, isSigned } = type as Int64
  return isSigned ? [-(2n ** BigInt(bitWidth - 1)), 2n ** BigInt(bitWidth - 1) - 1n] : [0n, 2n ** BigInt(bitWidth) - 1n]
}

const SIGNED = { 8: Int8, 16: Int16, 32: Int32, 64: Int64 } as const
const UNSIGNED = { 8: Uint8, 16: Uint16, 32: Uint32, 64: Uint64 } as const

/** The type that holds the values of both exactly where there is one (int64 with float64: the nearest float64); undefined: they have nothing in common. */
export function commonType(a: DataType, b: DataType): DataType | undefined {
  if (sameType(a, b)) return a
  const families = [familyOf(a), familyOf(b)]
  if (families[0] === 'null') return b
  if (families[1] === 'null') return a
  if (families[0] === 'text' && families[1] === 'text') return a.typeId === Type.LargeUtf8 ? a : b.typeId === Type.LargeUtf8 ? b : plain(a)
  if (!isNumeric(a) || !isNumeric(b)) return undefined
  if (families.includes('float')) return [a, b].every((type) => fitsFloat32(type)) ? new Float32() : new Float64()
  if (families.includes('decimal')) {
    const scale = Math.max(scaleOf(a), scaleOf(b))
    const whole = Math.max(wholeDigits(a), wholeDigits(b))
    return new Decimal(scale, Math.min(38, whole + scale), 128)
  }
  const [x, y] = [a as Int64, b as Int64]
  const bits = Math.max(x.bitWidth, y.bitWidth) as 8 | 16 | 32 | 64
  if (x.isSigned === y.isSigned) return x.isSigned ? new SIGNED[bits]() : new UNSIGNED[bits]()
  const [signed, unsigned] = x.isSigned ? [x, y] : [y, x]
  const needed = Math.max(signed.bitWidth, Math.min(64, unsigned.bitWidth * 2)) as 16 | 32 | 64
  return new SIGNED[needed]()
}

function fitsFloat32(type: DataType): boolean {
  return type.typeId === Type.Float ? (type as Float64).precision < 2 : type.typeId === Type.Int && (type as Int64).bitWidth <= 16
}

export const scaleOf = (type: DataType): number => (type.typeId === Type.Decimal ? (type as Decimal).scale : 0)

function wholeDigits(type: DataType): number {
  if (type.typeId === Type.Decimal) return (type as Decimal).precision - (type as Decimal).scale
  return ({ 8: 3, 16: 5, 32: 10, 64: 20 } as Record<number, number>)[(type as Int64).bitWidth] ?? 38
}

/** A constant as a loop holds it: wide types as bigint in their unit (decimals without their point), other numbers as number. */
export type Constant = number | bigint | boolean | string | Uint8Array | null

/** `value` in the terms of `type`; undefined where it has no exact place there. */
export function constantOf(value: LiteralValue, type: DataType): Constant | undefined {
  if (value === null) return null
  switch (familyOf(type)) {
    case 'bool':
      return typeof value === 'boolean' ? value : undefined
    case 'text':
      return typeof value === 'string' ? value : undefined
    case 'binary':
      return value instanceof Uint8Array ? value : undefined
    case 'float': {
      if (typeof value === 'bigint') return BigInt(Number(value)) === value ? constantOf(Number(value), type) : undefined
      if (typeof value !== 'number') return undefined
      // As the column would hold it: 0.1 finds the float32 that is written 0.1. But 16777217 is not 16777216, and 1e300 not Infinity.
      const held = [f16round, Math.fround, Number][(type as Float64).precision]?.(value)
      return Object.is(held, value) || (!Number.isSafeInteger(value) && held !== 0 && Number.isFinite(held)) ? held : undefined
    }
    case 'int': {
      const whole = wholeOf(value)
      const [min, max] = rangeOf(type)
      if (whole === undefined || whole < min || whole > max) return undefined
      return isWide(type) ? whole : Number(whole)
    }
    case 'decimal':
      return decimalConstant(value, type as Decimal)
    case 'date': {
      if (!(value instanceof Date)) return undefined
      const ms = value.getTime()
      if ((type as DataType & { unit: DateUnit }).unit === DateUnit.MILLISECOND) return BigInt(ms)
      return ms % 86_400_000 === 0 ? ms / 86_400_000 : undefined
    }
    case 'timestamp': {
      if (typeof value === 'bigint') return inBits(64, value)
      if (!(value instanceof Date)) return undefined
      const units = BigInt(value.getTime()) * BigInt(perSecond(type))
      return units % 1000n === 0n ? inBits(64, units / 1000n) : undefined
    }
    case 'time':
    case 'duration': {
      const whole = inBits(isWide(type) ? 64 : 32, wholeOf(value))
      return whole === undefined || isWide(type) ? whole : Number(whole)
    }
    default:
      return undefined
  }
}

function wholeOf(value: LiteralValue): bigint | undefined {
  if (typeof value === 'bigint') return value
  return typeof value === 'number' && Number.isInteger(value) ? BigInt(value) : undefined
}

/** `value` where so many bits hold it. */
export function inBits(bits: number, value: bigint | undefined): bigint | undefined {
  return value !== undefined && BigInt.asIntN(bits, value) === value ? value : undefined
}

/** Numbers as they are written: 0.1 is one tenth. */
function decimalConstant(value: LiteralValue, { precision, scale }: Decimal): bigint | undefined {
  if ((typeof value !== 'number' && typeof value !== 'bigint') || scale < 0) return undefined
  const unscaled = typeof value === 'bigint' ? value * 10n ** BigInt(scale) : decimalOf(value, scale)
  return unscaled === undefined || digits(unscaled) > precision ? undefined : unscaled
}
