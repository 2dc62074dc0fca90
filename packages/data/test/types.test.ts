/** Row types flow through a dataset; nothing runs here. */
import type { RecordBatch } from 'apache-arrow'
import { expect, expectTypeOf, test } from 'vitest'
import { type ColumnBatch, Dataset, type Row, type Tensor } from '../src/index.ts'

test('row types follow the steps', () => {
  const range = Dataset.range(1)
  expectTypeOf(range.row).toEqualTypeOf<{ id: bigint }>()
  expectTypeOf(range.map(({ id }) => ({ half: Number(id) / 2 })).row).toEqualTypeOf<{ half: number }>()
  expectTypeOf(range.map(async ({ id }) => ({ id })).filter(({ id }) => id > 0n).row).toEqualTypeOf<{ id: bigint }>()
  expectTypeOf(Dataset.fromItems([{ a: 1, b: 'x' }]).select('a').row).toEqualTypeOf<{ a: number }>()
  expectTypeOf(Dataset.fromItems(['x']).row).toEqualTypeOf<{ item: string }>()
  expectTypeOf(Dataset.readParquet('x').row).toEqualTypeOf<Row>()
  expectTypeOf(Dataset.readParquet<{ label: number }>('x').take).returns.resolves.toEqualTypeOf<{ label: number }[]>()
})

test('batches have the type of their format, and classes the methods that they need', () => {
  const ds = Dataset.readParquet('x')
  expectTypeOf(ds.iterBatches()).toEqualTypeOf<AsyncGenerator<ColumnBatch, void, undefined>>()
  expectTypeOf(ds.iterBatches({ batchFormat: 'rows' })).toEqualTypeOf<AsyncGenerator<Row[], void, undefined>>()
  expectTypeOf(ds.iterBatches({ batchFormat: 'arrow', batchSize: 2 })).toEqualTypeOf<AsyncGenerator<RecordBatch, void, undefined>>()
  class Good {
    call({ image }: { image: Tensor<Uint8Array> }) {
      return { image }
    }
  }
  class Bad {
    transform() {}
  }
  ds.mapBatches(Good)
  ds.mapBatches(({ label }: { label: Int8Array }) => ({ label, text: ['a'] }))
  // @ts-expect-error a class without call()
  ds.mapBatches(Bad)
  // @ts-expect-error an option that does not exist
  expect(() => ds.mapBatches(Good, { batch: 3 })).toThrow(/option "batch" of mapBatches/)
  // @ts-expect-error a column that does not exist
  Dataset.range(1).select('di')
})
