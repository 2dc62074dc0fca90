/** The printed tables. */
import { expect, test } from 'vitest'
import { type ScriptRun, judge, judgePeer } from '../src/judge.ts'
import type { ReleaseTest } from '../src/spec.ts'
import { formatNumber, renderChanges, renderTest } from '../src/table.ts'

const TEST: ReleaseTest = {
  name: 't',
  group: 'g',
  frequency: 'nightly',
  timeoutMs: 1000,
  script: 's.ts',
  args: [],
  nodeArgs: [],
  env: {},
  tolerance: 0,
  budgets: { fast: { direction: 'higher', ratio: 0.5, of: 'yard' }, slow: { direction: 'lower', value: 2 }, gone: { direction: 'higher', value: 1 } },
  excluded: { other: 'there is no such thing here' },
}
const RUN: ScriptRun = {
  ending: { kind: 'exited', code: 0 },
  metrics: [
    { name: 'yard', unit: '/s', samples: [20_000] },
    { name: 'fast', unit: '/s', samples: [12_000, 12_400, 12_200] },
    { name: 'slow', unit: 'ms', samples: [2.5] },
  ],
  leftBehind: [],
  tail: '',
  seconds: 12.34,
}

test('a table shows measured, budget, ratio and verdict, plain without colour', () => {
  expect(renderTest(TEST, judge(TEST, RUN), { color: false })).toBe(`t  miss  12.3 s
  2 of 3 budgets missed: slow, gone
  metric  median  ± sd  unit  budget                 ratio
  yard    20,000     0  /s
  fast    12,200   163  /s    ≥ 0.5 × yard (10,000)   0.61  pass
  slow       2.5     0  ms    ≤ 2                     1.25  miss
  gone                        ≥ 1                           miss: not reported
  not measured: other: there is no such thing here`)
})

test('colour adds escape codes and changes no visible text', () => {
  const result = judge(TEST, RUN)
  const colored = renderTest(TEST, result, { color: true })
  expect(colored).toContain('\x1b[')
  // oxlint-disable-next-line no-control-regex
  expect(colored.replaceAll(/\x1b\[\d+m/g, '')).toBe(renderTest(TEST, result, { color: false }))
})

test('a measured peer becomes a column with the factor by which ours is better', () => {
  const peer = judgePeer('Ray', {
    ...RUN,
    metrics: [
      { name: 'fast', unit: '/s', samples: [1220] },
      { name: 'slow', unit: 'ms', samples: [5] },
    ],
  })
  const lines = renderTest(TEST, { ...judge(TEST, RUN), peer }, { color: false }).split('\n')
  expect(lines[2]).toMatch(/Ray +×$/)
  expect(lines[4]).toMatch(/pass .* 1,220 +10$/)
  expect(lines[5]).toMatch(/miss .* 5 +2$/)
})

test('recorded figures stand in for a peer that was skipped, and both facts are said', () => {
  const recorded = { system: 'Ray 2', machine: '2 vCPU', metrics: { fast: 610 } }
  const peer = { system: 'Ray', status: 'skip', reason: 'BEAMLINE_PEER_PYTHON is not set', metrics: [] } as const
  const text = renderTest({ ...TEST, recorded }, { ...judge(TEST, RUN), peer }, { color: false })
  expect(text).toMatch(/Ray 2\* +×\n/)
  expect(text).toMatch(/fast .* 610 +20\n/)
  expect(text).toContain('* recorded earlier: 2 vCPU; Ray: skipped: BEAMLINE_PEER_PYTHON is not set')
})

test('the last output of a crashed script is shown', () => {
  const result = judge(TEST, { ...RUN, ending: { kind: 'exited', code: 1 }, tail: 'first\nError: no' })
  expect(renderTest(TEST, result, { color: false })).toContain('  last output:\n  | first\n  | Error: no')
})

test('changes are listed with their sign', () => {
  const change = { metric: 't/m', unit: '/s', now: 50, before: 100, runs: 3, change: -0.5, verdict: 'worse' } as const
  expect(
    renderChanges([change, { ...change, change: 0.25, verdict: 'better' }], { color: false })
      .split('\n')
      .slice(1),
  ).toEqual(['  t/m      50     100  /s       3   -50 %  worse', '  t/m      50     100  /s       3   +25 %  better'])
  expect(renderChanges([], { color: false })).toContain('nothing to compare with')
})

test.each([
  [1_234_567.8, '1,234,568'],
  [123.4, '123'],
  [99.95, '100'],
  [1.2345, '1.23'],
  [0.012345, '0.0123'],
  [0, '0'],
  [-0.5, '-0.5'],
])('%d is printed as %s', (value, text) => {
  expect(formatNumber(value)).toBe(text)
})
