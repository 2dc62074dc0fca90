/** The ring of finished tasks against a plain list. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { TaskEvent } from '../../src/net/gen/node.ts'
import { TaskEventLog } from '../../src/state/task-event-log.ts'

const event = (more: Partial<TaskEvent>): TaskEvent => ({
  task: 'o:1',
  name: 'f',
  worker: 'w',
  owner: 'o',
  startMs: 1,
  endMs: 2,
  state: 'FINISHED',
  errorCode: '',
  ...more,
})

test('the newest events come first, exactly as they were', () => {
  const events = fc.record({
    task: fc.oneof(
      fc.constantFrom('o:1', 'o:01', 'o:', 'o:x', 'other:7', ''),
      fc.nat().map((n) => `o:${n}`),
    ),
    name: fc.string(),
    worker: fc.constantFrom('w1', 'w2'),
    owner: fc.constantFrom('o', 'p', ''),
    startMs: fc.double({ noNaN: true }),
    endMs: fc.double({ noNaN: true }),
    state: fc.constantFrom('FINISHED', 'FAILED'),
    errorCode: fc.constantFrom('', 'CANCELLED'),
  })
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.array(events, { maxLength: 30 }), fc.nat({ max: 12 }), (max, list, limit) => {
      const log = new TaskEventLog(max)
      for (const each of list) log.add(each)
      expect(log.latest(limit)).toEqual(list.slice(-max).reverse().slice(0, limit))
      expect(log.size).toBe(Math.min(max, list.length))
    }),
  )
})

test('totals count everything, and memory is bounded whatever tasks are called', () => {
  const log = new TaskEventLog(1_000)
  for (let i = 0; i < 60_000; i++) log.add(event({ task: `o:${i}`, name: `f${i}`, state: i % 3 === 0 ? 'FAILED' : 'FINISHED' }))
  expect(Object.fromEntries(log.totals)).toEqual({ FAILED: 20_000, FINISHED: 40_000 })
  expect(log.latest(2)).toMatchObject([{ task: 'o:59999', name: 'f59999' }, { name: 'f59998' }])
  expect(log.strings).toBeLessThanOrEqual(20_006)
})
