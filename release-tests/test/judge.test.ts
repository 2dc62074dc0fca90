/** Verdicts and statuses from a declaration and a run. */
import { expect, test } from 'vitest'
import { type ScriptRun, exitCode, judge, judgePeer } from '../src/judge.ts'
import type { Budget, ReleaseTest } from '../src/spec.ts'

function declare(budgets: Record<string, Budget>, tolerance = 0): ReleaseTest {
  return { name: 't', group: 'g', frequency: 'nightly', timeoutMs: 1000, script: 's.ts', args: [], nodeArgs: [], env: {}, tolerance, budgets, excluded: {} }
}

function ran(metrics: Record<string, number[]>, more: Partial<ScriptRun> = {}): ScriptRun {
  const list = Object.entries(metrics).map(([name, samples]) => ({ name, unit: '/s', samples }))
  return { ending: { kind: 'exited', code: 0 }, metrics: list, leftBehind: [], tail: '', seconds: 1, ...more }
}

test('a value budget is judged by the median, not the mean', () => {
  const declared = declare({ m: { direction: 'higher', value: 100 } })
  expect(judge(declared, ran({ m: [1, 100, 101] })).verdicts).toEqual([{ metric: 'm', budget: declared.budgets.m, target: 100, ratio: 1, met: true }])
  expect(judge(declared, ran({ m: [1000, 99, 99] }))).toMatchObject({ status: 'miss', verdicts: [{ ratio: 0.99, met: false }] })
})

test('a lower budget is met from below', () => {
  const declared = declare({ m: { direction: 'lower', value: 2 } })
  expect(judge(declared, ran({ m: [2] })).status).toBe('pass')
  expect(judge(declared, ran({ m: [2.01] })).status).toBe('miss')
})

test('a budget of zero has no ratio', () => {
  const declared = declare({ m: { direction: 'lower', value: 0 } })
  expect(judge(declared, ran({ m: [0] })).verdicts).toEqual([{ metric: 'm', budget: declared.budgets.m, target: 0, met: true }])
  expect(judge(declared, ran({ m: [1] })).status).toBe('miss')
})

test('a ratio budget is judged against the median of its yardstick', () => {
  const declared = declare({ m: { direction: 'higher', ratio: 0.5, of: 'y' } })
  const result = judge(declared, ran({ m: [30], y: [10, 40, 1000] }))
  expect(result.verdicts).toEqual([{ metric: 'm', budget: declared.budgets.m, target: 20, ratio: 0.75, met: true }])
  expect(judge(declared, ran({ m: [19], y: [40] })).status).toBe('miss')
})

test('tolerance widens the target in the direction of the budget', () => {
  const declared = declare(
    { h: { direction: 'higher', value: 100 }, l: { direction: 'lower', value: 100 }, r: { direction: 'higher', ratio: 2, of: 'h' } },
    0.5,
  )
  const result = judge(declared, ran({ h: [50], l: [150], r: [50] }))
  expect(result.verdicts.map(({ target, met }) => [target, met])).toEqual([
    [50, true],
    [150, true],
    [50, true],
  ])
  expect(judge(declared, ran({ h: [49], l: [151], r: [48] })).verdicts.map((verdict) => verdict.met)).toEqual([false, false, false])
})

test('a budgeted metric or yardstick that was not reported is a miss that says so', () => {
  const declared = declare({ m: { direction: 'higher', value: 1 }, r: { direction: 'higher', ratio: 1, of: 'y' } })
  const result = judge(declared, ran({ r: [1] }))
  expect(result.status).toBe('miss')
  expect(result.reason).toBe('2 of 2 budgets missed: m, r')
  expect(result.verdicts.map((verdict) => verdict.problem)).toEqual(['not reported', 'y was not reported'])
})

test('with a metric glob only matching budgets are judged', () => {
  const declared = declare({ m: { direction: 'higher', value: 1 }, other: { direction: 'higher', value: 1 }, 'a/b': { direction: 'higher', value: 1 } })
  expect(judge(declared, ran({ m: [2] }), 'm').verdicts.map((verdict) => verdict.metric)).toEqual(['m'])
  expect(judge(declared, ran({}), 'a*').verdicts.map((verdict) => verdict.metric)).toEqual(['a/b'])
})

test('a ratio budget whose yardstick the glob leaves out is not judged', () => {
  const declared = declare({ m: { direction: 'higher', ratio: 1, of: 'y' } })
  expect(judge(declared, ran({ m: [1] }), 'm')).toMatchObject({ status: 'pass', verdicts: [] })
  expect(judge(declared, ran({ m: [1] }), '{m,y}')).toMatchObject({ status: 'miss' })
})

test.each([
  [{ ending: { kind: 'timeout', afterMs: 2000 } }, 'timeout', 'still running after 2 s'],
  [{ ending: { kind: 'signalled', signal: 'SIGSEGV' } }, 'crash', 'killed by SIGSEGV'],
  [{ ending: { kind: 'exited', code: 3 } }, 'crash', 'exited with code 3'],
  [{ ending: { kind: 'not-started', reason: 'no such file' } }, 'crash', 'no such file'],
  [{ leftBehind: ['12 (node x)'] }, 'left-behind', 'left 1 processes: 12 (node x)'],
  [{ ending: { kind: 'exited', code: 77 }, tail: 'starting\nneeds Linux\n' }, 'skip', 'needs Linux'],
] as const)('a run that ended as %o is a %s even when its metrics are good', (more, status, reason) => {
  const result = judge(declare({ m: { direction: 'higher', value: 1 } }), ran({ m: [5] }, more))
  expect(result).toMatchObject({ status, reason })
  expect(result.metrics).toMatchObject([{ name: 'm', median: 5, mean: 5, sd: 0 }])
})

test('the exit code is 0 only when everything passed or was skipped', () => {
  const good = judge(declare({}), ran({}))
  const skipped = judge(declare({}), ran({}, { ending: { kind: 'exited', code: 77 } }))
  const missed = judge(declare({ m: { direction: 'higher', value: 1 } }), ran({}))
  const crashed = judge(declare({}), ran({}, { ending: { kind: 'exited', code: 1 } }))
  expect([[], [good, skipped], [good, missed], [crashed, good]].map(exitCode)).toEqual([0, 0, 1, 1])
})

test('a peer is measured, skipped or failed, and keeps what it measured', () => {
  expect(judgePeer('Ray', ran({ m: [1, 3] }))).toMatchObject({ system: 'Ray', status: 'measured', metrics: [{ name: 'm', median: 2 }] })
  expect(judgePeer('Ray', ran({}, { ending: { kind: 'exited', code: 77 }, tail: 'no ray' }))).toMatchObject({ status: 'skip', reason: 'no ray' })
  expect(judgePeer('Ray', ran({ m: [1] }, { ending: { kind: 'exited', code: 1 } }))).toMatchObject({ status: 'crash', metrics: [{ median: 1 }] })
})
