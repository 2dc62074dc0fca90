/**
 * The bytes of objects in shared memory, read and written through their files in chunks: the threads of Node copy them, not the daemon's own.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { CHUNK_BYTES, type MemoryPart } from './target.ts'

/** The parts one after the other. A chunk is valid until the next one is asked for. */
export async function* readParts(parts: readonly MemoryPart[]): AsyncGenerator<Buffer, void> {
  const total = parts.reduce((sum, { bytes }) => sum + bytes, 0)
  const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, total))
  const handles = new Map<string, FileHandle>()
  let filled = 0
  try {
    for (const { path, offset, bytes } of parts) {
      let handle = handles.get(path)
      if (!handle) {
        handle = await open(path, 'r')
        handles.set(path, handle)
      }
      for (let done = 0; done < bytes; ) {
        const length = Math.min(buffer.length - filled, bytes - done)
        await fill(handle, buffer.subarray(filled, filled + length), offset + done)
        done += length
        filled += length
        if (filled < buffer.length) continue
        yield buffer
        filled = 0
      }
    }
    if (filled > 0) yield buffer.subarray(0, filled)
  } finally {
    for (const handle of handles.values()) await handle.close()
  }
}

/** Writes a stream of chunks into `memory`. @throws when it does not bring exactly as many bytes */
export async function writePart(memory: MemoryPart, chunks: AsyncIterable<Uint8Array>): Promise<void> {
  const handle = await open(memory.path, 'r+')
  let done = 0
  try {
    for await (const chunk of chunks) {
      if (done + chunk.length > memory.bytes) throw new Error(`more than ${memory.bytes} bytes came back`)
      for (let at = 0; at < chunk.length; ) {
        const { bytesWritten } = await handle.write(chunk, at, chunk.length - at, memory.offset + done + at)
        at += bytesWritten
      }
      done += chunk.length
    }
  } finally {
    await handle.close()
  }
  if (done < memory.bytes) throw new Error(`only ${done} of ${memory.bytes} bytes came back`)
}

/** Fills the buffer from a file. @throws when the file ends before */
export async function fill(handle: FileHandle, buffer: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await handle.read(buffer, done, buffer.length - done, position + done)
    if (bytesRead === 0) throw new Error(`the file ends at byte ${position + done}`)
    done += bytesRead
  }
}
