/**
 * The leases with which tasks run: one queue for the tasks of each shape, what the node is asked for them, and what it granted.
 *
 * A queue decides (`shape-queue.ts`); here its decisions become messages to the node and its workers.
 */
import { debug } from '../debug.ts'
import { LIMITS } from '../limits.ts'
import type { LeaseGranted, Shape } from '../net/gen/node.ts'
import type { TakenBack } from '../net/gen/peer.ts'
import type { Runtime } from './runtime.ts'
import { type Lease, type ShapePort, ShapeQueue } from './shape-queue.ts'
import type { TaskRecord } from './task-record.ts'

/** After so long, every node has said which leases it takes for held. */
const LEASES_SAID_MS = 10_000
const log = debug('core')

/** What the node is asked for, for the tasks of a queue. */
interface Demand {
  readonly shape: Shape
  readonly exclusive: boolean
  readonly label: string
}

/** A lease, and the queue that has it. */
interface HeldLease {
  readonly lease: Lease
  readonly queue: ShapeQueue
}

/** What becomes of the tasks themselves. */
type Calls = Pick<ShapePort, 'push' | 'notReady' | 'left'>

export class TaskLeases implements ShapePort {
  readonly push: Calls['push']
  readonly notReady: Calls['notReady']
  readonly left: Calls['left']
  readonly #runtime: Runtime
  /** By key. */
  readonly #queues = new Map<number, ShapeQueue>()
  #nextKey = 0
  readonly #queueByShape = new Map<string, ShapeQueue>()
  readonly #demands = new Map<ShapeQueue, Demand>()
  readonly #leases = new Map<number, HeldLease>()
  readonly #pumping = new Set<ShapeQueue>()
  readonly #wakes = new Map<ShapeQueue, { readonly timer: NodeJS.Timeout; readonly due: number }>()
  #pumpScheduled = false
  /** Leases that were returned since this process is attached to another node, for a while. */
  #returned: Set<number> | undefined
  #ended = false

  constructor(runtime: Runtime, { push, notReady, left }: Calls) {
    this.#runtime = runtime
    this.push = push
    this.notReady = notReady
    this.left = left
  }

