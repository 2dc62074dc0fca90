/** What the head does after it wrote, and in which order. */
import { expect, test, vi } from 'vitest'
import { CommitGate, type Persist } from '../../src/daemon/commit-gate.ts'
import type { Write } from '../../src/store/control-store.ts'

type Instruction = Persist | { readonly kind: 'act'; readonly name: string }

const put = (key: string, value: string | undefined): Persist => ({ kind: 'persist', key, value })
const later = (key: string, value: string | undefined): Persist => ({ kind: 'persist', key, value, later: true })
const act = (name: string): Instruction => ({ kind: 'act', name })
const text = (batch: readonly Write[]): string[] => batch.map(({ key, value }) => `${key}=${value === undefined ? '-' : new TextDecoder().decode(value)}`)

function gate(): { gate: CommitGate<Instruction>; done: string[]; acknowledge: () => Promise<void>; refuse: (error: Error) => Promise<void> } {
  const done: string[] = []
  let pending = Promise.withResolvers<void>()
  const settle = async (end: () => void): Promise<void> => {
    await Promise.resolve()
    end()
    pending = Promise.withResolvers()
    for (let turn = 0; turn < 5; turn++) await Promise.resolve()
  }
  return {
    gate: new CommitGate<Instruction>({
      write: (batch) => {
        done.push(`write ${text(batch).join(' ')}`)
        return pending.promise
      },
      perform: (instruction) => done.push((instruction as { name: string }).name),
      failed: (error) => done.push(`failed: ${error.message}`),
    }),
    done,
    acknowledge: () => settle(pending.resolve),
    refuse: (error) => settle(() => pending.reject(error)),
  }
}

test('what follows a write waits until it is acknowledged, what comes before does not', async () => {
  const { gate: commits, done, acknowledge } = gate()
  commits.run([act('before'), put('a', '1'), act('after')])
  commits.run([act('later')])
  await Promise.resolve()
  expect(done).toEqual(['before', 'write a=1'])
  await acknowledge()
  expect(done).toEqual(['before', 'write a=1', 'after', 'later'])
  commits.run([act('free')])
  expect(done.at(-1)).toBe('free')
})

test('writes that come while one is on its way leave together, each key with its last value', async () => {
  const { gate: commits, done, acknowledge } = gate()
  commits.run([put('a', '1')])
  await Promise.resolve()
  commits.run([put('b', '1'), act('b1'), put('b', '2'), put('c', undefined), act('c')])
  await acknowledge()
  expect(done).toEqual(['write a=1', 'write b=2 c=-'])
  await acknowledge()
  expect(done.slice(2)).toEqual(['b1', 'c'])
})

test('nothing waits for a write that may come later; it leaves before, or with, the next one that something waits for', async () => {
  const { gate: commits, done, acknowledge } = gate()
  commits.run([later('a', undefined), act('at once')])
  expect(done).toEqual(['at once'])
  commits.run([put('b', '1'), act('b')])
  await Promise.resolve()
  expect(done.slice(1)).toEqual(['write a=- b=1'])
  await acknowledge()
  expect(done.slice(2)).toEqual(['b'])
})

test('a write that may come later is made also when no other follows, and one that something waits for comes after it', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  try {
    const { gate: commits, done, acknowledge } = gate()
    commits.run([later('a', '1'), later('a', '2'), act('at once')])
    vi.runAllTimers()
    expect(done).toEqual(['at once', 'write a=2'])
    commits.run([act('meanwhile'), put('b', '1'), act('b')])
    await acknowledge()
    expect(done.slice(2)).toEqual(['meanwhile', 'write b=1'])
    commits.run([later('c', '1')])
    await acknowledge()
    expect(done.slice(4)).toEqual(['b'])
    vi.runAllTimers()
    expect(done.slice(5)).toEqual(['write c=1'])
  } finally {
    vi.useRealTimers()
  }
})

test('after a write that failed nothing is carried out', async () => {
  const { gate: commits, done, refuse } = gate()
  commits.run([put('a', '1'), act('after')])
  await refuse(new Error('gone'))
  commits.run([act('more'), put('b', '1')])
  await Promise.resolve()
  expect(done).toEqual(['write a=1', 'failed: gone'])
})

test('without a store nothing waits', () => {
  const done: string[] = []
  const commits = new CommitGate<Instruction>({
    write: undefined,
    perform: (instruction) => done.push((instruction as { name: string }).name),
    failed: () => {},
  })
  commits.run([put('a', '1'), act('at once')])
  expect(done).toEqual(['at once'])
})
