/** The declarations: what is accepted, what the smoke form becomes, and that each mistake is named with line, test and field. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { SpecError, deepMerge, parseSpec } from '../src/spec.ts'

const MINIMAL = `
- name: a
  group: g
  frequency: nightly
  timeout: 90s
  script: a.ts
`

function problemsOf(text: string): string {
  try {
    parseSpec(text, 'f.yaml')
  } catch (error) {
    if (error instanceof SpecError) return error.message
    throw error
  }
  return 'no problem'
}

test('a minimal test gets its defaults', () => {
  expect(parseSpec(MINIMAL, 'f.yaml')).toEqual([
    {
      name: 'a',
      group: 'g',
      frequency: 'nightly',
      timeoutMs: 90_000,
      script: 'a.ts',
      args: [],
      nodeArgs: [],
      env: {},
      tolerance: 0,
      budgets: {},
      excluded: {},
    },
  ])
})

test('the smoke form merges maps, replaces everything else and removes what is null', () => {
  const text = `${MINIMAL}  args: [x, y]
  env: { A: "1", B: "2" }
  budgets:
    m: { direction: higher, value: 100 }
    n: { direction: lower, ratio: 0.5, of: m }
  smoke:
    timeout: 10s
    args: [z]
    env: { B: "3" }
    budgets: { m: { value: 10 }, n: null }
`
  expect(parseSpec(text, 'f.yaml')[0]).toMatchObject({ timeoutMs: 90_000, args: ['x', 'y'], budgets: { n: { ratio: 0.5, of: 'm' } } })
  const [smoke] = parseSpec(text, 'f.yaml', { smoke: true })
  expect(smoke).toMatchObject({ timeoutMs: 10_000, args: ['z'], env: { A: '1', B: '3' } })
  expect(smoke?.budgets).toEqual({ m: { direction: 'higher', value: 10 } })
})

test('tests without a smoke map are left out of the smoke form', () => {
  expect(parseSpec(MINIMAL, 'f.yaml', { smoke: true })).toEqual([])
  expect(parseSpec(`${MINIMAL}  smoke: {}\n`, 'f.yaml', { smoke: true })).toHaveLength(1)
})

test.each([
  ['an unknown field', `${MINIMAL}  retries: 3\n`, 'f.yaml:2: test "a": unknown field "retries"'],
  ['a missing field', MINIMAL.replace('  script: a.ts\n', ''), 'f.yaml:2: test "a": script: is missing'],
  ['a bad duration', MINIMAL.replace('90s', '90'), 'f.yaml:5: test "a": timeout: must be a duration such as "90s", "30m" or "2h"'],
  ['an unquoted environment value', `${MINIMAL}  env: { A: 1 }\n`, 'f.yaml:7: test "a": env.A: must be a string: quote it'],
  [
    'a budget without a bound',
    `${MINIMAL}  budgets: { m: { direction: higher } }\n`,
    'f.yaml:7: test "a": budgets.m: give either "value", or "ratio" together with "of"',
  ],
  [
    'a budget with two bounds',
    `${MINIMAL}  budgets: { m: { direction: higher, value: 1, ratio: 2, of: n } }\n`,
    'budgets.m: give either "value", or "ratio" with "of", not both',
  ],
  ['a budget without a direction', `${MINIMAL}  budgets:\n    m:\n      value: 1\n`, 'f.yaml:9: test "a": budgets.m.direction: '],
  ['a negative ratio', `${MINIMAL}  budgets: { m: { direction: higher, ratio: -1, of: n } }\n`, 'budgets.m.ratio: Too small'],
  [
    'a metric as its own yardstick',
    `${MINIMAL}  budgets: { m: { direction: higher, ratio: 1, of: m } }\n`,
    'budgets.m.of: a metric cannot be its own yardstick',
  ],
  [
    'a budget for an excluded metric',
    `${MINIMAL}  excluded: { m: why }\n  budgets: { m: { direction: higher, value: 1 } }\n`,
    'budgets.m: the metric is listed under "excluded"',
  ],
  ['a tolerance that accepts zero', `${MINIMAL}  tolerance: 1\n  budgets: { m: { direction: higher, value: 1 } }\n`, 'tolerance: must be below 1'],
  ['a mistake in the smoke form', `${MINIMAL}  smoke:\n    timeout: soon\n`, 'f.yaml:8: test "a": smoke.timeout: must be a duration'],
  ['a smoke form with another name', `${MINIMAL}  smoke: { name: b }\n`, 'test "a": smoke.name: cannot be overridden'],
  ['a smoke form that is no map', `${MINIMAL}  smoke: yes please\n`, 'test "a": smoke: must be a map of the fields to override'],
  ['two tests with one name', `${MINIMAL}${MINIMAL}`, 'f.yaml:8: test "a": name: another test has this name'],
  ['a name with capitals', MINIMAL.replace('name: a', 'name: A b'), 'test "A b": name: must be lower-case words joined by "-"'],
  ['a map instead of a list', 'a: 1\n', 'must be a list of tests'],
  ['broken YAML', '- name: "a\n', 'f.yaml:2: YAML: Missing closing "quote'],
])('%s is refused by name', (_, text, message) => {
  expect(problemsOf(text)).toContain(message)
})

test('all mistakes of a file are reported at once', () => {
  const text = `${MINIMAL}  retries: 3\n- name: b\n  group: g\n`
  expect(
    problemsOf(text)
      .split('\n')
      .map((line) => line.replace(/:.*test/, ': test')),
  ).toEqual([
    'f.yaml: test "a": unknown field "retries"',
    'f.yaml: test "b": frequency: is missing',
    'f.yaml: test "b": timeout: is missing',
    'f.yaml: test "b": script: is missing',
  ])
})

test('merging leaves its inputs alone', () => {
  const base = { a: { b: 1, c: [1, 2] } }
  expect(deepMerge(base, { a: { c: [3] }, d: 4 })).toEqual({ a: { b: 1, c: [3] }, d: 4 })
  expect(base).toEqual({ a: { b: 1, c: [1, 2] } })
})

test('the declarations of this repository are valid in both forms', () => {
  const file = path.resolve(import.meta.dirname, '../release_tests.yaml')
  const text = readFileSync(file, 'utf8')
  const declared = parseSpec(text, file)
  expect(declared.map(({ name }) => name)).toContain('runtime-microbenchmark')
  // The weekly ones have no short form of their own.
  const often = declared.filter(({ frequency }) => frequency !== 'weekly').map(({ name }) => name)
  expect(parseSpec(text, file, { smoke: true }).map(({ name }) => name)).toEqual(often)
})
