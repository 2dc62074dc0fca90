/**
 * The result of a chaos run: one cell per workload and fault, as a table for people. Pure.
 */
import { stripVTControlCharacters } from 'node:util'

/** How a workload went under a fault. */
export interface Cell {
  readonly fault: string
  readonly workload: string
  /** Why it failed; "" when it did not. */
  readonly failure: string
  /** Faults that happened while it ran, and those that met work of it. */
  readonly faults: number
  readonly met: number
  /** Tasks, calls and items that the program asked for. */
  readonly asked: number
  /** Attempts that were begun because one before was lost. */
  readonly retries: number
  /** Of its actors. */
  readonly restarts: number
  /** Finished calls that were run again to bring their results back. */
  readonly reconstructions: number
  /** Runs of tasks and constructors that began, beyond those that were asked for, as they count themselves. */
  readonly again: number
  readonly seconds: number
  /** Until nothing was in use any more, after the end of the program. */
  readonly secondsToRest: number
}

const COLUMNS: readonly { readonly title: string; readonly text: (cell: Cell) => string; readonly align?: 'left' }[] = [
  { title: 'fault', text: ({ fault }) => fault, align: 'left' },
  { title: 'workload', text: ({ workload }) => workload, align: 'left' },
  { title: 'result', text: resultOf, align: 'left' },
  { title: 'faults', text: ({ faults }) => String(faults) },
  { title: 'met', text: ({ met }) => String(met) },
  { title: 'asked', text: ({ asked }) => String(asked) },
  { title: 'retries', text: ({ retries }) => String(retries) },
  { title: 'restarts', text: ({ restarts }) => String(restarts) },
  { title: 'rebuilt', text: ({ reconstructions }) => String(reconstructions) },
  { title: 'again', text: ({ again }) => String(again) },
  { title: 'seconds', text: ({ seconds }) => seconds.toFixed(1) },
  { title: 'to rest', text: ({ secondsToRest }) => secondsToRest.toFixed(1) },
]

/** Its faults met no worker of it, and nothing of it had to be done again: the cell shows nothing. */
export function wasUnmet({ fault, met, retries, restarts, reconstructions }: Cell): boolean {
  return fault !== 'none' && met + retries + restarts + reconstructions === 0
}

function resultOf(cell: Cell): string {
  if (cell.failure !== '') return 'FAILED'
  return wasUnmet(cell) ? 'ok, NOT MET' : 'ok'
}

/** The cells as lines of a table, then what failed. */
export function table(cells: readonly Cell[]): string {
  const rows = [COLUMNS.map(({ title }) => title), ...cells.map((cell) => COLUMNS.map(({ text }) => text(cell)))]
  const widths = COLUMNS.map((_, column) => Math.max(...rows.map((row) => (row[column] as string).length)))
  const lines = rows.map((row) =>
    row
      .map((text, column) => (COLUMNS[column]?.align === 'left' ? text.padEnd(widths[column] as number) : text.padStart(widths[column] as number)))
      .join('  ')
      .trimEnd(),
  )
  const failed = cells.filter(({ failure }) => failure !== '')
  return [...lines, ...failed.map(({ fault, workload, failure }) => `\n${fault}, ${workload}: ${stripVTControlCharacters(failure)}`)].join('\n')
}
