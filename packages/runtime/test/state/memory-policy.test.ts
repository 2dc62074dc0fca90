import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type MemoryDecision, MemoryPolicy, type MemoryUsage, type MemoryWorker } from '../../src/state/memory-policy.ts'

const OPTIONS = { threshold: 0.95, smallBytes: 50, allTogether: 0.25, goneMs: 3_000 }
const usage = (usedBytes: number): MemoryUsage => ({ usedBytes, limitBytes: 1_000, of: 'of the machine' })
const SHORT = usage(950)
const worker = (id: string, work: MemoryWorker['work'], bytes: number, sinceMs: number = 0): MemoryWorker => ({ worker: id, work, bytes, sinceMs })
const kill = (id: string): MemoryDecision => ({ kind: 'kill', worker: id })

const IDLE_SMALL = worker('idle-small', 'idle', 60)
const IDLE_LARGE = worker('idle-large', 'idle', 90)
const OLD = worker('old', 'retriable', 200, 1)
const NEW = worker('new', 'retriable', 100, 2)
const OWNER = worker('owner', 'owner', 300)
const OLD_ONCE = worker('old-once', 'other', 200, 1)
const NEW_ONCE = worker('new-once', 'other', 100, 2)

test.each([
  ['idle workers first, the largest of them', [OLD, IDLE_SMALL, IDLE_LARGE, NEW_ONCE], 'idle-large'],
  ['then what may run again, the newest', [OLD_ONCE, OLD, NEW, OWNER], 'new'],
  ['of those that began together the largest', [worker('a', 'retriable', 60, 5), worker('b', 'retriable', 70, 5)], 'b'],
  ['then idle workers that own objects', [NEW_ONCE, OWNER, OLD_ONCE], 'owner'],
  ['then what may not run again, the newest', [OLD_ONCE, NEW_ONCE], 'new-once'],
  ['small workers are spared, whatever they do', [worker('idle', 'idle', 49), OLD_ONCE], 'old-once'],
  [
    'unless all together have much',
    [worker('idle', 'idle', 49), worker('x', 'other', 49), ...Array.from({ length: 4 }, (_, i) => worker(`y${i}`, 'other', 49))],
    'idle',
  ],
])('%s', (_, workers, victim) => {
  expect(new MemoryPolicy(OPTIONS).decide(0, SHORT, workers)).toEqual(kill(victim))
})

test('nothing happens below the threshold, nor when no worker is worth it', () => {
  const policy = new MemoryPolicy(OPTIONS)
  expect(policy.decide(0, usage(949), [IDLE_LARGE, NEW])).toBeUndefined()
  expect(policy.decide(0, SHORT, [])).toBeUndefined()
  expect(policy.decide(0, SHORT, [worker('small', 'idle', 10), worker('ending', 'ending', 200)])).toBeUndefined()
})

test('one at a time: the next one when the last is gone and memory is still short', () => {
  const policy = new MemoryPolicy(OPTIONS)
  expect(policy.decide(0, SHORT, [NEW, OLD])).toEqual(kill('new'))
  const ending = worker('new', 'ending', 100)
  expect(policy.decide(250, SHORT, [ending, OLD])).toBeUndefined()
  expect(policy.decide(2_999, SHORT, [ending, OLD])).toBeUndefined()
  expect(policy.decide(3_000, SHORT, [ending, OLD])).toEqual(kill('old'))
  expect(policy.decide(3_250, SHORT, [ending])).toEqual(undefined)
  expect(policy.decide(3_500, usage(100), [])).toBeUndefined()
  expect(policy.decide(3_750, SHORT, [OWNER])).toEqual(kill('owner'))
})

test('idle workers are asked once whether they own objects, before anything else ends', () => {
  const policy = new MemoryPolicy(OPTIONS)
  const unsure = worker('w', 'unsure', 100)
  expect(policy.decide(0, SHORT, [unsure, NEW])).toEqual({ kind: 'ask' })
  // It did not answer in time: it is as good as an owner.
  expect(policy.decide(250, SHORT, [unsure, NEW])).toEqual(kill('new'))
  expect(policy.decide(500, SHORT, [worker('w', 'idle', 100)])).toEqual(kill('w'))
})

const anyWorker = fc.record({
  work: fc.constantFrom<MemoryWorker['work'][]>('idle', 'unsure', 'owner', 'retriable', 'other', 'ending'),
  bytes: fc.nat({ max: 400 }),
  sinceMs: fc.nat({ max: 10 }),
})

test('whatever the workers are: never two at once, never one that ends already, and nothing better was left', () => {
  const rank: readonly MemoryWorker['work'][] = ['idle', 'retriable', 'owner', 'unsure', 'other']
  fc.assert(
    fc.property(fc.array(fc.record({ used: fc.nat({ max: 1_000 }), workers: fc.array(anyWorker, { maxLength: 8 }) }), { maxLength: 30 }), (looks) => {
      const policy = new MemoryPolicy(OPTIONS)
      let killed: { id: string; atMs: number } | undefined
      for (const [index, { used, workers: found }] of looks.entries()) {
        const nowMs = index * 250
        const workers = found.map((one, id) => ({ ...one, worker: `w${id}` }))
        const decision = policy.decide(nowMs, usage(used), workers)
        if (used < 950) killed = undefined
        if (decision?.kind !== 'kill') continue
        const victim = workers.find((one) => one.worker === decision.worker)!
        expect(used).toBeGreaterThanOrEqual(950)
        expect(victim.work).not.toBe('ending')
        const last = killed
        if (last !== undefined) expect(nowMs - last.atMs >= OPTIONS.goneMs || workers.every((one) => one.worker !== last.id)).toBe(true)
        const better = workers.filter((one) => one.bytes >= OPTIONS.smallBytes && one.work !== 'ending' && rank.indexOf(one.work) < rank.indexOf(victim.work))
        expect(better).toEqual([])
        killed = { id: victim.worker, atMs: nowMs }
      }
    }),
  )
})
