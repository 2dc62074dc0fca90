/**
 * Waiting for entries: the one promise behind `get` and `wait`, with time limit and abort signal.
 */
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { ObjectEntry, Waiter } from './object-entry.ts'

/** Why a wait ended. */
export type WaitEnd = 'ready' | 'failed' | 'timeout'

/** Resolves when `count` of the entries are ready, or earlier when one failed and `failFast` is set. */
export class EntryWaiter implements Waiter {
  #remaining: number
  readonly #failFast: boolean
  #resolve: ((end: WaitEnd) => void) | undefined
  /** Set when it ended before anybody waited. */
  #ended: WaitEnd | undefined
  #watched: ObjectEntry[] = []

  constructor(count: number, failFast: boolean) {
    this.#remaining = count
    this.#failFast = failFast
  }

  /** Also an entry that became ready when it was asked for. */
  watch(entry: ObjectEntry): void {
    if (entry.stored !== undefined) return this.entryReady(entry)
    this.#watched.push(entry)
    entry.addWaiter(this)
  }

  entryReady(entry: ObjectEntry): void {
    this.#remaining--
    if (this.#failFast && entry.stored?.kind === 'error') this.#end('failed')
    else if (this.#remaining <= 0) this.#end('ready')
  }

  #end(end: WaitEnd): void {
    this.#ended ??= end
    this.#resolve?.(end)
    this.#resolve = undefined
  }

  /** Call once, after all `watch` calls. */
  async end(timeoutMs: number | undefined, signal: AbortSignal | undefined): Promise<WaitEnd> {
    if (this.#ended !== undefined) return this.#ended
    if (timeoutMs === undefined && signal === undefined) {
      return await new Promise((resolve) => {
        this.#resolve = resolve
      })
    }
    let timer: NodeJS.Timeout | undefined
    let abort: (() => void) | undefined
    try {
      return await new Promise((resolve, reject) => {
        this.#resolve = resolve
        if (timeoutMs !== undefined) timer = setTimeout(() => this.#end('timeout'), Math.min(timeoutMs, LIMITS.timerMsMax))
        if (signal) {
          abort = () => reject(abortReason(signal))
          if (signal.aborted) abort()
          else signal.addEventListener('abort', abort, { once: true })
        }
      })
    } finally {
      clearTimeout(timer)
      if (abort) signal?.removeEventListener('abort', abort)
      for (const entry of this.#watched) if (entry.stored === undefined) entry.removeWaiter(this)
    }
  }
}

/** Waits for `loading`, no longer than `timeoutMs` and until a signal aborts; then rejects with `late()`, or why it was aborted. */
export async function within<T>(loading: Promise<T>, timeoutMs: number | undefined, signals: readonly AbortSignal[], late: () => Error): Promise<T> {
  if (timeoutMs === undefined && signals.length === 0) return await loading
  let timer: NodeJS.Timeout | undefined
  const aborts: [AbortSignal, () => void][] = []
  try {
    return await new Promise<T>((resolve, reject) => {
      loading.then(resolve, reject)
      if (timeoutMs !== undefined) timer = setTimeout(() => reject(late()), Math.min(timeoutMs, LIMITS.timerMsMax))
      for (const signal of signals) {
        const abort = (): void => reject(abortReason(signal))
        if (signal.aborted) abort()
        signal.addEventListener('abort', abort, { once: true })
        aborts.push([signal, abort])
      }
    })
  } finally {
    clearTimeout(timer)
    for (const [signal, abort] of aborts) signal.removeEventListener('abort', abort)
  }
}

/** The error that an aborted call rejects with: the signal's own reason when that is a BeamlineError, else CANCELLED. */
export function abortReason(signal: AbortSignal): Error {
  const reason: unknown = signal.reason
  if (BeamlineError.is(reason)) return reason
  const text = reason instanceof Error ? reason.message : String(reason)
  return new BeamlineError('CANCELLED', { task: 'the waiting call', reason: text }, { cause: reason })
}
