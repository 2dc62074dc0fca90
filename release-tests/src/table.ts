/**
 * Results as text: one table per test, and the table of changes. Pure; colour only when asked for, so that logs stay plain.
 */
import { stripVTControlCharacters, styleText } from 'node:util'
import type { Change } from './history.ts'
import { type MeasuredMetric, type Status, type TestResult, type Verdict, budgetText } from './judge.ts'
import type { ReleaseTest } from './spec.ts'

type Style = Parameters<typeof styleText>[0]
type Paint = (style: Style, text: string) => string

const STATUS_STYLE = { pass: 'green', miss: 'red', crash: 'red', timeout: 'red', 'left-behind': 'red', skip: 'yellow' } as const satisfies Record<Status, Style>

/** The table of one test: metric, measured (median), spread, budget, ratio, verdict, and the peer's figure where there is one. */
export function renderTest(test: ReleaseTest, result: TestResult, { color }: { color: boolean }): string {
  const paint = painter(color)
  const head = `${paint('bold', result.name)}  ${paint(STATUS_STYLE[result.status], result.status)}  ${formatNumber(result.seconds)} s`
  const peer = peerColumn(test, result)
  const columns = ['metric', 'median', '± sd', 'unit', 'budget', 'ratio', '', ...(peer ? [peer.title, '×'] : [])]
  const verdicts = new Map(result.verdicts.map((verdict) => [verdict.metric, verdict]))
  const unmeasured = result.verdicts.filter((verdict) => !result.metrics.some((metric) => metric.name === verdict.metric))
  const rows = [
    ...result.metrics.map((metric) => [
      metric.name,
      formatNumber(metric.median),
      formatNumber(metric.sd),
      metric.unit,
      ...verdictCells(verdicts.get(metric.name), paint),
      ...(peer ? peerCells(metric, peer.metrics[metric.name]) : []),
    ]),
    ...unmeasured.map((verdict) => [verdict.metric, '', '', '', ...verdictCells(verdict, paint), ...(peer ? ['', ''] : [])]),
  ]
  const lines = [head]
  if (result.reason !== undefined) lines.push(`  ${result.reason}`)
  if (rows.length > 0) lines.push(...renderRows(columns, rows, new Set([1, 2, 5, 7, 8]), paint))
  if (peer?.note !== undefined) lines.push(`  ${peer.note}`)
  for (const [metric, reason] of Object.entries(test.excluded)) lines.push(paint('dim', `  not measured: ${metric}: ${reason}`))
  if (result.tail !== undefined && result.tail !== '' && result.status !== 'skip')
    lines.push('  last output:', ...result.tail.split('\n').map((line) => `  | ${line}`))
  return lines.join('\n')
}

/** What became better or worse than before. */
export function renderChanges(changes: readonly Change[], { color }: { color: boolean }): string {
  if (changes.length === 0) return 'nothing to compare with: no earlier run of the same kind on this processor'
  const paint = painter(color)
  const style = { better: 'green', worse: 'red', same: 'dim' } as const
  const rows = changes.map((change) => [
    change.metric,
    formatNumber(change.now),
    formatNumber(change.before),
    change.unit,
    String(change.runs),
    `${change.change >= 0 ? '+' : ''}${formatNumber(change.change * 100)} %`,
    paint(style[change.verdict], change.verdict),
  ])
  return renderRows(['metric', 'now', 'before', 'unit', 'runs', 'change', ''], rows, new Set([1, 2, 4, 5]), paint).join('\n')
}

/** "12,345", "123", "1.23", "0.0123": whole numbers from 100 on, three digits below. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString('en-US')
  return String(Number(value.toPrecision(3)))
}

function verdictCells(verdict: Verdict | undefined, paint: Paint): string[] {
  if (verdict === undefined) return ['', '', '']
  const bound = budgetText(verdict.budget)
  const target = verdict.target === undefined || verdict.target === verdict.budget.value ? '' : ` (${formatNumber(verdict.target)})`
  return [
    `${bound}${target}`,
    verdict.ratio === undefined ? '' : formatNumber(verdict.ratio),
    verdict.met ? paint('green', 'pass') : paint('red', verdict.problem === undefined ? 'miss' : `miss: ${verdict.problem}`),
  ]
}

function peerColumn(test: ReleaseTest, { peer }: TestResult): { title: string; metrics: Record<string, number>; note?: string } | undefined {
  if (peer?.status === 'measured') return { title: peer.system, metrics: Object.fromEntries(peer.metrics.map((metric) => [metric.name, metric.median])) }
  const why = peer === undefined ? '' : `${peer.system}: ${peer.status === 'skip' ? 'skipped' : 'failed'}: ${peer.reason}`
  if (test.recorded === undefined) return why === '' ? undefined : { title: peer?.system ?? '', metrics: {}, note: why }
  const { system, machine, metrics } = test.recorded
  return { title: `${system}*`, metrics, note: `* recorded earlier: ${machine}${why === '' ? '' : `; ${why}`}` }
}

/** The peer's figure, and how many times better ours is. */
function peerCells(metric: MeasuredMetric, other: number | undefined): string[] {
  if (other === undefined || metric.median === 0) return ['', '']
  return [formatNumber(other), formatNumber(metric.unit.endsWith('/s') ? metric.median / other : other / metric.median)]
}

function renderRows(columns: readonly string[], rows: readonly (readonly string[])[], rightAligned: ReadonlySet<number>, paint: Paint): string[] {
  const width = columns.map((title, column) => Math.max(...[title, ...rows.map((row) => row[column] ?? '')].map(visibleLength)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => {
        const padding = ' '.repeat((width[column] ?? 0) - visibleLength(cell))
        return rightAligned.has(column) ? padding + cell : cell + padding
      })
      .join('  ')
      .trimEnd()
  return [paint('dim', `  ${line(columns)}`), ...rows.map((row) => `  ${line(row)}`)]
}

function visibleLength(text: string): number {
  return stripVTControlCharacters(text).length
}

function painter(color: boolean): Paint {
  return (style, text) => (color ? styleText(style, text, { validateStream: false }) : text)
}
