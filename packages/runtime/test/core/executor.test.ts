/** Results at their worker that never reach an owner: their memory must not stay in use. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Executor } from '../../src/core/executor.ts'
import type { Peer } from '../../src/core/peers.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import type { PeerMessage, Place, Push, Ref } from '../../src/net/gen/peer.ts'

const placeOf = (object: Ref): Place => ({ path: '', segment: 's', offset: object.object, bytes: 1, node: 'n', object })

interface Task {
  readonly returns: number
  readonly streaming?: boolean
  readonly run: (owner: { ended: boolean }) => unknown
}

/** Runs a task whose large results are strings: "no room" finds none. Gives what came of it. */
async function outcome({ returns, streaming = false, run }: Task): Promise<{ done: unknown[]; items: number; abandoned: number[] }> {
  const sent: PeerMessage[] = []
  const abandoned: number[] = []
  const store = async (value: unknown, object: () => Ref): Promise<unknown> => {
    await nextTurn()
    if (value === 'no room') throw new Error('full')
    return { kind: 'place', place: placeOf(object()), extras: undefined }
  }
  const runtime = {
    process: 'worker',
    sendToNode: (): void => undefined,
    values: { store: (value: unknown, _: string, object: () => Ref) => store(value, object), toWire: ({ place }: { place: Place }) => ({ place }) },
    store: { abandon: ({ offset }: Place) => void abandoned.push(offset) },
    references: { whenBorrowed: (_: string, action: () => void) => action() },
  } as unknown as Runtime
  const executor = new Executor(runtime)
  const peer = { process: 'owner', address: 'unix:/o', ended: false, nextNumber: () => 1, send: (message: PeerMessage) => void sent.push(message) }
  const template = { name: 'task', actor: '', returns, streaming, itemsMax: 4, maxCalls: 0, group: '' }
  const executable = { template, function: () => run(peer), calls: 0, retries: async (): Promise<boolean> => false }
  const received = new Map([[1, executable]])
  const push: Push = { template: 1, task: 10, lease: 1, args: new Uint8Array(0), storedArgs: undefined, resolved: [], attempt: 0, number: 1 }
  executor.push(
    {
      ...peer,
      received,
      get ended() {
        return peer.ended
      },
    } as unknown as Peer,
    push,
  )
  for (let turn = 0; turn < 10; turn++) await nextTurn()
  executor.events.flush()
  const done = sent.flatMap(({ body }) => (body?.$case === 'done' ? [body.value.values.map(({ place, error }) => place?.offset ?? error.length > 0)] : []))
  return { done, items: sent.filter(({ body }) => body?.$case === 'item').length, abandoned }
}

test('results that reach their owner keep their memory', async () => {
  expect(await outcome({ returns: 2, run: () => ['a', 'b'] })).toEqual({ done: [[10, 11]], items: 0, abandoned: [] })
})

test('when one of several results finds no room, the memory of the others is free again', async () => {
  expect(await outcome({ returns: 3, run: () => ['a', 'no room', 'c'] })).toEqual({ done: [[true]], items: 0, abandoned: [10, 12] })
})

test('the results of a task whose owner died while it ran give their memory back', async () => {
  const run = (owner: { ended: boolean }): unknown => {
    owner.ended = true
    return 'a'
  }
  expect((await outcome({ returns: 1, run })).abandoned).toEqual([10])
})

test('a stream ends with the first item after the death of its owner, which gives its memory back', async () => {
  const run = function* (owner: { ended: boolean }): Generator<string> {
    yield 'a'
    owner.ended = true
    for (;;) yield 'b'
  }
  const { items, abandoned } = await outcome({ returns: 1, streaming: true, run: (owner) => run(owner) })
  expect([items, abandoned.filter((offset) => offset > 10)]).toEqual([1, [12]])
})
