/** The decision to poll, by the clock of the test. */
import { expect, test } from 'vitest'
import { PollState } from '../../src/net/polling.ts'

/** Messages every 0.1 ms from `start`, each seen by a look just before; returns whether the last one still polls. */
function conversation(state: PollState, start: number, messages: number): boolean {
  let polls = false
  for (let i = 0; i < messages; i++) {
    const now = start + i * 0.1
    if (polls) state.looked(now - 0.005)
    polls = state.arrived(now, 1) || polls
  }
  return polls
}

test('single messages that follow each other quickly are awaited without sleep, for a moment', () => {
  const state = new PollState()
  expect(state.arrived(10, 1)).toBe(false)
  expect(state.arrived(10.1, 1)).toBe(true)
  expect(state.looked(10.2)).toBe(true)
  expect(state.looked(10.31)).toBe(false)
})

test('slow messages and frames of several messages are not', () => {
  const state = new PollState()
  state.arrived(10, 1)
  expect(state.arrived(10.5, 1)).toBe(false)
  expect(state.arrived(10.6, 7)).toBe(false)
})

test('a frame of several messages ends a poll', () => {
  const state = new PollState()
  state.arrived(10, 1)
  expect(state.arrived(10.1, 1)).toBe(true)
  state.arrived(10.15, 3)
  expect(state.looked(10.16)).toBe(false)
})

test('polls that end before their message, eight times in a row, pause polling: 4 ms, then twice as long', () => {
  const state = new PollState()
  let now = 10
  const failUntilPaused = (): number => {
    for (let polls = 0; ; polls++) {
      if (!state.arrived(now, 1)) return polls
      state.looked(now + 0.21)
      now += 0.25
    }
  }
  state.arrived(now, 1)
  now += 0.25
  expect(failUntilPaused()).toBe(8)
  const resumes = (): number => {
    const from = now
    while (!state.arrived(now, 1)) now += 0.25
    state.looked(now + 0.21)
    now += 0.25
    return now - from
  }
  expect(resumes()).toBeCloseTo(4.5, 0)
  expect(failUntilPaused()).toBe(7)
  expect(resumes()).toBeCloseTo(8.5, 0)
})

test('a message that came while this process was suspended counts as a failure', () => {
  const state = new PollState()
  let now = 10
  state.arrived(now, 1)
  let paused = 0
  let polls = state.arrived((now += 0.1), 1)
  for (let i = 0; i < 8; i++) {
    if (polls) state.looked(now + 0.01)
    now += 0.15
    state.arrived(now, 1)
    polls = state.looked(now + 0.001)
    if (!polls) paused++
  }
  expect(paused).toBe(1)
})

test('a conversation that goes well polls on', () => {
  expect(conversation(new PollState(), 10, 1_000)).toBe(true)
})
