/**
 * The task or actor call that the current code runs in: what `get` needs to lend its CPU and to stop when it is
 * cancelled, and what users read of themselves.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { LIMITS } from '../limits.ts'
import type { TaskRecord } from './task-record.ts'

export class RunningTask {
  readonly name: string
  readonly owner: string
  readonly number: number
  readonly lease: number
  readonly attempt: number
  readonly startedAt: number
  /** Placement group that calls made by it join; "": none. */
  readonly group: string
  readonly #blockNotice: (blocked: boolean) => void
  #controller: AbortController | undefined
  #children: Set<TaskRecord> | undefined
  #blocked = 0
  #noticed = false
  #timer: NodeJS.Timeout | undefined

  constructor(
    fields: { name: string; owner: string; number: number; lease: number; attempt: number; startedAt: number; group: string },
    blockNotice: (blocked: boolean) => void,
  ) {
    this.name = fields.name
    this.owner = fields.owner
    this.number = fields.number
    this.lease = fields.lease
    this.attempt = fields.attempt
    this.startedAt = fields.startedAt
    this.group = fields.group
    this.#blockNotice = blockNotice
  }

  /** Aborted when the task is cancelled. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    return this.#controller.signal
  }

  get cancelled(): boolean {
    return this.#controller?.signal.aborted ?? false
  }

  abort(reason: Error): void {
    this.#controller ??= new AbortController()
    this.#controller.abort(reason)
  }

  /** Calls that this task submitted and that are not finished. */
  get children(): ReadonlySet<TaskRecord> {
    return this.#children ?? new Set()
  }

  addChild(record: TaskRecord): void {
    this.#children ??= new Set()
    this.#children.add(record)
    if (this.#children.size % 1024 === 0) for (const child of this.#children) if (child.phase === 'done') this.#children.delete(child)
  }

  /** Marks a wait for objects. Waits longer than a moment lend the CPU. */
  block(): void {
    if (this.#blocked++ > 0) return
    this.#timer = setTimeout(() => {
      this.#noticed = true
      this.#blockNotice(true)
    }, LIMITS.blockNoticeMs)
  }

  unblock(): void {
    if (--this.#blocked > 0) return
    clearTimeout(this.#timer)
    if (this.#noticed) this.#blockNotice(false)
    this.#noticed = false
  }
}

const storage = new AsyncLocalStorage<RunningTask>()

/** The task that runs now; undefined in the driver. */
export function runningTask(): RunningTask | undefined {
  return storage.getStore()
}

/** Waits for something that other work brings; the task that waits lends its CPU. */
export async function whileBlocked<T>(wait: () => Promise<T>): Promise<T> {
  const task = runningTask()
  task?.block()
  try {
    return await wait()
  } finally {
    task?.unblock()
  }
}

export function runAs<T>(task: RunningTask, run: () => T): T {
  return storage.run(task, run)
}
