import { stat } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { toRows } from '../../src/batch.ts'
import { excerpt } from '../../src/io/excerpt.ts'
import { readFooter } from '../../src/io/footer.ts'
import { readParquetPart } from '../../src/io/parquet.ts'
import { decodeThrift, encodeThrift } from '../../src/io/thrift.ts'

const path = (name: string): string => fileURLToPath(new URL(`../../../../examples/data/${name}`, import.meta.url))
const digits = path('digits.parquet')

describe('an excerpt', () => {
  test('reads no more of the file than the wanted pages and the footer', async () => {
    const { size } = await stat(digits)
    const whole = await excerpt(digits, [0, 1, 2, 3], undefined)
    const part = await excerpt(digits, [2], ['label'])
    expect(part.bytes.length).toBeLessThan(whole.bytes.length / 20)
    expect(part.bytesRead).toBeLessThanOrEqual(Math.min(size, 64 * 1024) + 1_000)
  })

  test('gives the same rows as the whole file, for every row group and any columns in any order', async () => {
    for (const file of [digits, path('breast_cancer.parquet')]) {
      const { rowGroups, columns } = await readFooter(file)
      const names = columns.map(({ name }) => name)
      const all = toRows(await readParquetPart({ path: file, rowGroups: rowGroups.map((_, i) => i) }))
      for (const wanted of [undefined, names.slice(-1), [names.at(-1) as string, names[0] as string]]) {
        let from = 0
        for (const [index, { rows }] of rowGroups.entries()) {
          const batch = await readParquetPart({ path: file, rowGroups: [index], columns: wanted })
          expect(batch.schema.fields.map(({ name }) => name)).toEqual(wanted ?? names)
          expect(toRows(batch)).toEqual(all.slice(from, from + rows).map((row) => Object.fromEntries((wanted ?? names).map((name) => [name, row[name]]))))
          from += rows
        }
      }
    }
  })

  test('of no row groups keeps the schema', async () => {
    const batch = await readParquetPart({ path: digits, rowGroups: [], columns: ['image'] })
    expect([batch.numRows, String(batch.schema.fields[0]?.type)]).toEqual([0, 'FixedSizeList[64]<Uint8>'])
  })

  test('stops at the limit', async () => {
    expect((await readParquetPart({ path: digits, rowGroups: [1], limit: 7 })).numRows).toBe(7)
  })

  test('of a row group that is not there, or of what is no Parquet file, is refused', async () => {
    await expect(readParquetPart({ path: digits, rowGroups: [9] })).rejects.toMatchObject({
      code: 'FILE_UNREADABLE',
      details: { part: 'row group 9', reason: 'it has 4 row groups, no number 9' },
    })
    await expect(readParquetPart({ path: fileURLToPath(import.meta.url), rowGroups: [0] })).rejects.toMatchObject({
      code: 'FILE_UNREADABLE',
      details: { reason: /PAR1/ },
    })
  })
})

test('a Thrift tree is written as it was read', () => {
  const bytes = Uint8Array.of(0x15, 4, 0x19, 0x2c, 0x15, 2, 0, 0x11, 0, 0x18, 2, 104, 105, 0x07, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0)
  expect(encodeThrift(decodeThrift(bytes))).toEqual(bytes)
  for (let length = 0; length < bytes.length; length++) expect(() => decodeThrift(bytes.subarray(0, length))).toThrow(RangeError)
})
