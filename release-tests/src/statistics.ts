/**
 * Mean, spread and median of a handful of samples. Nothing cleverer: runs are short and noise is shown, not modelled away.
 */

export interface Summary {
  readonly mean: number
  /** Population standard deviation, as in the reference system's figures. */
  readonly sd: number
  readonly median: number
}

/** @throws RangeError when there are no samples, or one is not finite */
export function summarize(samples: readonly number[]): Summary {
  if (samples.length === 0) throw new RangeError('no samples')
  if (!samples.every(Number.isFinite)) throw new RangeError(`samples must be finite, got ${samples.join(', ')}`)
  const mean = samples.reduce((sum, sample) => sum + sample, 0) / samples.length
  const variance = samples.reduce((sum, sample) => sum + (sample - mean) ** 2, 0) / samples.length
  return { mean, sd: Math.sqrt(variance), median: median(samples) }
}

export function median(samples: readonly number[]): number {
  const sorted = samples.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle]
  if (upper === undefined) throw new RangeError('no samples')
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2
}

/** The smallest sample that at least this part of all do not exceed. */
export function quantile(samples: readonly number[], part: number): number {
  const value = samples.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(part * samples.length) - 1)]
  if (value === undefined) throw new RangeError('no samples')
  return value
}
