/**
 * Casts from and to text and bytes; those between numbers and times are part of the loop. Values that have no exact place fail or become null.
 */
import { isUtf8 } from 'node:buffer'
import { type Data, type DataType, Timestamp, Type, Vector, type Decimal } from 'apache-arrow'
import { dataFromValues, valueReader } from '../values.ts'
import { castFailed } from './loop-help.ts'
import { TextWriter } from './text.ts'
import { constantOf, familyOf, inBits, isWide, perSecond } from './types.ts'

/**
 * @param text - the expression, for errors
 * @throws {@link BeamlineError} `EXPRESSION_FAILED` where `strict` and a value does not fit
 */
export function castColumn(data: Data, type: DataType, strict: boolean, text: string): Data {
  const read = valueReader(data.type as DataType, new Vector([data]))
  const convert = converter(data.type as DataType, type)
  const cast = (row: number): unknown => {
    const value = read(row)
    if (value === null) return undefined
    const result = convert(value)
    if (result === undefined && strict) castFailed(text, String(type), typeof value === 'string' ? JSON.stringify(value) : String(value), row)
    return result
  }
  if (type.typeId === Type.Utf8) {
    const writer = new TextWriter(data.length, 8 * data.length)
    for (let row = 0; row < data.length; row++) writer.push(cast(row) as string | undefined)
    return writer.finish()
  }
  return dataFromValues(
    Array.from({ length: data.length }, (_, row) => cast(row) ?? null),
    type,
  )
}

const UTF8 = new TextDecoder('utf-8', { ignoreBOM: true })
const TRUTHS: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['false', false],
])

type Convert = (value: unknown) => unknown

function converter(from: DataType, to: DataType): Convert {
  const target = familyOf(to)
  if (familyOf(from) === 'null') return () => undefined
  if (familyOf(from) === 'binary')
    return target === 'text' ? (bytes) => (isUtf8(bytes as Uint8Array) ? UTF8.decode(bytes as Uint8Array) : undefined) : (bytes) => bytes
  if (target === 'text') return toText(from)
  if (target === 'binary') return (text) => new TextEncoder().encode(text as string)
  switch (target) {
    case 'bool':
      return (text) => TRUTHS.get((text as string).toLowerCase())
    case 'int':
      return (text) => {
        if (!/^[+-]?\d{1,40}$/.test(text as string)) return undefined
        return constantOf(BigInt((text as string).replace(/^\+/, '')), to) ?? undefined
      }
    case 'float':
      return (text) => floatOf(text as string)
    case 'decimal':
      return (text) => decimalText(text as string, to as Decimal)
    case 'date':
    case 'timestamp':
      return (text) => timeOf(text as string, to)
    default:
      return (value) => value
  }
}

function toText(type: DataType): Convert {
  const family = familyOf(type)
  if (family === 'float') return (value) => (Object.is(value, -0) ? '-0' : String(value))
  if (family === 'date') return (value) => (isDate(value) ? isoDay(value as Date) : undefined)
  if (family === 'timestamp') {
    const { timezone } = type as Timestamp
    const digits = Math.log10(perSecond(type))
    return (value) => {
      if (!isDate(value)) return undefined
      const units = typeof value === 'bigint' ? value : (BigInt((value as Date).getTime()) * BigInt(perSecond(type))) / 1000n
      const per = BigInt(perSecond(type))
      const seconds = (units - (((units % per) + per) % per)) / per
      const rest = units - seconds * per
      const date = new Date(Number(seconds) * 1000)
      if (Number.isNaN(date.getTime())) return undefined
      const fraction = digits === 0 ? '' : `.${String(rest).padStart(digits, '0')}`
      return `${isoDay(date)}T${date.toISOString().slice(-13, -5)}${fraction}${timezone == null ? '' : 'Z'}`
    }
  }
  return (value) => String(value)
}

/** Not a time that is farther away than a `Date` reaches. */
const isDate = (value: unknown): boolean => typeof value === 'bigint' || !Number.isNaN((value as Date).getTime())
const isoDay = (date: Date): string => date.toISOString().slice(0, -14)

function floatOf(text: string): number | undefined {
  if (/^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(text)) return Number(text)
  const special: Record<string, number> = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, infinity: Number.POSITIVE_INFINITY }
  const match = /^([+-]?)(nan|inf|infinity)$/i.exec(text)
  if (match === null) return undefined
  const value = special[(match[2] as string).toLowerCase()] as number
  return match[1] === '-' ? -value : value
}

function decimalText(text: string, { precision, scale }: Decimal): string | undefined {
  const match = /^([+-]?)(\d+)(?:\.(\d*))?$/.exec(text)
  if (match === null) return undefined
  const [, sign, whole = '', fraction = ''] = match
  const significant = fraction.replace(/0+$/, '')
  if (significant.length > scale || whole.replace(/^0+/, '').length > precision - scale) return undefined
  return `${sign === '-' ? '-' : ''}${whole}${significant === '' ? '' : `.${significant}`}`
}

const TIME = /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:?\d\d)?)?$/

/** ISO 8601, as `Date` or, for units finer than a millisecond, a bigint of them. */
function timeOf(text: string, type: DataType): Date | bigint | undefined {
  const match = TIME.exec(text)
  if (match === null) return undefined
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone = 'Z'] = match
  const seconds = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}${zone}`) / 1000
  if (Number.isNaN(seconds) || new Date(Date.parse(`${year}-${month}-${day}T00:00:00Z`)).getUTCDate() !== Number(day)) return undefined
  if (familyOf(type) === 'date' && !isWide(type)) return match[4] === undefined ? new Date(seconds * 1000) : undefined
  const per = familyOf(type) === 'date' ? 1_000 : perSecond(type)
  const digits = Math.log10(per)
  if (/[^0]/.test(fraction.slice(digits))) return undefined
  const units = BigInt(seconds) * BigInt(per) + BigInt(fraction.slice(0, digits).padEnd(digits, '0') || '0')
  return type.typeId === Type.Date || per <= 1_000 ? new Date(Number((units * 1000n) / BigInt(per))) : inBits(64, units)
}
