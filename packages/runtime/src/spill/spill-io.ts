/**
 * Moves objects between shared memory and spill files for the segment directory: a few at a time, readers before writers. Loads what it needs with
 * the first file.
 */
import type { MemoryPart, SpillTarget } from './target.ts'

/** Each has threads of Node for itself, which others in the daemon need too. */
const WRITES_AT_ONCE = 2
const READS_AT_ONCE = 4

export class SpillIo {
  readonly #open: () => Promise<SpillTarget>
  #target: Promise<SpillTarget> | undefined
  readonly #writes = new Turns(WRITES_AT_ONCE)
  readonly #reads = new Turns(READS_AT_ONCE)

  /** @param open - makes the target, once it is needed */
  constructor(open: () => Promise<SpillTarget>) {
    this.#open = open
  }

  /** @returns why it failed */
  write(file: number, parts: readonly MemoryPart[]): Promise<string | undefined> {
    return this.#writes.take(async () => (await this.#get()).write(String(file), parts))
  }

  /** @returns why it failed */
  read(file: number, from: number, memory: MemoryPart): Promise<string | undefined> {
    return this.#reads.take(async () => (await this.#get()).read(String(file), from, memory))
  }

  /** @returns why it failed */
  remove(file: number): Promise<string | undefined> {
    return outcome(async () => (await this.#get()).remove(String(file)))
  }

  async #get(): Promise<SpillTarget> {
    this.#target ??= this.#open()
    return this.#target
  }

  /** Removes what was written; what is under way fails. */
  async close(): Promise<void> {
    const target = await this.#target?.catch(() => undefined)
    await target?.close()
  }
}

/** Lets so many run at once, the others wait in order. */
class Turns {
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(atOnce: number) {
    this.#free = atOnce
  }

  async take(act: () => Promise<void>): Promise<string | undefined> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      return await outcome(act)
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free++
    }
  }
}

async function outcome(act: () => Promise<void>): Promise<string | undefined> {
  try {
    await act()
    return undefined
  } catch (error) {
    return (error as Error).message || (error as Error).name
  }
}
