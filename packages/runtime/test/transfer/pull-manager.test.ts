import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { FetchOutcome, PullEvent, PullInstruction, Use } from '../../src/transfer/pull-events.ts'
import { PullManager } from '../../src/transfer/pull-manager.ts'

const MiB = 1_048_576
const full = { wantedBytes: 1, usedBytes: 1, capacityBytes: 1, holders: '', pinnedBytes: 0, spilledBytes: 0, spilling: '' }

function pulls(room = Number.POSITIVE_INFINITY) {
  const manager = new PullManager('self')
  const handle = (event: PullEvent): PullInstruction[] => {
    const instructions = manager.handle(event, room)
    manager.checkInvariants()
    return instructions
  }
  const want = (wanter: string, key: string, use: Use = 'get', bytes = MiB, node = 'a'): PullInstruction[] =>
    handle({ kind: 'wanted', wanter, key, bytes, use, node })
  const ended = (key: string, attempt: number, outcome: FetchOutcome): PullInstruction[] => handle({ kind: 'ended', key, attempt, outcome })
  return { manager, handle, want, ended, room: (bytes: number) => (room = bytes) }
}

const started = (instructions: readonly PullInstruction[]): string[] =>
  instructions.flatMap((instruction) => (instruction.kind === 'allocate' ? [instruction.key] : []))

