/** Waits for entries that become ready, and that may be lost again meanwhile. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { get } from '../../src/api/calls.ts'
import { ObjectRef } from '../../src/api/object-ref.ts'
import { setCurrent } from '../../src/core/current.ts'
import { KeepAlive } from '../../src/core/keep-alive.ts'
import { ObjectEntry, type Stored } from '../../src/core/object-entry.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import { EntryWaiter } from '../../src/core/waiting.ts'
import { BeamlineError } from '../../src/errors.ts'

const home = { dropped: (): void => undefined }
const value = (value: unknown): Stored => ({ kind: 'primitive', value })

afterEach(() => setCurrent(undefined))

/** `want`: what asking for an entry does. */
function start(want: (entry: ObjectEntry) => void = () => undefined): void {
  const load = (stored: Stored): unknown => {
    if (stored.kind !== 'primitive') throw new Error(`loaded ${stored.kind}`)
    return stored.value
  }
  setCurrent({ references: { want }, values: { load }, keepAlive: new KeepAlive() } as unknown as Runtime)
}

test('an object that was ready and is lost while others are waited for is waited for again', async () => {
  start()
  const [a, b] = [new ObjectEntry(1, home), new ObjectEntry(2, home)]
  a.settle(value('a'))
  const got = get([new ObjectRef(a), new ObjectRef(b)])
  a.unsettle(undefined)
  b.settle(value('b'))
  await nextTurn()
  a.settle(value('a again'))
  expect(await got).toEqual(['a again', 'b'])
})

test('an object that fails when it is asked for ends the wait', async () => {
  const error = new BeamlineError('OBJECT_LOST', { object: 'p:1', reason: 'for the test' })
  start((entry) => void entry.settle({ kind: 'error', error }))
  await expect(get(new ObjectRef(new ObjectEntry(1, home)))).rejects.toThrow('for the test')
})

test('a wait that is over before it begins ends at once', async () => {
  const entry = new ObjectEntry(1, home)
  const waiter = new EntryWaiter(1, false)
  waiter.watch(entry)
  entry.settle(value(1))
  expect(await waiter.end(undefined, undefined)).toBe('ready')
})
