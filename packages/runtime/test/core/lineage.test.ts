/**
 * One process with calls, put objects and references of them to each other; machines with their stores die at any moment. What somebody holds comes
 * back with its value; what only a lost put() could give fails and says so; nothing is kept when nobody holds anything any more.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ObjectEntry, Stored } from '../../src/core/object-entry.ts'
import type { Place, Push } from '../../src/net/gen/peer.ts'
import { key, PUT, settle, World } from './world.ts'

type Op =
  | { readonly do: 'put' | 'turn' }
  | { readonly do: 'call'; readonly args: readonly number[]; readonly inside: readonly number[]; readonly returns: number }
  | { readonly do: 'run'; readonly n: number; readonly inside: boolean }
  | { readonly do: 'search'; readonly found: boolean }
  | { readonly do: 'drop' | 'die' | 'read'; readonly n: number }

const n = fc.nat({ max: 9 })
const picks = fc.array(n, { maxLength: 3 })
const op = <K extends Op['do']>(name: K): fc.Arbitrary<K> => fc.constant(name)
const ops = (puts: boolean): fc.Arbitrary<Op[]> =>
  fc.array(
    fc.oneof(
      { weight: puts ? 2 : 0, arbitrary: fc.record({ do: op('put') }) },
      { weight: 6, arbitrary: fc.record({ do: op('call'), args: picks, inside: picks, returns: fc.integer({ min: 1, max: 3 }) }) },
      { weight: 9, arbitrary: fc.record({ do: op('run'), n, inside: fc.boolean() }) },
      { weight: 5, arbitrary: fc.record({ do: op('drop'), n }) },
      { weight: 3, arbitrary: fc.record({ do: op('die'), n }) },
      { weight: 3, arbitrary: fc.record({ do: op('search'), found: fc.boolean() }) },
      { weight: 3, arbitrary: fc.record({ do: op('read'), n }) },
      { weight: 4, arbitrary: fc.record({ do: op('turn') }) },
    ),
    { maxLength: 80, size: 'max' },
  )

async function step(world: World, each: Op): Promise<void> {
  const pick = (numbers: readonly number[]): ObjectEntry[] =>
    world.handles.length === 0 ? [] : [...new Set(numbers.map((at) => world.handles[at % world.handles.length] as ObjectEntry))]
  switch (each.do) {
    case 'put':
      return void world.put()
    case 'call':
      return void world.call(pick(each.args), pick(each.inside), { returns: each.returns })
    case 'run':
      return world.run(each.n, each.inside)
    case 'drop':
      return world.drop(each.n)
    case 'die':
      return world.die(each.n)
    case 'search':
      return world.answerSearch(each.found)
    case 'read':
      for (const entry of pick([each.n])) world.read(entry)
      return
    case 'turn':
      return await settle()
  }
}

async function play(world: World, steps: readonly Op[]): Promise<void> {
  for (const each of steps) await step(world, each)
  await world.quiet()
}

async function expectNothingKept(world: World): Promise<void> {
  while (world.handles.length > 0) world.drop(0)
  await world.quiet()
  expect({ ...world.lineage.usage, owned: world.references.owned, memory: world.memory.size, places: world.owned.size, alive: world.alive }).toEqual({
    calls: 0,
    bytes: 0,
    needed: 0,
    owned: 0,
    memory: 0,
    places: 0,
    alive: 0,
  })
}

describe('whatever dies', () => {
  test('all results that somebody holds come back, and nothing is kept when nobody holds any', async () => {
    await fc.assert(
      fc.asyncProperty(ops(false), async (steps) => {
        const world = new World()
        await play(world, steps)
        for (const { number, stored } of world.handles) {
          expect(stored).toMatchObject({ kind: 'place' })
          expect(world.memory.get(key((stored as Extract<Stored, { kind: 'place' }>).place))).toBe(number)
        }
        await expectNothingKept(world)
      }),
      { numRuns: 600 },
    )
  })

  test('what fails does so because of an object that was put, and nothing is kept', async () => {
    await fc.assert(
      fc.asyncProperty(ops(true), async (steps) => {
        const world = new World()
        await play(world, steps)
        for (const { stored } of world.handles) {
          if (stored?.kind !== 'error') expect(stored).toMatchObject({ kind: 'place' })
          else if (!(stored.error.message.includes(PUT) || stored.error.message.includes('was cancelled'))) throw stored.error
        }
        await expectNothingKept(world)
      }),
      { numRuns: 600 },
    )
  })

  test('with room for a few calls only, too', async () => {
    await fc.assert(
      fc.asyncProperty(ops(true), async (steps) => {
        const world = new World({ bytesMax: 5_000 })
        await play(world, steps)
        expect(world.lineage.usage.bytes).toBeLessThanOrEqual(5_000)
        await expectNothingKept(world)
      }),
      { numRuns: 300 },
    )
  })
})

describe('lineage', () => {
  const ready = async (world: World, [entry]: ObjectEntry[]): Promise<ObjectEntry> => {
    await world.quiet()
    return entry as ObjectEntry
  }
  const placeOf = (entry: ObjectEntry): Place => (entry.stored as Extract<Stored, { kind: 'place' }>).place
  const dieAt = (world: World, entry: ObjectEntry): void => world.die(world.nodes.indexOf(placeOf(entry).node))

  test('frees the bytes of arguments that only it needs, and makes them again', async () => {
    const world = new World()
    const a = await ready(world, world.call([], []))
    const b = await ready(world, world.call([a], []))
    world.drop(0)
    expect(a.stored).toBeUndefined()
    expect(world.memory.size).toBe(1)
    dieAt(world, b)
    await world.quiet()
    expect(world.memory.get(key(placeOf(b)))).toBe(b.number)
    expect([world.runs.get(a.number), world.runs.get(b.number)]).toEqual([2, 2])
    expect(a.stored).toBeUndefined()
    await expectNothingKept(world)
  })

  test('uses another copy where there is one', async () => {
    const world = new World()
    const a = await ready(world, world.call([], []))
    dieAt(world, a)
    world.read(a)
    expect(a.stored).toBeUndefined()
    world.answerSearch(true)
    expect(world.memory.get(key(placeOf(a)))).toBe(a.number)
    expect(world.runs.get(a.number)).toBe(1)
    await expectNothingKept(world)
  })

  test('leaves what is found on the node where it was said to be lost, and gives nothing back', async () => {
    const world = new World()
    const [a] = world.call([], []) as [ObjectEntry]
    await world.quiet()
    const place = placeOf(a)
    world.references.lost(a, place)
    const { entry } = world.searches.pop() as (typeof world.searches)[number]
    world.lineage.copyFound(entry, place)
    expect(placeOf(a)).toEqual(place)
    expect(world.memory.get(key(place))).toBe(a.number)
    expect(world.runs.get(a.number)).toBe(1)
    await expectNothingKept(world)
  })

  test('runs a call with several results once for all of them, and leaves those that are not lost', async () => {
    const world = new World()
    const [first, second, third] = world.call([], [], { returns: 3 }) as [ObjectEntry, ObjectEntry, ObjectEntry]
    await world.quiet()
    const kept = placeOf(third)
    dieAt(world, first)
    if (placeOf(second).node in world.dead) throw new Error('results lie on different nodes here')
    world.read(first)
    world.references.lost(second, placeOf(second))
    await world.quiet()
    expect(world.runs.get(first.number)).toBe(2)
    expect(placeOf(third)).toBe(kept)
    await expectNothingKept(world)
  })

  test('makes the items of a stream again that are lost, by their index, and leaves the others', async () => {
    const world = new World()
    const taken = world.stream()
    await settle()
    world.run(0, false)
    await taken
    const [first, second, third] = world.handles as [ObjectEntry, ObjectEntry, ObjectEntry]
    const kept = placeOf(first)
    dieAt(world, second)
    world.drop(2)
    await world.quiet()
    expect(placeOf(first)).toBe(kept)
    expect(world.memory.get(key(placeOf(second)))).toBe(second.number)
    expect(third.isHeld).toBe(false)
    expect([...world.memory.values()].toSorted((a, b) => a - b)).toEqual([first.number, second.number])
    await expectNothingKept(world)
  })

  test('brings back an item of a stream that still runs: its producer waits for nobody any more, and is run again after its end', async () => {
    const world = new World()
    const taken = world.stream()
    await settle()
    const push = world.inbox[0] as Push
    world.yields(push, 0)
    await settle()
    const first = world.handles[0] as ObjectEntry
    dieAt(world, first)
    world.read(first)
    world.answerSearch(false)
    await settle()
    expect(world.hurried).toEqual([push.task])
    await world.quiet()
    await taken
    // Its end, as if the producer had been past the item, and another run.
    expect(world.memory.get(key(placeOf(first)))).toBe(first.number)
    await expectNothingKept(world)
  })

  test('an item of a stream that was lost comes with the next attempt', async () => {
    const world = new World()
    const taken = world.stream()
    await settle()
    world.yields(world.inbox[0] as Push, 0)
    await settle()
    const first = world.handles[0] as ObjectEntry
    dieAt(world, first)
    world.read(first)
    world.answerSearch(false)
    world.inbox = []
    world.submitter.workerLost('worker', undefined)
    while (world.inbox.length === 0) await new Promise((resolve) => setTimeout(resolve, 10))
    const again = world.inbox[0] as Push
    expect(again.attempt).toBe(1)
    world.yields(again, 0)
    expect(world.memory.get(key(placeOf(first)))).toBe(first.number)
    await world.quiet()
    await taken
    expect(world.runs.get(again.task)).toBe(1)
    await expectNothingKept(world)
  })

  test('a chain of ten thousand calls comes back, and goes', async () => {
    const world = new World({ bytesMax: 100_000_000 })
    let last = await ready(world, world.call([], []))
    for (let i = 0; i < 10_000; i++) {
      const [next] = world.call([last], []) as [ObjectEntry]
      await settle()
      world.run(0, false)
      world.drop(0)
      last = next
    }
    expect(world.memory.size).toBe(1)
    expect(world.lineage.usage.calls).toBe(10_001)
    dieAt(world, last)
    world.read(last)
    world.answerSearch(false)
    for (let i = 0; i <= 10_000; i++) {
      await settle()
      world.run(0, false)
    }
    expect(world.memory.get(key(placeOf(last)))).toBe(last.number)
    await expectNothingKept(world)
  })

  test('says who made what is lost, where it lay, why that is gone and how often it was tried', async () => {
    const world = new World()
    const put = world.put()
    const { node } = placeOf(put)
    dieAt(world, put)
    await world.quiet()
    expect(put.stored).toMatchObject({
      kind: 'error',
      error: { code: 'OBJECT_LOST', details: { madeBy: 'put', reason: PUT, node, nodeLost: `${node} burnt` } },
    })
    const result = await ready(world, world.call([], [], { maxRetries: 1 }))
    dieAt(world, result)
    await world.quiet()
    dieAt(world, result)
    await world.quiet()
    expect(result.stored).toMatchObject({
      kind: 'error',
      error: { code: 'OBJECT_LOST', details: { madeBy: 'f', reruns: 1, reason: expect.stringContaining('maxRetries') as string } },
    })
    const once = await ready(world, world.call([], [], { maxRetries: 0 }))
    dieAt(world, once)
    await world.quiet()
    expect(once.stored).toMatchObject({ kind: 'error', error: { details: { reason: expect.stringContaining('may not run twice') as string } } })
    await expectNothingKept(world)
  })

  test('gives up the oldest calls when it keeps too much', async () => {
    const world = new World({ bytesMax: 3_000 })
    const results: ObjectEntry[] = []
    for (let i = 0; i < 4; i++) results.push(await ready(world, world.call([], [])))
    for (const node of [...world.nodes]) world.die(world.nodes.indexOf(node))
    await world.quiet()
    expect(results.map(({ stored }) => stored?.kind)).toEqual(['error', 'error', 'place', 'place'])
    expect(results[0]?.stored).toMatchObject({ error: { details: { reason: expect.stringContaining('its lineage was evicted') as string } } })
    await expectNothingKept(world)
  })
})
