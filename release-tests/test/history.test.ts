/** Comparison with past runs. */
import { expect, test } from 'vitest'
import { type HistoryEntry, type RunInfo, compare, historyEntry, parseHistory } from '../src/history.ts'

const INFO: RunInfo = {
  date: '2026-01-01T00:00:00.000Z',
  commit: 'abc',
  dirty: false,
  node: 'v26.0.0',
  cpu: 'X',
  cpus: 2,
  memoryBytes: 1,
  platform: 'linux 6',
  smoke: false,
  runtime: 'dist',
}

function entry(median: number, unit = '/s', more: Partial<RunInfo> = {}): HistoryEntry {
  return { ...INFO, ...more, metrics: { 't/m': { unit, median } } }
}

test('a run is compared with the median of the last five of its kind', () => {
  const history = [1, 100, 10, 30, 20, 40].map((median) => entry(median))
  expect(compare(entry(60), history)).toEqual([{ metric: 't/m', unit: '/s', now: 60, before: 30, runs: 5, change: 1, verdict: 'better' }])
})

test('runs on another processor, of another form, build or unit do not count', () => {
  const others = [
    entry(1, '/s', { cpu: 'Y' }),
    entry(1, '/s', { cpus: 4 }),
    entry(1, '/s', { smoke: true }),
    entry(1, '/s', { runtime: 'source' }),
    entry(1, 'ms'),
  ]
  expect(compare(entry(10), others)).toEqual([])
})

test.each([
  [89, 100, '/s', 'worse'],
  [91, 100, '/s', 'same'],
  [110.5, 100, 'GB/s', 'better'],
  [0.5, 1, 's', 'better'],
  [300, 250, 'MB', 'worse'],
  [0, 0, 'count', 'same'],
  [1, 0, 'count', 'worse'],
])('%d after %d %s is %s', (now, before, unit, verdict) => {
  expect(compare(entry(now, unit), [entry(before, unit)])[0]?.verdict).toBe(verdict)
})

test('an entry holds the medians by test and metric', () => {
  const metrics = [{ name: 'm', unit: '/s', samples: [1, 2, 6], mean: 3, sd: 2.16, median: 2 }]
  const made = historyEntry(INFO, [{ name: 't', group: 'g', status: 'pass', seconds: 1, metrics, verdicts: [] }])
  expect(made).toEqual({ ...INFO, metrics: { 't/m': { unit: '/s', median: 2 } } })
})

test('a half-written line of the file is ignored', () => {
  expect(parseHistory(`${JSON.stringify(entry(1))}\n{"date": "2026\n\n`)).toEqual([entry(1)])
})
