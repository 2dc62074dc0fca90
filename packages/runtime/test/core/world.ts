/**
 * The owner side of one process without processes: references, lineage and the submitter as they are, and stand-ins for its workers, its node and
 * the stores of several machines, any of which may die.
 */
import { Lineage, Unrepeatable } from '../../src/core/lineage.ts'
import type { ObjectEntry, Stored } from '../../src/core/object-entry.ts'
import { STREAM_ITEMS_MAX } from '../../src/core/item-stream.ts'
import { References } from '../../src/core/references.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import { Submitter } from '../../src/core/submitter.ts'
import type { CallTemplate } from '../../src/core/task-record.ts'
import { Values } from '../../src/core/values.ts'
import type { LeaseDemand, ProcessMessage } from '../../src/net/gen/node.ts'
import type { PeerMessage, Place, Push, Value } from '../../src/net/gen/peer.ts'

/** That a streaming call yields here. */
export const ITEMS = 3

const EMPTY = new Uint8Array(0)
export const PUT = 'put() stored it'

class Handle {
  readonly entry: ObjectEntry

  constructor(entry: ObjectEntry) {
    this.entry = entry
  }
}

export const key = ({ node, segment, offset }: Place): string => `${node}/${segment}/${offset}`
export const settle = async (): Promise<void> => {
  for (let i = 0; i < 4; i++) await Promise.resolve()
}

/** The parts of a process that are under test, and stand-ins for the rest. */
export class World {
  readonly process = 'me'
  readonly address = 'unix:/me'
  /** "": a cluster of one. */
  readonly node: string
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
  readonly demands: LeaseDemand[] = []
  /** Calls that a worker has. */
  inbox: Push[] = []
  /** Streams whose producers need not wait for their consumers any more. */
  readonly hurried: number[] = []
  searches: { entry: ObjectEntry; place: Place }[] = []
  handles: ObjectEntry[] = []
  readonly runs = new Map<number, number>()
  #place = 0
  #node = 2
  #lease = 0
  #returned = 0
  #returnedWanted = Number.POSITIVE_INFINITY
  #whenReturned: (() => void) | undefined

  constructor({ bytesMax = 1_000_000, node = '' }: { bytesMax?: number; node?: string } = {}) {
    this.node = node
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
        hurry: (record) => this.submitter.hurry(record),
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
    if (body?.$case === 'leaseReturn' && ++this.#returned >= this.#returnedWanted) this.#whenReturned?.()
    if (body?.$case !== 'leaseDemand') return
    this.demands.push(body.value)
    const { key: queue, wanted } = body.value
    for (let i = 0; i < wanted; i++)
      queueMicrotask(() =>
        this.submitter.leases.granted({ key: queue, lease: ++this.#lease, worker: 'worker', address: 'unix:/worker', gpuIndices: [], again: false }),
      )
  }

  readonly peer = {
    process: 'worker',
    templateId: () => 1,
    nextNumber: () => 0,
    send: ({ body }: PeerMessage): void => {
      if (body?.$case === 'push') this.inbox.push(body.value)
      else if (body?.$case === 'itemsConsumed' && body.value.count === STREAM_ITEMS_MAX) this.hurried.push(body.value.task)
    },
  }

  readonly peers = { get: () => this.peer }

  /** Resolves when so many leases went back to the node. */
  returned(count: number): Promise<void> {
    this.#returnedWanted = count
    return new Promise((resolve) => {
      if (this.#returned >= count) resolve()
      else this.#whenReturned = resolve
    })
  }

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

  write(object: number, at?: string, bytes: number = 200_000): Place {
    const node = at ?? (this.nodes[this.#place % this.nodes.length] as string)
    const place: Place = { path: '', segment: 's', offset: ++this.#place, bytes, node, object: { owner: this.process, address: '', object } }
    this.memory.set(key(place), object)
    return place
  }

  put(at?: string, bytes?: number): ObjectEntry {
    const entry = this.references.create().hold()
    this.references.toRef(entry)
    const place = this.write(entry.number, at, bytes)
    this.owned.add(key(place))
    entry.settle({ kind: 'place', place, extras: undefined })
    entry.producer = new Unrepeatable('put', PUT)
    this.handles.push(entry)
    return entry
  }

  call(args: readonly ObjectEntry[], inside: readonly ObjectEntry[], options: { returns?: number; maxRetries?: number } = {}): ObjectEntry[] {
    const template = templateOf(options)
    const queue = this.submitter.leases.queueFor({ placementGroup: '', node: '', prefers: '' } as never, false, 'f')
    const list: unknown[] = args.map((entry) => new Handle(entry))
    if (inside.length > 0) list.push(inside.map((entry) => new Handle(entry)))
    const { outputs } = this.submitter.submit(template, list, queue)
    for (const output of outputs) this.handles.push(output.hold())
    return [...outputs]
  }

  /** Its items go to the handles as they come. */
  async stream(): Promise<void> {
    const template = { ...templateOf({}), streaming: true }
    const queue = this.submitter.leases.queueFor({ placementGroup: '', node: '', prefers: '' } as never, false, 'f')
    const { stream } = this.submitter.submit(template, [], queue)
    for (let item = await stream?.take(); item; item = await stream?.take()) this.handles.push(item)
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
    const { streaming = false, returns = 1 } = this.#templateOf(push.task) ?? {}
    if (streaming) {
      for (let i = 0; i < ITEMS; i++) this.yields(push, i)
      this.submitter.done(this.peer as never, { task: push.task, value: EMPTY, values: [], execMs: 1, retry: false, cancelled: false, items: ITEMS })
      return
    }
    const results = failed ? [] : Array.from({ length: returns }, (_, i) => result(push.task + i))
    this.submitter.done(this.peer as never, { task: push.task, value: EMPTY, values: results, execMs: 1, retry: false, cancelled: failed, items: 0 })
  }

  /** The next item of a streaming call that goes on. */
  yields({ task }: Push, index: number): void {
    const value = { inline: EMPTY, place: this.write(task + 1 + index), error: EMPTY, refs: [], functions: [], handles: [] }
    this.submitter.item(this.peer as never, { task, index, value, number: 0 })
  }

  /** As a worker does whose running call waits: what is behind it goes back. */
  #blocked({ lease, task }: Push): void {
    const behind = this.inbox.filter((push) => push.lease === lease && push.task !== task).map((push) => push.task)
    this.inbox = this.inbox.filter((push) => !behind.includes(push.task))
    this.submitter.leases.takenBack({ lease, tasks: behind, blocked: true, retiring: false, number: 0 })
  }

  #templateOf(task: number): CallTemplate | undefined {
    for (const record of this.submitter.leases.pending()) if (record.number === task) return record.template
    return undefined
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
    group: '',
    retryOn: undefined,
    maxCalls: 0,
    maxRetries,
    timeoutMs: undefined,
  }
}