describe('one pull', () => {
  test('asks for memory, fetches from the node of the primary copy, and is sealed for its wanters', () => {
    const { manager, handle, want, ended } = pulls()
    expect(want('w', 'x')).toEqual([{ kind: 'allocate', key: 'x', bytes: MiB, urgent: true }])
    expect(handle({ kind: 'allocated', key: 'x' })).toEqual([{ kind: 'fetch', key: 'x', node: 'a', attempt: 1 }])
    expect(ended('x', 1, { kind: 'whole' })).toEqual([{ kind: 'seal', key: 'x', wanters: ['w'] }])
    expect(manager.size).toBe(0)
  })

  test('is one, however many want it, and all of them get it', () => {
    const { handle, want, ended } = pulls()
    want('w1', 'x', 'argument')
    expect(want('w2', 'x', 'argument')).toEqual([])
    handle({ kind: 'allocated', key: 'x' })
    expect(want('w3', 'x', 'get')).toEqual([])
    expect(ended('x', 1, { kind: 'whole' })).toEqual([{ kind: 'seal', key: 'x', wanters: ['w1', 'w2', 'w3'] }])
  })

  test('ends with its last wanter', () => {
    const { manager, handle, want } = pulls()
    want('w1', 'x')
    want('w2', 'x')
    handle({ kind: 'allocated', key: 'x' })
    expect(handle({ kind: 'unwanted', wanter: 'w1' })).toEqual([])
    expect(handle({ kind: 'unwanted', wanter: 'w2' })).toEqual([{ kind: 'abandon', key: 'x' }])
    expect(manager.size).toBe(0)
  })

  test('goes on with the missing chunks after a cut, at the same node after a rest that doubles', () => {
    const { handle, want, ended } = pulls()
    want('w', 'x')
    handle({ kind: 'allocated', key: 'x' })
    for (const [attempt, afterMs] of [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].entries()) {
      expect(ended('x', attempt + 1, { kind: 'cut', reason: 'reset' })).toEqual([{ kind: 'startTimer', timer: attempt + 1, afterMs }])
      expect(handle({ kind: 'timerRang', timer: attempt + 1 })).toEqual([{ kind: 'fetch', key: 'x', node: 'a', attempt: attempt + 2 }])
    }
  })

  test('asks the nodes that a busy source names, and comes back to it', () => {
    const { handle, want, ended } = pulls()
    want('w', 'x')
    handle({ kind: 'allocated', key: 'x' })
    expect(ended('x', 1, { kind: 'busy', nodes: ['self', 'b', 'c'] })).toEqual([
      { kind: 'startTimer', timer: 1, afterMs: 10 },
      { kind: 'fetch', key: 'x', node: 'b', attempt: 2 },
    ])
    expect(ended('x', 2, { kind: 'busy', nodes: [] })).toEqual([
      { kind: 'startTimer', timer: 2, afterMs: 10 },
      { kind: 'fetch', key: 'x', node: 'c', attempt: 3 },
    ])
    expect(ended('x', 3, { kind: 'gone', reason: 'evicted' })).toEqual([])
    expect(handle({ kind: 'timerRang', timer: 1 })).toEqual([{ kind: 'fetch', key: 'x', node: 'a', attempt: 4 }])
    expect(ended('x', 4, { kind: 'busy', nodes: ['c'] })).toEqual([
      { kind: 'startTimer', timer: 3, afterMs: 20 },
      { kind: 'fetch', key: 'x', node: 'c', attempt: 5 },
    ])
  })

  test('fails with the story of all sources once each of them has nothing or is dead', () => {
    const { manager, handle, want, ended } = pulls()
    want('w1', 'x')
    handle({ kind: 'allocated', key: 'x' })
    ended('x', 1, { kind: 'busy', nodes: ['b'] })
    expect(ended('x', 2, { kind: 'gone', reason: 'it does not have it' })).toEqual([])
    const reason = 'no copy is left; node a: its lease ended; node b: it does not have it'
    expect(handle({ kind: 'nodeLost', node: 'a', reason: 'its lease ended' })).toEqual([
      { kind: 'abandon', key: 'x' },
      { kind: 'fail', key: 'x', wanters: ['w1'], failure: { code: 'OBJECT_LOST', details: { object: 'x', reason } } },
    ])
    expect(manager.size).toBe(0)
  })

  test('stops at the death of its source and goes on with another one', () => {
    const { handle, want, ended } = pulls()
    want('w', 'x')
    handle({ kind: 'allocated', key: 'x' })
    ended('x', 1, { kind: 'busy', nodes: ['b'] })
    handle({ kind: 'timerRang', timer: 1 })
    expect(handle({ kind: 'nodeLost', node: 'b', reason: 'dead' })).toEqual([
      { kind: 'stop', key: 'x' },
      { kind: 'fetch', key: 'x', node: 'a', attempt: 3 },
    ])
  })

  test('of a dead node fails at once', () => {
    const { handle, want } = pulls()
    handle({ kind: 'nodeLost', node: 'a', reason: 'dead' })
    const failure = { code: 'OBJECT_LOST', details: { object: 'x', reason: 'no copy is left; node a: dead' } }
    expect(want('w', 'x')).toEqual([{ kind: 'fail', key: 'x', wanters: ['w'], failure }])
  })

  test('of an object that has come to be here needs no memory', () => {
    const { manager, handle, want } = pulls()
    want('w1', 'x')
    want('w2', 'x')
    expect(handle({ kind: 'here', key: 'x' })).toEqual([{ kind: 'pin', key: 'x', wanters: ['w1', 'w2'] }])
    expect(manager.size).toBe(0)
    expect(handle({ kind: 'here', key: 'x' })).toEqual([])
  })

  test('ignores the end of a fetch that is not the running one', () => {
    const { handle, want, ended } = pulls()
    want('w', 'x')
    handle({ kind: 'allocated', key: 'x' })
    expect(ended('x', 0, { kind: 'whole' })).toEqual([])
    expect(ended('y', 1, { kind: 'whole' })).toEqual([])
  })

  test('that the store refuses fails for a reader, and is tried three times for an argument', () => {
    const { handle, want } = pulls()
    const failure = { code: 'STORE_FULL', details: full } as const
    want('w', 'x')
    expect(handle({ kind: 'refused', key: 'x', failure, forGood: false })).toEqual([{ kind: 'fail', key: 'x', wanters: ['w'], failure }])
    want('w', 'y', 'argument')
    expect(handle({ kind: 'refused', key: 'y', failure, forGood: false })).toEqual([{ kind: 'startTimer', timer: 1, afterMs: 1_000 }])
    expect(started(handle({ kind: 'timerRang', timer: 1 }))).toEqual(['y'])
    handle({ kind: 'refused', key: 'y', failure, forGood: false })
    handle({ kind: 'timerRang', timer: 2 })
    expect(handle({ kind: 'refused', key: 'y', failure, forGood: false })).toEqual([{ kind: 'fail', key: 'y', wanters: ['w'], failure }])
    want('w', 'z', 'argument')
    expect(handle({ kind: 'refused', key: 'z', failure, forGood: true })).toEqual([{ kind: 'fail', key: 'z', wanters: ['w'], failure }])
  })
})

