/**
 * What the driver learns from a Parquet file without decoding it: rows, row groups, schema. Read with hyparquet, which fetches the footer only.
 *
 * The Arrow type of a column is the one that the decoder will produce: the schema that Arrow writers embed, else the mapping of arrow-rs.
 */
import { BeamlineError } from '@beamline/runtime'
import {
  Binary,
  Bool,
  type DataType,
  DateDay,
  Decimal,
  Field,
  FixedSizeBinary,
  type FixedSizeList,
  Float16,
  Float32,
  Float64,
  Int8,
  Int16,
  Int32,
  Int64,
  Null,
  RecordBatchReader,
  Schema,
  TimeMicrosecond,
  TimeMillisecond,
  TimeNanosecond,
  Timestamp,
  TimeUnit,
  Type,
  Uint8,
  Uint16,
  Uint32,
  Uint64,
  Utf8,
} from 'apache-arrow'
import { asyncBufferFromFile, type FileMetaData, parquetMetadataAsync, type RowGroup, type SchemaElement } from 'hyparquet'

/** How much longer text is than its pages, where no statistics tell: writers use dictionaries for repetitive text. */
const ENCODED_TEXT_GROWTH = 2

export interface RowGroupInfo {
  readonly rows: number
  /** What each top-level column will take when it is decoded; for text and nested columns a guess from its encoded size. */
  readonly columnBytes: Readonly<Record<string, number>>
  /** Of top-level columns whose statistics say something that can be relied on. */
  readonly statistics: Readonly<Record<string, ColumnStatistics>>
}

export interface ColumnStatistics {
  /** Bounds: no value lies outside; undefined where nothing is known. Times are `Date`s rounded by less than a millisecond. */
  readonly min: StatisticsValue | undefined
  readonly max: StatisticsValue | undefined
  /** Nulls; undefined where they were not counted. */
  readonly nulls: number | undefined
  readonly family: 'int' | 'float' | 'text' | 'time' | 'bool'
}

export type StatisticsValue = number | bigint | string | boolean | Date

export interface Footer {
  readonly path: string
  readonly rows: number
  readonly rowGroups: readonly RowGroupInfo[]
  /** Top-level columns; a nested column whose Arrow type only the decoder knows has the type `undefined`. */
  readonly columns: readonly FooterColumn[]
}

export interface FooterColumn {
  readonly name: string
  readonly type: DataType | undefined
  /** Readable type, also for nested columns; equal texts decode to equal types. */
  readonly text: string
}

/**
 * @throws {@link BeamlineError} `FILE_UNREADABLE` when the file is no Parquet file, is cut off, or cannot be opened
 */
export async function readFooter(path: string): Promise<Footer> {
  try {
    const metadata = await parquetMetadataAsync(await asyncBufferFromFile(path), { parsers: { stringFromBytes } })
    const columns = columnsOf(metadata)
    return {
      path,
      // Not metadata.num_rows: some writers leave it 0.
      rows: metadata.row_groups.reduce((rows, group) => rows + Number(group.num_rows), 0),
      rowGroups: metadata.row_groups.map((group) => ({
        rows: Number(group.num_rows),
        columnBytes: decodedBytes(group, columns),
        statistics: statisticsOf(group, columns),
      })),
      columns,
    }
  } catch (cause) {
    throw new BeamlineError('FILE_UNREADABLE', { path, part: 'footer', reason: (cause as Error).message }, { cause })
  }
}

/**
 * Check that `footer` has the columns and types of the first file of the dataset.
 *
 * @param columns - the columns that will be read; undefined: all
 * @throws {@link BeamlineError} `SCHEMA_MISMATCH` naming the file, the column and both types
 */
export function checkSchema(first: Footer, footer: Footer, columns?: readonly string[]): void {
  const read = (file: Footer): readonly FooterColumn[] => (columns === undefined ? file.columns : file.columns.filter(({ name }) => columns.includes(name)))
  for (const expected of read(first)) {
    const found = footer.columns.find(({ name }) => name === expected.name)
    if (found?.text !== expected.text) throw mismatch(footer.path, expected.name, found?.text ?? 'missing', expected.text, first.path)
  }
  for (const { name, text } of read(footer)) {
    if (!first.columns.some((column) => column.name === name)) throw mismatch(footer.path, name, text, 'missing', first.path)
  }
}

const STATISTICS_FAMILY: Partial<Record<Type, ColumnStatistics['family']>> = {
  [Type.Int]: 'int',
  [Type.Float]: 'float',
  [Type.Utf8]: 'text',
  [Type.LargeUtf8]: 'text',
  [Type.Date]: 'time',
  [Type.Timestamp]: 'time',
  [Type.Bool]: 'bool',
}

