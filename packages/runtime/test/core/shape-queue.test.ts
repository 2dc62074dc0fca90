/**
 * The queue of one shape under random events: workers that run, block, retire, die and give tasks back, a node that grants and reclaims, and time.
 * Messages of a worker arrive in order and as late as the sequence wants.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Lease, type ShapePort, ShapeQueue } from '../../src/core/shape-queue.ts'
import { type CallTemplate, TaskRecord } from '../../src/core/task-record.ts'
import { LIMITS } from '../../src/limits.ts'

const TEMPLATE: CallTemplate = {
  name: 'f',
  hash: 'h',
  function: undefined,
  returns: 1,
  streaming: false,
  itemsMax: 1,
  actor: '',
  method: '',
  concurrencyGroup: '',
  retryOn: undefined,
  maxCalls: 0,
  maxRetries: 3,
  timeoutMs: undefined,
  group: '',
}
const EMPTY = new Uint8Array(0)

type ToWorker = { readonly task: number } | { readonly takeBack: number }
type FromWorker = { readonly done: number; readonly execMs: number } | { readonly tasks: number[]; readonly blocked: boolean; readonly retiring: boolean }

/** A worker as its lease sees it: one task at a time, in order. */
class Worker {
  readonly lease: Lease
  inbox: ToWorker[] = []
  outbox: FromWorker[] = []
  queue: number[] = []
  running: number | undefined
  blocked = false
  retiring = false

  constructor(lease: Lease) {
    this.lease = lease
  }
}

function must(holds: boolean, what: () => string): void {
  if (!holds) throw new Error(what())
}

class World implements ShapePort {
  readonly queue: ShapeQueue
  readonly records = new Map<number, TaskRecord>()
  readonly workers = new Map<number, Worker>()
  readonly done = new Set<number>()
  /** By task: the lease on which it was started last. */
  readonly startedOn = new Map<number, number>()
  readonly returned = new Set<number>()
  readonly #aheadMax: number | undefined
  #at: number | undefined
  wanted = 0
  clock = 0
  #lease = 0

  constructor(aheadMax?: number) {
    this.#aheadMax = aheadMax
    this.queue = new ShapeQueue(0, this, aheadMax)
  }

  // ---------------------------------------------------------------- the port

  now(): number {
    return this.clock
  }

  push(lease: Lease, record: TaskRecord): void {
    must(!this.done.has(record.number), () => 'a task that is done is pushed')
    must(!lease.blocked && !lease.reclaimed, () => 'a lease that is blocked or wanted back gets a task')
    this.#worker(lease).inbox.push({ task: record.number })
  }

  takeBack(lease: Lease, count: number): void {
    must(count > 0, () => 'no tasks are asked back')
    this.#worker(lease).inbox.push({ takeBack: count })
  }

  demand(_queue: ShapeQueue, wanted: number): void {
    this.wanted = wanted
  }

  notReady(): void {
    throw new Error('these records have no arguments')
  }

  returnLease(lease: Lease): void {
    must(!this.returned.has(lease.id), () => 'a lease is returned twice')
    must(lease.inFlight.size === 0, () => 'a lease with tasks in flight is returned')
    this.returned.add(lease.id)
    this.workers.delete(lease.id)
  }

  left(): void {}

  wake(_queue: ShapeQueue, ms: number): void {
    this.#at = Math.min(this.#at ?? Number.POSITIVE_INFINITY, this.clock + ms)
  }

