import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Field, Float64, Int32, Schema, Utf8 } from 'apache-arrow'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromColumns } from '../../src/block.ts'
import { writeParquetFile } from '../../src/io/parquet.ts'
import { explainLogical, explainPhysical } from '../../src/plan/explain.ts'
import { ANY_WORKER, type Compute, type LogicalPlan, type Stage } from '../../src/plan/logical.ts'
import { optimize } from '../../src/plan/optimize.ts'
import { countRows, planPhysical, planSchema } from '../../src/plan/physical.ts'
import { dataFromValues } from '../../src/values.ts'

const digits = fileURLToPath(new URL('../../../../examples/data/digits.parquet', import.meta.url))
const read: LogicalPlan = { kind: 'readParquet', paths: [digits], columns: undefined, limit: undefined }
const map: Stage = { kind: 'map', name: 'm', fn: (row) => row }
const filter: Stage = { kind: 'filter', name: 'f', fn: () => true }
const select = (...columns: string[]): Stage => ({ kind: 'select', columns })
const batches = (batchSize?: number): Stage => ({
  kind: 'mapBatches',
  name: 'b',
  fn: (batch) => batch,
  isClass: false,
  constructorArgs: [],
  batchSize,
  format: 'columns',
})
const over = (input: LogicalPlan, stage: Stage, compute: Compute = ANY_WORKER): LogicalPlan => ({ kind: 'transform', input, stages: [stage], compute })
const limit = (input: LogicalPlan, rows: number): LogicalPlan => ({ kind: 'limit', input, rows })
const count = (input: LogicalPlan): LogicalPlan => ({ kind: 'count', input })
const pool: Compute = { ...ANY_WORKER, kind: 'pool', concurrency: 2 }
const optimized = (plan: LogicalPlan): string[] =>
  explainLogical(optimize(plan))
    .replaceAll(digits, 'digits')
    .split('\n')
    .map((line) => line.trim())

describe('rules', () => {
  test('a selection after reading is read, and nothing else is', () => {
    expect(optimized(over(read, select('label')))).toEqual(['ReadParquet(digits, columns: label)'])
    expect(optimized(over(limit(over(read, select('id', 'label')), 5), select('label')))).toEqual(['ReadParquet(digits, columns: label, limit: 5)'])
  })
  test('a selection stays after a function of the user', () => {
    expect(optimized(over(over(read, map), select('label')))).toEqual(['Map(m) → Select(label)', 'ReadParquet(digits)'])
  })
  test('a limit passes steps that keep the number of rows, and no others', () => {
    expect(optimized(limit(over(read, map), 5))).toEqual(['Map(m)', 'ReadParquet(digits, limit: 5)'])
    expect(optimized(limit(over(read, filter), 5))).toEqual(['Limit(5)', 'Filter(f)', 'ReadParquet(digits)'])
    expect(optimized(limit(over(read, batches()), 5))).toEqual(['Limit(5)', 'MapBatches(b)', 'ReadParquet(digits)'])
    expect(optimized(limit(limit(over(read, filter), 9), 5))).toEqual(['Limit(5)', 'Filter(f)', 'ReadParquet(digits)'])
  })
  test('neighbouring functions become one step', () => {
    expect(optimized(over(over(over(read, map), filter), batches()))).toEqual(['Map(m) → Filter(f) → MapBatches(b)', 'ReadParquet(digits)'])
  })
  test('a batch size is kept apart from steps that change the number of rows, resources and pools from everything', () => {
    expect(optimized(over(over(read, filter), batches(8)))).toEqual(['MapBatches(b)', 'Filter(f)', 'ReadParquet(digits)'])
    expect(optimized(over(over(read, map), batches(8)))).toEqual(['Map(m) → MapBatches(b)', 'ReadParquet(digits)'])
    expect(optimized(over(over(read, map), filter, { ...ANY_WORKER, cpus: 2 }))).toEqual(['Filter(f)', 'Map(m)', 'ReadParquet(digits)'])
    expect(optimized(over(over(read, batches(), pool), map))).toEqual(['Map(m)', 'MapBatches(b) [pool of 2]', 'ReadParquet(digits)'])
  })
  test('counting drops what keeps the number of rows', () => {
    expect(optimized(count(over(over(read, filter), map)))).toEqual(['Count', 'Filter(f)', 'ReadParquet(digits)'])
    expect(optimized(count(over(limit(read, 3), map)))).toEqual(['Count', 'ReadParquet(digits, limit: 3)'])
  })
  test('a plan is never changed, only replaced', () => {
    const plan = limit(over(over(read, select('label')), map), 5)
    const before = explainLogical(plan)
    optimize(plan)
    expect(explainLogical(plan)).toBe(before)
  })
})

