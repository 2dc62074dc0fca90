/** Times that a head tells its nodes, by a clock of the test. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Membership, type MembershipOptions } from '../../src/daemon/membership.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance', 'setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'] }))
afterEach(() => void vi.useRealTimers())

function joined(): { membership: Membership; sent: string[]; fenced: string[] } {
  const sent: string[] = []
  const fenced: string[] = []
  const membership = new Membership({
    config: { headAddress: '127.0.0.1:1', lookIn: '', headTimeoutMs: 60_000 },
    mesh: { send: (_: string, { $case }: { $case: string }) => sent.push($case) },
    register: () => ({}),
    heartbeat: () => ({ available: undefined, queued: 0, storeUsedBytes: 0 }),
    registered: () => undefined,
    fenced: (reason: string) => fenced.push(reason),
  } as unknown as MembershipOptions)
  membership.start()
  return { membership, sent, fenced }
}

const told = (leaseMs: number, heartbeatMs: number, epoch: number): Parameters<Membership['registered']>[1] => ({
  epoch,
  number: 1,
  leaseMs,
  heartbeatMs,
  store: '',
})

test('a node says that it lives as often as its head wants to hear it', () => {
  const { membership, sent } = joined()
  membership.registered('', told(3_000, 300, 1))
  vi.advanceTimersByTime(1_250)
  expect(sent).toEqual(['register', ...Array<string>(4).fill('heartbeat')])
  membership.stop()
})

test('a node that registers at another head ends its workers before the lease of that one does', () => {
  const { membership, fenced } = joined()
  membership.registered('', told(10_000, 5_000, 1))
  membership.registered('', told(4_000, 5_000, 2))
  vi.advanceTimersByTime(2_900)
  expect(fenced).toEqual([])
  vi.advanceTimersByTime(200)
  expect(fenced).toHaveLength(1)
})

test('a head of an older epoch neither takes a node in again nor keeps it alive', () => {
  const { membership, fenced } = joined()
  membership.registered('', told(4_000, 500, 2))
  vi.advanceTimersByTime(1_100)
  membership.registered('', told(60_000, 500, 1))
  membership.seen('', { sequence: 1, epoch: 1 })
  membership.seen('', { sequence: 2, epoch: 1 })
  vi.advanceTimersByTime(1_800)
  expect(fenced).toEqual([])
  vi.advanceTimersByTime(200)
  expect(fenced).toHaveLength(1)
})
