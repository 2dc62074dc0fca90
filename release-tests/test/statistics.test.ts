import { expect, test } from 'vitest'
import { median, quantile, summarize } from '../src/statistics.ts'

test('mean, population standard deviation and median', () => {
  expect(summarize([2, 4, 4, 4, 5, 5, 7, 9])).toEqual({ mean: 5, sd: 2, median: 4.5 })
  expect(summarize([3])).toEqual({ mean: 3, sd: 0, median: 3 })
})

test('the median does not reorder its input and is numeric, not alphabetic', () => {
  const samples = [10, 9, 100]
  expect(median(samples)).toBe(10)
  expect(samples).toEqual([10, 9, 100])
})

test.each([[[]], [[1, Number.NaN]], [[Number.POSITIVE_INFINITY]]])('%o has no summary', (samples) => {
  expect(() => summarize(samples)).toThrow(RangeError)
})

test('a quantile is the smallest sample that so many do not exceed', () => {
  const samples = [5, 100, 1, 3, 2, 4, 6, 7, 8, 9]
  expect([0, 0.1, 0.5, 0.9, 0.99, 1].map((part) => quantile(samples, part))).toEqual([1, 1, 5, 9, 100, 100])
  expect(() => quantile([], 0.5)).toThrow(RangeError)
})