describe('planning from footers', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'beamline-plan-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  const write = async (name: string, fields: Field[], values: unknown[]): Promise<string> => {
    const path = join(folder, name)
    const columns = fields.map((field) => dataFromValues(values, field.type))
    await writeParquetFile(path, fromColumns(new Schema(fields), columns, values.length), {})
    return path
  }

  test('counts and schemas come from footers', async () => {
    expect(await countRows(optimize(count(over(read, map))))).toBe(1797)
    expect(await countRows(optimize(count(limit(read, 10))))).toBe(10)
    expect(await countRows(optimize(count(over(read, filter))))).toBeUndefined()
    expect((await planSchema(read))?.fields.map(({ name, type }) => [name, String(type)])).toEqual([
      ['id', 'Int32'],
      ['image', 'FixedSizeList[64]<Uint8>'],
      ['label', 'Int8'],
    ])
  })

  test('a limit plans only the row groups that hold its rows', async () => {
    const plan = await planPhysical({ ...read, limit: 460 } as LogicalPlan)
    expect(explainPhysical(plan)).toBe('ReadParquet(1 file, limit: 460) [tasks, 2 blocks, 0.1 MiB]\n460 rows')
  })

  test('a file whose column has another type is refused by name, with both types', async () => {
    const paths = [await write('a.parquet', [new Field('x', new Int32(), true)], [1]), await write('b.parquet', [new Field('x', new Float64(), true)], [1])]
    await expect(planPhysical({ ...read, paths } as LogicalPlan)).rejects.toMatchObject({
      code: 'SCHEMA_MISMATCH',
      details: { where: paths[1], column: 'x', found: 'Float64', expected: 'Int32', reference: paths[0] },
    })
  })

  test('a file that lacks a column, or has one more, is refused by name', async () => {
    const one = await write('one.parquet', [new Field('x', new Utf8(), true)], ['a'])
    const two = await write('two.parquet', [new Field('x', new Utf8(), true), new Field('y', new Utf8(), true)], ['a'])
    await expect(planPhysical({ ...read, paths: [two, one] } as LogicalPlan)).rejects.toMatchObject({ details: { where: one, column: 'y', found: 'missing' } })
    await expect(planPhysical({ ...read, paths: [one, two] } as LogicalPlan)).rejects.toMatchObject({
      details: { where: two, column: 'y', expected: 'missing' },
    })
    expect((await planPhysical({ ...read, paths: [one, two], columns: ['x'] } as LogicalPlan)).rows).toBe(2)
  })

  test('a column that does not exist, a path without files, and what is no Parquet file are refused', async () => {
    await expect(planPhysical({ ...read, columns: ['lable'] } as LogicalPlan)).rejects.toMatchObject({
      code: 'COLUMN_NOT_FOUND',
      details: { column: 'lable', columns: 'id, image, label' },
    })
    await expect(planPhysical({ ...read, paths: [join(folder, 'none*.parquet')] } as LogicalPlan)).rejects.toMatchObject({ code: 'FILES_NOT_FOUND' })
    await expect(planPhysical({ ...read, paths: [fileURLToPath(import.meta.url)] } as LogicalPlan)).rejects.toMatchObject({ code: 'FILE_UNREADABLE' })
  })

  test('directories and globs give their files sorted, hidden ones left out', async () => {
    for (const name of ['p2.parquet', 'p1.parquet', '_p0.parquet', '.p3.parquet']) await write(name, [new Field('x', new Int32(), true)], [1])
    const plan = await planPhysical({ ...read, paths: [join(folder, 'p*.parquet')] } as LogicalPlan)
    expect(plan.operators[0]?.kind === 'source' && plan.operators[0].tasks.map((task) => task.kind === 'parquet' && task.part.path)).toEqual([
      join(folder, 'p1.parquet'),
      join(folder, 'p2.parquet'),
    ])
  })
})
