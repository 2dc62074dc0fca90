/**
 * What a release test declares: the fields of release_tests.yaml, their validation, and the smoke form of a test.
 * Pure: text in, tests out. A mistake names the line, the test and the field; unknown fields are mistakes.
 */
import { LineCounter, isNode, parseDocument } from 'yaml'
import { z } from 'zod'

/** Whether larger or smaller measurements are better. */
export type Direction = 'higher' | 'lower'

/** A bound on the median of one metric: an absolute `value`, or `ratio` times the median of the metric named by `of`, measured in the same run. */
export interface Budget {
  readonly direction: Direction
  readonly value?: number | undefined
  readonly ratio?: number | undefined
  readonly of?: string | undefined
}

/** A script for the same measurements on another system. */
export interface Peer {
  readonly system: string
  readonly script: string
  readonly args: readonly string[]
}

/** Figures of another system that were measured earlier, shown where the peer itself does not run. */
export interface Recorded {
  readonly system: string
  readonly machine: string
  readonly metrics: Readonly<Record<string, number>>
}

export interface ReleaseTest {
  readonly name: string
  readonly group: string
  readonly frequency: 'commit' | 'nightly' | 'weekly' | 'manual'
  /** The script and everything that it started are killed after this long. */
  readonly timeoutMs: number
  /** Path of the script, relative to the YAML file. */
  readonly script: string
  readonly args: readonly string[]
  /** Options of the Node process that runs the script. */
  readonly nodeArgs: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** By which part every budget may be missed: 0.5 accepts half of a "higher" budget and 1.5 times a "lower" one. */
  readonly tolerance: number
  readonly budgets: Readonly<Record<string, Budget>>
  /** Metrics of the reference suite that are not measured, each with the reason. */
  readonly excluded: Readonly<Record<string, string>>
  readonly peer?: Peer | undefined
  readonly recorded?: Recorded | undefined
}

/** One mistake in the YAML file. */
export interface SpecProblem {
  readonly line: number | undefined
  readonly test: string
  readonly field: string
  readonly message: string
}

/** Everything that is wrong with a YAML file, one line each. */
export class SpecError extends Error {
  override readonly name = 'SpecError'
  readonly problems: readonly SpecProblem[]

  constructor(file: string, problems: readonly SpecProblem[]) {
    super(problems.map((p) => `${file}${p.line === undefined ? '' : `:${p.line}`}: ${p.test}${p.field === '' ? '' : `: ${p.field}`}: ${p.message}`).join('\n'))
    this.problems = problems
  }
}

const UNIT_MS = { s: 1000, m: 60_000, h: 3_600_000 } as const

const durationSchema = z
  .string({ error: 'must be a duration such as "90s", "30m" or "2h"' })
  .regex(/^[1-9]\d*[smh]$/, 'must be a duration such as "90s", "30m" or "2h"')
  .transform((text) => Number(text.slice(0, -1)) * UNIT_MS[text.slice(-1) as keyof typeof UNIT_MS])

const budgetSchema = z
  .strictObject({
    direction: z.enum(['higher', 'lower']),
    value: z.number().min(0).optional(),
    ratio: z.number().positive().optional(),
    of: z.string().min(1).optional(),
  })
  .superRefine((budget, context) => {
    if (budget.value !== undefined && (budget.ratio !== undefined || budget.of !== undefined)) {
      context.addIssue({ code: 'custom', message: 'give either "value", or "ratio" with "of", not both' })
    } else if (budget.value === undefined && (budget.ratio === undefined || budget.of === undefined)) {
      context.addIssue({ code: 'custom', message: 'give either "value", or "ratio" together with "of" (the metric that it multiplies)' })
    }
  })

const fields = {
  name: z.string().regex(/^[a-z0-9]+(-[a-z0-9]+)*$/, 'must be lower-case words joined by "-"'),
  group: z.string().min(1),
  frequency: z.enum(['commit', 'nightly', 'weekly', 'manual']),
  timeout: durationSchema,
  script: z.string().min(1),
  args: z.array(z.string()).default([]),
  nodeArgs: z.array(z.string()).default([]),
  env: z.record(z.string(), z.string({ error: 'must be a string: quote it' })).default({}),
  tolerance: z.number().min(0).default(0),
  budgets: z.record(z.string(), budgetSchema).default({}),
  excluded: z.record(z.string(), z.string().min(1)).default({}),
  peer: z.strictObject({ system: z.string().min(1), script: z.string().min(1), args: z.array(z.string()).default([]) }).optional(),
  recorded: z.strictObject({ system: z.string().min(1), machine: z.string().min(1), metrics: z.record(z.string(), z.number().positive()) }).optional(),
}

