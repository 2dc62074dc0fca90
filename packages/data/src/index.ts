/**
 * Datasets over Arrow blocks: lazy plans, streamed through worker processes.
 */
export type { BatchFormat, BatchLike, Column, ColumnBatch, ColumnLike, ColumnTypes, Row, Tensor } from './batch.ts'
export {
  type BatchProcessorClass,
  type ComputeOptions,
  Dataset,
  type IterBatchesOptions,
  type MapBatchesOptions,
  type ReadParquetOptions,
  type RowOptions,
  type RunOptions,
  type WriteParquetOptions,
  type WriteResult,
} from './dataset.ts'
export type { BatchProcessor } from './exec/stages.ts'
export {
  type Choice,
  coalesce,
  col,
  Expr,
  type ListFunctions,
  lit,
  type Operand,
  type StructFunctions,
  type TextFunctions,
  type TimeFunctions,
  type TimeStep,
  udf,
  when,
} from './expr/expression.ts'
export type { LiteralValue } from './expr/node.ts'
export type { WriteMode } from './io/output-directory.ts'
export type { Codec, WrittenFile } from './io/parquet.ts'
export type { NumericArray } from './values.ts'
