/**
 * Spill files in folders on local disks: one disk after the other in turn, each up to its quota and as long as it is not nearly full. What a dead
 * daemon left in them is removed at the next start.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import { open, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { BeamlineError } from '../errors.ts'
import { fill, readParts, writePart } from './memory-parts.ts'
import { CHUNK_BYTES, type MemoryPart, type SpillTarget } from './target.ts'

/** A process that may have left files, told apart from others that had its pid. */
export interface Holder {
  readonly pid: number
  readonly started: string
}

export interface DirectoryTargetOptions {
  readonly directories: readonly string[]
  /** Bytes of spill files per folder; default: 0.9 of what its disk has free at the start. */
  readonly quotaBytes: number | undefined
  /** Name of this daemon's folder in each of them. */
  readonly name: string
  readonly holder: Holder
  readonly isAlive: (holder: Holder) => boolean
}

/** A disk fuller than this gets no more spill files: others need it too. */
const DISK_FULL = 0.95
const PREFIX = 'beamline-spill-'
/** A folder without a holder is given this time to get one. */
const NEW_MS = 60_000

interface Folder {
  readonly path: string
  readonly quotaBytes: number
  usedBytes: number
}

export class DirectoryTarget implements SpillTarget {
  readonly #folders: readonly Folder[]
  readonly #files = new Map<string, { readonly folder: Folder; readonly bytes: number }>()
  #next = 0

  /** @throws {@link BeamlineError} `STORE_UNAVAILABLE` for a folder that cannot be used */
  constructor({ directories, quotaBytes, name, holder, isAlive }: DirectoryTargetOptions) {
    this.#folders = directories.map((directory) => {
      const path = join(directory, `${PREFIX}${name}`)
      try {
        mkdirSync(path, { mode: 0o700 })
        writeFileSync(join(path, 'holder.json'), JSON.stringify(holder), { mode: 0o600 })
        removeStale(directory, isAlive)
        const { bavail, bsize } = statfsSync(path)
        return { path, quotaBytes: quotaBytes ?? Math.floor(0.9 * bavail * bsize), usedBytes: 0 }
      } catch (error) {
        throw new BeamlineError('STORE_UNAVAILABLE', { path: directory, reason: (error as Error).message }, { cause: error })
      }
    })
  }

  async write(file: string, parts: readonly MemoryPart[]): Promise<void> {
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0)
    const reasons: string[] = []
    for (let tried = 0; tried < this.#folders.length; tried++) {
      const folder = this.#folders[this.#next++ % this.#folders.length]!
      folder.usedBytes += bytes // others that are being written meanwhile must see it
      const reason = (await refusal(folder, bytes)) ?? (await this.#writeTo(join(folder.path, file), parts))
      if (reason === undefined) {
        this.#files.set(file, { folder, bytes })
        return
      }
      folder.usedBytes -= bytes
      reasons.push(reason)
    }
    throw new Error(reasons.join('; '))
  }

  /** @returns why not */
  async #writeTo(path: string, parts: readonly MemoryPart[]): Promise<string | undefined> {
    try {
      const handle = await open(path, 'wx', 0o600)
      try {
        for await (const chunk of readParts(parts)) for (let at = 0; at < chunk.length; ) at += (await handle.write(chunk, at)).bytesWritten
      } finally {
        await handle.close()
      }
      return undefined
    } catch (error) {
      await rm(path, { force: true })
      return (error as Error).message
    }
  }

  async read(file: string, from: number, memory: MemoryPart): Promise<void> {
    await writePart(memory, readChunks(this.#pathOf(file), from, memory.bytes))
  }

  async remove(file: string): Promise<void> {
    const written = this.#files.get(file)
    if (!written) return
    const path = this.#pathOf(file)
    this.#files.delete(file)
    written.folder.usedBytes -= written.bytes
    await rm(path, { force: true })
  }

  #pathOf(file: string): string {
    const written = this.#files.get(file)
    if (!written) throw new Error(`there is no spill file ${file}`)
    return join(written.folder.path, file)
  }

  async close(): Promise<void> {
    await Promise.all(this.#folders.map(({ path }) => rm(path, { recursive: true, force: true })))
  }
}

/** Why nothing goes to a folder. */
async function refusal({ path, quotaBytes, usedBytes }: Folder, bytes: number): Promise<string | undefined> {
  if (usedBytes > quotaBytes) {
    return `${path} may hold ${mib(quotaBytes)} and has ${mib(usedBytes - bytes)} already`
  }
  try {
    const { blocks, bavail, bsize } = await statfs(path)
    const full = 1 - (bavail * bsize - bytes) / (blocks * bsize)
    if (full > DISK_FULL) return `with ${mib(bytes)} more the disk of ${path} would be ${(full * 100).toFixed(1)} % full, and ${DISK_FULL * 100} % is the limit`
  } catch (error) {
    return (error as Error).message
  }
  return undefined
}

function mib(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`
}

async function* readChunks(path: string, from: number, bytes: number): AsyncGenerator<Uint8Array, void> {
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK_BYTES, bytes))
    for (let done = 0; done < bytes; done += buffer.length) {
      const chunk = buffer.subarray(0, Math.min(buffer.length, bytes - done))
      await fill(handle, chunk, from + done)
      yield chunk
    }
  } finally {
    await handle.close()
  }
}

/** Removes the folders of daemons that are dead. */
function removeStale(directory: string, isAlive: (holder: Holder) => boolean): void {
  for (const name of readdirSync(directory)) {
    if (!name.startsWith(PREFIX)) continue
    const path = join(directory, name)
    try {
      if (isAlive(JSON.parse(readFileSync(join(path, 'holder.json'), 'utf8')) as Holder)) continue
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || isNew(path)) continue // of another user, or of a daemon that just starts
    }
    rmSync(path, { recursive: true, force: true })
  }
}

function isNew(path: string): boolean {
  const stats = statSync(path, { throwIfNoEntry: false })
  return stats === undefined || Date.now() - stats.mtimeMs < NEW_MS
}