  /** Made at the first push, which comes within `granted`. */
  #worker(lease: Lease): Worker {
    let worker = this.workers.get(lease.id)
    if (!worker) {
      worker = new Worker(lease)
      this.workers.set(lease.id, worker)
    }
    return worker
  }

  // ---------------------------------------------------------------- events

  enqueue(count: number): void {
    for (let i = 0; i < count; i++) {
      const number = this.records.size + 1
      const record = new TaskRecord({
        template: TEMPLATE,
        number,
        outputs: [],
        stream: undefined,
        args: EMPTY,
        storedArgs: undefined,
        dependencies: [],
        queue: this.queue,
      })
      this.records.set(number, record)
      this.queue.enqueue(record)
    }
    this.queue.pump()
  }

  /** The node grants what is asked for; by `anyway` a grant crosses a message that takes the demand back. */
  grant(anyway: boolean): void {
    if (this.wanted === 0 && !anyway) return
    this.wanted = Math.max(0, this.wanted - 1)
    const id = ++this.#lease
    this.queue.granted(id, `w${id}`, '')
    const lease = this.queue.leases.get(id)
    if (lease) this.#worker(lease)
  }

  /** A worker reads its next message. */
  receive(n: number): void {
    const worker = this.#pick(n)
    const message = worker?.inbox.shift()
    if (!worker || !message) return
    if ('takeBack' in message) {
      const tasks = worker.queue.splice(Math.max(0, worker.queue.length - message.takeBack))
      worker.outbox.push({ tasks, blocked: false, retiring: false })
    } else if (worker.blocked || worker.retiring) worker.outbox.push({ tasks: [message.task], blocked: !worker.retiring, retiring: worker.retiring })
    else worker.queue.push(message.task)
    this.#next(worker)
  }

  #next(worker: Worker): void {
    if (worker.running !== undefined || worker.retiring) return
    worker.running = worker.queue.shift()
    if (worker.running === undefined) return
    const { running } = worker
    const before = this.startedOn.get(running)
    must(before === undefined || !this.workers.has(before), () => `task ${running} runs again while the lease on which it ran lives`)
    this.startedOn.set(running, worker.lease.id)
  }

  finish(n: number, execMs: number, retire: boolean): void {
    const worker = this.#pick(n)
    if (worker?.running === undefined) return
    worker.outbox.push({ done: worker.running, execMs })
    worker.running = undefined
    worker.blocked = false
    if (retire && !worker.retiring) {
      worker.retiring = true
      worker.outbox.push({ tasks: worker.queue.splice(0), blocked: false, retiring: true })
    }
    this.#next(worker)
  }

  block(n: number): void {
    const worker = this.#pick(n)
    if (worker?.running === undefined || worker.blocked || worker.retiring) return
    worker.blocked = true
    worker.outbox.push({ tasks: worker.queue.splice(0), blocked: true, retiring: false })
  }

  /** The next message of a worker arrives. */
  deliver(n: number): void {
    const worker = this.#pick(n)
    const message = worker?.outbox.shift()
    if (!worker || !message) return
    if ('done' in message) {
      const record = this.queue.done(worker.lease, message.done, message.execMs)
      if (record) {
        record.phase = 'done'
        this.done.add(record.number)
      }
      this.queue.pump()
    } else this.queue.takenBack(worker.lease, message.tasks, message.blocked, message.retiring)
  }

  /** A worker gets through its next task without delay. */
  cycle(n: number, execMs: number): void {
    this.receive(n)
    this.finish(n, execMs, false)
    this.deliver(n)
  }

  reclaim(n: number): void {
    const worker = this.#pick(n)
    if (worker) this.queue.reclaim(worker.lease.id)
  }

  die(n: number): void {
    const worker = this.#pick(n)
    if (!worker) return
    this.workers.delete(worker.lease.id)
    const ran = this.queue.lost(worker.lease)
    if (ran && ran.phase !== 'done') {
      ran.lease = undefined
      this.queue.enqueue(ran) // a retry
      this.queue.pump()
    }
  }

  /** Its owner cancels a task: it is done, wherever it is. */
  cancel(n: number): void {
    const record = this.records.get(1 + (n % Math.max(1, this.records.size)))
    if (!record || record.phase === 'done') return
    const { phase } = record
    record.phase = 'done'
    this.done.add(record.number)
    if (phase === 'queued') this.queue.queue.remove((other) => other === record)
    this.queue.pump()
  }

  elapse(ms: number): void {
    this.clock += ms
    if (this.#at === undefined || this.#at > this.clock) return
    this.#at = undefined
    this.queue.pump()
  }

  #pick(n: number): Worker | undefined {
    const workers = [...this.workers.values()]
    return workers[n % Math.max(1, workers.length)]
  }

  // ---------------------------------------------------------------- promises

  // Plain comparisons: this runs after every event.
  check(): void {
    const places = new Map<number, number>()
    const found = (number: number): void => void places.set(number, (places.get(number) ?? 0) + 1)
    for (const record of this.queue.queue) found(record.number)
    let inFlight = 0
    for (const lease of this.queue.leases.values()) {
      inFlight += lease.inFlight.size
      must(lease.inFlight.size <= (this.#aheadMax ?? LIMITS.pushAheadTasksMax), () => `lease ${lease.id} has ${lease.inFlight.size} tasks`)
      for (const record of lease.inFlight.values()) {
        found(record.number)
        must(record.phase === 'done' || record.lease === lease, () => `task ${record.number} does not know its lease`)
      }
    }
    for (const { number, phase } of this.records.values()) {
      const at = places.get(number) ?? 0
      must(at === 1 || (phase === 'done' && at === 0), () => `task ${number} (${phase}) is in ${at} places`)
    }
    const { outstanding, demanded, queue } = this.queue
    must(outstanding === queue.size + inFlight, () => `outstanding is ${outstanding}, not ${queue.size} + ${inFlight}`)
    must(demanded >= 0 && demanded <= LIMITS.leaseDemandMax, () => `${demanded} leases are demanded`)
  }

  /** Lets everything happen that is on its way, until nothing changes. */
  settle(): void {
    for (let round = 0; round < 10_000; round++) {
      const busy = this.records.size - this.done.size + this.workers.size + this.queue.leases.size
      if (busy === 0 && this.wanted === 0) return
      this.grant(false)
      for (let n = this.workers.size - 1; n >= 0; n--) {
        this.receive(n)
        this.finish(n, 1, false)
        this.deliver(n)
      }
      this.elapse(LIMITS.leaseLingerMs)
      this.check()
    }
    const { queue } = this
    throw new Error(
      `does not settle: ${queue.queue.size} queued, ${queue.leases.size} leases, ${queue.demanded} demanded, ${this.records.size - this.done.size} open`,
    )
  }
}

type Op = (world: World) => void
const index = fc.nat({ max: 6 })
const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.constantFrom(1, 2, 3, 20, 100).map(
      (count): Op =>
        (w) =>
          w.enqueue(count),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.nat({ max: 9 }).map(
      (n): Op =>
        (w) =>
          w.grant(n === 0),
    ),
  },
  {
    weight: 6,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.receive(n),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(index, fc.constantFrom(0, 0.01, 1, 20), fc.nat({ max: 9 })).map(
      ([n, ms, retire]): Op =>
        (w) =>
          w.finish(n, ms, retire === 0),
    ),
  },
  {
    weight: 6,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.deliver(n),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(index, fc.constantFrom(0.01, 1)).map(
      ([n, ms]): Op =>
        (w) =>
          w.cycle(n, ms),
    ),
  },
  {
    weight: 1,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.block(n),
    ),
  },
  {
    weight: 1,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.reclaim(n),
    ),
  },
  {
    weight: 1,
    arbitrary: index.map(
      (n): Op =>
        (w) =>
          w.die(n),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.nat().map(
      (n): Op =>
        (w) =>
          w.cancel(n),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom(1, 10, 600).map(
      (ms): Op =>
        (w) =>
          w.elapse(ms),
    ),
  },
)

for (const aheadMax of [undefined, 1]) {
  test(`every task is in one place and runs once while its lease lives, and all end${aheadMax === 1 ? ', one at a time' : ''}`, () => {
    fc.assert(
      fc.property(fc.array(op, { maxLength: 200, size: 'max' }), (ops) => {
        const world = new World(aheadMax)
        for (const each of ops) {
          each(world)
          world.check()
        }
        world.settle()
        expect(world.queue.leases.size).toBe(0)
        expect(world.queue.demanded).toBe(0)
        expect(world.done.size).toBe(world.records.size)
      }),
      { numRuns: 200 },
    )
  })
}
