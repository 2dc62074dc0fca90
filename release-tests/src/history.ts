/**
 * Past runs, one JSON line each, and the comparison of a run with them. Only runs of the same kind are compared: same processor, same form
 * (smoke or full), same build of the runtime.
 */
import { median } from './statistics.ts'
import type { TestResult } from './judge.ts'

/** Where and what a run measured. */
export interface RunInfo {
  /** ISO 8601. */
  readonly date: string
  readonly commit: string
  /** Uncommitted changes were present. */
  readonly dirty: boolean
  readonly node: string
  readonly cpu: string
  readonly cpus: number
  readonly memoryBytes: number
  readonly platform: string
  readonly smoke: boolean
  readonly runtime: 'dist' | 'source'
}

/** One line of the history file: medians by "test/metric". */
export interface HistoryEntry extends RunInfo {
  readonly metrics: Readonly<Record<string, { readonly unit: string; readonly median: number }>>
}

export interface Change {
  readonly metric: string
  readonly unit: string
  readonly now: number
  /** Median of the runs that it is compared with. */
  readonly before: number
  readonly runs: number
  /** now ÷ before − 1. */
  readonly change: number
  readonly verdict: 'better' | 'worse' | 'same'
}

/** How many of the latest runs count. */
const RUNS_COMPARED = 5
/** Smaller changes mean nothing: neighbouring runs of one commit differ by as much. */
export const NOISE = 0.1

export function historyEntry(info: RunInfo, results: readonly TestResult[]): HistoryEntry {
  const metrics: Record<string, { unit: string; median: number }> = {}
  for (const test of results) {
    for (const { name, unit, median: value } of test.metrics) metrics[`${test.name}/${name}`] = { unit, median: value }
  }
  return { ...info, metrics }
}

/** Entries of a history file. A line that is not JSON (a run that was killed while it wrote) is left out. */
export function parseHistory(text: string): HistoryEntry[] {
  return text.split('\n').flatMap((line) => {
    try {
      const entry = JSON.parse(line) as HistoryEntry
      return typeof entry.metrics === 'object' ? [entry] : []
    } catch {
      return []
    }
  })
}

/** Every metric of `current` that earlier runs of the same kind measured too. */
export function compare(current: HistoryEntry, history: readonly HistoryEntry[]): Change[] {
  const alike = history.filter(
    (entry) => entry.cpu === current.cpu && entry.cpus === current.cpus && entry.smoke === current.smoke && entry.runtime === current.runtime,
  )
  return Object.entries(current.metrics).flatMap(([metric, { unit, median: now }]) => {
    const past = alike.flatMap((entry) => (entry.metrics[metric]?.unit === unit ? [entry.metrics[metric].median] : [])).slice(-RUNS_COMPARED)
    if (past.length === 0) return []
    const before = median(past)
    const change = before === 0 ? (now === 0 ? 0 : Number.POSITIVE_INFINITY) : now / before - 1
    const improved = unit.endsWith('/s') ? change > 0 : change < 0
    return [{ metric, unit, now, before, runs: past.length, change, verdict: Math.abs(change) < NOISE ? 'same' : improved ? 'better' : 'worse' } as const]
  })
}
