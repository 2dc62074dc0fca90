/**
 * Three processes that hand references to each other as arguments, as results and inside objects, in random interleavings; messages between two
 * processes keep their order. No object is freed while anybody can reach it; all are freed at the end.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { ObjectEntry, Stored } from '../../src/core/object-entry.ts'
import { type ReferencePort, References } from '../../src/core/references.ts'
import type { PeerMessage, Ref, Value } from '../../src/net/gen/peer.ts'

const NAMES = ['a', 'b', 'c'] as const
const EMPTY = new Uint8Array(0)

/** Beside the messages of the protocol: a call with arguments, its answer with results, and the word that the results arrived. */
type Message =
  | { readonly kind: 'protocol'; readonly message: PeerMessage }
  | { readonly kind: 'push'; readonly task: number; readonly refs: Ref[] }
  | { readonly kind: 'done'; readonly task: number; readonly refs: Ref[] }
  | { readonly kind: 'received'; readonly task: number }

interface Task {
  readonly number: number
  readonly from: Process
  readonly held: ObjectEntry[]
}

function must(holds: boolean, what: () => string): void {
  if (!holds) throw new Error(what())
}

class Process implements ReferencePort {
  readonly process: string
  readonly address: string
  readonly references: References
  readonly #world: World
  /** References that user code holds. */
  handles: ObjectEntry[] = []
  /** Calls that run here. */
  tasks: Task[] = []
  /** By task: what is held for a call that was sent, until it is done. */
  readonly sent = new Map<number, ObjectEntry[]>()
  /** By task: what is held for results, until they have arrived. */
  readonly unreceived = new Map<number, ObjectEntry[]>()

  constructor(name: string, world: World) {
    this.process = name
    this.address = `unix:/${name}`
    this.#world = world
    this.references = new References(this)
  }

  send(process: string, _address: string, message: PeerMessage): void {
    this.#world.post(this, process, { kind: 'protocol', message })
  }

  discard(entry: ObjectEntry, stored: Stored): void {
    if (entry.owner === undefined) this.#world.freed.add(this.references.name(entry))
    if (stored.kind === 'bytes') for (const ref of stored.extras?.refs ?? []) ref.unhold()
  }

  staysNeeded(): boolean {
    return false
  }

  wanted(): void {}

  bytesLost(): void {}

  toWire(stored: Stored): Value {
    must(stored.kind !== 'error', () => `${this.process} sends an error instead of an object that somebody holds`)
    const refs = stored.kind === 'bytes' ? (stored.extras?.refs ?? []).map((entry) => this.references.toRef(entry)) : []
    return { inline: EMPTY, place: undefined, error: EMPTY, refs, functions: [], handles: [] }
  }

  fromWire(value: Value): Stored {
    return { kind: 'bytes', bytes: EMPTY, extras: { refs: value.refs.map((ref) => this.references.borrow(ref).hold()), functions: [], handles: [] } }
  }

  // ---------------------------------------------------------------- what user code does

  /** A new object with references to `inside` in it. */
  create(inside: readonly ObjectEntry[]): void {
    const entry = this.references.create().hold()
    for (const each of inside) each.hold()
    entry.settle({ kind: 'bytes', bytes: EMPTY, extras: { refs: inside, functions: [], handles: [] } })
    this.handles.push(entry)
  }

  drop(n: number): void {
    const [entry] = this.handles.splice(n % Math.max(1, this.handles.length), 1)
    entry?.unhold()
  }

  /** Reads an object: what is inside is held too. */
  open(entry: ObjectEntry): void {
    this.references.want(entry)
    if (entry.stored?.kind === 'bytes') for (const ref of entry.stored.extras?.refs ?? []) this.handles.push(ref.hold())
  }

  call(to: Process, entries: readonly ObjectEntry[]): void {
    const task = this.#world.nextTask()
    for (const entry of entries) entry.hold()
    this.sent.set(task, [...entries])
    this.#world.post(this, to.process, { kind: 'push', task, refs: entries.map((entry) => this.references.toRef(entry)) })
  }

  /** A call ends here, keeps some of its arguments and returns some of what this process holds. */
  finish(n: number, keep: boolean, results: readonly ObjectEntry[]): void {
    const [task] = this.tasks.splice(n % Math.max(1, this.tasks.length), 1)
    if (!task) return
    if (keep) for (const entry of task.held) this.handles.push(entry.hold())
    for (const entry of results) entry.hold()
    if (results.length > 0) this.unreceived.set(task.number, [...results])
    for (const entry of task.held) entry.unhold()
    const refs = results.map((entry) => this.references.toRef(entry))
    this.references.whenBorrowed(task.from.process, () => this.#world.post(this, task.from.process, { kind: 'done', task: task.number, refs }))
  }

  receive(from: Process, message: Message): void {
    const { references } = this
    switch (message.kind) {
      case 'push':
        this.tasks.push({ number: message.task, from, held: message.refs.map((ref) => references.borrow(ref).hold()) })
        return
      case 'done': {
        for (const ref of message.refs) this.handles.push(references.borrow(ref).hold())
        for (const entry of this.sent.get(message.task) ?? []) entry.unhold()
        this.sent.delete(message.task)
        if (message.refs.length === 0) return
        references.whenBorrowed(from.process, () => this.#world.post(this, from.process, { kind: 'received', task: message.task }))
        return
      }
      case 'received':
        for (const entry of this.unreceived.get(message.task) ?? []) entry.unhold()
        this.unreceived.delete(message.task)
        return
      case 'protocol':
        return this.#protocol(from, message.message)
    }
  }

  #protocol(from: Process, { body }: PeerMessage): void {
    const { references } = this
    switch (body?.$case) {
      case 'borrowAdd':
        references.borrowAdded(from.process, body.value.objects)
        return this.send(from.process, from.address, { body: { $case: 'borrowAdded', value: { number: 0 } } })
      case 'borrowAdded':
        return references.borrowConfirmed(from.process)
      case 'borrowRemove':
        return references.borrowRemoved(from.process, body.value.objects)
      case 'objectRequest':
        return references.objectsRequested(body.value.objects, body.value.lost, (object, value) =>
          this.send(from.process, from.address, { body: { $case: 'objectReply', value: { object, value } } }),
        )
      case 'objectReply':
        return references.objectArrived(from.process, body.value.object, body.value.value as Value)
      default:
        throw new Error(`unexpected message ${body?.$case}`)
    }
  }

  /** Everything that user code here can reach. */
  *reachable(): Iterable<ObjectEntry> {
    yield* this.handles
    for (const { held } of this.tasks) yield* held
  }
}

class World {
  readonly processes: Process[] = NAMES.map((name) => new Process(name, this))
  readonly links = new Map<string, Message[]>()
  readonly freed = new Set<string>()
  #task = 0

