/**
 * The spill files of a node: each holds several objects and goes when the last of them is gone. Pure books; where the files are is the daemon's.
 */
export interface SpillFile {
  readonly number: number
  readonly bytes: number
  /** Objects in it that somebody may still want. */
  live: number
  written: boolean
}

export class SpillFiles {
  readonly #all = new Map<number, SpillFile>()
  #next = 1
  /** Sum of the files. */
  bytes = 0

  get(number: number): SpillFile | undefined {
    return this.#all.get(number)
  }

  values(): Iterable<SpillFile> {
    return this.#all.values()
  }

  create(bytes: number, objects: number): SpillFile {
    const file = { number: this.#next++, bytes, live: objects, written: false }
    this.#all.set(file.number, file)
    this.bytes += bytes
    return file
  }

  /** One object in it is gone. @returns whether the file can go */
  release(file: SpillFile): boolean {
    file.live--
    return file.live === 0 && file.written
  }

  remove(file: SpillFile): void {
    if (this.#all.delete(file.number)) this.bytes -= file.bytes
  }
}
