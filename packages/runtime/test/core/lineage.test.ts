/**
 * One process with calls, put objects and references of them to each other; machines with their stores die at any moment. What somebody holds comes
 * back with its value; what only a lost put() could give fails and says so; nothing is kept when nobody holds anything any more.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Lineage, Unrepeatable } from '../../src/core/lineage.ts'
import type { ObjectEntry, Stored } from '../../src/core/object-entry.ts'
import { References } from '../../src/core/references.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import { Submitter } from '../../src/core/submitter.ts'
import type { CallTemplate } from '../../src/core/task-record.ts'
import { Values } from '../../src/core/values.ts'
import type { ProcessMessage } from '../../src/net/gen/node.ts'
import type { PeerMessage, Place, Push, Value } from '../../src/net/gen/peer.ts'

const EMPTY = new Uint8Array(0)
const PUT = 'put() stored it'

class Handle {
  readonly entry: ObjectEntry

  constructor(entry: ObjectEntry) {
    this.entry = entry
  }
}

const key = ({ node, segment, offset }: Place): string => `${node}/${segment}/${offset}`
const settle = async (): Promise<void> => {
  for (let i = 0; i < 4; i++) await Promise.resolve()
}

/** The parts of a process that are under test, and stand-ins for the rest. */
class World {
  readonly process = 'me'
  readonly address = 'unix:/me'
  readonly references: References
  readonly lineage: Lineage
  readonly submitter: Submitter
  readonly values: Values
  readonly kinds = { entryOf: (value: object) => (value instanceof Handle ? value.entry : undefined), handleOf: () => undefined }
  readonly keepAlive = { add: () => this.alive++, done: () => this.alive-- }
  alive = 0
  readonly store = { own: (place: Place) => this.owned.add(key(place)) }
  readonly actors = { ready: () => undefined, inFlight: () => undefined, done: () => undefined }
  /** Bytes that are somewhere, by place: the number of the object that they are of. */
  readonly memory = new Map<string, number>()
  readonly owned = new Set<string>()
  nodes = ['n0', 'n1', 'n2']
  readonly dead = new Map<string, string>()
  /** Calls that a worker has. */
  inbox: Push[] = []
  searches: { entry: ObjectEntry; place: Place }[] = []
  handles: ObjectEntry[] = []
  readonly runs = new Map<number, number>()
  #place = 0
  #node = 2
  #lease = 0

  constructor(bytesMax = 1_000_000) {
    this.references = new References({
      process: this.process,
      address: this.address,
      send: () => undefined,
      discard: (entry, stored) => this.discard(entry, stored),
      toWire: (stored) => this.values.toWire(stored),
      fromWire: (value) => this.values.fromWire(value),
      staysNeeded: (entry) => this.lineage.dropped(entry),
      wanted: (entry) => this.lineage.want(entry),
      bytesLost: (entry, place) => this.lineage.lost(entry, place),
    })
    this.values = new Values(this.references, undefined as never, this.kinds as never, () => Promise.resolve())
    this.lineage = new Lineage(
      {
        findCopy: (entry, place) => void this.searches.push({ entry, place }),
        own: (place) => void this.owned.add(key(place)),
        rerun: (record) => this.submitter.rerun(record),
        discard: (entry, stored) => this.discard(entry, stored),
        borrowAgain: (entry) => entry,
        whyDead: (node) => this.dead.get(node),
        name: (entry) => this.references.name(entry),
      },
      bytesMax,
    )
    this.submitter = new Submitter(this as unknown as Runtime)
  }