  nextTask(): number {
    return ++this.#task
  }

  at(n: number): Process {
    return this.processes[n % NAMES.length] as Process
  }

  post(from: Process, to: string, message: Message): void {
    must(from.process !== to, () => `${to} sends to itself`)
    const link = `${from.process}>${to}`
    this.links.set(link, [...(this.links.get(link) ?? []), message])
  }

  /** The oldest message of a link arrives. */
  deliver(n: number): void {
    const links = [...this.links].filter(([, messages]) => messages.length > 0)
    const [link, messages] = links[n % Math.max(1, links.length)] ?? []
    const message = messages?.shift()
    if (!link || !message) return
    const [from, to] = link.split('>').map((name) => this.processes.find((process) => process.process === name) as Process)
    ;(to as Process).receive(from as Process, message)
  }

  check(): void {
    for (const process of this.processes) {
      for (const entry of process.reachable()) {
        const name = process.references.name(entry)
        must(!this.freed.has(name), () => `${name} is freed and ${process.process} holds it`)
      }
    }
    for (const messages of this.links.values()) {
      for (const message of messages) {
        if (message.kind !== 'push' && message.kind !== 'done') continue
        for (const { owner, object } of message.refs)
          must(!this.freed.has(`${owner}:${object}`), () => `${owner}:${object} is freed and on its way in a ${message.kind}`)
      }
    }
  }

  /** Everybody lets go of everything, and all messages arrive. */
  async settle(): Promise<void> {
    for (let round = 0; round < 10_000; round++) {
      for (const process of this.processes) {
        process.drop(0)
        process.finish(0, false, [])
      }
      this.deliver(round)
      await Promise.resolve()
      this.check()
      const open =
        this.processes.some(({ handles, tasks }) => handles.length + tasks.length > 0) || [...this.links.values()].some((messages) => messages.length > 0)
      if (!open) return
    }
    throw new Error('does not settle')
  }
}

type Op = (world: World) => void
const index = fc.nat({ max: 5 })
const some = (process: Process, picks: readonly number[]): ObjectEntry[] =>
  process.handles.length === 0 ? [] : [...new Set(picks.map((n) => process.handles[n % process.handles.length] as ObjectEntry))]
const picks = fc.array(index, { maxLength: 2 })

const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.tuple(index, picks).map(
      ([p, inside]): Op =>
        (w) =>
          w.at(p).create(some(w.at(p), inside)),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.tuple(index, fc.integer({ min: 1, max: 2 }), picks).map(
      ([p, by, args]): Op =>
        (w) =>
          w.at(p).call(w.at(p + by), some(w.at(p), args)),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.tuple(index, index, fc.boolean(), picks).map(
      ([p, n, keep, results]): Op =>
        (w) =>
          w.at(p).finish(n, keep, some(w.at(p), results)),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.tuple(index, index).map(
      ([p, n]): Op =>
        (w) =>
          w.at(p).drop(n),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(index, index).map(
      ([p, n]): Op =>
        (w) =>
          some(w.at(p), [n]).forEach((entry) => w.at(p).open(entry)),
    ),
  },
  {
    weight: 12,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.deliver(n),
    ),
  },
)

test('no object is freed while it can be reached, and all are at the end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(op, { maxLength: 150, size: 'max' }), async (ops) => {
      const world = new World()
      for (const each of ops) {
        each(world)
        world.check()
        await Promise.resolve()
        world.check()
      }
      await world.settle()
      for (const { process, references, sent, unreceived } of world.processes) {
        expect({ process, owned: references.owned, borrowed: references.borrowedCount, sent: sent.size, unreceived: unreceived.size }).toEqual({
          process,
          owned: 0,
          borrowed: 0,
          sent: 0,
          unreceived: 0,
        })
      }
    }),
    { numRuns: 1_000 },
  )
})

test('when a process dies, what it borrowed is freed and what it owned fails where it is waited for', async () => {
  const world = new World()
  const [a, b] = world.processes as [Process, Process]
  a.create([])
  b.create([])
  a.call(b, a.handles)
  b.call(a, b.handles)
  for (let i = 0; i < 20; i++) {
    world.deliver(i)
    await Promise.resolve()
  }
  a.finish(0, true, [])
  const borrowed = a.handles.at(-1) as ObjectEntry
  a.references.want(borrowed)
  for (const entry of a.sent.get(1) ?? []) entry.unhold()
  a.handles.shift()?.unhold()
  expect([...world.freed]).toEqual([])
  a.references.processLost('b')
  expect([...world.freed]).toEqual(['a:1'])
  expect(borrowed.stored).toMatchObject({ kind: 'error', error: { code: 'OWNER_DIED' } })
  expect(a.references.owned).toBe(0)
})
