/**
 * How the command line prints: tables for people, JSON for programs.
 */
import pico from 'picocolors'

/** A column: its title, and how a row fills it. */
export interface Column<Row> {
  readonly title: string
  readonly text: (row: Row) => string
  readonly align?: 'right'
}

/** Control characters of names and messages must not reach the terminal. */
export const clean = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]/g, ' ')

const STATE_COLOURS: Readonly<Record<string, (text: string) => string>> = {
  ALIVE: pico.green,
  RUNNING: pico.green,
  FINISHED: pico.green,
  SUCCEEDED: pico.green,
  CREATED: pico.green,
  leased: pico.green,
  actor: pico.green,
  DEAD: pico.red,
  FAILED: pico.red,
  REMOVED: pico.red,
  stopping: pico.red,
  PENDING: pico.yellow,
  DRAINING: pico.yellow,
  STARTING: pico.yellow,
  RESTARTING: pico.yellow,
  CANCELLED: pico.yellow,
  QUEUED: pico.yellow,
  WAITING: pico.yellow,
  DELAYED: pico.yellow,
  blocked: pico.yellow,
  starting: pico.yellow,
}

export const colourState = (state: string): string => (STATE_COLOURS[state] ?? ((text: string) => text))(state)

/** Lines of a table; cells of a state are coloured after they are padded. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) => columns.map((column) => clean(column.text(row))))
  const widths = columns.map((column, i) => Math.max(column.title.length, ...cells.map((line) => line[i]?.length ?? 0)))
  const pad = (text: string, i: number): string => (columns[i]?.align === 'right' ? text.padStart(widths[i] ?? 0) : text.padEnd(widths[i] ?? 0))
  const head = pico.bold(
    columns
      .map((column, i) => pad(column.title, i))
      .join('  ')
      .trimEnd(),
  )
  const body = cells.map((line) =>
    line
      .map((text, i) => (columns[i]?.title === 'STATE' ? pad(text, i).replace(text, colourState(text)) : pad(text, i)))
      .join('  ')
      .trimEnd(),
  )
  return [head, ...body].join('\n')
}

export const printJson = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
export const print = (text: string): void => void process.stdout.write(`${text}\n`)
export const note = (text: string): void => void process.stderr.write(`${pico.dim(text)}\n`)

export function formatMs(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1_000)} s`
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`
}