  sendToNode({ body }: ProcessMessage): void {
    if (body?.$case !== 'leaseDemand') return
    const { key: queue, wanted } = body.value
    for (let i = 0; i < wanted; i++) queueMicrotask(() => this.submitter.granted(queue, ++this.#lease, `worker`, 'unix:/worker'))
  }

  readonly peer = {
    process: 'worker',
    templateId: () => 1,
    link: {
      send: ({ body }: PeerMessage): void => {
        if (body?.$case === 'push') this.inbox.push(body.value)
      },
    },
  }

  readonly peers = { get: () => this.peer }

  discard(_entry: ObjectEntry, stored: Stored): void {
    if (stored.kind !== 'bytes' && stored.kind !== 'place') return
    for (const ref of stored.extras?.refs ?? []) ref.unhold()
    if (stored.kind !== 'place') return
    this.memory.delete(key(stored.place))
    if (!this.owned.delete(key(stored.place))) throw new Error('a place is given back twice, or never was this process’s')
  }

  /** As Runtime.storeOwned, for lists of handles. */
  storeOwned(list: unknown[]): ObjectEntry {
    const refs = list.flat().flatMap((value) => (value instanceof Handle ? [value.entry.hold()] : []))
    const entry = this.references.create().hold()
    entry.settle({ kind: 'bytes', bytes: EMPTY, extras: { refs, functions: [], handles: [] } })
    return entry
  }

  // ---------------------------------------------------------------- what happens

  write(object: number): Place {
    const node = this.nodes[this.#place % this.nodes.length] as string
    const place: Place = { path: '', segment: 's', offset: ++this.#place, bytes: 200_000, node, object: { owner: this.process, address: '', object } }
    this.memory.set(key(place), object)
    return place
  }

  put(): ObjectEntry {
    const entry = this.references.create().hold()
    this.references.toRef(entry)
    const place = this.write(entry.number)
    this.owned.add(key(place))
    entry.settle({ kind: 'place', place, extras: undefined })
    entry.producer = new Unrepeatable('put', PUT)
    this.handles.push(entry)
    return entry
  }

  call(args: readonly ObjectEntry[], inside: readonly ObjectEntry[], options: { returns?: number; maxRetries?: number } = {}): ObjectEntry[] {
    const template = templateOf(options)
    const queue = this.submitter.queueFor({ placementGroup: '' } as never, false, 'f')
    const list: unknown[] = args.map((entry) => new Handle(entry))
    if (inside.length > 0) list.push(inside.map((entry) => new Handle(entry)))
    const { outputs } = this.submitter.submit(template, list, queue)
    for (const output of outputs) this.handles.push(output.hold())
    return [...outputs]
  }

  drop(n: number): void {
    const [entry] = this.handles.splice(n % Math.max(1, this.handles.length), 1)
    entry?.unhold()
  }

  die(n: number): void {
    const [node] = this.nodes.splice(n % this.nodes.length, 1)
    this.dead.set(node as string, `${node} burnt`)
    this.nodes.push(`n${++this.#node}`)
    for (const place of [...this.memory.keys()]) if (place.startsWith(`${node}/`)) this.memory.delete(place)
  }

  answerSearch(found: boolean): void {
    const search = this.searches.shift()
    if (!search) return
    const { object } = search.place
    this.lineage.copyFound(search.entry, found && object ? this.write(object.object) : undefined)
  }

  /** True when the bytes of an argument are there; else what a worker does then. */
  #reads(value: Value | undefined): boolean {
    const number = value?.place?.object?.object
    if (value?.place === undefined || number === undefined) return true
    const entry = this.references.find(number)
    if (!entry) throw new Error(`argument ${number} is gone while a worker has the call`)
    const { stored } = entry
    if (!stored) this.references.want(entry)
    if (stored?.kind !== 'place') return stored?.kind === 'error'
    const there = this.memory.get(key(stored.place))
    if (there !== undefined && there !== number) throw new Error(`the place of ${number} holds ${there}`)
    if (there === undefined) this.references.lost(entry, stored.place)
    return there !== undefined
  }

  /** A worker comes to a call: it reads its arguments and those inside them, and answers. */
  run(n: number, returnInside: boolean): void {
    const push = this.inbox[n % Math.max(1, this.inbox.length)]
    if (!push) return
    const values = [...push.resolved.map(({ value }) => value)]
    const inside = (push.storedArgs?.refs ?? []).map(({ object }) => this.references.find(object) as ObjectEntry)
    if (inside.some((entry) => entry === undefined)) throw new Error('a reference inside arguments is gone while a worker has the call')
    for (const entry of inside) {
      if (entry.stored?.kind === 'place') values.push({ place: entry.stored.place } as Value)
      else if (!entry.stored) {
        this.references.want(entry)
        return this.#blocked(push)
      }
    }
    if (!values.every((value) => this.#reads(value))) return this.#blocked(push)
    this.inbox.splice(this.inbox.indexOf(push), 1)
    this.runs.set(push.task, (this.runs.get(push.task) ?? 0) + 1)
    const failed = [...push.resolved.flatMap(({ value }) => (value?.place?.object ? [this.references.find(value.place.object.object)] : [])), ...inside].some(
      (entry) => entry?.stored?.kind === 'error',
    )
    const refs = returnInside ? inside.map((entry) => this.references.toRef(entry)) : []
    const result = (number: number): Value => ({ inline: EMPTY, place: this.write(number), error: EMPTY, refs, functions: [], handles: [] })
    const results = failed ? [] : Array.from({ length: this.#returnsOf(push.task) }, (_, i) => result(push.task + i))
    this.submitter.done(this.peer as never, { task: push.task, value: EMPTY, values: results, execMs: 1, retry: false, cancelled: failed, items: 0 })
  }

  /** As a worker does whose running call waits: what is behind it goes back. */
  #blocked({ lease, task }: Push): void {
    const behind = this.inbox.filter((push) => push.lease === lease && push.task !== task).map((push) => push.task)
    this.inbox = this.inbox.filter((push) => !behind.includes(push.task))
    this.submitter.takenBack({ lease, tasks: behind, blocked: true, retiring: false })
  }

  #returnsOf(task: number): number {
    for (const record of this.submitter.pending()) if (record.number === task) return record.template.returns
    return 1
  }

  /** All that can happen happens; nothing dies any more. */
  async quiet(): Promise<void> {
    for (let round = 0; round < 20_000; round++) {
      await settle()
      for (const entry of this.handles) this.read(entry)
      if (this.searches.length > 0) this.answerSearch(false)
      else if (this.inbox.length > 0) this.run(round, false)
      else {
        await settle()
        if (this.searches.length + this.inbox.length === 0 && this.handles.every((entry) => entry.stored)) return
      }
    }
    throw new Error('does not come to rest')
  }

  /** What get() does. */
  read(entry: ObjectEntry): void {
    if (!entry.stored) this.references.want(entry)
    else if (entry.stored.kind === 'place' && !this.memory.has(key(entry.stored.place))) this.references.lost(entry, entry.stored.place)
  }
}

function templateOf({ returns = 1, maxRetries = -1 }: { returns?: number; maxRetries?: number }): CallTemplate {
  return {
    name: 'f',
    hash: 'h',
    function: undefined,
    returns,
    streaming: false,
    itemsMax: 16,
    actor: '',
    method: '',
    concurrencyGroup: '',
    retryOn: undefined,
    maxCalls: 0,
    maxRetries,
    timeoutMs: undefined,
  }
}

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
        const world = new World(5_000)
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

  test('a chain of ten thousand calls comes back, and goes', async () => {
    const world = new World(100_000_000)
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
    const world = new World(3_000)
    const results: ObjectEntry[] = []
    for (let i = 0; i < 4; i++) results.push(await ready(world, world.call([], [])))
    for (const node of [...world.nodes]) world.die(world.nodes.indexOf(node))
    await world.quiet()
    expect(results.map(({ stored }) => stored?.kind)).toEqual(['error', 'error', 'place', 'place'])
    expect(results[0]?.stored).toMatchObject({ error: { details: { reason: expect.stringContaining('its lineage was evicted') as string } } })
    await expectNothingKept(world)
  })
})
