/**
 * The directory that a write fills: nothing appears in it before all files are complete. Workers write into a hidden directory inside it,
 * on the same file system; committing renames the files and removes the directory, and so does giving up.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { BeamlineError } from '@beamline/runtime'
import type { WrittenFile } from './parquet.ts'

/** What to do with a directory that holds files already. */
export type WriteMode = 'error' | 'overwrite'

export class OutputDirectory {
  readonly path: string
  /** Where workers write. */
  readonly staging: string
  readonly #mode: WriteMode
  readonly #created: string | undefined

  private constructor(path: string, mode: WriteMode, created: string | undefined) {
    this.path = path
    this.staging = join(path, `.beamline-${randomUUID()}`)
    this.#mode = mode
    this.#created = created
  }

  /**
   * Create the directory, and its parents, where they are missing.
   *
   * @throws {@link BeamlineError} `OUTPUT_EXISTS` when it holds files and the mode is not 'overwrite'
   */
  static async open(directory: string, mode: WriteMode): Promise<OutputDirectory> {
    const path = resolve(directory)
    const created = await mkdir(path, { recursive: true })
    const present = await visible(path)
    if (present.length > 0 && mode !== 'overwrite') throw new BeamlineError('OUTPUT_EXISTS', { path, files: present.length })
    const output = new OutputDirectory(path, mode, created)
    await mkdir(output.staging)
    return output
  }

  /** Put the files in place; with 'overwrite', in place of the Parquet files that are there. Returns them in order. */
  async commit(files: readonly WrittenFile[]): Promise<WrittenFile[]> {
    const names = new Set(files.map(({ path }) => basename(path)))
    if (this.#mode === 'overwrite') {
      for (const name of await visible(this.path)) if (name.endsWith('.parquet') && !names.has(name)) await rm(join(this.path, name))
    }
    const placed: WrittenFile[] = []
    for (const file of files) {
      const path = join(this.path, basename(file.path))
      await rename(file.path, path)
      placed.push({ ...file, path })
    }
    await rm(this.staging, { recursive: true, force: true })
    return placed
  }

  /** Remove what was written, and the directory if this created it. */
  async discard(): Promise<void> {
    // Again, as long as a worker that does not know yet is adding a file; once the directory is gone it cannot.
    await rm(this.staging, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
    if (this.#created !== undefined) await rmdir(this.path).catch(() => undefined)
  }
}

async function visible(path: string): Promise<string[]> {
  return (await readdir(path)).filter((name) => !name.startsWith('.'))
}
