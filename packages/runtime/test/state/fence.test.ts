/** When a node without a head ends its workers. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Fence, fenceMarginMs, nodeLeaseMs } from '../../src/state/fence.ts'
import { Membership } from '../../src/state/membership.ts'
import { info } from './head.ts'
import { amounts } from './machine.ts'

const config = { leaseMs: 10_000, headTimeoutMs: 60_000 }

test('a node that hears nothing ends its workers a margin before its lease ends', () => {
  const fence = new Fence(config, 100)
  expect([fence.expired(8_099), fence.expired(8_100)]).toEqual([false, true])
})

test('an answer counts from when its heartbeat was sent, and older answers that come later change nothing', () => {
  const fence = new Fence(config, 0)
  fence.renewed(5_000)
  fence.renewed(4_000)
  expect(fence.deadlineMs).toBe(13_000)
})

test('while connections are refused the node goes on, but not longer than headTimeoutMs after it last heard a head', () => {
  const fence = new Fence(config, 0)
  for (let at = 1_000; at < 70_000; at += 1_000) fence.refused(at, at)
  expect(fence.deadlineMs).toBe(60_000)
})

test('a head that is silent after connections were refused may have started: the lease runs from the last refusal', () => {
  const fence = new Fence(config, 0)
  fence.refused(7_000, 7_100)
  expect(fence.deadlineMs).toBe(15_000)
})

test('a refusal that comes after the deadline does not bring the node back', () => {
  const fence = new Fence(config, 0)
  fence.refused(7_999, 8_000)
  expect(fence.expired(8_000)).toBe(true)
})

test('the node always ends before a head could have declared it dead', () => {
  const event = fc.record({ afterMs: fc.nat(5_000), kind: fc.constantFrom('heard', 'refused', 'lost'), lateMs: fc.nat(3_000) })
  fc.assert(
    fc.property(fc.array(event), (events) => {
      let now = 0
      const fence = new Fence(config, now)
      // The earliest moment at which some head may declare it dead: a lease after the last heartbeat that one heard, or after the last proof that there was none.
      let head = now + config.leaseMs
      for (const { afterMs, kind, lateMs } of events) {
        now += afterMs
        if (fence.expired(now)) break
        const sent = now - Math.min(lateMs, now)
        if (kind === 'heard') {
          fence.renewed(sent)
          head = Math.max(head, sent + config.leaseMs)
        } else if (kind === 'refused') {
          fence.refused(sent, now)
          head = Math.max(head, sent + config.leaseMs)
        }
        if (fence.deadlineMs > head - fenceMarginMs(config.leaseMs)) throw new Error(`goes on until ${fence.deadlineMs}, dead from ${head}`)
      }
    }),
  )
})

test('the head declares a silent node dead within the timeout, whenever it became silent', () => {
  fc.assert(
    fc.property(fc.integer({ min: 2_500, max: 60_000 }), fc.integer({ min: 0, max: 249 }), (timeoutMs, afterTickMs) => {
      const nodes = new Membership({ self: 'h', leaseMs: nodeLeaseMs(timeoutMs) })
      nodes.tick(1_000)
      nodes.put(info('n1'))
      const heardMs = 1_000 + afterTickMs
      nodes.heard('n1', amounts({ cpus: 1 }), 0, 0, heardMs)
      let nowMs = 1_000
      do nowMs += 250
      while (nodes.tick(nowMs).length === 0)
      const afterMs = nowMs - heardMs
      expect(afterMs).toBeLessThanOrEqual(timeoutMs)
      expect(afterMs).toBeGreaterThan(nodeLeaseMs(timeoutMs))
    }),
  )
})
