/** The grammar of BEAMLINE_TEST_FAULTS, and how often faults happen. */
import { expect, test, vi } from 'vitest'
import { BeamlineError } from '../../src/errors.ts'
import { parseFaults } from '../../src/net/faults.ts'

const push = [{ body: { $case: 'push' } }]
const done = [{ body: { $case: 'done' } }]

function often(call: () => boolean): number {
  let times = 0
  for (let i = 0; i < 10_000; i++) if (call()) times++
  return times / 10_000
}

test('losses happen as often as asked, to the kind that is named', () => {
  const faults = parseFaults('peer.push:request=0.1,response=0.25;seed=7')
  expect(often(() => faults.losesRequest('peer', push))).toBeCloseTo(0.1, 1)
  expect(often(() => faults.losesResponse('peer', push))).toBeCloseTo(0.25, 1)
  expect(often(() => faults.losesRequest('peer', done))).toBe(0)
  expect(often(() => faults.losesRequest('mesh', push))).toBe(0)
})

test('a star names all kinds of a service, and a kind of its own goes before it', () => {
  const faults = parseFaults('peer.*:request=1;peer.done:request=0')
  expect(faults.losesRequest('peer', push)).toBe(true)
  expect(faults.losesRequest('peer', done)).toBe(false)
  const chunks = [parseFaults('bulk.chunk:request=1'), parseFaults('bulk.chunk:response=1')]
  expect(chunks.map((each) => [each.loses('bulk', 'chunk'), each.damages('bulk', 'chunk')])).toEqual([
    [true, false],
    [false, true],
  ])
})

test('delays lie between their bounds, and come as often as asked', () => {
  const faults = parseFaults('peer.push:delay=5-20ms@0.5;seed=3')
  const delays = Array.from({ length: 1_000 }, () => faults.delayMs('peer', push))
  const late = delays.filter((ms) => ms > 0)
  expect(late.length / delays.length).toBeCloseTo(0.5, 1)
  expect(Math.min(...late)).toBeGreaterThanOrEqual(5)
  expect(Math.max(...late)).toBeLessThanOrEqual(20)
  expect(parseFaults('peer.push:delay=5-5ms').delayMs('peer', push)).toBe(5)
})

test('a handler is called twice as often as asked, for the kind that is named, and the first time of a kind is said', () => {
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  const faults = parseFaults('peer.push:twice=1')
  const heard: unknown[] = []
  faults.deliver('peer', [...push, ...done, ...push], ({ body }) => heard.push(body?.$case))
  expect(heard).toEqual(['push', 'push', 'done', 'push', 'push'])
  expect(said.mock.calls).toEqual([['beamline: twice on purpose: peer.push\n']])
  said.mockRestore()
})

test('the same seed gives the same faults', () => {
  const run = (): boolean[] => {
    const faults = parseFaults('peer.push:request=0.5;seed=42')
    return Array.from({ length: 100 }, () => faults.losesRequest('peer', push))
  }
  expect(run()).toEqual(run())
  expect(parseFaults('peer.push:request=0.5', () => 99).seed).toBe(99)
})

test.each([
  ['peer.push', 0, 'SERVICE.MESSAGE'],
  ['seed=7;mesh.x:request=0.1,drop=0.5', 26, 'request=P'],
  ['peer.push:request=1.5', 10, 'a probability'],
  ['peer.push:delay=5ms', 10, 'delay=MIN-MAXms'],
  ['seed=x', 0, 'seed=N'],
])('%s is refused at position %i', (text, position, expected) => {
  const refused = (() => {
    try {
      parseFaults(text)
    } catch (error) {
      return error
    }
    return undefined
  })()
  expect(BeamlineError.is(refused, 'INVALID_ARGUMENT')).toBe(true)
  expect((refused as Error).message).toContain(`at position ${position}`)
  expect((refused as Error).message).toContain(expected)
})