  /** The queue of a shape. Tasks that may not be started twice have queues of their own. */
  queueFor(shape: Shape, exclusive: boolean, label: string, base?: ShapeQueue): ShapeQueue {
    const id = shapeId(shape, exclusive)
    let queue = this.#queueByShape.get(id)
    if (!queue) {
      queue = new ShapeQueue(this.#nextKey++, this, exclusive ? 1 : undefined, base)
      this.#queues.set(queue.key, queue)
      this.#queueByShape.set(id, queue)
      this.#demands.set(queue, { shape, exclusive, label })
    }
    return queue
  }

  /** The queue for a task whose arguments are ready: where most of their bytes lie, when that is another node. */
  queueNear(record: TaskRecord, { base }: ShapeQueue): ShapeQueue {
    const { node: own } = this.#runtime
    const demand = this.#demands.get(base)
    if (own === '' || !demand || demand.shape.node !== '' || demand.shape.placementGroup !== '') return base
    const node = record.nodeOfMost(own)
    if (node === own) return base
    if (this.#queues.size >= LIMITS.taskQueuesMax && !this.#queueByShape.has(shapeId({ ...demand.shape, prefers: node }, demand.exclusive))) return base
    return this.queueFor({ ...demand.shape, prefers: node }, demand.exclusive, demand.label, base)
  }

  /** Queues for tasks that prefer a node go when they are not used. */
  #dropIdle(queue: ShapeQueue): void {
    const demand = this.#demands.get(queue)
    if (!demand || queue.base === queue || queue.outstanding > 0 || queue.leases.size > 0 || queue.demanded > 0) return
    clearTimeout(this.#wakes.get(queue)?.timer)
    this.#wakes.delete(queue)
    this.#demands.delete(queue)
    this.#queues.delete(queue.key)
    this.#queueByShape.delete(shapeId(demand.shape, demand.exclusive))
  }

  queueOf(key: number): ShapeQueue | undefined {
    return this.#queues.get(key)
  }

  shapeOf(queue: ShapeQueue): Shape | undefined {
    return this.#demands.get(queue)?.shape
  }

  pumpSoon(queue: ShapeQueue): void {
    this.#pumping.add(queue)
    if (this.#pumpScheduled) return
    this.#pumpScheduled = true
    queueMicrotask(() => {
      this.#pumpScheduled = false
      const queues = [...this.#pumping]
      this.#pumping.clear()
      for (const each of queues) each.pump()
    })
  }

  // ---------------------------------------------------------------- what queues ask for

  now(): number {
    return performance.now()
  }

  takeBack(lease: Lease, count: number): void {
    const peer = this.#runtime.peers.get(lease.worker, lease.address)
    peer.send({ body: { $case: 'takeBack', value: { lease: lease.id, count, number: peer.nextNumber() } } })
  }

  demand(queue: ShapeQueue, wanted: number, backlog: number): void {
    const known = this.#demands.get(queue)
    if (!known) return
    this.#runtime.sendToNode({ body: { $case: 'leaseDemand', value: { key: queue.key, shape: known.shape, wanted, backlog, label: known.label, seen: 0 } } })
    if (wanted === 0) this.#dropIdle(queue)
  }

  returnLease(lease: Lease, retire: boolean): void {
    const queue = this.#leases.get(lease.id)?.queue
    this.#leases.delete(lease.id)
    this.#returned?.add(lease.id)
    this.#runtime.sendToNode({ body: { $case: 'leaseReturn', value: { lease: lease.id, retire } } })
    if (queue) this.#dropIdle(queue)
  }

  wake(queue: ShapeQueue, ms: number): void {
    const due = this.now() + ms
    const known = this.#wakes.get(queue)
    // An earlier wake looks again and asks for the next one; so a busy queue does not set a timer per task.
    if (known && known.due <= due) return
    clearTimeout(known?.timer)
    const timer = setTimeout(() => {
      this.#wakes.delete(queue)
      queue.pump()
    }, ms + 1).unref()
    this.#wakes.set(queue, { timer, due })
  }

  // ---------------------------------------------------------------- from the node and from workers

  granted({ key, lease: id, worker, address, again }: LeaseGranted): void {
    // Their node says what this process holds there, or held until a moment ago.
    if (again && this.#leases.has(id)) return
    const queue = this.#queues.get(key)
    if (!queue || this.#ended || (again && this.#returned?.has(id))) {
      this.#runtime.sendToNode({ body: { $case: 'leaseReturn', value: { lease: id, retire: false } } })
      return
    }
    log(() => `lease ${id} on ${worker} for queue ${key}`)
    queue.granted(id, worker, address)
    const lease = queue.leases.get(id)
    if (lease) this.#leases.set(id, { lease, queue })
  }

  reclaim(id: number): void {
    this.#leases.get(id)?.queue.reclaim(id)
  }

  takenBack(message: TakenBack): void {
    const held = this.#leases.get(message.lease)
    if (!held) return
    if (message.retiring) this.#leases.delete(message.lease)
    held.queue.takenBack(held.lease, message.tasks, message.blocked, message.retiring)
  }

  /** The lease with which a worker runs a task. */
  heldBy(worker: string, task: number): HeldLease | undefined {
    for (const held of this.#leases.values()) if (held.lease.worker === worker && held.lease.inFlight.has(task)) return held
    return undefined
  }

  /** Lets go of leases that are gone; gives the tasks that ran with them. */
  *lost(isGone: (lease: Lease) => boolean): Iterable<TaskRecord> {
    for (const [id, { lease, queue }] of this.#leases) {
      if (!isGone(lease)) continue
      this.#leases.delete(id)
      const ran = queue.lost(lease)
      if (ran) yield ran
    }
  }

  /** The daemon of this process is another one: what was asked for is asked for again. */
  attachedAgain(): void {
    for (const queue of this.#demands.keys()) if (queue.demanded > 0) this.demand(queue, queue.demanded, queue.queue.size)
    // Nodes say in a moment which leases they take for held: returns may have been lost, and later ones cross those messages.
    const returned = new Set<number>()
    this.#returned = returned
    setTimeout(() => {
      if (this.#returned === returned) this.#returned = undefined
    }, LEASES_SAID_MS).unref()
  }

  /** No lease comes any more; gives all tasks that wait or run. */
  *end(): Iterable<TaskRecord> {
    this.#ended = true
    for (const { timer } of this.#wakes.values()) clearTimeout(timer)
    for (const queue of this.#queues.values()) yield* queue.drain()
    this.#leases.clear()
  }

  /** Calls that wait or run, for `list tasks`. */
  *pending(): Iterable<TaskRecord> {
    for (const queue of this.#queues.values()) {
      yield* queue.queue
      for (const lease of queue.leases.values()) yield* lease.inFlight.values()
    }
  }
}

const shapeId = (shape: Shape, exclusive: boolean): string => JSON.stringify([shape, exclusive])
