/**
 * The few calls of the C library that Node lacks, through koffi, which is loaded at the first use: programs that never touch shared
 * memory do not pay for it.
 */
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { BeamlineError } from '../errors.ts'

type Koffi = typeof import('koffi')

interface AsyncCall {
  (...args: unknown[]): unknown
  async: (...args: unknown[]) => void
}

interface Libc {
  readonly koffi: Koffi
  readonly mmap: (address: bigint, length: number, protection: number, flags: number, fd: number, offset: number) => bigint
  readonly munmap: (address: bigint, length: number) => number
}

// The same numbers on Linux and macOS, x64 and arm64.
const PROT_READ_WRITE = 3
const MAP_SHARED = 1
const MAP_PRIVATE = 2
const MAP_FIXED = 0x10
const MAP_ANONYMOUS = process.platform === 'darwin' ? 0x1000 : 0x20
const MAP_NORESERVE = process.platform === 'darwin' ? 0x40 : 0x4000
const MAP_FAILED = 0xffff_ffff_ffff_ffffn

const MADV_POPULATE_WRITE = 23
const PR_SET_PDEATHSIG = 1
const F_PREALLOCATE = 42
const F_ALLOCATEALL = 4
const F_PEOFPOSMODE = 3

let loaded: Libc | undefined

function libc(): Libc {
  if (loaded) return loaded
  const supported = (process.platform === 'linux' || process.platform === 'darwin') && (process.arch === 'x64' || process.arch === 'arm64')
  if (!supported) throw new BeamlineError('PLATFORM_UNSUPPORTED', { platform: `${process.platform} ${process.arch}` })
  const koffi = createRequire(import.meta.url)('koffi') as Koffi
  const self = koffi.load(null) // the C library that this process runs on already, whatever its file is called
  loaded = {
    koffi,
    mmap: self.func('uintptr_t mmap(uintptr_t, size_t, int, int, int, int64_t)') as unknown as Libc['mmap'],
    munmap: self.func('int munmap(uintptr_t, size_t)') as unknown as Libc['munmap'],
  }
  return loaded
}

/**
 * Maps a part of an open file, readable and writable; `private`: writes stay in this process.
 *
 * @param offset - bytes, a multiple of the page size
 * @returns the address
 */
export function mapFile(fd: number, offset: number, bytes: number, sharing: 'shared' | 'private'): bigint {
  const { mmap, koffi } = libc()
  const address = BigInt(mmap(0n, bytes, PROT_READ_WRITE, sharing === 'shared' ? MAP_SHARED : MAP_PRIVATE, fd, offset))
  if (address === MAP_FAILED) throw new Error(`mmap of ${bytes} bytes failed: ${errorName(koffi.errno())}`)
  return address
}

export function unmap(address: bigint, bytes: number): void {
  libc().munmap(address, bytes)
}

/** Gives a writable mapping all of its pages, off the main thread; elsewhere than on Linux 5.14 and later each page comes at its first use. */
export function populate(address: bigint, bytes: number): Promise<void> {
  if (process.platform !== 'linux') return Promise.resolve()
  const madvise = libc().koffi.load(null).func('int madvise(uintptr_t, size_t, int)') as unknown as AsyncCall
  return new Promise((resolve) => madvise.async(address, bytes, MADV_POPULATE_WRITE, () => resolve()))
}

/** Puts empty private memory in the place of a mapping. */
export function replaceWithZeros(address: bigint, bytes: number): void {
  libc().mmap(address, bytes, PROT_READ_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
}

/** An ArrayBuffer over memory at an address. Neither copies nor keeps the mapping alive. */
export function bufferAt(address: bigint, bytes: number): ArrayBuffer {
  const { koffi } = libc()
  return koffi.view(address as never, bytes) as ArrayBuffer
}

/** Gives the file this size with every page reserved, so that writing to a mapping of it cannot fail; off the main thread. */
export async function reserveFile(fd: number, bytes: number): Promise<void> {
  const reserve = process.platform === 'darwin' ? preallocate : fallocate
  let code = await reserve(fd, bytes)
  while (code === constants.errno.EINTR) code = await reserve(fd, bytes) // a signal, such as that of a child that ended
  if (code !== 0) throw Object.assign(new Error(`cannot reserve ${bytes} bytes: ${errorName(code)}`), { code: errorName(code) })
}

function fallocate(fd: number, bytes: number): Promise<number> {
  const call = libc().koffi.load(null).func('int posix_fallocate(int, int64_t, int64_t)') as unknown as AsyncCall
  return new Promise((resolve, reject) => {
    call.async(fd, 0, bytes, (error: Error | null, code: number) => (error ? reject(error) : resolve(code)))
  })
}

async function preallocate(fd: number, bytes: number): Promise<number> {
  const { koffi } = libc()
  const store = koffi.struct({ flags: 'uint', position: 'int', offset: 'int64_t', length: 'int64_t', allocated: 'int64_t' })
  const fcntl = koffi.load(null).func('fcntl', 'int', ['int', 'int', '...']) as unknown as (...args: unknown[]) => number
  const request = { flags: F_ALLOCATEALL, position: F_PEOFPOSMODE, offset: 0, length: bytes, allocated: 0 }
  if (fcntl(fd, F_PREALLOCATE, koffi.inout(koffi.pointer(store)), request) === -1) return koffi.errno()
  const { ftruncateSync } = await import('node:fs')
  ftruncateSync(fd, bytes)
  return 0
}

/**
 * Has the kernel kill this process when the process that started it dies (Linux; elsewhere nothing happens: watch a pipe as well).
 *
 * @param parent - pid that must still be the parent; when it is not, it died before this call and the process ends at once
 */
export function dieWithParent(parent: number = process.ppid): void {
  if (process.platform !== 'linux') return
  const prctl = libc().koffi.load(null).func('int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)')
  prctl(PR_SET_PDEATHSIG, constants.signals.SIGKILL, 0, 0, 0)
  if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL')
}

function errorName(code: number): string {
  return code > 0 ? getSystemErrorName(-code) : 'unknown error'
}