describe('admission', () => {
  test('takes the longest prefix of a class that fits, and the next ones as memory becomes free', () => {
    const { handle, want, ended, room } = pulls(3 * MiB)
    expect(started(want('1', 'a', 'argument', 2 * MiB))).toEqual(['a'])
    room(1 * MiB)
    expect(started(want('2', 'b', 'argument', 2 * MiB))).toEqual([])
    expect(started(want('3', 'c', 'argument', 1 * MiB)), 'c does not overtake b').toEqual([])
    room(2 * MiB)
    expect(started(handle({ kind: 'roomChanged' }))).toEqual(['b'])
    room(0)
    handle({ kind: 'allocated', key: 'a' })
    expect(started(ended('a', 1, { kind: 'whole' }))).toEqual([])
    room(1 * MiB)
    expect(started(handle({ kind: 'roomChanged' }))).toEqual(['c'])
  })

  test('takes blocked readers first, then waiters, then arguments', () => {
    const { handle, want, room } = pulls(0)
    want('0', 'get 1', 'get', MiB)
    expect(started(want('1', 'argument', 'argument', MiB))).toEqual([])
    expect(started(want('2', 'wait', 'wait', MiB))).toEqual([])
    expect(started(want('3', 'get 2', 'get', MiB))).toEqual([])
    for (const next of ['get 2', 'wait', 'argument']) {
      room(MiB)
      expect(started(handle({ kind: 'roomChanged' }))).toEqual([next])
      room(0)
    }
  })

  test('the first pull of all is always on its way, also without room', () => {
    const { want, room, handle } = pulls(0)
    expect(want('1', 'a', 'argument', 5 * MiB)).toEqual([{ kind: 'allocate', key: 'a', bytes: 5 * MiB, urgent: true }])
    expect(want('2', 'b', 'argument', MiB)).toEqual([])
    room(MiB)
    expect(handle({ kind: 'roomChanged' })).toEqual([{ kind: 'allocate', key: 'b', bytes: MiB, urgent: false }])
  })

  test('a reader gets the memory of an argument', () => {
    const { handle, want, room } = pulls(2 * MiB)
    want('1', 'argument', 'argument', 2 * MiB)
    handle({ kind: 'allocated', key: 'argument' })
    room(0)
    expect(want('2', 'get', 'get', MiB)).toEqual([
      { kind: 'allocate', key: 'get', bytes: MiB, urgent: true },
      { kind: 'abandon', key: 'argument' },
    ])
  })

  test('what is on its way stays when a better pull would not fit even without it', () => {
    const { handle, want, room } = pulls(3 * MiB)
    want('1', 'get 1', 'get', MiB)
    want('2', 'argument', 'argument', MiB)
    handle({ kind: 'allocated', key: 'argument' })
    room(MiB)
    expect(want('3', 'get 2', 'get', 50 * MiB)).toEqual([])
  })

  test('a pull moves up with a better wanter, and down when that one goes', () => {
    const { handle, want, room } = pulls(MiB)
    want('1', 'a', 'argument', MiB)
    room(0)
    want('2', 'b', 'argument', MiB)
    expect(want('3', 'b', 'get', MiB)).toEqual([
      { kind: 'allocate', key: 'b', bytes: MiB, urgent: true },
      { kind: 'abandon', key: 'a' },
    ])
    room(0)
    expect(handle({ kind: 'unwanted', wanter: '3' })).toEqual([
      { kind: 'allocate', key: 'a', bytes: MiB, urgent: true },
      { kind: 'abandon', key: 'b' },
    ])
  })

  test('takes at most 256 at a time, and a reader before the last of them', () => {
    const { want } = pulls()
    const all = Array.from({ length: 300 }, (_, index) => started(want(`w${index}`, `a${index}`, 'argument', 1)))
    expect(all.flat()).toHaveLength(256)
    expect(want('w', 'get', 'get', 1)).toEqual([
      { kind: 'allocate', key: 'get', bytes: 1, urgent: true },
      { kind: 'abandon', key: 'a255' },
    ])
  })

  test('opens few streams to a node at a time, some of them for readers only', () => {
    const { handle, want, ended } = pulls()
    const fetches: string[] = []
    const note = (instructions: readonly PullInstruction[]): void => {
      for (const instruction of instructions) if (instruction.kind === 'fetch') fetches.push(instruction.key)
    }
    for (let i = 0; i < 6; i++) {
      want(`w${i}`, `a${i}`, 'argument')
      note(handle({ kind: 'allocated', key: `a${i}` }))
    }
    expect(fetches).toEqual(['a0', 'a1', 'a2', 'a3'])
    for (let i = 0; i < 3; i++) {
      want(`g${i}`, `g${i}`, 'get')
      note(handle({ kind: 'allocated', key: `g${i}` }))
    }
    expect(fetches.slice(4)).toEqual(['g0', 'g1'])
    note(ended('a0', 1, { kind: 'whole' }))
    expect(fetches.slice(6), 'the reader first').toEqual(['g2'])
  })
})

