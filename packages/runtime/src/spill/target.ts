/**
 * Where spill files go: folders on local disks, or a bucket. A file is written once, read in parts and removed; it need not outlive a crash of the
 * machine, so nobody waits for the disk to have it.
 */

/** Bytes of a file in shared memory. */
export interface MemoryPart {
  readonly path: string
  readonly offset: number
  readonly bytes: number
}

export interface SpillTarget {
  /** Writes the parts one after the other into a new file. @throws with a reason for people; then nothing is left of it */
  write(file: string, parts: readonly MemoryPart[]): Promise<void>
  /** Copies a part of a file, from byte `from` on, into `memory`. */
  read(file: string, from: number, memory: MemoryPart): Promise<void>
  remove(file: string): Promise<void>
  /** Removes everything that was written. */
  close(): Promise<void>
}

/** What one read or write moves at a time. */
export const CHUNK_BYTES: number = 4 * 1_048_576
