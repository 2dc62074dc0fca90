import { expect, test } from 'vitest'
import { median, summarize } from '../src/statistics.ts'

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