/** Only of the newer fields `min_value` and `max_value` the order is defined; that of the older ones is the same for signed numbers. */
function statisticsOf({ columns: chunks }: RowGroup, columns: readonly FooterColumn[]): Record<string, ColumnStatistics> {
  const known: Record<string, ColumnStatistics> = {}
  for (const { meta_data } of chunks) {
    const { statistics, path_in_schema: path = [] } = meta_data ?? {}
    const type = columns.find(({ name }) => name === path[0])?.type
    const family = type && STATISTICS_FAMILY[type.typeId as Type]
    if (statistics === undefined || type === undefined || family === undefined || path.length !== 1) continue
    const number = family !== 'text' && !(type.typeId === Type.Int && !(type as Int32).isSigned)
    const { min_value = number ? statistics.min : undefined, max_value = number ? statistics.max : undefined, null_count } = statistics
    const bound = (value: unknown): StatisticsValue | undefined => (isBound(value, family) ? value : undefined)
    known[path[0] as string] = { min: bound(min_value), max: bound(max_value), nulls: null_count === undefined ? undefined : Number(null_count), family }
  }
  return known
}

/** With a byte order mark, where a text begins with one: it counts in the order of texts. */
function stringFromBytes(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)
}

/** Text that is cut within a character, and NaN, bound nothing. */
function isBound(value: unknown, family: ColumnStatistics['family']): value is StatisticsValue {
  switch (family) {
    case 'int':
      return typeof value === 'number' || typeof value === 'bigint'
    case 'float':
      return typeof value === 'number' && !Number.isNaN(value)
    case 'text':
      return typeof value === 'string' && !value.includes('\ufffd')
    case 'time':
      return value instanceof Date && !Number.isNaN(value.getTime())
    case 'bool':
      return typeof value === 'boolean'
  }
}

/** Dictionaries and run lengths are undone by decoding: values of a fixed width take that width, however small the file is. */
function decodedBytes({ columns: chunks, num_rows }: RowGroup, columns: readonly FooterColumn[]): Record<string, number> {
  const encoded: Record<string, number> = {}
  for (const { meta_data } of chunks) {
    const [top] = meta_data?.path_in_schema ?? []
    if (top === undefined || meta_data === undefined) continue
    const exact = meta_data.size_statistics?.unencoded_byte_array_data_bytes
    encoded[top] =
      (encoded[top] ?? 0) +
      (exact === undefined ? ENCODED_TEXT_GROWTH * Number(meta_data.total_uncompressed_size) : Number(exact)) +
      4 * Number(meta_data.num_values)
  }
  const rows = Number(num_rows)
  return Object.fromEntries(
    columns.map(({ name, type }) => {
      const width = type === undefined ? undefined : fixedWidth(type)
      return [name, width === undefined ? (encoded[name] ?? 0) : rows * width]
    }),
  )
}

function mismatch(where: string, column: string, found: string, expected: string, reference: string): BeamlineError {
  return new BeamlineError('SCHEMA_MISMATCH', { where, column, found, expected, reference })
}

/** The schema of the columns to be read, or undefined when one of them is nested without an embedded Arrow schema. */
export function schemaOf(footer: Footer, columns: readonly string[] = footer.columns.map(({ name }) => name)): Schema | undefined {
  const fields: Field[] = []
  for (const name of columns) {
    const column = footer.columns.find((candidate) => candidate.name === name)
    if (column?.type === undefined) return undefined
    fields.push(new Field(name, column.type, true))
  }
  return new Schema(fields)
}

function columnsOf(metadata: FileMetaData): FooterColumn[] {
  const embedded = embeddedSchema(metadata)
  const columns: FooterColumn[] = []
  let at = 1
  for (let i = 0; i < (metadata.schema[0]?.num_children ?? 0); i++) {
    const element = metadata.schema[at] as SchemaElement
    const end = skip(metadata.schema, at)
    const flat = end === at + 1 && element.repetition_type !== 'REPEATED'
    const type = embedded?.fields.find((field) => field.name === element.name)?.type ?? (flat ? flatType(element) : undefined)
    columns.push({ name: element.name, type, text: type === undefined ? nestedText(metadata.schema, at) : String(type) })
    at = end
  }
  return columns
}

/** Bytes per value, undefined for values of any length. */
function fixedWidth(type: DataType): number | undefined {
  switch (type.typeId) {
    case Type.Bool:
      return 1 / 8
    case Type.Int:
    case Type.Time:
      return (type as Int32).bitWidth / 8
    case Type.Float:
      return (type as Float64).ArrayType.BYTES_PER_ELEMENT
    case Type.Decimal:
      return (type as Decimal).bitWidth / 8
    case Type.Date:
    case Type.Timestamp:
    case Type.Duration:
      return 8
    case Type.FixedSizeBinary:
      return (type as FixedSizeBinary).byteWidth
    case Type.FixedSizeList: {
      const width = fixedWidth((type.children as Field[])[0]?.type as DataType)
      return width === undefined ? undefined : width * (type as FixedSizeList).listSize
    }
    default:
      return undefined
  }
}

