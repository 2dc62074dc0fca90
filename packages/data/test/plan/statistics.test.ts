/**
 * A row group that statistics rule out holds no row for which the condition is true: random conditions on files with many row groups.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bindCondition } from '../../src/expr/bind.ts'
import { evaluateCondition } from '../../src/expr/evaluate.ts'
import { readFooter } from '../../src/io/footer.ts'
import { readParquetPart, writeParquetFile } from '../../src/io/parquet.ts'
import { mayHold } from '../../src/plan/statistics.ts'
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
