/**
 * The order between what the head writes and what it does: an instruction after a write is carried out once the store has acknowledged the write.
 * Writes that come while one is on its way leave together with the next; one that nothing depends on (`later`) leaves with them or soon after, and
 * nothing waits for it. What is durable is always a beginning of what was written. Without a store nothing waits.
 */
import type { Write } from '../store/control-store.ts'

export interface Persist {
  readonly kind: 'persist'
  readonly key: string
  /** Undefined: the record is not needed any more. */
  readonly value: string | undefined
  /** Nothing that follows waits for it. */
  readonly later?: boolean
}

/** Writes that nothing waits for are collected for so long. */
const LATER_MS = 20

export interface CommitGateOptions<I extends { readonly kind: string }> {
  /** Resolves when the writes are durable. Undefined: there is no store. */
  readonly write: ((batch: readonly Write[]) => Promise<unknown>) | undefined
  readonly perform: (instruction: Exclude<I, Persist>) => void
  /** A write failed for good: nothing more is carried out. */
  readonly failed: (error: Error) => void
}

export class CommitGate<I extends { readonly kind: string }> {
  readonly #options: CommitGateOptions<I>
  /** By key, the last value of each; in the order of the first. */
  #writes: Map<string, string | undefined> = new Map()
  /** What follows a write that is not acknowledged yet. */
  #acts: Exclude<I, Persist>[] = []
  /** Something waits for what is in #writes. */
  #wanted = false
  #holding = false
  #writing = false
  #failed = false
  /** A look at what need not be written at once is due. */
  #due = false

  constructor(options: CommitGateOptions<I>) {
    this.#options = options
  }

  run(instructions: readonly I[]): void {
    const { write, perform } = this.#options
    for (const instruction of instructions) {
      if (!isPersist(instruction)) {
        if (this.#holding) this.#acts.push(instruction as Exclude<I, Persist>)
        else perform(instruction as Exclude<I, Persist>)
      } else if (write !== undefined && !this.#failed) {
        this.#writes.set(instruction.key, instruction.value)
        if (instruction.later === true) this.#writeLater()
        else this.#start()
      }
    }
  }

  #writeLater(): void {
    if (this.#due) return
    this.#due = true
    setTimeout(() => {
      this.#due = false
      if (!this.#writing && this.#writes.size > 0) void this.#commit()
    }, LATER_MS)
  }

  #start(): void {
    this.#holding = true
    this.#wanted = true
    if (this.#writing) return
    this.#writing = true
    // At the end of the turn: all that one turn brings is one write.
    queueMicrotask(() => void this.#commit())
  }

  async #commit(): Promise<void> {
    const { write, perform, failed } = this.#options
    this.#writing = true
    try {
      do {
        const [writes, acts] = [this.#writes, this.#acts]
        this.#writes = new Map()
        this.#acts = []
        this.#wanted = false
        const encoder = new TextEncoder()
        if (writes.size > 0) await write?.([...writes].map(([key, value]) => ({ key, value: value === undefined ? value : encoder.encode(value) })))
        for (const act of acts) perform(act)
      } while (this.#wanted || this.#acts.length > 0)
      this.#writing = false
      this.#holding = false
      if (this.#writes.size > 0) this.#writeLater()
    } catch (error) {
      this.#failed = true
      this.#holding = true
      failed(error as Error)
    }
  }
}

function isPersist(instruction: { readonly kind: string }): instruction is Persist {
  return instruction.kind === 'persist'
}
