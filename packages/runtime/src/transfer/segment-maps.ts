/**
 * This process's mappings of whole segments, kept from one transfer to the next: mapping the pages of 256 MiB anew costs more than half of what
 * copying them costs.
 */
import { openMapping, prepareMemory, releaseMemory } from '../objects/mapping.ts'
import type { ObjectMemory } from './copy-store.ts'

export class SegmentMaps {
  readonly #maps = new Map<string, Promise<ArrayBuffer>>()

  /** The bytes of an object, readable and writable; when the segment is let go they read as zeros. */
  async map({ segment, path, segmentBytes, offset, bytes }: ObjectMemory): Promise<Uint8Array> {
    let mapping = this.#maps.get(segment)
    if (!mapping) {
      mapping = open(path, segmentBytes)
      this.#maps.set(segment, mapping)
      mapping.catch(() => this.#maps.delete(segment))
    }
    return new Uint8Array(await mapping, offset, bytes)
  }

  /** The file of the segment is gone: its memory goes too. */
  letGo(segment: string): void {
    const mapping = this.#maps.get(segment)
    this.#maps.delete(segment)
    void mapping?.then(releaseMemory, () => {})
  }

  close(): void {
    for (const segment of [...this.#maps.keys()]) this.letGo(segment)
  }
}

async function open(path: string, bytes: number): Promise<ArrayBuffer> {
  const buffer = openMapping({ path, offset: 0, bytes }, 'shared', () => {})
  await prepareMemory(buffer)
  return buffer
}
