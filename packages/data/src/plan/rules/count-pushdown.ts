/**
 * Counting skips every step that gives one row per row; what remains above a source alone is answered from file footers, without a task.
 */
import { keepsRows, type LogicalPlan } from '../logical.ts'

export function countPushdown(plan: LogicalPlan): LogicalPlan {
  if (plan.kind !== 'count' || plan.input.kind !== 'transform') return plan
  const kept = plan.input.stages.findLastIndex((stage) => !keepsRows(stage)) + 1
  if (kept === plan.input.stages.length) return plan
  const input = kept === 0 ? plan.input.input : { ...plan.input, stages: plan.input.stages.slice(0, kept) }
  return { ...plan, input }
}
