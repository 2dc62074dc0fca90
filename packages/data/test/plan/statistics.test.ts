/**
 * A row group that statistics rule out holds no row for which the condition is true: random conditions on files with many row groups.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Field, Schema, TimestampNanosecond, Uint64, Utf8 } from 'apache-arrow'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fromColumns } from '../../src/block.ts'
import { bindCondition } from '../../src/expr/bind.ts'
import { evaluateCondition } from '../../src/expr/evaluate.ts'
import { col } from '../../src/expr/expression.ts'
import { textOf } from '../../src/expr/node.ts'
import { type RowGroupInfo, readFooter } from '../../src/io/footer.ts'
import { readParquetPart, writeParquetFile } from '../../src/io/parquet.ts'
import { mayHold } from '../../src/plan/statistics.ts'
import { dataFromValues } from '../../src/values.ts'
import { batchOf, condition, schema, shown, table } from '../expr/random.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'beamline-statistics-'))
})
afterAll(() => rm(folder, { recursive: true }))

test('what is ruled out is not there', async () => {
  let run = 0
  let ruledOut = 0
  await fc.assert(
    fc.asyncProperty(table, fc.array(condition(1).map(shown), { minLength: 10, maxLength: 20 }), async (rows, conditions) => {
      const path = join(folder, `${run++}.parquet`)
      await writeParquetFile(path, batchOf(rows), { rowGroupRows: 3 })
      const { rowGroups } = await readFooter(path)
      for (const [index, group] of rowGroups.entries()) {
        const batch = await readParquetPart({ path, rowGroups: [index] })
        for (const { expr, sql } of conditions) {
          if (mayHold(expr.node, group)) continue
          ruledOut++
          expect(evaluateCondition(bindCondition(expr.node, schema, 'test'), batch), sql).toEqual(new Uint8Array(batch.numRows))
        }
      }
      await rm(path)
    }),
    { numRuns: 40 },
  )
  expect(ruledOut).toBeGreaterThan(50)
})

test('bounds that lose something when they are read rule nothing out that is there', async () => {
  const path = join(folder, 'edges.parquet')
  const columns = { ns: [new TimestampNanosecond(), [-1_500_000n]], text: [new Utf8(), ['\ufeffz']], big: [new Uint64(), [2n ** 63n + 1n]] } as const
  const fields = Object.entries(columns).map(([name, [type]]) => new Field(name, type, true))
  const batch = fromColumns(
    new Schema(fields),
    Object.values(columns).map(([type, values]) => dataFromValues(values, type)),
    1,
  )
  await writeParquetFile(path, batch, {})
  const [group] = (await readFooter(path)).rowGroups as [RowGroupInfo]
  for (const there of [col('ns').lt(new Date(-1)), col('text').eq('\ufeffz'), col('big').gt(2n ** 63n)])
    expect(mayHold(there.node, group), textOf(there.node)).toBe(true)
  for (const absent of [col('ns').gt(new Date(1)), col('text').eq('z'), col('big').lt(1)]) expect(mayHold(absent.node, group), textOf(absent.node)).toBe(false)
})
