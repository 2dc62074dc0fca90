/** The deque against a plain array, under random operations. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Deque } from '../../src/core/deque.ts'

type Op = (deque: Deque<number>, model: number[]) => void
let next = 0

const op: fc.Arbitrary<Op> = fc.oneof(
  fc.constantFrom(1, 3, 5_000).map(
    (count): Op =>
      (deque, model) => {
        for (let i = 0; i < count; i++) {
          deque.push(++next)
          model.push(next)
        }
      },
  ),
  fc.constantFrom(1, 2, 4_500).map(
    (count): Op =>
      (deque, model) => {
        for (let i = 0; i < count; i++) if (deque.shift() !== model.shift()) throw new Error('another item')
      },
  ),
  fc.nat({ max: 3 }).map(
    (count): Op =>
      (deque, model) => {
        const items = Array.from({ length: count }, () => ++next)
        deque.unshift(items)
        model.unshift(...items)
      },
  ),
  fc.integer({ min: 2, max: 5 }).map(
    (divisor): Op =>
      (deque, model) => {
        const removed = model.filter((item) => item % divisor === 0)
        expect(deque.remove((item) => item % divisor === 0)).toEqual(removed)
        model.splice(0, model.length, ...model.filter((item) => item % divisor !== 0))
      },
  ),
)

test('behaves as an array does', () => {
  fc.assert(
    fc.property(fc.array(op, { maxLength: 40 }), (ops) => {
      const deque = new Deque<number>()
      const model: number[] = []
      for (const each of ops) {
        each(deque, model)
        expect(deque.size).toBe(model.length)
        expect(deque.peek()).toBe(model[0])
      }
      expect([...deque]).toEqual(model)
    }),
    { numRuns: 50 },
  )
})
