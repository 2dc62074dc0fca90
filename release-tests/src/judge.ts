/**
 * The judgement: a test's declaration and what its script reported and how it ended -> verdicts and one status.
 * Pure; no process is started and nothing is printed here.
 */
import { metricMatches } from './protocol.ts'
import type { Budget, ReleaseTest } from './spec.ts'
import { type Summary, summarize } from './statistics.ts'

/** One measured quantity, as a script reports it. Units ending in "/s" are better when higher, all others when lower. */
export interface Metric {
  readonly name: string
  readonly unit: string
  readonly samples: readonly number[]
}

export interface MeasuredMetric extends Metric, Summary {}

/** How the script's process ended. Exit code {@link SKIP_EXIT_CODE} means that this machine cannot run it. */
export type Ending =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: string }
  | { readonly kind: 'timeout'; readonly afterMs: number }
  | { readonly kind: 'not-started'; readonly reason: string }

export interface ScriptRun {
  readonly ending: Ending
  readonly metrics: readonly Metric[]
  /** Processes that outlived the script and its grace period; all of them were killed. */
  readonly leftBehind: readonly string[]
  /** The last lines that the script printed. */
  readonly tail: string
  readonly seconds: number
}

export interface Verdict {
  readonly metric: string
  readonly budget: Budget
  /** The bound in the metric's own unit, after tolerance; absent when the yardstick was not reported. */
  readonly target?: number | undefined
  /** measured ÷ yardstick for a ratio budget, measured ÷ value otherwise; absent where that is a division by zero. */
  readonly ratio?: number | undefined
  readonly met: boolean
  /** Why it could not be judged. */
  readonly problem?: string | undefined
}

export type Status = 'pass' | 'miss' | 'crash' | 'timeout' | 'left-behind' | 'skip'

export interface TestResult {
  readonly name: string
  readonly group: string
  readonly status: Status
  /** A sentence, for every status except "pass". */
  readonly reason?: string | undefined
  readonly seconds: number
  readonly metrics: readonly MeasuredMetric[]
  readonly verdicts: readonly Verdict[]
  readonly tail?: string | undefined
  readonly peer?: PeerResult | undefined
}

export interface PeerResult {
  readonly system: string
  readonly status: 'measured' | 'skip' | 'crash'
  readonly reason?: string | undefined
  readonly metrics: readonly MeasuredMetric[]
}

/** The exit code with which a script says "not on this machine"; its last printed line is the reason. */
export const SKIP_EXIT_CODE = 77

/**
 * @param only - a glob of metric names: budgets of other metrics, and those whose yardstick it leaves out, are not judged
 */
export function judge(test: ReleaseTest, run: ScriptRun, only?: string): TestResult {
  const measured = new Map(run.metrics.map((metric) => [metric.name, { ...metric, ...summarize(metric.samples) }]))
  const wanted = (name: string): boolean => only === undefined || metricMatches(name, only)
  const verdicts = Object.entries(test.budgets)
    .filter(([metric, budget]) => wanted(metric) && (budget.of === undefined || measured.has(budget.of) || wanted(budget.of)))
    .map(([metric, budget]) => judgeBudget(metric, budget, test.tolerance, measured))
  const base = { name: test.name, group: test.group, seconds: run.seconds, metrics: [...measured.values()], verdicts }
  const ended = describeEnding(run)
  if (ended !== undefined) return { ...base, ...ended, ...(ended.status === 'skip' ? { verdicts: [] } : {}), tail: run.tail }
  const missed = verdicts.filter((verdict) => !verdict.met)
  if (missed.length === 0) return { ...base, status: 'pass' }
  return { ...base, status: 'miss', reason: `${missed.length} of ${verdicts.length} budgets missed: ${missed.map((verdict) => verdict.metric).join(', ')}` }
}

/** What a peer's script measured. A peer that cannot run never fails the release test. */
export function judgePeer(system: string, run: ScriptRun): PeerResult {
  const metrics = run.metrics.map((metric) => ({ ...metric, ...summarize(metric.samples) }))
  const ended = describeEnding(run)
  if (ended === undefined) return { system, status: 'measured', metrics }
  return { system, status: ended.status === 'skip' ? 'skip' : 'crash', reason: ended.reason, metrics }
}

/** The process exit code for a whole run: 0 when every test passed or was skipped, else 1. */
export function exitCode(results: readonly TestResult[]): 0 | 1 {
  return results.every((result) => result.status === 'pass' || result.status === 'skip') ? 0 : 1
}

/** "≥ 0.45 × yardstick_ping_pong" or "≤ 250", before tolerance. */
export function budgetText(budget: Budget): string {
  const sign = budget.direction === 'higher' ? '≥' : '≤'
  return budget.of === undefined ? `${sign} ${budget.value}` : `${sign} ${budget.ratio} × ${budget.of}`
}

function judgeBudget(metric: string, budget: Budget, tolerance: number, measured: ReadonlyMap<string, MeasuredMetric>): Verdict {
  const value = measured.get(metric)
  if (value === undefined) return { metric, budget, met: false, problem: 'not reported' }
  const yardstick = budget.of === undefined ? budget.value : measured.get(budget.of)?.median
  if (yardstick === undefined) return { metric, budget, met: false, problem: `${budget.of} was not reported` }
  const slack = budget.direction === 'higher' ? 1 - tolerance : 1 + tolerance
  const target = yardstick * (budget.ratio ?? 1) * slack
  const met = budget.direction === 'higher' ? value.median >= target : value.median <= target
  return { metric, budget, target, met, ...(yardstick === 0 ? {} : { ratio: value.median / yardstick }) }
}

function describeEnding({ ending, leftBehind, tail }: ScriptRun): { status: Exclude<Status, 'pass' | 'miss'>; reason: string } | undefined {
  switch (ending.kind) {
    case 'timeout':
      return { status: 'timeout', reason: `still running after ${ending.afterMs / 1000} s` }
    case 'signalled':
      return { status: 'crash', reason: `killed by ${ending.signal}` }
    case 'not-started':
      return { status: 'crash', reason: ending.reason }
    case 'exited':
      if (ending.code === SKIP_EXIT_CODE) return { status: 'skip', reason: tail.trimEnd().split('\n').at(-1) ?? '' }
      if (ending.code !== 0) return { status: 'crash', reason: `exited with code ${ending.code}` }
      if (leftBehind.length > 0) return { status: 'left-behind', reason: `left ${leftBehind.length} processes: ${leftBehind.join(', ')}` }
      return undefined
    default:
      ending satisfies never
      return undefined
  }
}
