/**
 * Tasks of one shape at their owner: the queue, the leases on workers, and how far ahead each worker is fed.
 *
 * A worker gets as many tasks ahead as it finishes in a few milliseconds (measured), so that short tasks stream
 * without round trips and long ones stay at home where any free worker can have them. Does no I/O: it calls a port.
 */
import { LIMITS } from '../limits.ts'
import { Deque } from './deque.ts'
import type { TaskRecord } from './task-record.ts'

export interface Lease {
  readonly id: number
  readonly worker: string
  readonly address: string
  /** Pushed and not answered, oldest first; the worker runs them in this order. */
  readonly inFlight: Map<number, TaskRecord>
  /** Moving average of the run time of a task; undefined before the queue's first. */
  msPerTask: number | undefined
  /** Its running task waits for objects: it gets nothing more until that one is done. */
  blocked: boolean
  /** The node wants it back. */
  reclaimed: boolean
  takingBack: boolean
  idleSince: number
  progressAt: number
}

export interface ShapePort {
  now(): number
  push(lease: Lease, record: TaskRecord): void
  takeBack(lease: Lease, count: number): void
  demand(queue: ShapeQueue, wanted: number, backlog: number): void
  returnLease(lease: Lease, retire: boolean): void
  /** An argument of the record was lost while it was queued. */
  notReady(record: TaskRecord): void
  /** The record is no longer at a worker. */
  left(record: TaskRecord): void
  /** Calls `pump` in about `ms`, or earlier. */
  wake(queue: ShapeQueue, ms: number): void
}

export class ShapeQueue {
  readonly key: number
  /** Of the same tasks where no node is preferred; itself there. */
  readonly base: ShapeQueue
  readonly queue: Deque<TaskRecord> = new Deque()
  readonly leases: Map<number, Lease> = new Map()
  readonly #port: ShapePort
  readonly #aheadMax: number
  #demanded = 0
  #inFlight = 0
  /** Where new leases start: leases that change hands often would never learn how short the tasks are. */
  #msPerTask: number | undefined

  /** @param aheadMax - tasks in flight per lease at most; 1 for tasks that must not be started twice */
  constructor(key: number, port: ShapePort, aheadMax: number = LIMITS.pushAheadTasksMax, base?: ShapeQueue) {
    this.key = key
    this.base = base ?? this
    this.#port = port
    this.#aheadMax = aheadMax
  }

  get outstanding(): number {
    return this.queue.size + this.#inFlight
  }

  /** How many leases it asks the node for at the moment. */
  get demanded(): number {
    return this.#demanded
  }

  enqueue(record: TaskRecord): void {
    record.phase = 'queued'
    this.queue.push(record)
  }

  granted(id: number, worker: string, address: string): void {
    if (this.leases.has(id)) return
    this.#demanded = Math.max(0, this.#demanded - 1)
    const now = this.#port.now()
    const lease: Lease = {
      id,
      worker,
      address,
      inFlight: new Map(),
      msPerTask: this.#msPerTask,
      blocked: false,
      reclaimed: false,
      takingBack: false,
      idleSince: now,
      progressAt: now,
    }
    this.leases.set(id, lease)
    this.pump()
  }

  /** Feeds the workers, asks for more leases or fewer, and gives idle ones something to do. */
  pump(): void {
    const share = Math.ceil(this.outstanding / Math.max(1, this.leases.size))
    for (const lease of this.leases.values()) this.#feed(lease, share)
    this.#adjustDemand()
    if (this.queue.size === 0) this.#settleIdle()
  }

  #feed(lease: Lease, share: number): void {
    if (lease.blocked || lease.reclaimed) return
    const ahead = lease.msPerTask === undefined ? 1 : 1 + Math.floor(LIMITS.pushAheadMs / Math.max(lease.msPerTask, 0.001))
    const limit = Math.min(ahead, share, this.#aheadMax)
    while (lease.inFlight.size < limit) {
      const record = this.queue.shift()
      if (!record) return
      if (record.phase !== 'queued') continue
      if (record.dependencies.length > 0 && record.lacksArgument) {
        this.#port.notReady(record)
        continue
      }
      record.phase = 'pushed'
      record.atWorker = true
      record.lease = lease
      record.pushedAt = this.#port.now()
      if (lease.inFlight.size === 0) lease.progressAt = record.pushedAt
      lease.inFlight.set(record.number, record)
      this.#inFlight++
      this.#port.push(lease, record)
    }
  }

