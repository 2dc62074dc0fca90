import { expect, test } from 'vitest'
import { ProgressLine } from '../src/progress.ts'

const operators = (tasks: number) => ({
  operators: [
    { name: 'ReadParquet(1 file) → Map(f)', tasks, tasksTotal: 4, rows: tasks * 450 },
    { name: 'MapBatches(C)', tasks, tasksTotal: undefined, rows: 0 },
  ],
})

function run(isTTY: boolean, ...times: number[]): string {
  let now = 0
  let text = ''
  const line = new ProgressLine({ isTTY, columns: 100, write: (chunk) => (text += chunk) }, () => now)
  for (const [index, time] of times.entries()) {
    now = time
    line.update(operators(index + 1))
  }
  line.end()
  return text
}

test('a terminal sees one line that is rewritten, at most ten times a second, and its last state', () => {
  expect(run(true, 50, 120, 130)).toBe(
    '\r\u001b[2K0.1 s  ReadParquet → Map 2/4 · 900 rows  |  MapBatches 2 · 0 rows' +
      '\r\u001b[2K0.1 s  ReadParquet → Map 3/4 · 1,350 rows  |  MapBatches 3 · 0 rows\n',
  )
})

test('elsewhere a short run says nothing, and a long one a plain line every ten seconds', () => {
  expect(run(false, 50, 9_000)).toBe('')
  expect(run(false, 50, 10_500, 11_000)).toBe('10.5 s  ReadParquet → Map 2/4 · 900 rows  |  MapBatches 2 · 0 rows\n')
})
