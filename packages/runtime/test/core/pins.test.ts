/** The readers of one process share the pins that it holds at its node. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { BeamlineError } from '../../src/errors.ts'
import { type OwnBlock, Pins } from '../../src/core/pins.ts'
import type { ProcessMessage } from '../../src/net/gen/node.ts'
import type { Place } from '../../src/net/gen/peer.ts'

const place = (object: number, offset = 0): Place => ({
  path: '/gone',
  segment: 's',
  offset,
  bytes: 100,
  node: 'n',
  object: { owner: 'o', address: 'unix:/o', object },
})

function start(ownBlock: (place: Place) => OwnBlock | undefined = () => undefined): {
  pins: Pins
  asked: [number, string][]
  closed: number[][]
  answer: (pin: number, failure?: { code: string; detailsJson: string }) => void
} {
  const asked: [number, string][] = []
  const closed: number[][] = []
  const pins = new Pins(({ body }: ProcessMessage) => {
    if (body?.$case === 'objectPin') asked.push([body.value.pin, body.value.use])
    if (body?.$case === 'objectUnpin') closed.push(body.value.pins)
  }, ownBlock)
  const answer = (pin: number, failure?: { code: string; detailsJson: string }): void =>
    pins.pinned({ pin, path: '/here', segment: 'x', offset: 4096, bytes: 100, failure })
  return { pins, asked, closed, answer }
}

test('readers of one object share one pin, which closes with the last of them', async () => {
  const { pins, asked, closed, answer } = start()
  const [first, second] = [pins.take(place(1), 'get'), pins.take(place(1), 'get')]
  expect(asked).toEqual([[1, 'get']])
  answer(1)
  expect(await second.ready).toEqual({ path: '/here', offset: 4096, bytes: 100 })
  first.release()
  const third = pins.take(place(1), 'get')
  expect(third.memory?.path).toBe('/here')
  second.release()
  await nextTurn()
  expect(closed).toEqual([])
  third.release()
  await nextTurn()
  expect([closed, pins.size]).toEqual([[[1]], 0])
})

test('pins that close in one turn travel together', async () => {
  const { pins, closed, answer } = start()
  const taken = [1, 2, 3].map((object) => pins.take(place(object, object * 4096), 'argument'))
  for (const pin of [1, 2, 3]) answer(pin)
  for (const pin of taken) pin.release()
  await nextTurn()
  expect(closed).toEqual([[1, 2, 3]])
})

test('an argument that somebody comes to wait for is asked for again, as urgent', () => {
  const { pins, asked, answer } = start()
  pins.take(place(1), 'argument')
  pins.take(place(1), 'argument')
  pins.take(place(1), 'get')
  pins.take(place(1), 'get')
  answer(1)
  pins.take(place(1), 'get')
  expect(asked).toEqual([
    [1, 'argument'],
    [1, 'get'],
  ])
})

test('an object that lies elsewhere after it was made again has a pin of its own', () => {
  const { pins, asked } = start()
  pins.take(place(1, 0), 'get')
  pins.take(place(1, 4096), 'get')
  expect(asked.map(([pin]) => pin)).toEqual([1, 2])
})

test('a pin that failed is not shared and not closed', async () => {
  const { pins, asked, closed, answer } = start()
  const failed = pins.take(place(1), 'get')
  answer(1, { code: 'OBJECT_LOST', detailsJson: '{"object":"o:1","reason":"gone"}' })
  await expect(failed.ready).rejects.toThrow('object o:1 is lost: gone')
  pins.take(place(1), 'get')
  failed.release()
  await nextTurn()
  expect(asked.map(([pin]) => pin)).toEqual([1, 2])
  expect(closed).toEqual([])
})

test('when the node is gone, what waits fails and what is here stays', async () => {
  const { pins, answer } = start()
  const here = pins.take(place(1), 'get')
  answer(1)
  const waits = pins.take(place(2), 'get')
  pins.fail(new BeamlineError('NODE_DIED', { reason: 'it was killed' }))
  await expect(waits.ready).rejects.toMatchObject({ code: 'NODE_DIED' })
  await expect(pins.take(place(3), 'get').ready).rejects.toMatchObject({ code: 'NODE_DIED' })
  expect(here.memory).toBeDefined()
})

test('an own block is read before the node answers, is the same whatever that answers, and is kept until its last reader is gone', async () => {
  let kept = 0
  const own = { memory: { path: '/own', offset: 8192, bytes: 100 }, release: () => kept-- }
  const { pins, asked, closed, answer } = start(() => {
    kept++
    return own
  })
  const [first, second] = [pins.take(place(1), 'get'), pins.take(place(1), 'get')]
  expect([first.memory, await second.ready, kept]).toEqual([own.memory, own.memory, 1])
  expect(asked).toEqual([[1, 'get']])
  answer(1, { code: 'OBJECT_LOST', detailsJson: '{"object":"o:1","reason":"gone"}' })
  expect(pins.take(place(1), 'get').memory).toEqual(own.memory)
  const restored = pins.take(place(2, 4096), 'get')
  answer(2)
  expect(restored.memory).toEqual(own.memory)
  restored.release()
  first.release()
  second.release()
  expect(kept).toBe(1)
  first.release()
  await nextTurn()
  expect([kept, closed, pins.size]).toEqual([0, [[2, 1]], 0])
})

test('an argument that is only brought here asks the node also for an own block; who comes to wait for it reads at once', () => {
  const own = { memory: { path: '/own', offset: 8192, bytes: 100 }, release: () => undefined }
  const { pins, asked } = start(() => own)
  const argument = pins.take(place(1), 'argument')
  expect(argument.memory).toBeUndefined()
  expect(pins.take(place(1), 'get').memory).toEqual(own.memory)
  expect(asked).toEqual([
    [1, 'argument'],
    [1, 'get'],
  ])
})

test('a process that attaches again asks nothing about the own blocks that it reads', () => {
  const { pins, asked } = start(() => ({ memory: { path: '/own', offset: 8192, bytes: 100 }, release: () => undefined }))
  pins.take(place(1), 'get')
  pins.attachedAgain()
  expect(asked).toEqual([[1, 'get']])
  expect(pins.size).toBe(0)
})
