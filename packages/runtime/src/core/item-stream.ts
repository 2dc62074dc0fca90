/**
 * The owner's side of a streaming call: items that arrived, how far the consumer is, and how the stream ended.
 */
import type { ObjectEntry } from './object-entry.ts'

/** Numbers reserved for the items of one stream; also how many items one may have. */
export const STREAM_ITEMS_MAX: number = 2 ** 24

export class ItemStream {
  readonly #items = new Map<number, ObjectEntry>()
  readonly #consumed: (count: number, stop: boolean) => void
  readonly #itemsMax: number
  #next = 0
  #arrived = 0
  #acknowledged = 0
  #total: number | undefined
  #error: Error | undefined
  #stopped = false
  /** Consumers that wait for the next item. */
  #wakes: (() => void)[] = []

  /** @param consumed - tells the producer how many items were taken, or that no more are wanted */
  constructor(itemsMax: number, consumed: (count: number, stop: boolean) => void) {
    this.#itemsMax = itemsMax
    this.#consumed = consumed
  }

  get arrived(): number {
    return this.#arrived
  }

  get ended(): boolean {
    return this.#stopped || this.#total !== undefined || this.#error !== undefined
  }

  /** False for an item that is not wanted (stopped, or a repetition after a retry). */
  accepts(index: number): boolean {
    return !this.#stopped && index >= this.#next && !this.#items.has(index)
  }

  /** The entry is held by the stream until it is taken. */
  add(index: number, entry: ObjectEntry): void {
    this.#items.set(index, entry.hold())
    this.#arrived = Math.max(this.#arrived, index + 1)
    this.#signal()
  }

  end(total: number): void {
    this.#total = total
    this.#signal()
  }

  fail(error: Error): boolean {
    if (this.ended) return false
    this.#error = error
    this.#signal()
    return true
  }

  #signal(): void {
    for (const wake of this.#wakes.splice(0)) wake()
  }

  /** A producer was started. After a retry it begins with the first item again, and may run ahead of what was taken. */
  started(): void {
    if (this.#next > 0) this.#acknowledge()
  }

  #acknowledge(): void {
    this.#acknowledged = this.#next
    this.#consumed(this.#next, false)
  }

  /** The next item's entry, held for the caller; undefined at the end. Throws the error that ended the stream. */
  async take(): Promise<ObjectEntry | undefined> {
    for (;;) {
      const entry = this.#items.get(this.#next)
      if (entry) {
        this.#items.delete(this.#next++)
        if (this.#next - this.#acknowledged >= Math.max(1, this.#itemsMax >> 1)) this.#acknowledge()
        return entry
      }
      if (this.#stopped || (this.#total !== undefined && this.#next >= this.#total)) return undefined
      if (this.#error) throw this.#error
      await new Promise<void>((resolve) => this.#wakes.push(resolve))
    }
  }

  /** No more items are wanted: the producer is told, and what arrived is let go. */
  stop(): void {
    if (this.#stopped) return
    const running = !this.ended
    this.#stopped = true
    for (const entry of this.#items.values()) entry.unhold()
    this.#items.clear()
    if (running) this.#consumed(this.#next, true)
    this.#signal()
  }
}
