/**
 * Packed code on one node: fetched once, checked, unpacked once, and kept for jobs to come up to a quota.
 *
 * A folder gets its name when it is complete, so what is there can be used. What jobs of now use stays; beyond the quota the packages that were
 * used longest ago go first. A full disk keeps nobody from working here: the code goes to the next folder, which is on another one.
 */
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { debug } from '../debug.ts'
import { LIMITS } from '../limits.ts'

const log = debug('packages')

const REMOVE_TRIES = 5
const REMOVE_PAUSE_MS = 20

export interface PackageCacheOptions {
  /** Where packages are unpacked: the first that has room. */
  readonly dirs: readonly string[]
  readonly quotaBytes?: number
  /** The archive of that name. */
  readonly fetch: (digest: string) => Promise<Uint8Array>
}

interface Unpacked {
  readonly folder: string
  readonly bytes: number
}

interface Kept {
  readonly unpacked: Promise<Unpacked>
  /** Jobs that use it. */
  readonly users: Set<string>
  bytes: number
  usedMs: number
}

export class PackageCache {
  readonly #options: PackageCacheOptions
  readonly #kept: Map<string, Kept> = new Map()

  constructor(options: PackageCacheOptions) {
    this.#options = options
  }

  /** The folder with that code, for a job. All who ask while it is fetched wait for one fetch; a failure is forgotten. */
  async folder(digest: string, job: string): Promise<string> {
    const known = this.#kept.get(digest)
    const kept = known ?? { unpacked: this.#unpack(digest), users: new Set<string>(), bytes: 0, usedMs: 0 }
    kept.users.add(job)
    kept.usedMs = performance.now()
    if (known) return (await known.unpacked).folder
    this.#kept.set(digest, kept)
    try {
      const { folder, bytes } = await kept.unpacked
      kept.bytes = bytes
      await this.#evict()
      return folder
    } catch (error) {
      this.#kept.delete(digest)
      throw error
    }
  }

  /** The job needs its code no more. */
  jobEnded(job: string): void {
    for (const kept of this.#kept.values()) kept.users.delete(job)
  }

  async #unpack(digest: string): Promise<Unpacked> {
    const { dirs, fetch } = this.#options
    if (!/^[0-9a-f]{64}$/.test(digest)) throw new Error(`"${digest}" is no name of packed code`)
    const bytes = await fetch(digest)
    const got = createHash('sha256').update(bytes).digest('hex')
    if (got !== digest) throw new Error(`packed code ${digest} arrived as ${got}`)
    const problems: string[] = []
    for (const dir of dirs) {
      try {
        return await unpackInto(dir, digest, bytes)
      } catch (error) {
        problems.push(`${dir}: ${(error as Error).message}`)
      }
    }
    throw new Error(`it could not be unpacked in ${problems.join('; nor in ')}`)
  }

  async #evict(): Promise<void> {
    const quota = this.#options.quotaBytes ?? LIMITS.packageCacheBytes
    const idle = [...this.#kept].filter(([, { users, bytes }]) => users.size === 0 && bytes > 0).sort(([, a], [, b]) => a.usedMs - b.usedMs)
    let total = 0
    for (const { bytes } of this.#kept.values()) total += bytes
    for (const [digest, kept] of idle) {
      if (total <= quota) return
      // While another package was removed a job came, or another one who made room.
      if (kept.users.size > 0 || this.#kept.get(digest) !== kept) continue
      total -= kept.bytes
      this.#kept.delete(digest)
      // Away under its name at once: it may be asked for again while it is removed.
      const { folder } = await kept.unpacked
      const gone = join(dirname(folder), `.old-${digest}-${performance.now()}`)
      await rename(folder, gone)
      // What a program left there may be in the way: the code that was asked for is there all the same.
      await rm(gone, { recursive: true, force: true }).catch((error: Error) => log(() => `${gone} stays: ${error.message}`))
    }
  }
}

async function unpackInto(dir: string, digest: string, bytes: Uint8Array): Promise<Unpacked> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const folder = join(dir, digest)
  const fresh = await mkdtemp(join(dir, '.new-'))
  try {
    const { extract } = await import('tar')
    await new Promise<void>((resolve, reject) => {
      const unpack = extract({ cwd: fresh, strict: true })
      unpack.on('close', resolve)
      unpack.on('error', reject)
      unpack.end(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    })
    // Measured before anybody runs in it, who may make and remove files there.
    const total = await size(fresh)
    await rename(fresh, folder)
    return { folder, bytes: total }
  } catch (error) {
    // Files that were on their way may come until now; whatever is in the way here, the first error says more.
    await rm(fresh, { recursive: true, force: true, maxRetries: REMOVE_TRIES, retryDelay: REMOVE_PAUSE_MS }).catch(() => undefined)
    throw error
  }
}

async function size(folder: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true }))
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size
  return bytes
}
