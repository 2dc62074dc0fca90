import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Field, Float64, Int32, Schema, Utf8 } from 'apache-arrow'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromColumns } from '../../src/block.ts'
import { col, type Expr, lit, udf } from '../../src/expr/expression.ts'
import { writeParquetFile } from '../../src/io/parquet.ts'
import { explainLogical, explainPhysical } from '../../src/plan/explain.ts'
import { ANY_WORKER, type Compute, type LogicalPlan, type Stage } from '../../src/plan/logical.ts'
import { optimize } from '../../src/plan/optimize.ts'
import { countRows, planPhysical, planSchema } from '../../src/plan/physical.ts'
import { dataFromValues } from '../../src/values.ts'

const digits = fileURLToPath(new URL('../../../../examples/data/digits.parquet', import.meta.url))
const read: LogicalPlan = { kind: 'readParquet', paths: [digits], columns: undefined, limit: undefined, conditions: [] }
const map: Stage = { kind: 'map', name: 'm', fn: (row) => row }
const filter: Stage = { kind: 'filter', name: 'f', fn: () => true }
const where = (expr: Expr): Stage => ({ kind: 'where', condition: expr.node })
const make = (columns: Record<string, Expr>): Stage => ({
  kind: 'withColumns',
  columns: Object.entries(columns).map(([name, { node }]) => [name, node] as const),
})
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
  test('columns that nothing looks at are not read, through every step that knows its columns', () => {
    const one = over(over(over(read, where(col('label').gt(3))), make({ y: col('id').mul(2), z: col('image').isNull() })), select('y'))
    expect(optimized(one)).toEqual(['Filter(label > 3) → WithColumns(y = id * 2) → Select(y)', 'ReadParquet(digits, columns: id, label, where: label > 3)'])
    const renamed = over(over(read, { kind: 'rename', names: [['label', 'digit']] }), select('digit'))
    expect(optimized(renamed)).toEqual(['Rename(label as digit) → Select(digit)', 'ReadParquet(digits, columns: label)'])
    // Of rows in memory a dropped column is still there: it must not meet the one that takes its name.
    const retaken = over(over(over(read, { kind: 'drop', columns: ['id'] }), { kind: 'rename', names: [['label', 'id']] }), select('id'))
    expect(optimized(retaken)).toEqual(['Select(label) → Rename(label as id) → Select(id)', 'ReadParquet(digits, columns: label)'])
    expect(optimized(count(over(read, where(col('label').gt(3)))))).toEqual([
      'Count',
      'Filter(label > 3)',
      'ReadParquet(digits, columns: label, where: label > 3)',
    ])
    expect(optimized(over(over(read, where(col('label').gt(3))), map))).toEqual(['Filter(label > 3) → Map(m)', 'ReadParquet(digits, where: label > 3)'])
  })
  test('conditions reach the reader in terms of its own columns, but not past limits, functions of the user or limits of the reader', () => {
    const made = over(
      over(over(read, { kind: 'rename', names: [['label', 'digit']] }), make({ twice: col('digit').mul(2) })),
      where(col('twice').gt(6).and(col('id').lt(9))),
    )
    expect(optimized(made).at(-1)).toBe('ReadParquet(digits, where: (label * 2) > 6 and id < 9)')
    expect(optimized(over(limit(over(read, filter), 5), where(col('id').lt(9)))).at(-1)).toBe('ReadParquet(digits)')
    expect(optimized(over(limit(read, 5), where(col('id').lt(9)))).at(-1)).toBe('ReadParquet(digits, limit: 5)')
    expect(optimized(over(over(read, map), where(col('id').lt(9)))).at(-1)).toBe('ReadParquet(digits)')
    const random = udf(Math.random, new Float64())
    expect(optimized(over(read, where(random().lt(0.5)))).at(-1)).toBe('ReadParquet(digits)')
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

  test('row groups that cannot hold what is asked for are not read, and the schema is kept when none can', async () => {
    const plan = async (expr: Expr): Promise<string> =>
      explainPhysical(await planPhysical(optimize(over(read, where(expr))))).replace(/^.*read|ReadParquet\(/, '')
    expect(await plan(col('id').lt(10))).toContain('1 of 4 row groups may hold id < 10) → Filter(id < 10) [tasks, 1 block')
    expect(await plan(col('id').ge(1700).or(col('id').eq(3)))).toContain('2 of 4 row groups')
    expect(await plan(col('id').isNull())).toContain('0 of 4 row groups')
    expect(await plan(lit(5).gt(col('id')))).toContain('1 of 4 row groups')
  })

  test('names and types are checked before anything runs, also of what the rules leave out', async () => {
    const check = (stage: Stage): Promise<unknown> => planSchema(over(over(read, stage), select('id')))
    await expect(check(where(col('lable').gt(1)))).rejects.toThrow('filter has no column "lable"; its columns are id, image, label; did you mean "label"?')
    await expect(check(where(col('label').add(1)))).rejects.toThrow(
      'filter: label + 1: it gives Int64, not bool; compare it with something, such as .gt(0) or .isNotNull()',
    )
    await expect(check(make({ x: col('image').add(1) }))).rejects.toThrow(
      'withColumns: image + 1: it takes int or float or decimal, and is given FixedSizeList[64]<Uint8>; cast to a number first',
    )
    await expect(check({ kind: 'drop', columns: ['nothing'] })).rejects.toMatchObject({ code: 'COLUMN_NOT_FOUND' })
    await expect(check({ kind: 'rename', names: [['label', 'id']] })).rejects.toThrow('two named "id"')
    const schema = await planSchema(
      over(over(read, make({ y: col('label').div(2), label: col('label').cast(new Utf8()) })), { kind: 'drop', columns: ['image'] }),
    )
    expect(schema?.fields.map(({ name, type }) => [name, String(type)])).toEqual([
      ['id', 'Int32'],
      ['label', 'Utf8'],
      ['y', 'Float64'],
    ])
  })

  test('a file whose column has another type is refused by name, with both types', async () => {
    const paths = [await write('a.parquet', [new Field('x', new Int32(), true)], [1]), await write('b.parquet', [new Field('x', new Float64(), true)], [1])]
    await expect(planPhysical({ ...read, paths } as LogicalPlan)).rejects.toMatchObject({
      code: 'SCHEMA_MISMATCH',
      details: { where: paths[1], column: 'x', found: 'Float64', expected: 'Int32', reference: paths[0] },
    })
  })

  test('a column that no step reads may differ between files', async () => {
    const id = new Field('id', new Int32(), true)
    const paths = [
      await write('c.parquet', [id, new Field('x', new Int32(), true)], [1, 1]),
      await write('d.parquet', [id, new Field('x', new Float64(), true)], [1, 1]),
    ]
    const plan = over({ ...read, paths } as LogicalPlan, select('id'))
    expect(String(await planSchema(plan))).toBe('Schema<{ 0: id: Int32 }>')
    expect((await planPhysical(optimize(plan))).rows).toBe(4)
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
      details: { column: 'lable', columns: 'id, image, label; did you mean "label"?' },
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
