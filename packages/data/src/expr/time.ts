/**
 * Functions of dates and timestamps, in UTC and the proleptic Gregorian calendar: https://howardhinnant.github.io/date_algorithms.html describes the
 * arithmetic between days and dates.
 */
import { type Data, DateDay, type DataType, Int32, makeData } from 'apache-arrow'
import { nullsOf, validityOf } from '../bits.ts'
import type { TimeStep } from './expression.ts'
import { overflow } from './loop-help.ts'
import type { FunctionName, Options } from './node.ts'
import { familyOf, inBits, isWide, perSecond } from './types.ts'

const DAY_MS = 86_400_000

/** The result of one of the `dt` functions. */
export function timeFunction(fn: FunctionName, time: Data, options: Options): Data {
  const { length } = time
  const validity = validityOf(time)
  const nulls = nullsOf(validity)
  const ms = millisecondsOf(time)
  if (fn === 'dt.truncate') return truncated(time, ms, options['step'] as TimeStep, nulls)
  const data = new Int32Array(length)
  const part = PARTS[fn]
  if (part === undefined) throw new Error(`${fn} is no function of times`)
  for (let row = 0; row < length; row++) {
    if (validity[row] !== 1) continue
    const value = part(ms[row] as number)
    if ((value | 0) !== value) overflow(fn, 'the range of int32', row, 'filter times before that are far from today')
    data[row] = value
  }
  return makeData({ type: fn === 'dt.date' ? new DateDay() : new Int32(), length, ...nulls, data } as never)
}

const PARTS: Partial<Record<FunctionName, (ms: number) => number>> = {
  'dt.year': (ms) => civil(dayOf(ms)).year,
  'dt.quarter': (ms) => Math.floor((civil(dayOf(ms)).month + 2) / 3),
  'dt.month': (ms) => civil(dayOf(ms)).month,
  'dt.day': (ms) => civil(dayOf(ms)).day,
  'dt.hour': (ms) => Math.floor(inDay(ms) / 3_600_000),
  'dt.minute': (ms) => Math.floor(inDay(ms) / 60_000) % 60,
  'dt.second': (ms) => Math.floor(inDay(ms) / 1_000) % 60,
  'dt.millisecond': (ms) => inDay(ms) % 1_000,
  'dt.weekday': (ms) => mondayOf(dayOf(ms)) + 1,
  'dt.dayOfYear': (ms) => dayOf(ms) - daysOf(civil(dayOf(ms)).year, 1, 1) + 1,
  'dt.date': (ms) => dayOf(ms),
}

const dayOf = (ms: number): number => Math.floor(ms / DAY_MS)
const inDay = (ms: number): number => ms - dayOf(ms) * DAY_MS
/** Days since the Monday of the week: 1970-01-01 was a Thursday. */
const mondayOf = (day: number): number => (((day + 3) % 7) + 7) % 7

function civil(day: number): { readonly year: number; readonly month: number; readonly day: number } {
  const shifted = day + 719_468
  const era = Math.floor(shifted / 146_097)
  const ofEra = shifted - era * 146_097
  const yearOfEra = Math.floor((ofEra - Math.floor(ofEra / 1_460) + Math.floor(ofEra / 36_524) - Math.floor(ofEra / 146_096)) / 365)
  const ofYear = ofEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const fromMarch = Math.floor((5 * ofYear + 2) / 153)
  const month = fromMarch < 10 ? fromMarch + 3 : fromMarch - 9
  return { year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day: ofYear - Math.floor((153 * fromMarch + 2) / 5) + 1 }
}

function daysOf(year: number, month: number, day: number): number {
  const shifted = month <= 2 ? year - 1 : year
  const era = Math.floor(shifted / 400)
  const yearOfEra = shifted - era * 400
  const ofYear = Math.floor((153 * (month > 2 ? month - 3 : month + 9) + 2) / 5) + day - 1
  return era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + ofYear - 719_468
}

const STEPS: Record<TimeStep, (ms: number) => number> = {
  year: (ms) => daysOf(civil(dayOf(ms)).year, 1, 1) * DAY_MS,
  quarter: (ms) => {
    const { year, month } = civil(dayOf(ms))
    return daysOf(year, month - ((month - 1) % 3), 1) * DAY_MS
  },
  month: (ms) => {
    const { year, month } = civil(dayOf(ms))
    return daysOf(year, month, 1) * DAY_MS
  },
  week: (ms) => (dayOf(ms) - mondayOf(dayOf(ms))) * DAY_MS,
  day: (ms) => dayOf(ms) * DAY_MS,
  hour: (ms) => Math.floor(ms / 3_600_000) * 3_600_000,
  minute: (ms) => Math.floor(ms / 60_000) * 60_000,
  second: (ms) => Math.floor(ms / 1_000) * 1_000,
}

function truncated(time: Data, ms: Float64Array, step: TimeStep, nulls: ReturnType<typeof nullsOf>): Data {
  const { type, length } = time as Data & { type: DataType }
  const cut = STEPS[step]
  if (!isWide(type)) return makeData({ type, length, ...nulls, data: Int32Array.from(ms, (at) => cut(at) / DAY_MS) } as never)
  const units = familyOf(type) === 'date' ? 1_000 : perSecond(type)
  const data = BigInt64Array.from(ms, (at, row) => {
    const start = (BigInt(cut(at)) * BigInt(units)) / 1_000n
    return inBits(64, start) ?? overflow(`dt.truncate(${step})`, `the range of ${type}`, row, 'cast to a coarser timestamp first')
  })
  return makeData({ type, length, ...nulls, data } as never)
}

/** Milliseconds since 1970, rounded down; exact for every timestamp. */
function millisecondsOf(time: Data): Float64Array {
  const type = time.type as DataType
  const values = time.values as unknown as Int32Array | BigInt64Array
  if (!isWide(type)) return Float64Array.from(values as Int32Array, (day) => day * DAY_MS)
  const perMs = familyOf(type) === 'date' ? 1 : perSecond(type) / 1_000
  return Float64Array.from({ length: time.length }, (_, row) => {
    const value = (values as BigInt64Array)[row] as bigint
    const near = Number(value)
    if (perMs <= 1) return near / perMs
    if (Number.isSafeInteger(near)) return Math.floor(near / perMs)
    const whole = value / BigInt(perMs)
    return Number(value < 0n && whole * BigInt(perMs) !== value ? whole - 1n : whole)
  })
}