  #adjustDemand(): void {
    // A task that blocks its lease is outstanding but needs no other one.
    let served = 0
    for (const lease of this.leases.values()) served += lease.reclaimed || lease.blocked ? lease.inFlight.size : 1
    const needed = Math.min(Math.max(0, this.outstanding - served), LIMITS.leaseDemandMax)
    const wanted = needed <= LIMITS.leaseDemandExact ? needed : 2 ** Math.floor(Math.log2(needed))
    if (wanted === this.#demanded) return
    this.#demanded = wanted
    this.#port.demand(this, wanted, this.queue.size)
  }

  /** Nothing is queued: reclaimed leases go back, idle ones take tasks from behind slow ones or linger. */
  #settleIdle(): void {
    let idle = 0
    const now = this.#port.now()
    for (const lease of this.leases.values()) {
      if (lease.inFlight.size > 0) continue
      if (lease.reclaimed || now - lease.idleSince >= LIMITS.leaseLingerMs) this.#return(lease, false)
      else idle++
    }
    if (idle === 0) return
    const wait = this.#steal(now)
    this.#port.wake(this, wait ?? LIMITS.leaseLingerMs)
  }

  /** Asks the lease with most work behind its running task to give half of it back. Returns ms until it makes sense. */
  #steal(now: number): number | undefined {
    let victim: Lease | undefined
    for (const lease of this.leases.values()) {
      if (lease.inFlight.size > Math.max(1, victim?.inFlight.size ?? 0) && !lease.takingBack) victim = lease
    }
    if (!victim) return undefined
    const expected = victim.inFlight.size * (victim.msPerTask ?? 1)
    const stalled = now - victim.progressAt
    if (Math.max(expected, stalled) < LIMITS.pushAheadMs) return LIMITS.pushAheadMs
    victim.takingBack = true
    this.#port.takeBack(victim, victim.inFlight.size >> 1)
    return undefined
  }

  #return(lease: Lease, retire: boolean): void {
    this.leases.delete(lease.id)
    this.#port.returnLease(lease, retire)
  }

  /** A task was answered. Returns its record, undefined for one that is not in flight here. */
  done(lease: Lease, number: number, execMs: number): TaskRecord | undefined {
    const record = lease.inFlight.get(number)
    if (!record) return undefined
    lease.inFlight.delete(number)
    this.#inFlight--
    this.#port.left(record)
    lease.blocked = false
    lease.progressAt = this.#port.now()
    lease.msPerTask = lease.msPerTask === undefined ? execMs : lease.msPerTask * 0.7 + execMs * 0.3
    this.#msPerTask = lease.msPerTask
    if (lease.inFlight.size === 0) {
      lease.idleSince = lease.progressAt
      if (lease.reclaimed) this.#return(lease, false)
    }
    return record
  }

  /** The worker gave tasks back that it had not started. */
  takenBack(lease: Lease, numbers: readonly number[], blocked: boolean, retiring: boolean): void {
    lease.takingBack = false
    const back: TaskRecord[] = []
    // After a retiring worker's word nothing else of what it got runs.
    for (const number of retiring ? [...lease.inFlight.keys()] : numbers) {
      const record = lease.inFlight.get(number)
      if (!record) continue
      lease.inFlight.delete(number)
      this.#inFlight--
      this.#port.left(record)
      if (record.phase !== 'pushed') continue
      record.phase = 'queued'
      record.lease = undefined
      back.push(record)
    }
    this.queue.unshift(back)
    if (blocked) lease.blocked = true
    if (retiring) this.#return(lease, true)
    this.pump()
  }

  reclaim(id: number): void {
    const lease = this.leases.get(id)
    if (!lease) return
    lease.reclaimed = true
    if (lease.inFlight.size === 0) this.#return(lease, false)
    this.#adjustDemand()
  }

  /** The worker is gone. Returns the task that it ran; the others are queued again. */
  lost(lease: Lease): TaskRecord | undefined {
    this.leases.delete(lease.id)
    const [first, ...behind] = lease.inFlight.values()
    this.#inFlight -= lease.inFlight.size
    for (const record of lease.inFlight.values()) this.#port.left(record)
    lease.inFlight.clear()
    for (const record of behind) {
      if (record.phase !== 'pushed') continue
      record.phase = 'queued'
      record.lease = undefined
    }
    this.queue.unshift(behind.filter((record) => record.phase === 'queued'))
    this.pump()
    return first
  }

  /** Every task that is not done, for the end of the cluster. */
  drain(): TaskRecord[] {
    const records = [...this.queue]
    for (const lease of this.leases.values()) {
      for (const record of lease.inFlight.values()) this.#port.left(record)
      records.push(...lease.inFlight.values())
    }
    while (this.queue.shift());
    this.leases.clear()
    this.#inFlight = 0
    return records
  }
}
