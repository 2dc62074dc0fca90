/**
 * Which parts of an expression a loop evaluates itself, and which are columns that it reads.
 */
import type { Bound } from './bind.ts'
import type { FunctionName } from './node.ts'
import { familyOf, isScalar } from './types.ts'

const IN_LOOP: ReadonlySet<FunctionName> = new Set([
  ...(['add', 'sub', 'mul', 'div', 'floorDiv', 'mod', 'neg', 'abs', 'sign', 'pow', 'sqrt', 'exp', 'ln', 'log2', 'log10'] as const),
  ...(['floor', 'ceil', 'trunc', 'round', 'isNaN', 'isFinite', 'and', 'or', 'not'] as const),
  ...(['eq', 'ne', 'lt', 'le', 'gt', 'ge', 'isNull', 'isNotNull', 'isIn', 'coalesce'] as const),
])

/**
 * Whether the loop can hold the value itself. What it cannot is a leaf: a column that something else evaluates first. Of a `case` or `coalesce` every part must
 * be in the loop, so that nothing is evaluated for rows that do not ask for it.
 */
export function inLoop(bound: Bound): boolean {
  const scalar = (one: Bound): boolean => isScalar(one.type) || familyOf(one.type) === 'null'
  switch (bound.kind) {
    case 'column':
      return false
    case 'constant':
      return scalar(bound)
    case 'udf':
      return false
    case 'cast':
      return scalar(bound) && scalar(bound.args[0])
    case 'case':
      return scalar(bound) && [...bound.branches.flat(), bound.otherwise].every(wholly)
    case 'call':
      if (!IN_LOOP.has(bound.fn) || !scalar(bound)) return false
      if (bound.fn === 'isNull' || bound.fn === 'isNotNull') return true
      return bound.args.every(scalar) && (bound.fn !== 'coalesce' || bound.args.every(wholly))
  }
}

/** In the loop down to columns and constants. */
function wholly(bound: Bound): boolean {
  if (bound.kind === 'column') return isScalar(bound.type)
  if (!inLoop(bound)) return false
  if (bound.kind === 'case') return true
  return bound.kind === 'constant' || (bound as Extract<Bound, { args: unknown }>).args.every(wholly)
}

/** The columns that the loop reads. */
export function leavesOf(bound: Bound, into: Bound[] = []): Bound[] {
  collect(bound, into)
  return into
}

/** Columns are one leaf however often they are named. */
export function leafIndex(leaves: readonly Bound[], bound: Bound): number {
  return bound.kind === 'column' ? leaves.findIndex((leaf) => leaf.kind === 'column' && leaf.name === bound.name) : leaves.indexOf(bound)
}

function collect(bound: Bound, into: Bound[]): void {
  if (bound.kind === 'constant') return
  const add = (leaf: Bound): void => {
    if (leafIndex(into, leaf) < 0) into.push(leaf)
  }
  if (!inLoop(bound)) add(bound)
  else if (bound.kind === 'case') for (const part of [...bound.branches.flat(), bound.otherwise]) collect(part, into)
  else if (bound.kind === 'call' || bound.kind === 'cast') {
    for (const arg of bound.args) {
      if (isScalar(arg.type) || familyOf(arg.type) === 'null') collect(arg, into)
      else add(arg)
    }
  }
}