test('whatever happens, pulls end for everybody who wants them, and memory stays within the room', () => {
  const nodes = ['a', 'b', 'c']
  const step = fc.oneof(
    fc.record({ do: fc.constant('want' as const), object: fc.nat(8), use: fc.constantFrom<Use>('get', 'wait', 'argument'), node: fc.constantFrom(...nodes) }),
    fc.record({ do: fc.constant('unwant' as const), pick: fc.nat(100) }),
    fc.record({ do: fc.constant('allocated' as const), pick: fc.nat(100), refuse: fc.nat(5) }),
    fc.record({
      do: fc.constant('ended' as const),
      pick: fc.nat(100),
      outcome: fc.constantFrom('whole', 'cut', 'gone', 'busy'),
      node: fc.constantFrom(...nodes),
    }),
    fc.record({ do: fc.constant('lost' as const), pick: fc.nat(60) }),
    fc.record({ do: fc.constant('ring' as const), pick: fc.nat(100) }),
    fc.record({ do: fc.constant('other memory' as const), bytes: fc.nat(10) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 0, max: 20 }), (steps, capacity) => {
      const manager = new PullManager('self')
      const size = (key: string): number => 1 + (Number(key) % 7)
      const memory = new Map<string, 'asked' | 'given'>()
      const fetching = new Map<string, number>()
      const timers: number[] = []
      const open = new Map<string, string>()
      let others = 0
      let nextWanter = 0
      const held = (): number => [...memory.keys()].reduce((sum, key) => sum + size(key), 0)
      const room = (): number => Math.max(0, capacity - held() - others)
      const run = (event: PullEvent): void => {
        const before = room()
        let asked = 0
        let abandoned = 0
        for (const instruction of manager.handle(event, before)) {
          switch (instruction.kind) {
            case 'allocate':
              expect(memory.has(instruction.key), 'one memory per object').toBe(false)
              memory.set(instruction.key, 'asked')
              if (!instruction.urgent) asked += size(instruction.key)
              break
            case 'fetch':
              expect(memory.get(instruction.key)).toBe('given')
              expect(fetching.has(instruction.key), 'one fetch per object').toBe(false)
              fetching.set(instruction.key, instruction.attempt)
              break
            case 'stop':
              expect(fetching.delete(instruction.key)).toBe(true)
              break
            case 'abandon':
              abandoned += size(instruction.key)
              expect(memory.delete(instruction.key)).toBe(true)
              fetching.delete(instruction.key)
              break
            case 'seal':
              expect(memory.delete(instruction.key)).toBe(true)
              for (const wanter of instruction.wanters) expect(open.delete(wanter), 'answered once').toBe(true)
              break
            case 'pin':
              for (const wanter of instruction.wanters) expect(open.delete(wanter), 'answered once').toBe(true)
              break
            case 'fail':
              expect(memory.has(instruction.key)).toBe(false)
              for (const wanter of instruction.wanters) expect(open.delete(wanter), 'answered once').toBe(true)
              break
            case 'startTimer':
              timers.push(instruction.timer)
              break
          }
        }
        manager.checkInvariants()
        expect(asked, 'what is not urgent fits').toBeLessThanOrEqual(before + abandoned)
      }
      const pick = <T>(items: Iterable<T>, at: number): T | undefined => {
        const all = [...items]
        return all[at % Math.max(1, all.length)]
      }
      const end = (key: string | undefined, outcome: FetchOutcome): void => {
        const attempt = key === undefined ? undefined : fetching.get(key)
        if (key === undefined || attempt === undefined) return
        fetching.delete(key)
        run({ kind: 'ended', key, attempt, outcome })
      }
      const give = (key: string | undefined): void => {
        if (key === undefined) return
        memory.set(key, 'given')
        run({ kind: 'allocated', key })
      }
      const asked = (): string[] => [...memory].filter(([, state]) => state === 'asked').map(([key]) => key)
      for (const action of steps) {
        switch (action.do) {
          case 'want': {
            const wanter = `w${nextWanter++}`
            const key = String(action.object)
            open.set(wanter, key)
            run({ kind: 'wanted', wanter, key, bytes: size(key), use: action.use, node: action.node })
            break
          }
          case 'unwant': {
            const wanter = pick(open.keys(), action.pick)
            if (wanter === undefined) break
            open.delete(wanter)
            run({ kind: 'unwanted', wanter })
            break
          }
          case 'allocated': {
            const key = pick(asked(), action.pick)
            if (key === undefined || action.refuse > 1) give(key)
            else if (action.refuse === 1) {
              memory.delete(key)
              run({ kind: 'here', key })
            } else {
              memory.delete(key)
              run({ kind: 'refused', key, failure: { code: 'STORE_FULL', details: full }, forGood: false })
            }
            break
          }
          case 'ended': {
            const { outcome: kind, node } = action
            const outcome: FetchOutcome =
              kind === 'busy' ? { kind, nodes: [node] } : kind === 'whole' ? { kind } : { kind: kind as 'cut' | 'gone', reason: 'because' }
            end(pick(fetching.keys(), action.pick), outcome)
            break
          }
          case 'lost': {
            const node = nodes[action.pick]
            if (node !== undefined) run({ kind: 'nodeLost', node, reason: 'dead' })
            break
          }
          case 'ring': {
            const at = action.pick % Math.max(1, timers.length)
            const [timer] = timers.splice(at, 1)
            if (timer !== undefined) run({ kind: 'timerRang', timer })
            break
          }
          case 'other memory':
            others = action.bytes
            run({ kind: 'roomChanged' })
            break
        }
      }
      // From here on nothing fails: everybody gets an answer.
      others = 0
      for (let turn = 0; open.size > 0; turn++) {
        expect(turn, `${open.size} wanters are stuck`).toBeLessThan(500)
        run({ kind: 'roomChanged' })
        for (const key of asked()) give(key)
        for (const key of [...fetching.keys()]) end(key, { kind: 'whole' })
        for (const timer of timers.splice(0)) run({ kind: 'timerRang', timer })
      }
      expect(manager.size).toBe(0)
      expect(memory.size).toBe(0)
    }),
    { numRuns: 500 },
  )
})
