/**
 * Every file of apache/parquet-testing against what pyarrow reads from it. A file that this package cannot read is listed here with the reason,
 * and must fail with an error that names it; a file that is not listed must give pyarrow's schema, row count, null counts and first rows.
 */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type DataType, type Decimal, type Field, type FixedSizeBinary, type Float64, type Timestamp, Type } from 'apache-arrow'
import { describe, expect, test } from 'vitest'
import { toRows } from '../../src/batch.ts'
import { readFooter, schemaOf } from '../../src/io/footer.ts'
import { readParquetPart } from '../../src/io/parquet.ts'

const folder = process.env.BEAMLINE_PARQUET_TESTING ?? fileURLToPath(new URL('../../../../../shared/data/parquet-testing', import.meta.url))
const present = existsSync(`${folder}/expected.json`)
if (!present) console.log(`parquet conformance skipped: no ${folder}; set BEAMLINE_PARQUET_TESTING to a checkout with expected.json`)

/** Files that are refused, and why: damaged (first and last), and 2 GiB in one text column, past what one 32-bit decoder holds. */
const REFUSED: Record<string, { part: string; reason: RegExp }> = {
  'dict-page-offset-zero.parquet': { part: 'row group', reason: /Parquet/ },
  'large_string_map.brotli.parquet': { part: 'row group', reason: /damaged or unsupported/ },
  'nation.dict-malformed.parquet': { part: 'row group', reason: /Invalid page header/ },
}

/** Inflates to gigabytes before it is refused. */
const SLOW = 'large_string_map.brotli.parquet'

interface Expected {
  rows: number
  rowGroups: number
  schema: [name: string, type: string][]
  nulls: Record<string, number>
  head: Record<string, unknown>[]
  error?: string
}

const expected = present ? (JSON.parse(readFileSync(`${folder}/expected.json`, 'utf8')) as Record<string, Expected>) : {}

describe.skipIf(!present)('parquet-testing', () => {
  for (const [file, want] of Object.entries(expected)) {
    if (file in REFUSED || want.error !== undefined) continue
    test(`${file} reads as pyarrow does`, async () => {
      const footer = await readFooter(`${folder}/${file}`)
      expect({ rows: footer.rows, rowGroups: footer.rowGroups.length }).toEqual({ rows: want.rows, rowGroups: want.rowGroups })
      const batch = await readParquetPart({ path: footer.path, rowGroups: footer.rowGroups.map((_, i) => i) })
      expect(batch.numRows).toBe(want.rows)
      expect(batch.schema.fields.map((field) => [field.name, arrowName(field.type, field.name)])).toEqual(want.schema)
      const planned = schemaOf(footer)
      if (planned !== undefined) expect(planned.fields.map(({ name, type }) => [name, arrowName(type, name)])).toEqual(want.schema)
      for (const [index, { name }] of batch.schema.fields.entries()) expect([name, batch.getChildAt(index)?.nullCount]).toEqual([name, want.nulls[name]])
      const rows = toRows(batch.slice(0, want.head.length)).map((row) =>
        Object.fromEntries(batch.schema.fields.map(({ name, type }) => [name, plain(row[name], type)])),
      )
      expect(rows).toEqual(want.head)
    })
  }
  for (const [file, { part, reason }] of Object.entries(REFUSED)) {
    test.skipIf(file === SLOW && process.env.BEAMLINE_SLOW !== '1')(`${file} is refused by name`, { timeout: 60_000 }, async () => {
      const footer = await readFooter(`${folder}/${file}`)
      const error = await readParquetPart({ path: footer.path, rowGroups: footer.rowGroups.map((_, i) => i) }).catch((e: unknown) => e)
      expect(error).toMatchObject({
        code: 'FILE_UNREADABLE',
        details: { path: footer.path, part: expect.stringContaining(part), reason: expect.stringMatching(reason) },
      })
    })
  }
})

const UNITS = ['s', 'ms', 'us', 'ns']
const PLAIN: Partial<Record<Type, string>> = { [Type.Bool]: 'bool', [Type.Utf8]: 'string', [Type.Binary]: 'binary', [Type.Null]: 'null' }

/** pyarrow's name of a type; a map also tells the name of its field. */
function arrowName(type: DataType, name = ''): string {
  const child = (field: Field): string => `${field.name}: ${arrowName(field.type, field.name)}${field.nullable ? '' : ' not null'}`
  switch (type.typeId as Type) {
    case Type.Float:
      return ['halffloat', 'float', 'double'][(type as Float64).precision] as string
    case Type.Timestamp:
      return `timestamp[${UNITS[(type as Timestamp).unit]}${(type as Timestamp).timezone == null ? '' : `, tz=${(type as Timestamp).timezone}`}]`
    case Type.Decimal:
      return `decimal128(${(type as Decimal).precision}, ${(type as Decimal).scale})`
    case Type.FixedSizeBinary:
      return `fixed_size_binary[${(type as FixedSizeBinary).byteWidth}]`
    case Type.List:
      return `list<${child(type.children?.[0] as Field)}>`
    case Type.Struct:
      return `struct<${(type.children as Field[]).map(child).join(', ')}>`
    case Type.Map: {
      const [key, value] = (type.children?.[0] as Field).type.children as [Field, Field]
      return `map<${arrowName(key.type)}, ${arrowName(value.type, value.name)}${value.nullable ? '' : ' not null'} ('${name}')>`
    }
    default:
      return PLAIN[type.typeId as Type] ?? String(type).toLowerCase()
  }
}

/** A value as expected.json writes it. */
function plain(value: unknown, type: DataType): unknown {
  if (value === null || value === undefined) return null
  switch (type.typeId as Type) {
    case Type.Binary:
    case Type.FixedSizeBinary:
      return { hex: Buffer.from(value as Uint8Array).toString('hex') }
    case Type.Decimal:
      return { decimal: value }
    case Type.Int:
      return typeof value === 'bigint' && BigInt(Number(value)) === value && Number.isSafeInteger(Number(value))
        ? Number(value)
        : typeof value === 'bigint'
          ? String(value)
          : value
    case Type.Float:
      return Number.isFinite(value) ? value : String(value)
    case Type.Timestamp:
      return { time: timeText(value as Date | bigint, type as Timestamp) }
    case Type.List:
      return Array.from(value as ArrayLike<unknown>, (item) => plain(item, (type.children?.[0] as Field).type))
    case Type.Struct:
      return Object.fromEntries((type.children as Field[]).map((field) => [field.name, plain((value as Record<string, unknown>)[field.name], field.type)]))
    case Type.Map: {
      const [key, item] = (type.children?.[0] as Field).type.children as [Field, Field]
      return Array.from(value as Map<unknown, unknown>, ([k, v]) => [plain(k, key.type), plain(v, item.type)])
    }
    default:
      return value
  }
}

function timeText(value: Date | bigint, { unit }: Timestamp): string {
  const perSecond = [1n, 1_000n, 1_000_000n, 1_000_000_000n][unit] as bigint
  const ticks = typeof value === 'bigint' ? value : (BigInt(value.getTime()) * perSecond) / 1_000n
  const fraction = ((ticks % perSecond) + perSecond) % perSecond
  const text = new Date(Number((ticks - fraction) / perSecond) * 1000).toISOString().slice(0, 19).replace('T', ' ')
  return fraction === 0n
    ? text
    : `${text}.${String(fraction)
        .padStart([0, 3, 6, 9][unit] as number, '0')
        .replace(/^(\d{6})000$/, '$1')}`
}
