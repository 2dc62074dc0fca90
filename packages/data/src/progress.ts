/**
 * One line that tells how far a run is: rewritten in place on a terminal; elsewhere a plain line every ten seconds, so that short runs say nothing.
 */
import type { Progress } from './exec/executor.ts'

export interface ProgressStream {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  write(text: string): unknown
}

const TERMINAL_EVERY_MS = 100
const PLAIN_EVERY_MS = 10_000

export class ProgressLine {
  readonly #stream: ProgressStream
  readonly #now: () => number
  readonly #started: number
  #shown: number
  #last: Progress | undefined

  constructor(stream: ProgressStream, now: () => number = performance.now.bind(performance)) {
    this.#stream = stream
    this.#now = now
    this.#started = now()
    this.#shown = this.#started
  }

  update(progress: Progress): void {
    this.#last = progress
    const now = this.#now()
    if (now - this.#shown < (this.#stream.isTTY ? TERMINAL_EVERY_MS : PLAIN_EVERY_MS)) return
    this.#shown = now
    const text = lineOf(progress, (now - this.#started) / 1000)
    this.#stream.write(this.#stream.isTTY ? `\r\u001b[2K${text.slice(0, (this.#stream.columns ?? 80) - 1)}` : `${text}\n`)
  }

  /** Leaves the last state as a line on a terminal. */
  end(): void {
    if (!this.#stream.isTTY || this.#last === undefined) return
    this.#stream.write(`\r\u001b[2K${lineOf(this.#last, (this.#now() - this.#started) / 1000).slice(0, (this.#stream.columns ?? 80) - 1)}\n`)
  }
}

function lineOf({ operators }: Progress, seconds: number): string {
  const parts = operators.map(({ name, tasks, tasksTotal, rows }) => {
    const short = name.replace(/\([^()]*\)/g, '')
    return `${short} ${tasks}${tasksTotal === undefined ? '' : `/${tasksTotal}`} · ${rows.toLocaleString('en-US')} rows`
  })
  return `${seconds.toFixed(1)} s  ${parts.join('  |  ')}`
}
