/**
 * The pure parts of the chaos suite: what it judges by, and that a seed gives the same faults again.
 */
import { expect, test } from 'vitest'
import { type Cell, table } from '../scripts/chaos/matrix.ts'
import { Random } from '../scripts/chaos/random.ts'
import { checksum, pattern } from '../scripts/chaos/workloads.ts'

test('the contents of an object depend on seed and number only', () => {
  expect(pattern(1, 2, 1_000)).toEqual(pattern(1, 2, 1_000))
  const sums = new Set(Array.from({ length: 1_000 }, (_, number) => checksum(pattern(number % 10, Math.floor(number / 10), 400))))
  expect(sums.size).toBe(1_000)
})

test('a checksum sees every word and where it is', () => {
  const words = pattern(3, 4, 4_000)
  const sum = checksum(words)
  for (const index of [0, 1, 500, 999]) {
    const changed = words.slice()
    changed[index] = (changed[index] as number) ^ 1
    expect(checksum(changed)).not.toBe(sum)
  }
  const swapped = words.slice()
  ;[swapped[10], swapped[11]] = [swapped[11] as number, swapped[10] as number]
  expect(checksum(swapped)).not.toBe(sum)
  expect(checksum(words.subarray(0, 999))).not.toBe(sum)
})

test('a seed gives the same choices again, another one others', () => {
  const choices = (seed: number): unknown[] => {
    const random = new Random(seed)
    return Array.from({ length: 50 }, () => [random.between([10, 20]), random.pick(['a', 'b', 'c'])])
  }
  expect(choices(42)).toEqual(choices(42))
  expect(choices(43)).not.toEqual(choices(42))
  expect(new Random(1).pick([])).toBeUndefined()
  for (const [ms] of choices(7) as [number, string][]) {
    expect(ms).toBeGreaterThanOrEqual(10)
    expect(ms).toBeLessThan(20)
  }
})

test('the matrix shows each cell, which ones no fault met, and why those failed that did', () => {
  const counts = { faults: 3, met: 2, asked: 200, retries: 5, restarts: 1, reconstructions: 10, again: 4 }
  const cell: Cell = { fault: 'blackout', workload: 'tasks', failure: '', ...counts, seconds: 12.34, secondsToRest: 0.25 }
  const nothing = { met: 0, retries: 0, restarts: 0, reconstructions: 0, again: 0 }
  const none: Cell = { ...cell, ...nothing, fault: 'none', faults: 0 }
  expect(table([cell, { ...cell, ...nothing, workload: 'actors' }, { ...cell, workload: 'pipeline', failure: 'sum of part 3: 1 instead of 2' }, none])).toBe(
    [
      'fault     workload  result       faults  met  asked  retries  restarts  rebuilt  again  seconds  to rest',
      'blackout  tasks     ok                3    2    200        5         1       10      4     12.3      0.3',
      'blackout  actors    ok, NOT MET       3    0    200        0         0        0      0     12.3      0.3',
      'blackout  pipeline  FAILED            3    2    200        5         1       10      4     12.3      0.3',
      'none      tasks     ok                0    0    200        0         0        0      0     12.3      0.3',
      '',
      'blackout, pipeline: sum of part 3: 1 instead of 2',
    ].join('\n'),
  )
})
