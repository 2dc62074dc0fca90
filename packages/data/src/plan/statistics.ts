/**
 * Whether a row group can hold a row for which a condition is true, as far as its statistics tell. "No" is certain, "yes" is not.
 *
 * NaN is greater than every number but left out of statistics: of floats an upper bound says nothing about what is greater.
 */
import type { ExprNode, FunctionName, LiteralValue } from '../expr/node.ts'
import type { ColumnStatistics, RowGroupInfo, StatisticsValue } from '../io/footer.ts'

const FLIPPED: Partial<Record<FunctionName, FunctionName>> = { eq: 'eq', ne: 'ne', lt: 'gt', le: 'ge', gt: 'lt', ge: 'le' }

export function mayHold(node: ExprNode, group: RowGroupInfo): boolean {
  if (node.kind === 'literal') return node.value === true
  if (node.kind !== 'call') return true
  const { fn, args, options } = node
  const [a, b] = args as [ExprNode, ExprNode | undefined]
  if (fn === 'and') return args.every((arg) => mayHold(arg, group))
  if (fn === 'or') return args.some((arg) => mayHold(arg, group))
  const of = (column: ExprNode | undefined): ColumnStatistics | undefined => (column?.kind === 'column' ? group.statistics[column.name] : undefined)
  if (fn === 'isNull') return of(a)?.nulls !== 0
  const known = of(a) ?? of(b)
  if (known === undefined) return true
  if (fn === 'isNotNull') return known.nulls !== group.rows
  if (FLIPPED[fn] === undefined && fn !== 'isIn') return true
  if (known.nulls === group.rows) return false
  if (fn === 'isIn') return (options['values'] as readonly LiteralValue[]).some((value) => mayCompare('eq', value, known))
  if (a.kind === 'column' && b?.kind === 'literal') return mayCompare(fn, b.value, known)
  if (b?.kind === 'column' && a.kind === 'literal') return mayCompare(FLIPPED[fn] as FunctionName, a.value, known)
  return true
}

/** Whether `x fn value` can hold for an x between the bounds. */
function mayCompare(fn: FunctionName, value: LiteralValue, known: ColumnStatistics): boolean {
  if (value === null) return false
  if (!comparable(value, known.family) || (typeof value === 'number' && Number.isNaN(value))) return true
  // Beside a narrower float a constant is what such a float would hold.
  const meanings = known.family === 'float' && typeof value === 'number' ? [value, Math.fround(value), new Float16Array([value])[0] as number] : [value]
  return meanings.some((meaning) => between(fn, meaning, known))
}

function between(fn: FunctionName, value: LiteralValue, { min, max, family }: ColumnStatistics): boolean {
  const low = min === undefined ? Number.NEGATIVE_INFINITY : order(min, value, family === 'time' ? -1 : 0)
  const high = max === undefined ? Number.POSITIVE_INFINITY : order(max, value, family === 'time' ? 1 : 0)
  switch (fn) {
    case 'eq':
      return low <= 0 && high >= 0
    case 'lt':
      return low < 0
    case 'le':
      return low <= 0
    case 'gt':
      return family === 'float' || high > 0
    case 'ge':
      return family === 'float' || high >= 0
    default:
      return true
  }
}

function comparable(value: LiteralValue, family: ColumnStatistics['family']): boolean {
  switch (family) {
    case 'int':
    case 'float':
      return typeof value === 'number' || typeof value === 'bigint'
    case 'text':
      return typeof value === 'string'
    case 'time':
      return value instanceof Date
    case 'bool':
      return typeof value === 'boolean'
  }
}

/** Negative, 0 or positive. @param lost - milliseconds that a bound may have lost by rounding */
function order(bound: StatisticsValue, value: LiteralValue, lost: number): number {
  if (typeof bound === 'string') return Buffer.compare(Buffer.from(bound), Buffer.from(value as string))
  const [x, y] = bound instanceof Date ? [bound.getTime() + lost, (value as Date).getTime()] : [bound as number, value as number]
  return x < y ? -1 : x > y ? 1 : 0
}
