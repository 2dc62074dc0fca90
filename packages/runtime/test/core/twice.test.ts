/** What the owner of tasks is told twice by its node, and a worker by an owner, is done once. */
import { expect, test } from 'vitest'
import { Peer } from '../../src/core/peers.ts'
import { type ShapePort, ShapeQueue } from '../../src/core/shape-queue.ts'

const port = (returned: number[]): ShapePort => ({
  now: () => 0,
  push: () => undefined,
  takeBack: () => undefined,
  demand: () => undefined,
  returnLease: ({ id }) => void returned.push(id),
  notReady: () => undefined,
  left: () => undefined,
  wake: () => undefined,
})

test('a lease that is granted twice is one lease, and one that is asked back twice is returned once', () => {
  const returned: number[] = []
  const queue = new ShapeQueue(0, port(returned))
  for (let times = 0; times < 2; times++) queue.granted(7, 'worker', 'unix:/worker')
  expect(queue.leases.size).toBe(1)
  for (let times = 0; times < 2; times++) queue.reclaim(7)
  expect([queue.leases.size, returned]).toEqual([0, [7]])
})

test('what has a number is new once on its link, whatever comes between', () => {
  const [sender, receiver] = [new Peer(undefined as never, 'a', ''), new Peer(undefined as never, 'b', '')]
  const sent = Array.from({ length: 3 }, () => ({ number: sender.nextNumber() }))
  const heard = sent.flatMap((message) => [message, message, ...sent.filter(({ number }) => number < message.number)])
  expect(heard.filter((message) => receiver.isNew(message))).toEqual(sent)
})
