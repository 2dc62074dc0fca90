/**
 * What this package writes, read back by two readers that it does not use for data: DuckDB and hyparquet.
 */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDBInstance } from '@duckdb/node-api'
import {
  Bool,
  Field,
  FixedSizeList,
  Float32,
  Float64,
  Int8,
  Int32,
  Int64,
  List,
  type RecordBatch,
  Schema,
  Timestamp,
  TimeUnit,
  Uint8,
  Utf8,
} from 'apache-arrow'
import { asyncBufferFromFile, parquetReadObjects } from 'hyparquet'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { toRows } from '../../src/batch.ts'
import { emptyBatch, fromColumns } from '../../src/block.ts'
import { readFooter, schemaOf } from '../../src/io/footer.ts'
import { OutputDirectory } from '../../src/io/output-directory.ts'
import { CODECS, readParquetPart, writeParquetFile } from '../../src/io/parquet.ts'
import { dataFromValues } from '../../src/values.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'beamline-write-'))
})
afterAll(() => rm(folder, { recursive: true }))

const item = (type: Float32 | Uint8 | Utf8): Field => new Field('item', type, true)
const schema = new Schema([
  new Field('id', new Int32(), false),
  new Field('small', new Int8(), true),
  new Field('big', new Int64(), true),
  new Field('single', new Float32(), true),
  new Field('double', new Float64(), true),
  new Field('flag', new Bool(), true),
  new Field('text', new Utf8(), true),
  new Field('at', new Timestamp(TimeUnit.MICROSECOND, 'UTC'), true),
  new Field('image', new FixedSizeList(3, item(new Uint8())), true),
  new Field('words', new List(item(new Utf8())), true),
])

const rows = Array.from({ length: 1_000 }, (_, i) => ({
  id: i,
  small: i % 3 === 0 ? null : (i % 256) - 128,
  big: i % 5 === 0 ? null : BigInt(i) * 10_000_000_000n,
  single: Math.fround(i / 7),
  double: i % 11 === 0 ? Number.NaN : i / 7,
  flag: i % 4 === 0 ? null : i % 2 === 0,
  text: i % 6 === 0 ? null : `näme ${i % 10}`,
  at: i % 7 === 0 ? null : 1_700_000_000_000_000n + BigInt(i),
  image: Uint8Array.of(i % 256, (i + 1) % 256, (i + 2) % 256),
  words: i % 9 === 0 ? null : Array.from({ length: i % 3 }, (_, k) => `w${k}`),
}))

function block(): RecordBatch {
  return fromColumns(
    schema,
    schema.fields.map(({ name, type }) =>
      dataFromValues(
        rows.map((row) => row[name as keyof typeof row]),
        type,
      ),
    ),
    rows.length,
  )
}

describe('a written file', () => {
  test.each(CODECS)('reads back exactly, compressed with %s', async (compression) => {
    const path = join(folder, `${compression}.parquet`)
    const written = await writeParquetFile(path, block(), { compression, rowGroupRows: 300 })
    expect(written).toMatchObject({ path, rows: 1_000 })
    const footer = await readFooter(path)
    expect(footer.rowGroups.map((group) => group.rows)).toEqual([300, 300, 300, 100])
    const batch = await readParquetPart({ path, rowGroups: [0, 1, 2, 3] })
    expect(toRows(batch)).toEqual(rows)
    expect(batch.schema.fields.map(({ name, type }) => [name, String(type)])).toEqual(schema.fields.map(({ name, type }) => [name, String(type)]))
    expect(schemaOf(footer)?.fields.map(({ type }) => String(type))).toEqual(schema.fields.map(({ type }) => String(type)))
  })

  test('is read by DuckDB and hyparquet with equal values', async () => {
    const path = join(folder, 'oracle.parquet')
    await writeParquetFile(path, block(), {})
    const db = await DuckDBInstance.create(':memory:')
    const connection = await db.connect()
    const reader = await connection.runAndReadAll(`select id, small, big, single, double, flag, text, epoch_us("at") as "at", image, words from '${path}'`)
    const duck = reader.getRowObjectsJson()
    connection.closeSync()
    db.closeSync()
    expect(duck).toEqual(
      rows.map((row) => ({
        ...row,
        big: row.big === null ? null : String(row.big),
        double: Number.isNaN(row.double) ? 'NaN' : row.double,
        at: row.at === null ? null : String(row.at),
        image: [...row.image],
      })),
    )
    const hyparquet = await parquetReadObjects({ file: await asyncBufferFromFile(path) })
    expect(hyparquet.map((row) => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, value ?? null])))).toEqual(
      rows.map((row) => ({ ...row, image: [...row.image], at: row.at === null ? null : new Date(Number(row.at / 1000n)) })),
    )
  })

  test('of no rows keeps the schema', async () => {
    const path = join(folder, 'empty.parquet')
    await writeParquetFile(path, emptyBatch(schema), {})
    const footer = await readFooter(path)
    expect([footer.rows, footer.columns.length]).toEqual([0, 10])
    expect(toRows(await readParquetPart({ path, rowGroups: footer.rowGroups.map((_, i) => i) }))).toEqual([])
  })
})

describe('an output directory', () => {
  test('shows nothing before the commit, and then all files', async () => {
    const path = join(folder, 'a/b/out')
    const output = await OutputDirectory.open(path, 'error')
    const file = await writeParquetFile(join(output.staging, 'part-00000.parquet'), block(), {})
    expect((await readdir(path)).filter((name) => !name.startsWith('.'))).toEqual([])
    expect(await output.commit([file])).toEqual([{ ...file, path: join(path, 'part-00000.parquet') }])
    expect(await readdir(path)).toEqual(['part-00000.parquet'])
  })

  test('with files is refused, or has its Parquet files replaced and others left', async () => {
    const path = join(folder, 'replace')
    await mkdir(path)
    for (const name of ['part-00007.parquet', 'notes.txt']) await writeFile(join(path, name), 'x')
    await expect(OutputDirectory.open(path, 'error')).rejects.toMatchObject({ code: 'OUTPUT_EXISTS', details: { path, files: 2 } })
    const output = await OutputDirectory.open(path, 'overwrite')
    await output.commit([await writeParquetFile(join(output.staging, 'part-00000.parquet'), block(), {})])
    expect((await readdir(path)).sort()).toEqual(['notes.txt', 'part-00000.parquet'])
  })

  test('that is discarded is gone, or as it was', async () => {
    const path = join(folder, 'gone')
    await (await OutputDirectory.open(path, 'error')).discard()
    await expect(readdir(path)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})
