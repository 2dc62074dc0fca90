/**
 * A limit moves towards the source, past steps that give one row per row, merges with another limit, and ends in the file reader, which then
 * plans only the row groups that hold those rows. The order of rows is fixed, so "the first n" means the same at every place that it moves to.
 */
import { keepsRows, type LogicalPlan, withInput } from '../logical.ts'

export function limitPushdown(plan: LogicalPlan): LogicalPlan {
  if (plan.kind !== 'limit') return plan
  const { input, rows } = plan
  switch (input.kind) {
    case 'limit':
      return { ...input, rows: Math.min(rows, input.rows) }
    case 'readParquet':
      return { ...input, limit: Math.min(rows, input.limit ?? rows) }
    case 'range':
      return { ...input, count: Math.min(rows, input.count) }
    case 'items':
      return { ...input, batch: input.batch.slice(0, rows) }
    case 'transform':
      return input.compute.kind === 'tasks' && input.stages.every(keepsRows) ? withInput(input, limitPushdown({ ...plan, input: input.input })) : plan
    default:
      return plan
  }
}
