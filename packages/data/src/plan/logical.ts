/**
 * The logical plan: what a dataset is, as immutable nodes that point to their input. Nothing here reads a file or starts a task.
 *
 * Functions of the user appear in nodes of kind `transform`, as a list of stages that run one after the other on each batch in one worker;
 * the plan starts with one stage per node, and rules merge neighbours.
 */
import type { RecordBatch } from 'apache-arrow'
import type { BatchFormat, ColumnTypes } from '../batch.ts'
import type { ExprNode } from '../expr/node.ts'
import type { ParquetWriteOptions } from '../io/parquet.ts'

// biome-ignore lint/suspicious/noExplicitAny: functions of the user take any batch or row
export type AnyFunction = (...args: any[]) => unknown

export type Stage =
  | { readonly kind: 'map'; readonly name: string; readonly fn: AnyFunction; readonly types?: ColumnTypes | undefined }
  | { readonly kind: 'filter'; readonly name: string; readonly fn: AnyFunction }
  | { readonly kind: 'where'; readonly condition: ExprNode }
  | { readonly kind: 'select'; readonly columns: readonly string[] }
  | { readonly kind: 'drop'; readonly columns: readonly string[] }
  | { readonly kind: 'rename'; readonly names: readonly (readonly [from: string, to: string])[] }
  | { readonly kind: 'withColumns'; readonly columns: readonly (readonly [name: string, value: ExprNode])[] }
  | {
      readonly kind: 'mapBatches'
      readonly name: string
      /** A function, or a class of which each worker makes one instance. */
      readonly fn: AnyFunction | (new (...args: never[]) => object)
      readonly isClass: boolean
      readonly constructorArgs: readonly unknown[]
      /** undefined: batches as they come. */
      readonly batchSize: number | undefined
      readonly format: BatchFormat
      readonly types?: ColumnTypes | undefined
    }
  | { readonly kind: 'write'; readonly directory: string; readonly options: ParquetWriteOptions }

/** Where stages run, and with what. */
export interface Compute {
  /** tasks: any worker. pool: workers of their own, which keep the instances of the user's classes. */
  readonly kind: 'tasks' | 'pool'
  /** Tasks in flight, or workers in the pool; undefined: as many as the cluster has CPUs. */
  readonly concurrency: number | undefined
  readonly cpus: number | undefined
  readonly gpus: number | undefined
  readonly memory: number | undefined
  readonly resources: Readonly<Record<string, number>> | undefined
}

export type LogicalPlan =
  | {
      readonly kind: 'readParquet'
      readonly paths: readonly (string | URL)[]
      readonly columns: readonly string[] | undefined
      readonly limit: number | undefined
      /** Rows that do not fulfil all of them need not be read. */
      readonly conditions: readonly ExprNode[]
    }
  | { readonly kind: 'items'; readonly batch: RecordBatch; readonly blockRows: number }
  | { readonly kind: 'range'; readonly count: number; readonly blockRows: number }
  | { readonly kind: 'transform'; readonly input: LogicalPlan; readonly stages: readonly Stage[]; readonly compute: Compute }
  | { readonly kind: 'limit'; readonly input: LogicalPlan; readonly rows: number }
  | { readonly kind: 'count'; readonly input: LogicalPlan }

export const ANY_WORKER: Compute = { kind: 'tasks', concurrency: undefined, cpus: undefined, gpus: undefined, memory: undefined, resources: undefined }

/** Whether the columns after the stage follow from those before it. */
export function knowsColumns(stage: Stage): boolean {
  return stage.kind !== 'map' && stage.kind !== 'mapBatches'
}

/** The same node over another input; sources have none. */
export function withInput(plan: LogicalPlan, input: LogicalPlan): LogicalPlan {
  return 'input' in plan && plan.input !== input ? { ...plan, input } : plan
}

/** Whether the stage gives exactly one row per row, whatever the user's function does. */
export function keepsRows(stage: Stage): boolean {
  return stage.kind !== 'filter' && stage.kind !== 'where' && stage.kind !== 'mapBatches' && stage.kind !== 'write'
}
