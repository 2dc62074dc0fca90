/**
 * What this process holds, so that a test can say that nothing is left.
 */
import { current } from '../core/current.ts'
import type { LocalReport } from '../core/report.ts'

export type { LocalReport, LocalTask } from '../core/report.ts'

const TASKS_SHOWN = 100

/**
 * Objects that this process owns or borrows, its bytes in the store, how many of its calls ran again, and the first hundred of its unfinished calls.
 *
 * @throws {@link BeamlineError} `NOT_INITIALIZED` before `init()`
 */
export function processReport(): LocalReport {
  return current('processReport()').report(TASKS_SHOWN)
}
