/**
 * The rows that a source task makes in its worker.
 */
import { Int64, makeData, type RecordBatch } from 'apache-arrow'
import { fromColumns } from '../../block.ts'
import { readParquetPart } from '../../io/parquet.ts'
import { RANGE_SCHEMA, type SourceTask } from '../../plan/physical.ts'

export async function sourceBatch(source: Exclude<SourceTask, { kind: 'items' }>): Promise<RecordBatch> {
  if (source.kind === 'parquet') return readParquetPart(source.part)
  const data = BigInt64Array.from({ length: source.rows }, (_, i) => BigInt(source.from + i))
  return fromColumns(RANGE_SCHEMA, [makeData({ type: new Int64(), length: source.rows, nullCount: 0, data })], source.rows)
}
