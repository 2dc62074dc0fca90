/** Two ends of a session over connections that lose, repeat and break, by the decisions alone. */
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { END_CLOSE, type Frame, SessionState } from '../../src/net/session-state.ts'

type End = SessionState<number, number>

/** A connection carries frames in order, and may break between any two. */
class Wire {
  readonly queue: Frame<number>[] = []
}

interface World {
  readonly ends: [End, End]
  readonly sent: [number[], number[]]
  readonly got: [number[], number[]]
  /** `wires[i]` carries what end i wrote. */
  wires: [Wire, Wire]
  next: number
  /** What both ends had received when a connection was dialled that is not used yet. */
  dialled: readonly [number, number] | undefined
}

function world(): World {
  return { ends: [new SessionState(), new SessionState()], sent: [[], []], got: [[], []], wires: [new Wire(), new Wire()], next: 0, dialled: undefined }
}

function write(w: World, end: 0 | 1): void {
  for (let frame = w.ends[end].nextToWrite(); frame; frame = w.ends[end].nextToWrite()) w.wires[end].queue.push({ ...frame })
}

function read(w: World, end: 0 | 1, frames: number): void {
  const wire = w.wires[end === 0 ? 1 : 0]
  for (const frame of wire.queue.splice(0, frames)) {
    const arrival = w.ends[end].arrived(frame)
    expect(arrival).not.toBe('gap')
    if (arrival === 'deliver') w.got[end].push(...frame.messages)
  }
}

const receivedNow = (w: World): readonly [number, number] => [w.ends[0].received, w.ends[1].received]

/** All that is under way is lost, then both ends go on behind what the other one had when the connection was dialled. */
function reconnect(w: World): void {
  w.wires = [new Wire(), new Wire()]
  const received = w.dialled ?? receivedNow(w)
  w.dialled = undefined
  expect(w.ends[0].resume(received[1])).toBe(true)
  expect(w.ends[1].resume(received[0])).toBe(true)
}

const step = fc.record({
  end: fc.constantFrom<0 | 1>(0, 1),
  kind: fc.constantFrom('send', 'send', 'write', 'read', 'read', 'confirm', 'dial', 'reconnect'),
  count: fc.integer({ min: 1, max: 5 }),
})

test('what one end sends the other gets once and in order, whenever connections break', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const w = world()
      for (const { end, kind, count } of steps) {
        if (kind === 'send') {
          const messages = Array.from({ length: count }, () => w.next++)
          w.sent[end].push(...messages)
          w.ends[end].add(messages)
        } else if (kind === 'write') write(w, end)
        else if (kind === 'read') read(w, end, count)
        else if (kind === 'confirm') w.wires[end].queue.push(w.ends[end].bare())
        else if (kind === 'dial') w.dialled = receivedNow(w)
        else reconnect(w)
        for (const other of [0, 1] as const) {
          const got = w.got[other]
          expect(got).toEqual(w.sent[other === 0 ? 1 : 0].slice(0, got.length))
        }
      }
      reconnect(w)
      for (const end of [0, 1] as const) write(w, end)
      for (const end of [0, 1] as const) read(w, end, Number.POSITIVE_INFINITY)
      expect(w.got).toEqual([w.sent[1], w.sent[0]])
      for (const end of [0, 1] as const) w.wires[end].queue.push(w.ends[end].bare())
      for (const end of [0, 1] as const) read(w, end, Number.POSITIVE_INFINITY)
      expect(w.ends.map((end) => end.unconfirmed)).toEqual([0, 0])
    }),
  )
})

test('a frame that comes twice is delivered once', () => {
  const [a, b]: [End, End] = [new SessionState(), new SessionState()]
  a.add([1])
  const frame = a.nextToWrite() as Frame<number>
  expect(b.arrived(frame)).toBe('deliver')
  expect(b.arrived(frame)).toBe('duplicate')
  expect(b.received).toBe(1)
})

test('a frame after a missing one is not delivered', () => {
  const [a, b]: [End, End] = [new SessionState(), new SessionState()]
  a.add([1])
  a.add([2])
  a.nextToWrite()
  expect(b.arrived(a.nextToWrite() as Frame<number>)).toBe('gap')
  expect(b.received).toBe(0)
})

test('every frame confirms what came before it', () => {
  const [a, b]: [End, End] = [new SessionState(), new SessionState()]
  a.add([1])
  b.arrived(a.nextToWrite() as Frame<number>)
  expect(a.unconfirmed).toBe(1)
  expect(b.untold).toBe(1)
  b.add([2])
  a.arrived(b.nextToWrite() as Frame<number>)
  expect(a.unconfirmed).toBe(0)
  expect(b.untold).toBe(0)
})

test('an other end that has received more than was sent is not the other end of this session; what it confirmed counts, whatever it said before', () => {
  const [a, b]: [End, End] = [new SessionState(), new SessionState()]
  a.add([1])
  b.arrived(a.nextToWrite() as Frame<number>)
  a.arrived(b.bare())
  expect(a.resume(2)).toBe(false)
  expect(a.resume(0)).toBe(true)
  expect(a.nextToWrite()).toBeUndefined()
})

test('the end of a session is a frame like others: it waits for what was sent before it', () => {
  const a: End = new SessionState()
  a.add([1])
  a.add([], END_CLOSE)
  expect(a.nextToWrite()).toMatchObject({ seq: 1, end: 0 })
  expect(a.nextToWrite()).toMatchObject({ seq: 2, end: END_CLOSE })
  expect(a.nextToWrite()).toBeUndefined()
})

test('ten thousand frames that are confirmed as they go leave nothing behind', () => {
  const [a, b]: [End, End] = [new SessionState(), new SessionState()]
  for (let i = 0; i < 10_000; i++) {
    a.add([i])
    b.arrived(a.nextToWrite() as Frame<number>)
    if (i % 7 === 0) a.arrived(b.bare())
  }
  a.arrived(b.bare())
  expect(a.unconfirmed).toBe(0)
  a.add([0])
  expect(a.nextToWrite()).toMatchObject({ seq: 10_001 })
})
