/**
 * Columns that nothing looks at are not read, and not computed: what each step needs is worked out from the last step to the first. Functions of the user
 * may look at everything.
 */
import { columnsOf } from '../../expr/node.ts'
import { type LogicalPlan, type Stage, withInput } from '../logical.ts'

/** undefined: all, whatever they are. */
type Needed = ReadonlySet<string> | undefined

export function columnPruning(plan: LogicalPlan): LogicalPlan {
  return prune(plan, plan.kind === 'count' ? new Set() : undefined)
}

function prune(plan: LogicalPlan, needed: Needed): LogicalPlan {
  switch (plan.kind) {
    case 'readParquet': {
      if (needed === undefined || needed.size === 0) return plan
      const columns = plan.columns === undefined ? [...needed] : plan.columns.filter((name) => needed.has(name))
      return columns.length === plan.columns?.length || columns.length === 0 ? plan : { ...plan, columns }
    }
    case 'items':
    case 'range':
      return plan
    case 'limit':
    case 'count':
      return withInput(plan, prune(plan.input, needed))
    case 'transform': {
      const stages: Stage[] = []
      let wanted = needed
      for (const stage of plan.stages.toReversed()) {
        const [kept, before] = pruneStage(stage, wanted)
        if (kept !== undefined) stages.unshift(kept)
        wanted = before
      }
      const input = prune(plan.input, wanted)
      const changed = stages.length !== plan.stages.length || stages.some((stage, i) => stage !== plan.stages[i])
      if (stages.length === 0) return input
      return changed ? { ...plan, input, stages } : withInput(plan, input)
    }
  }
}

/** The stage without what is not needed after it (undefined: nothing is left of it), and what it needs itself. */
function pruneStage(stage: Stage, needed: Needed): readonly [Stage | undefined, Needed] {
  switch (stage.kind) {
    case 'select': {
      const columns = needed === undefined ? stage.columns : stage.columns.filter((name) => needed.has(name))
      const kept = columns.length === 0 || columns.length === stage.columns.length ? stage : { ...stage, columns }
      return [kept, new Set(kept.columns)]
    }
    case 'where':
      return [stage, needed && new Set([...needed, ...columnsOf(stage.condition)])]
    case 'withColumns': {
      if (needed === undefined) return [stage, undefined]
      const columns = stage.columns.filter(([name]) => needed.has(name))
      const before = new Set([...needed].filter((name) => !columns.some(([defined]) => defined === name)))
      for (const [, value] of columns) for (const name of columnsOf(value)) before.add(name)
      return [columns.length === 0 ? undefined : columns.length === stage.columns.length ? stage : { ...stage, columns }, before]
    }
    case 'drop':
      // What is dropped may not be there to be dropped; where it is, it must not be in the way of a later name.
      if (needed === undefined) return [stage, undefined]
      return [needed.size === 0 ? undefined : { kind: 'select', columns: [...needed] }, needed]
    case 'rename': {
      const before = needed && [...needed].map((name) => stage.names.find(([, to]) => to === name)?.[0] ?? name)
      return [stage, before && new Set([...before, ...stage.names.map(([from]) => from)])]
    }
    default:
      return [stage, undefined]
  }
}
