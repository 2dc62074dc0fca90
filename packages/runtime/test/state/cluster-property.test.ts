/**
 * Random clusters: demands, actors and groups over nodes that die, drain and join, under a head that dies and is started again, with messages in
 * random order. The invariants hold after every event (checked in each machine), and in the end all is done and all is given back.
 */
import fc from 'fast-check'
import { test } from 'vitest'
import { type Faults, run } from './sim-story.ts'

const check = (steps: number, faults: Faults, numRuns: number): void =>
  fc.assert(
    fc.property(fc.integer(), (seed) => run(seed, steps, faults)),
    { numRuns },
  )

test('whatever the order of messages, all that fits is done and all is given back', { timeout: 120_000 }, () => check(400, {}, 60))
test('workers die', { timeout: 120_000 }, () => check(400, { processes: true }, 40))
test('nodes die and join', { timeout: 120_000 }, () => check(600, { nodes: true, processes: true }, 40))
test('nodes drain', { timeout: 120_000 }, () => check(600, { drain: true, nodes: true }, 40))
test('the head dies and goes on from its records', { timeout: 120_000 }, () => check(600, { head: true, nodes: true, processes: true }, 60))
test('drivers go on with another node when theirs dies, the head or another', { timeout: 120_000 }, () =>
  check(600, { moves: true, head: true, nodes: true }, 60),
)
test('messages arrive twice', { timeout: 120_000 }, () => check(600, { duplicates: true, head: true, nodes: true }, 40))
test('all of that at once', { timeout: 120_000 }, () =>
  check(800, { moves: true, head: true, nodes: true, processes: true, drain: true, duplicates: true }, 60),
)
