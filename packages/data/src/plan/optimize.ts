/**
 * Applies the rules to a plan, bottom up, until none changes anything. A rule is a pure function from a node to a node that means the same.
 */
import { type LogicalPlan, withInput } from './logical.ts'
import { columnPruning } from './rules/column-pruning.ts'
import { countPushdown } from './rules/count-pushdown.ts'
import { limitPushdown } from './rules/limit-pushdown.ts'
import { mapFusion } from './rules/map-fusion.ts'
import { projectionPushdown } from './rules/projection-pushdown.ts'
import { statisticsPushdown } from './rules/statistics-pushdown.ts'

export function optimize(plan: LogicalPlan): LogicalPlan {
  const simple = untilStable(plan, (node) => limitPushdown(projectionPushdown(countPushdown(node))))
  // These two look at the plan as a whole, from its end to its sources.
  const pruned = statisticsPushdown(columnPruning(simple))
  // Fusion comes last: it hides single steps from the other rules.
  return untilStable(pruned, mapFusion)
}

function untilStable(plan: LogicalPlan, rule: (plan: LogicalPlan) => LogicalPlan): LogicalPlan {
  for (let current = plan; ; ) {
    const next = bottomUp(current, rule)
    if (next === current) return next
    current = next
  }
}

function bottomUp(plan: LogicalPlan, rule: (plan: LogicalPlan) => LogicalPlan): LogicalPlan {
  return rule('input' in plan ? withInput(plan, bottomUp(plan.input, rule)) : plan)
}
