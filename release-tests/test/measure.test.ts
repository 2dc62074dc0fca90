/** The measuring side: rounds, samples, what is sent and what is left out. */
import { spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { decodeMetric, encodeMetric, metricMatches } from '../src/protocol.ts'
import type { Metric } from '../src/judge.ts'

const MEASURE = path.resolve(import.meta.dirname, '../src/measure.ts')

/** Runs a program with the measuring module in smoke form and returns the metrics that it sent. */
function metricsOf(body: string, env: Record<string, string> = {}): Metric[] {
  const folder = mkdtempSync(path.join(tmpdir(), 'release-measure-'))
  const fd = openSync(path.join(folder, 'metrics'), 'w+')
  try {
    const program = `const { measureTogether, report, wanted } = await import(${JSON.stringify(MEASURE)})\n${body}`
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
      env: { ...process.env, BEAMLINE_RELEASE_SMOKE: '1', BEAMLINE_RELEASE_METRICS_FD: '3', ...env },
      stdio: ['ignore', 'ignore', 'pipe', fd],
      encoding: 'utf8',
    })
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    const lines = readFileSync(path.join(folder, 'metrics'), 'utf8').split('\n').filter(Boolean)
    return lines.flatMap((line) => decodeMetric(line) ?? [])
  } finally {
    closeSync(fd)
    rmSync(folder, { recursive: true })
  }
}

test('benches measured together take turns, four rounds each, and report calls per second', () => {
  const metrics = metricsOf(`
    const order = []
    const sleep = (name, ms) => () => { if (order.at(-1) !== name) order.push(name); return new Promise((resolve) => setTimeout(resolve, ms)) }
    await measureTogether(
      { name: 'a', op: sleep('a', 10) },
      { name: 'b', measure: 'latency', op: sleep('b', 20) },
    )
    report('order', order.join(''), [order.length])`)
  expect(metrics.map(({ name, unit, samples }) => [name, unit, samples.length])).toEqual([
    ['a', '/s', 4],
    ['b', 'ms', 4],
    ['order', 'ababababab', 1],
  ])
  for (const rate of metrics[0]?.samples ?? []) expect(rate).toBeGreaterThan(10)
  for (const rate of metrics[0]?.samples ?? []) expect(rate).toBeLessThanOrEqual(101)
  for (const ms of metrics[1]?.samples ?? []) expect(ms).toBeGreaterThanOrEqual(19.9)
})

test('a latency is the median of the calls, whatever a few slow ones take', () => {
  const [metric] = metricsOf(`
    let calls = 0
    await measureTogether({ name: 'a', measure: 'latency', op: () => new Promise((resolve) => setTimeout(resolve, (calls += 1) % 5 === 0 ? 60 : 5)) })`)
  expect(metric).toMatchObject({ unit: 'ms', samples: { length: 4 } })
  for (const ms of metric?.samples ?? []) expect(ms).toBeLessThan(60)
})

test('a bench that throws ends the script', () => {
  const program = `const { measureTogether } = await import(${JSON.stringify(MEASURE)})
    await measureTogether({ name: 'a', op: () => { throw new Error('no') } })`
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stderr).toContain('Error: no')
})

test('metrics that nobody wants are neither measured nor sent', () => {
  const metrics = metricsOf(
    `await measureTogether({ name: 'skipped', op: () => process.exit(9) })
     report('other', '/s', [1])
     report('kept/one', '/s', [wanted('other') ? 1 : 0, wanted('other', 'kept/two') ? 1 : 0])`,
    { BEAMLINE_RELEASE_METRICS: 'kept*' },
  )
  expect(metrics).toEqual([{ name: 'kept/one', unit: '/s', samples: [0, 1] }])
})

test('a metric survives the pipe, and nothing else passes for one', () => {
  const metric = { name: 'a/b', unit: '/s', samples: [1, 2.5] }
  expect(decodeMetric(encodeMetric(metric).trimEnd())).toEqual(metric)
  for (const line of ['', 'x', '[]', '{"name":"a","unit":"s","samples":[]}', '{"name":"a","unit":"s","samples":[null]}', '{"name":"a","samples":[1]}']) {
    expect(decodeMetric(line)).toBeUndefined()
  }
})

test('a slash in a metric name is an ordinary character', () => {
  expect(metricMatches('placement_group_create/removal', '*')).toBe(true)
  expect(metricMatches('placement_group_create/removal', 'placement_group_create/removal')).toBe(true)
  expect(metricMatches('placement_group_create/removal', 'single*')).toBe(false)
})
