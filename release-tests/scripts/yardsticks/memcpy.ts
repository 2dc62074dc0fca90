/**
 * Yardstick: copying 800 MiB into shared memory whose pages exist already. A put cannot be faster: it is one such copy.
 * The mapping is made here with libc's own calls, not with the runtime's.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import koffi from 'koffi'
import type { Bench } from '../../src/measure.ts'

const PROT_READ_WRITE = 3
const MAP_SHARED = 1

/** @param source - what is copied; the same values that the put stores */
export function memcpy(source: Uint8Array, { gigabytes }: { gigabytes: number }): Disposable & { readonly bench: Bench } {
  const libc = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6')
  const mmap = libc.func('void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)')
  const munmap = libc.func('int munmap(void *address, size_t length)')
  const folder = mkdtempSync(path.join(process.platform === 'linux' ? '/dev/shm' : tmpdir(), 'release-memcpy-'))
  const fd = openSync(path.join(folder, 'block'), 'w+')
  const address: unknown = (() => {
    try {
      ftruncateSync(fd, source.byteLength)
      return mmap(null, source.byteLength, PROT_READ_WRITE, MAP_SHARED, fd, 0)
    } finally {
      closeSync(fd)
      rmSync(folder, { recursive: true })
    }
  })()
  const target = new Uint8Array(koffi.view(address, source.byteLength))
  target.fill(1)
  return {
    bench: { name: 'yardstick_memcpy_gigabytes', unit: 'GB/s', sample: (rate) => rate * gigabytes, op: () => target.set(source) },
    [Symbol.dispose]() {
      munmap(address, source.byteLength)
    },
  }
}
