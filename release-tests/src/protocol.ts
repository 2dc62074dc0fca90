/**
 * What passes between the runner and a script's process: environment variables in, one JSON line per metric out on file descriptor 3.
 * A metric is sent as soon as it is measured, so a script that crashes or hangs still shows what it had.
 */
import { matchesGlob } from 'node:path'
import { z } from 'zod'
import type { Metric } from './judge.ts'

export const ENV = {
  /** The descriptor to write metrics to; absent when a person runs the script. */
  metricsFd: 'BEAMLINE_RELEASE_METRICS_FD',
  /** "1": short rounds, small sizes. */
  smoke: 'BEAMLINE_RELEASE_SMOKE',
  /** A glob: measure only metrics with these names. */
  only: 'BEAMLINE_RELEASE_METRICS',
  /** A mark that every process started by the script inherits; the runner finds leftovers by it. */
  mark: 'BEAMLINE_RELEASE_MARK',
} as const

export const METRICS_FD = 3

const metricSchema = z.strictObject({ name: z.string().min(1), unit: z.string().min(1), samples: z.array(z.number()).min(1) })

export function encodeMetric(metric: Metric): string {
  return `${JSON.stringify(metric)}\n`
}

/** @returns undefined when the line is not a metric with at least one finite sample */
export function decodeMetric(line: string): Metric | undefined {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return undefined
  }
  const parsed = metricSchema.safeParse(value)
  return parsed.success ? parsed.data : undefined
}

/** Whether a metric's name matches a glob. A "/" within a name is an ordinary character, not a folder. */
export function metricMatches(name: string, glob: string): boolean {
  return matchesGlob(name.replaceAll('/', ':'), glob.replaceAll('/', ':'))
}
