/**
 * Applies the rules to a plan, bottom up, until none changes anything. A rule is a pure function from a node to a node that means the same.
 */
import { type LogicalPlan, withInput } from './logical.ts'
import { countPushdown } from './rules/count-pushdown.ts'
import { limitPushdown } from './rules/limit-pushdown.ts'
import { mapFusion } from './rules/map-fusion.ts'
import { projectionPushdown } from './rules/projection-pushdown.ts'

/** Fusion comes last: it hides single steps from the other rules. */
const PHASES: readonly (readonly ((plan: LogicalPlan) => LogicalPlan)[])[] = [[countPushdown, projectionPushdown, limitPushdown], [mapFusion]]

export function optimize(plan: LogicalPlan): LogicalPlan {
  return PHASES.reduce((current, rules) => untilStable(current, (node) => rules.reduce((result, rule) => rule(result), node)), plan)
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
