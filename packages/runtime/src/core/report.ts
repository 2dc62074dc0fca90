/**
 * What one process tells the node when somebody lists the state of the cluster.
 */
import type { Runtime } from './runtime.ts'
import type { TaskRecord } from './task-record.ts'

export interface LocalTask {
  /** `<owner>:<number>` */
  readonly task: string
  readonly name: string
  /** WAITING for arguments, QUEUED for a lease, RUNNING (first in line at its worker), PUSHED behind another, DELAYED by a retry. */
  readonly state: 'WAITING' | 'QUEUED' | 'RUNNING' | 'PUSHED' | 'DELAYED'
  readonly worker: string
  readonly attempt: number
  /** Since it was pushed; 0 before. */
  readonly forMs: number
}

export interface LocalReport {
  readonly process: string
  readonly tasks: readonly LocalTask[]
  readonly ownedObjects: number
  readonly borrowedObjects: number
  readonly ownedStoreBytes: number
  /** Its calls that were begun again: because an attempt was lost or failed, or to bring lost results back. */
  readonly retries: number
  readonly reconstructions: number
}

export function localTask(runtime: Runtime, record: TaskRecord): LocalTask {
  const { phase, lease, template, number, attempt } = record
  const first = lease ? lease.inFlight.keys().next().value === number : true
  const state = phase === 'pushed' ? (first ? 'RUNNING' : 'PUSHED') : phase === 'queued' ? 'QUEUED' : phase === 'delayed' ? 'DELAYED' : 'WAITING'
  const worker = lease?.worker ?? runtime.actors.workerOf(record)?.worker ?? ''
  return {
    task: `${runtime.process}:${number}`,
    name: template.name,
    state,
    worker,
    attempt,
    forMs: phase === 'pushed' ? performance.now() - record.pushedAt : 0,
  }
}

export function report(runtime: Runtime, limit: number): LocalReport {
  const tasks: LocalTask[] = []
  for (const source of [runtime.submitter.leases.pending(), runtime.actors.pending()]) {
    for (const record of source) {
      if (tasks.length >= limit) break
      if (record.phase !== 'done') tasks.push(localTask(runtime, record))
    }
  }
  const { references, store, submitter } = runtime
  return {
    process: runtime.process,
    tasks,
    ownedObjects: references.owned,
    borrowedObjects: references.borrowedCount,
    ownedStoreBytes: store.ownedBytes,
    retries: submitter.retries,
    reconstructions: submitter.reconstructions,
  }
}