function embeddedSchema(metadata: FileMetaData): Schema | undefined {
  const text = metadata.key_value_metadata?.find(({ key }) => key === 'ARROW:schema')?.value
  if (text === undefined) return undefined
  try {
    return RecordBatchReader.from(Buffer.from(text, 'base64')).open().schema
  } catch {
    return undefined
  }
}

function skip(schema: readonly SchemaElement[], at: number): number {
  let next = at + 1
  for (let i = 0; i < (schema[at]?.num_children ?? 0); i++) next = skip(schema, next)
  return next
}

function nestedText(schema: readonly SchemaElement[], at: number): string {
  const element = schema[at] as SchemaElement
  const repeated = element.repetition_type === 'REPEATED' ? 'repeated ' : ''
  const count = element.num_children ?? 0
  if (count === 0) return `${repeated}${flatType(element) ?? element.type}`
  const parts: string[] = []
  let next = at + 1
  for (let i = 0; i < count; i++) {
    parts.push(`${schema[next]?.name}: ${nestedText(schema, next)}`)
    next = skip(schema, next)
  }
  return `${repeated}${element.converted_type?.toLowerCase() ?? 'struct'}<${parts.join(', ')}>`
}

const UNITS = { MILLIS: TimeUnit.MILLISECOND, MICROS: TimeUnit.MICROSECOND, NANOS: TimeUnit.NANOSECOND } as const

function flatType(element: SchemaElement): DataType | undefined {
  const { type, logical_type: logical, converted_type: converted } = element
  const zone = (utc: boolean): string | null => (utc ? 'UTC' : null)
  switch (type) {
    case 'BOOLEAN':
      return new Bool()
    case 'FLOAT':
      return new Float32()
    case 'DOUBLE':
      return new Float64()
    case 'INT96':
      return new Timestamp(TimeUnit.NANOSECOND)
    case 'BYTE_ARRAY':
      if (logical?.type === 'DECIMAL' || converted === 'DECIMAL') return decimal(element)
      if (logical?.type === 'STRING' || logical?.type === 'ENUM' || logical?.type === 'JSON') return new Utf8()
      return converted === 'UTF8' || converted === 'ENUM' || converted === 'JSON' ? new Utf8() : new Binary()
    case 'FIXED_LEN_BYTE_ARRAY':
      if (logical?.type === 'DECIMAL' || converted === 'DECIMAL') return decimal(element)
      if (logical?.type === 'FLOAT16') return new Float16()
      return new FixedSizeBinary(element.type_length ?? 0)
    case 'INT32':
      if (logical?.type === 'INTEGER') return integer(logical.bitWidth, logical.isSigned)
      if (logical?.type === 'DATE' || converted === 'DATE') return new DateDay()
      if (logical?.type === 'TIME' || converted === 'TIME_MILLIS') return new TimeMillisecond()
      if (logical?.type === 'DECIMAL' || converted === 'DECIMAL') return decimal(element)
      if (logical?.type === 'NULL') return new Null()
      return convertedInteger(converted) ?? new Int32()
    case 'INT64':
      if (logical?.type === 'INTEGER') return integer(logical.bitWidth, logical.isSigned)
      if (logical?.type === 'TIMESTAMP') return new Timestamp(UNITS[logical.unit], zone(logical.isAdjustedToUTC))
      if (logical?.type === 'TIME') return logical.unit === 'NANOS' ? new TimeNanosecond() : new TimeMicrosecond()
      if (logical?.type === 'DECIMAL' || converted === 'DECIMAL') return decimal(element)
      if (converted === 'TIMESTAMP_MILLIS') return new Timestamp(TimeUnit.MILLISECOND, 'UTC')
      if (converted === 'TIMESTAMP_MICROS') return new Timestamp(TimeUnit.MICROSECOND, 'UTC')
      if (converted === 'TIME_MICROS') return new TimeMicrosecond()
      return convertedInteger(converted) ?? new Int64()
    default:
      return undefined
  }
}

function decimal({ precision = 0, scale = 0 }: SchemaElement): Decimal {
  return new Decimal(scale, precision, precision > 38 ? 256 : 128)
}

function integer(bits: number, signed: boolean): DataType {
  if (bits === 8) return signed ? new Int8() : new Uint8()
  if (bits === 16) return signed ? new Int16() : new Uint16()
  if (bits === 64) return signed ? new Int64() : new Uint64()
  return signed ? new Int32() : new Uint32()
}

function convertedInteger(converted: SchemaElement['converted_type']): DataType | undefined {
  const match = /^(U?)INT_(8|16|32|64)$/.exec(converted ?? '')
  return match === null ? undefined : integer(Number(match[2]), match[1] === '')
}
