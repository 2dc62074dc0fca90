/**
 * One mapping of a file, unmapped when the last ArrayBuffer over it has been collected. Never earlier: touching unmapped memory
 * would end the process.
 */
import { closeSync, openSync } from 'node:fs'
import { HEADER_BYTES } from './format.ts'
import { bufferAt, mapFile, populate, replaceWithZeros, unmap } from './libc.ts'
import { markMapped } from './mapped-memory.ts'

interface Mapping {
  readonly address: bigint
  readonly bytes: number
  buffers: number
  readonly onUnmapped: () => void
}

const mappings = new WeakMap<ArrayBuffer, Mapping>()

const collected = new FinalizationRegistry<Mapping>((mapping) => {
  if (--mapping.buffers > 0) return
  unmap(mapping.address, mapping.bytes)
  mapping.onUnmapped()
})

/**
 * Maps a part of a file.
 *
 * @param offset - bytes, a multiple of 4096
 * @param headOf - how much of it the ArrayBuffer shall cover, told from its first bytes; default: all. V8 counts every ArrayBuffer as
 * memory of this process and collects garbage accordingly, so nothing should be covered twice.
 */
export function openMapping(
  { path, offset, bytes }: { readonly path: string; readonly offset: number; readonly bytes: number },
  sharing: 'shared' | 'private',
  onUnmapped: () => void,
  headOf?: (header: Uint8Array) => number,
): ArrayBuffer {
  const fd = openSync(path, 'r+')
  let address: bigint
  try {
    address = mapFile(fd, offset, bytes, sharing)
  } finally {
    closeSync(fd)
  }
  const mapping: Mapping = { address, bytes, buffers: 0, onUnmapped }
  const bufferOver = (start: number, length: number): ArrayBuffer => {
    const buffer = bufferAt(address + BigInt(start), length)
    mapping.buffers++
    collected.register(buffer, mapping)
    return buffer
  }
  const head = headOf ? headOf(new Uint8Array(bufferAt(address, Math.min(bytes, HEADER_BYTES)))) : bytes
  const buffer = bufferOver(0, head)
  markMapped(buffer, bufferOver)
  mappings.set(buffer, mapping)
  return buffer
}

/** Has the kernel prepare the pages of a shared mapping without blocking this process. */
export async function prepareMemory(buffer: ArrayBuffer): Promise<void> {
  const mapping = mappings.get(buffer)
  if (mapping) await populate(mapping.address, mapping.bytes)
}

/**
 * Lets go of the file's memory at once. The ArrayBuffer stays and reads as zeros: views of it that are still around do no harm.
 *
 * @param buffer - from {@link openMapping}
 */
export function releaseMemory(buffer: ArrayBuffer): void {
  const mapping = mappings.get(buffer)
  if (mapping) replaceWithZeros(mapping.address, mapping.bytes)
}
