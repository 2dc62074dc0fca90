/**
 * The actor behind a Queue: items, and who waits for items or for room, first come first served. Exported, so that it ships by name.
 *
 * A waiting call is dropped when its caller goes away or withdraws it, so that no item is handed to nobody.
 */
import { LIMITS } from '../limits.ts'
import { currentTask } from './calls.ts'

/** Answers travel as data: an error thrown here would arrive wrapped as a failure of the actor's code. */
export type QueueAnswer<T> = { readonly items: readonly T[] } | { readonly refused: 'timeout' | 'closed' | 'withdrawn'; readonly size: number }

interface Waiting<T> {
  readonly ticket: string
  /** Items to put, or none. */
  readonly items: readonly T[]
  /** How many items it takes at least and at most. */
  readonly min: number
  readonly max: number
  answer(answer: QueueAnswer<T>): void
}

export class QueueActor<T> {
  readonly #maxSize: number
  readonly #items: T[] = []
  #takers: Waiting<T>[] = []
  #putters: Waiting<T>[] = []
  #closed = false

  /** @param maxSize - 0: no limit */
  constructor(maxSize: number) {
    this.#maxSize = maxSize
  }

  /** Adds all items, in order and side by side, as soon as there is room for all of them. */
  async put(ticket: string, items: readonly T[], timeoutMs: number): Promise<QueueAnswer<T>> {
    return await this.#wait(this.#putters, { ticket, items, min: 0, max: 0 }, timeoutMs)
  }

  /** Takes up to `max` items as soon as there are `min`. */
  async take(ticket: string, min: number, max: number, timeoutMs: number): Promise<QueueAnswer<T>> {
    return await this.#wait(this.#takers, { ticket, items: [], min, max }, timeoutMs)
  }

  /** Ends a waiting call, unless it was served already. */
  withdraw(ticket: string): void {
    for (const list of [this.#putters, this.#takers])
      list.find((waiting) => waiting.ticket === ticket)?.answer({ refused: 'withdrawn', size: this.#items.length })
    this.#serve()
  }

  limit(): number {
    return this.#maxSize
  }

  size(): number {
    return this.#items.length
  }

  /** Nothing can be put any more; what is there can be taken. */
  close(): void {
    this.#closed = true
    for (const putter of [...this.#putters]) putter.answer({ refused: 'closed', size: this.#items.length })
    this.#serve()
  }

  async #wait(list: Waiting<T>[], wanted: Omit<Waiting<T>, 'answer'>, timeoutMs: number): Promise<QueueAnswer<T>> {
    if (wanted.items.length > 0 && this.#closed) return { refused: 'closed', size: this.#items.length }
    const { promise, resolve } = Promise.withResolvers<QueueAnswer<T>>()
    const signal = currentTask()?.signal
    let timer: NodeJS.Timeout | undefined
    const refuse = (refused: 'timeout' | 'withdrawn'): void => {
      waiting.answer({ refused, size: this.#items.length })
      this.#serve()
    }
    const gone = (): void => refuse('withdrawn')
    const waiting: Waiting<T> = {
      ...wanted,
      answer: (answer) => {
        const at = list.indexOf(waiting)
        if (at >= 0) list.splice(at, 1)
        clearTimeout(timer)
        signal?.removeEventListener('abort', gone)
        resolve(answer)
      },
    }
    list.push(waiting)
    this.#serve()
    if (list.includes(waiting)) {
      if (timeoutMs === 0) refuse('timeout')
      else {
        if (Number.isFinite(timeoutMs)) timer = setTimeout(() => refuse('timeout'), Math.min(timeoutMs, LIMITS.timerMsMax))
        signal?.addEventListener('abort', gone, { once: true })
      }
    }
    return await promise
  }

  #serve(): void {
    for (let progress = true; progress; ) {
      progress = false
      const putter = this.#putters[0]
      // More than the queue ever holds goes in when it is empty.
      if (putter && (this.#maxSize === 0 || this.#items.length === 0 || this.#items.length + putter.items.length <= this.#maxSize)) {
        this.#items.push(...putter.items)
        putter.answer({ items: [] })
        progress = true
      }
      const taker = this.#takers[0]
      if (!taker) continue
      const enough = Math.min(taker.min, this.#maxSize || taker.min)
      if (this.#items.length >= enough || (this.#closed && this.#items.length > 0)) {
        taker.answer({ items: this.#items.splice(0, taker.max) })
        progress = true
      } else if (this.#closed) {
        taker.answer({ refused: 'closed', size: 0 })
        progress = true
      }
    }
  }
}
