/**
 * The order between what the head writes and what it does: an instruction after a write is carried out once the store has acknowledged the write.
 * Writes that come while one is on its way leave together with the next. Without a store nothing waits.
 */
import type { Write } from '../store/control-store.ts'

export interface Persist {
  readonly kind: 'persist'
  readonly key: string
  /** Undefined: the record is not needed any more. */
  readonly value: string | undefined
}

export interface CommitGateOptions<I extends { readonly kind: string }> {
  /** Resolves when the writes are durable. Undefined: there is no store. */
  readonly write: ((batch: readonly Write[]) => Promise<unknown>) | undefined
  readonly perform: (instruction: Exclude<I, Persist>) => void
  /** A write failed for good: nothing more is carried out. */
  readonly failed: (error: Error) => void
}

export class CommitGate<I extends { readonly kind: string }> {
  readonly #options: CommitGateOptions<I>
  #waiting: I[] = []
  #busy = false
  #failed = false

  constructor(options: CommitGateOptions<I>) {
    this.#options = options
  }

  run(instructions: readonly I[]): void {
    for (const instruction of instructions) {
      if (!isPersist(instruction)) {
        if (this.#busy) this.#waiting.push(instruction)
        else this.#options.perform(instruction as Exclude<I, Persist>)
      } else if (this.#options.write !== undefined) {
        this.#waiting.push(instruction)
        if (!this.#busy) this.#start()
      }
    }
  }

  #start(): void {
    this.#busy = true
    // At the end of the turn: all that one turn brings is one write.
    queueMicrotask(() => void this.#commit())
  }

  async #commit(): Promise<void> {
    const { write, perform, failed } = this.#options
    try {
      while (this.#waiting.length > 0 && !this.#failed) {
        const batch = this.#waiting.filter((instruction): instruction is I & Persist => isPersist(instruction))
        const acts = this.#waiting.filter((instruction) => !isPersist(instruction))
        this.#waiting = []
        const last = new Map(batch.map(({ key, value }) => [key, value === undefined ? value : new TextEncoder().encode(value)]))
        if (last.size > 0) await write?.([...last].map(([key, value]) => ({ key, value })))
        for (const instruction of acts) perform(instruction as Exclude<I, Persist>)
      }
      this.#busy = false
    } catch (error) {
      this.#failed = true
      failed(error as Error)
    }
  }
}

function isPersist(instruction: { readonly kind: string }): instruction is Persist {
  return instruction.kind === 'persist'
}