const testSchema = z
  .strictObject({ ...fields, smoke: z.unknown().optional() })
  .superRefine((test, context) => {
    for (const [metric, budget] of Object.entries(test.budgets)) {
      if (budget.of === metric) context.addIssue({ code: 'custom', path: ['budgets', metric, 'of'], message: 'a metric cannot be its own yardstick' })
      if (test.excluded[metric] !== undefined) context.addIssue({ code: 'custom', path: ['budgets', metric], message: 'the metric is listed under "excluded"' })
    }
    if (budgetOfTolerance(test.tolerance, test.budgets)) {
      context.addIssue({ code: 'custom', path: ['tolerance'], message: 'must be below 1 where a budget has direction "higher": it would accept zero' })
    }
  })
  .transform(({ timeout, smoke: _, ...test }): ReleaseTest => ({ ...test, timeoutMs: timeout }))

const smokeSchema = z.record(z.string(), z.unknown(), { error: 'must be a map of the fields to override' })

function budgetOfTolerance(tolerance: number, budgets: Readonly<Record<string, Budget>>): boolean {
  return tolerance >= 1 && Object.values(budgets).some((budget) => budget.direction === 'higher')
}

/**
 * The tests that `text` declares, in file order; with `smoke`, only those that have a `smoke` map, deep-merged over the test
 * (maps merge, everything else replaces, `null` removes). Both forms are validated either way.
 *
 * @param file - the name to use in messages
 * @throws {@link SpecError} with every mistake found
 */
export function parseSpec(text: string, file: string, { smoke = false }: { smoke?: boolean } = {}): ReleaseTest[] {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  if (document.errors.length > 0) {
    throw new SpecError(
      file,
      document.errors.map((error) => ({ line: error.linePos?.[0].line, test: 'YAML', field: '', message: error.message.split('\n')[0] ?? error.message })),
    )
  }
  const lineOf = (path: readonly (string | number)[]): number | undefined => {
    for (let length = path.length; length > 0; length -= 1) {
      const node = document.getIn(path.slice(0, length), true)
      if (isNode(node) && node.range) return lines.linePos(node.range[0]).line
    }
    return undefined
  }
  const root: unknown = document.toJS()
  if (!Array.isArray(root)) throw new SpecError(file, [{ line: 1, test: 'YAML', field: '', message: 'must be a list of tests' }])

  const problems: SpecProblem[] = []
  const tests: ReleaseTest[] = []
  const names = new Set<string>()
  for (const [index, raw] of root.entries()) {
    const label = isMap(raw) && typeof raw.name === 'string' ? `test "${raw.name}"` : `test ${index + 1}`
    const check = <T>(schema: z.ZodType<T>, value: unknown, prefix: readonly string[]): T | undefined => {
      const parsed = schema.safeParse(value, { reportInput: true })
      if (parsed.success) return parsed.data
      for (const issue of parsed.error.issues) {
        const path = [...prefix, ...issue.path.map((part) => (typeof part === 'symbol' ? String(part) : part))]
        problems.push({ line: lineOf([index, ...path]), test: label, field: path.join('.'), message: messageOf(issue) })
      }
      return undefined
    }
    const full = check(testSchema, raw, [])
    if (full === undefined || !isMap(raw)) continue
    if (names.has(full.name)) problems.push({ line: lineOf([index, 'name']), test: label, field: 'name', message: 'another test has this name' })
    names.add(full.name)
    if (raw.smoke === undefined) {
      if (!smoke) tests.push(full)
      continue
    }
    const overrides = check(smokeSchema, raw.smoke, ['smoke'])
    if (overrides === undefined) continue
    const merged = check(testSchema, { ...deepMerge(raw, overrides), smoke: undefined }, ['smoke'])
    if (merged === undefined) continue
    if (merged.name !== full.name) problems.push({ line: lineOf([index, 'smoke', 'name']), test: label, field: 'smoke.name', message: 'cannot be overridden' })
    tests.push(smoke ? merged : full)
  }
  if (problems.length > 0) throw new SpecError(file, problems)
  return tests
}

/** `overrides` laid over `base`: maps merge key by key, `null` removes a key, everything else replaces. */
export function deepMerge(base: Readonly<Record<string, unknown>>, overrides: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...base }
  for (const [key, value] of Object.entries(overrides)) {
    const old = merged[key]
    if (value === null) delete merged[key]
    else merged[key] = isMap(old) && isMap(value) ? deepMerge(old, value) : value
  }
  return merged
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function messageOf(issue: z.core.$ZodIssue): string {
  if (issue.code === 'unrecognized_keys') return `unknown field${issue.keys.length > 1 ? 's' : ''} ${issue.keys.map((key) => `"${key}"`).join(', ')}`
  if (issue.input === undefined && issue.code !== 'custom') return 'is missing'
  return issue.message
}
