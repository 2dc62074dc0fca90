/**
 * Random expressions on random tables, against what DuckDB makes of the same expression in SQL.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type DuckDBConnection, DuckDBInstance } from '@duckdb/node-api'
import { type DataType, Vector } from 'apache-arrow'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bind } from '../../src/expr/bind.ts'
import { evaluate } from '../../src/expr/evaluate.ts'
import { writeParquetFile } from '../../src/io/parquet.ts'
import { valueReader } from '../../src/values.ts'
import { batchOf, DAY, type Kind, schema, shown, table, value, wide } from './random.ts'

let folder: string
let connection: DuckDBConnection
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'beamline-expr-'))
  connection = await (await DuckDBInstance.create()).connect()
})
afterAll(async () => {
  connection.closeSync()
  await rm(folder, { recursive: true })
})

/** SQL that gives a value which reads the same on both sides. */
const READ: Record<Kind, (sql: string) => string> = {
  int: wide,
  float: (sql) => `(${sql})::DOUBLE`,
  decimal: (sql) => `(${sql})::DECIMAL(38, 4)::VARCHAR`,
  text: (sql) => sql,
  bool: (sql) => sql,
  date: (sql) => `datediff('day', DATE '1970-01-01', ${sql})::HUGEINT`,
  time: (sql) => `epoch_us(${sql})::HUGEINT`,
}

function normal(kind: Kind, value: unknown): unknown {
  if (value === null) return null
  switch (kind) {
    case 'int':
      return BigInt(value as number)
    case 'date':
      return BigInt((value as Date).getTime() / DAY)
    case 'decimal': {
      const [whole = '', fraction = ''] = (value as string).split('.')
      return `${whole}.${fraction.padEnd(4, '0')}`
    }
    default:
      return value
  }
}

const anything = fc
  .constantFrom<Kind>('int', 'float', 'decimal', 'text', 'bool', 'date', 'time')
  .chain((kind) => value(kind, 3))
  .map(shown)
const RUNS = Number(process.env['BEAMLINE_PROPERTY_RUNS'] ?? 200)

test('every value is the one that DuckDB gives', async () => {
  let run = 0
  await fc.assert(
    fc.asyncProperty(table, fc.array(anything, { minLength: 4, maxLength: 8 }), async (rows, cases) => {
      const batch = batchOf(rows)
      const path = join(folder, `${run++}.parquet`)
      await writeParquetFile(path, batch, {})
      // Not straight from the file: DuckDB believes statistics of floats, which leave out NaN.
      await connection.run(`CREATE OR REPLACE TEMP TABLE rows AS SELECT * FROM read_parquet('${path}', file_row_number = true)`)
      await rm(path)
      const wanted = await connection.runAndReadAll(
        `SELECT ${cases.map(({ kind, sql }, i) => `${READ[kind](sql)} AS c${i}`).join(', ')} FROM rows ORDER BY file_row_number`,
      )
      // A slice: bitmaps then start within a byte.
      const from = Math.min(3, rows.length - 1)
      for (const [i, { kind, expr, sql }] of cases.entries()) {
        const expected = wanted.getColumnsJS()[i] as unknown[]
        for (const [offset, part] of [
          [0, batch],
          [from, batch.slice(from)],
        ] as const) {
          const bound = bind(expr.node, schema, 'test')
          const data = evaluate(bound, part)
          const read = valueReader(data.type as DataType, new Vector([data]))
          const found = Array.from({ length: part.numRows }, (_, row) => normal(kind, read(row)))
          expect(found.map(rounded), `${sql}\nof ${bound.type}`).toEqual(expected.slice(offset).map(rounded))
        }
      }
    }),
    { numRuns: RUNS },
  )
}, 120_000)

/** −0 and 0 are one value; sums differ in their last digits. */
function rounded(value: unknown): unknown {
  return typeof value === 'number' ? (value === 0 ? 0 : Number(value.toPrecision(14))) : value
}
