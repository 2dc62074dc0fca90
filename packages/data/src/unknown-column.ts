/**
 * The error for a name that no column has, with the nearest one that a column has.
 */
import { BeamlineError } from '@beamline/runtime'
import { distance } from 'fastest-levenshtein'

/** @param what - the step that names the column, or the file that lacks it */
export function unknownColumn(what: string, column: string, names: readonly string[]): BeamlineError {
  const [nearest] = names.map((name) => [distance(name.toLowerCase(), column.toLowerCase()), name] as const).sort(([a], [b]) => a - b)
  const near = nearest !== undefined && nearest[0] <= Math.ceil(column.length / 3) ? `; did you mean "${nearest[1]}"?` : ''
  return new BeamlineError('COLUMN_NOT_FOUND', { what, column, columns: `${names.join(', ')}${near}` })
}
