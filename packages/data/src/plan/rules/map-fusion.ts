/**
 * Neighbouring transforms that may run in the same task become one node: a block then crosses processes once instead of once per step.
 *
 * Not merged: pools (their workers are bounded on purpose), different resources, and a step with a batch size after one that changes the
 * number of rows, because only the executor can fill its batches across blocks.
 */
import { type Compute, keepsRows, type LogicalPlan, type Stage } from '../logical.ts'

export function mapFusion(plan: LogicalPlan): LogicalPlan {
  if (plan.kind !== 'transform' || plan.input.kind !== 'transform') return plan
  const { input } = plan
  if (plan.compute.kind === 'pool' || !sameCompute(input.compute, plan.compute) || !batchesFit(input.stages, plan.stages)) return plan
  return { ...plan, input: input.input, stages: [...input.stages, ...plan.stages] }
}

function sameCompute(a: Compute, b: Compute): boolean {
  return (
    a.kind === b.kind &&
    a.concurrency === b.concurrency &&
    a.cpus === b.cpus &&
    a.gpus === b.gpus &&
    a.memory === b.memory &&
    JSON.stringify(a.resources) === JSON.stringify(b.resources)
  )
}

function batchesFit(before: readonly Stage[], after: readonly Stage[]): boolean {
  const sized = after.some((stage) => stage.kind === 'mapBatches' && stage.batchSize !== undefined)
  return !sized || before.every(keepsRows)
}
