/**
 * Conditions are handed to the file reader as well, in terms of the columns of the file: row groups whose statistics rule a condition out are not read.
 * The condition itself stays where it is, since a row group that may hold such rows holds others too.
 */
import { conjunctsOf, type ExprNode, isPure, substitute } from '../../expr/node.ts'
import { type LogicalPlan, type Stage, withInput } from '../logical.ts'

export function statisticsPushdown(plan: LogicalPlan): LogicalPlan {
  return push(plan, [])
}

/** @param conditions - which all rows that matter fulfil, in terms of what `plan` gives */
function push(plan: LogicalPlan, conditions: readonly ExprNode[]): LogicalPlan {
  switch (plan.kind) {
    case 'readParquet':
      // A limit inside the reader counts rows before they are looked at.
      return conditions.length === 0 || plan.limit !== undefined ? plan : { ...plan, conditions }
    case 'items':
    case 'range':
      return plan
    case 'limit':
      return withInput(plan, push(plan.input, []))
    case 'count':
      return withInput(plan, push(plan.input, conditions))
    case 'transform': {
      let known = conditions
      for (const stage of plan.stages.toReversed()) known = before(stage, known)
      return withInput(plan, push(plan.input, known))
    }
  }
}

/** The conditions in terms of what goes into the stage. */
function before(stage: Stage, conditions: readonly ExprNode[]): readonly ExprNode[] {
  switch (stage.kind) {
    case 'where':
      return [...conditions, ...conjunctsOf(stage.condition).filter(isPure)]
    case 'select':
    case 'drop':
      return conditions
    case 'withColumns':
      return conditions.map((node) => substitute(node, (name) => stage.columns.find(([defined]) => defined === name)?.[1])).filter(isPure)
    case 'rename':
      return conditions.map((node) =>
        substitute(node, (name) => {
          const from = stage.names.find(([, to]) => to === name)?.[0]
          return from === undefined ? undefined : { kind: 'column', name: from }
        }),
      )
    default:
      return []
  }
}
