/**
 * The measuring side, used by the scripts: warm up, then four rounds of a fixed length, as the reference system's own suite does it, so that
 * figures of the same name mean the same. Benches that are compared with each other are measured together: their rounds alternate, which
 * lets a slow moment of the machine hit both.
 */
import { writeSync } from 'node:fs'
import { SKIP_EXIT_CODE } from './judge.ts'
import { ENV, encodeMetric, metricMatches } from './protocol.ts'
import { median, summarize } from './statistics.ts'

/** True for the short form of every test. */
export const SMOKE: boolean = process.env[ENV.smoke] === '1'

const ROUNDS = 4
const WARM_UP_MS = SMOKE ? 250 : 1000
const ROUND_MS = SMOKE ? 250 : 2000
/** The clock is read once per this fraction of the calls that the warm-up made. */
const STEPS_PER_WARM_UP = 10

export interface Bench {
  readonly name: string
  /** Default "/s", or "ms" for latencies. */
  readonly unit?: string
  /** The sample of a round from its calls of `op` per second; default: that rate. */
  readonly sample?: (callsPerSecond: number) => number
  /** "rate" (default) counts calls; "latency" times each call, and the sample of a round is their median in ms. */
  readonly measure?: 'rate' | 'latency'
  readonly op: () => unknown
}

/** Send one metric to the runner, or print it when a person runs the script. */
export function report(name: string, unit: string, samples: readonly number[]): void {
  if (!wanted(name)) return
  const fd = process.env[ENV.metricsFd]
  if (fd !== undefined) {
    writeSync(Number(fd), encodeMetric({ name, unit, samples }))
    return
  }
  const { mean, sd, median } = summarize(samples)
  console.log(`${name}  ${median.toPrecision(5)} ${unit}  (${mean.toPrecision(5)} ± ${sd.toPrecision(2)})`)
}

/** Whether the caller asked for this metric. Scripts use it to leave out the preparation of what nobody wants. */
export function wanted(...names: readonly string[]): boolean {
  const only = process.env[ENV.only]
  return only === undefined || names.some((name) => metricMatches(name, only))
}

/** Measure benches round by round in turn and report each. Those that are not {@link wanted} are left out. */
export async function measureTogether(...benches: readonly Bench[]): Promise<void> {
  const running = []
  for (const bench of benches.filter((candidate) => wanted(candidate.name))) {
    const calls = await callsWithin(bench.op, WARM_UP_MS, 1)
    running.push({ bench, step: Math.floor(calls.count / STEPS_PER_WARM_UP) + 1, samples: [] as number[] })
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const { bench, step, samples } of running) {
      samples.push(bench.measure === 'latency' ? await medianMs(bench.op) : await rate(bench, step))
    }
  }
  for (const { bench, samples } of running) report(bench.name, bench.unit ?? (bench.measure === 'latency' ? 'ms' : '/s'), samples)
}

/** Leave with "this machine cannot run the test". */
export function skip(reason: string): never {
  console.log(reason)
  process.exit(SKIP_EXIT_CODE)
}

async function rate(bench: Bench, step: number): Promise<number> {
  const { count, seconds } = await callsWithin(bench.op, ROUND_MS, step)
  return bench.sample?.(count / seconds) ?? count / seconds
}

async function medianMs(op: () => unknown): Promise<number> {
  const times: number[] = []
  const endMs = performance.now() + ROUND_MS
  for (let startMs = performance.now(); startMs < endMs; startMs = performance.now()) {
    await op()
    times.push(performance.now() - startMs)
  }
  return median(times)
}

async function callsWithin(op: () => unknown, ms: number, step: number): Promise<{ count: number; seconds: number }> {
  const start = performance.now()
  let count = 0
  do {
    for (let call = 0; call < step; call += 1) await op()
    count += step
  } while (performance.now() - start < ms)
  return { count, seconds: (performance.now() - start) / 1000 }
}
