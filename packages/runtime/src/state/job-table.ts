/**
 * Jobs of the cluster: RUNNING → SUCCEEDED | FAILED with their driver; ended, for the nodes, when no actor of theirs lives either.
 */
import type { Job } from './events.ts'

export interface JobRecord {
  readonly job: Job
  /** Of the driver. */
  node: string
  /** To which it was attached before; "": to none. */
  nodeBefore: string
  host: string
  readonly pid: number
  state: 'RUNNING' | 'SUCCEEDED' | 'FAILED'
  readonly startMs: number
  endMs: number
  /** Why it failed. */
  reason: string
}

/** Ended jobs that are remembered. */
const ENDED_MAX = 1_000

export class JobTable {
  readonly jobs: Map<string, JobRecord> = new Map()
  /** Living actors of each job. */
  readonly #actors: Map<string, number> = new Map()
  readonly #ended: string[] = []
  readonly #changed: (job: string) => void
  readonly #over: (job: string) => void

  /**
   * @param changed - a record is to be made durable, or forgotten when it is not there any more
   * @param over - nothing of that job is left
   */
  constructor(changed: (job: string) => void, over: (job: string) => void) {
    this.#changed = changed
    this.#over = over
  }

  started(job: Job, node: string, host: string, pid: number, nowMs: number): void {
    const known = this.jobs.get(job.id)
    if (known?.node === node) return
    // Its driver is attached to another node now.
    if (known !== undefined) {
      known.nodeBefore = known.node
      known.node = node
      known.host = host
      return this.#changed(job.id)
    }
    this.jobs.set(job.id, { job, node, nodeBefore: '', host, pid, state: 'RUNNING', startMs: nowMs, endMs: 0, reason: '' })
    this.#changed(job.id)
  }

  restored(record: JobRecord): void {
    this.jobs.set(record.job.id, record)
    if (record.state !== 'RUNNING') this.#ended.push(record.job.id)
  }

  /** `failure` "": in order. */
  driverGone(id: string, failure: string, nowMs: number): void {
    const record = this.jobs.get(id)
    if (record?.state !== 'RUNNING') return
    record.state = failure === '' ? 'SUCCEEDED' : 'FAILED'
    record.endMs = nowMs
    record.reason = failure
    this.#changed(id)
    this.#ended.push(id)
    this.#check(id)
    if (this.#ended.length <= ENDED_MAX) return
    for (const old of this.#ended.splice(0, ENDED_MAX / 10)) {
      this.jobs.delete(old)
      this.#changed(old)
    }
  }

  /**
   * Whether a driver of that node may still come to another one, or is on its way. One that came to the head's own is known everywhere before what the head says next.
   */
  mayMove(node: string, head: string): boolean {
    for (const job of this.jobs.values()) {
      if (job.state === 'RUNNING' && (job.node === node || (job.nodeBefore === node && job.node !== head))) return true
    }
    return false
  }

  actorBorn(job: string): void {
    this.#actors.set(job, (this.#actors.get(job) ?? 0) + 1)
  }

  actorDied(job: string): void {
    const left = (this.#actors.get(job) ?? 1) - 1
    if (left > 0) this.#actors.set(job, left)
    else this.#actors.delete(job)
    this.#check(job)
  }

  #check(job: string): void {
    if (this.#actors.has(job) || this.jobs.get(job)?.state === 'RUNNING') return
    this.#over(job)
  }
}
