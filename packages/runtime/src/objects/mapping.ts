/**
 * One mapping of a file, unmapped when the last ArrayBuffer over it has been collected. Never earlier: touching unmapped memory
 * would end the process.
 */
import { closeSync, openSync } from 'node:fs'
import { bufferAt, mapFile, unmap } from './libc.ts'
import { markMapped } from './mapped-memory.ts'

interface Mapping {
  readonly address: bigint
  readonly bytes: number
  buffers: number
  readonly onUnmapped: () => void
}

const collected = new FinalizationRegistry<Mapping>((mapping) => {
  if (--mapping.buffers > 0) return
  unmap(mapping.address, mapping.bytes)
  mapping.onUnmapped()
})

/** @param offset - bytes, a multiple of 4096 */
export function openMapping(path: string, offset: number, bytes: number, sharing: 'shared' | 'private', onUnmapped: () => void): ArrayBuffer {
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
  const whole = bufferOver(0, bytes)
  markMapped(whole, bufferOver)
  return whole
}
