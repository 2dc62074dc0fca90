/**
 * Turns what a user names (files, globs, directories) into a sorted list of local files. Directories are searched recursively;
 * names that begin with "_" or "." below them are left out, as every system that writes datasets expects.
 */
import { glob, stat } from 'node:fs/promises'
import { resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BeamlineError } from '@beamline/runtime'

const GLOB = /[*?[\]{}]/

/**
 * Absolute paths of the files; the order is that of `paths`, sorted by name within a directory or glob, each file once.
 *
 * @param extension - of the files to take from directories, such as `.parquet`
 * @throws {@link BeamlineError} `FILES_NOT_FOUND` for a path that leads to no file
 */
export async function listFiles(paths: string | URL | readonly (string | URL)[], extension: string, what: string): Promise<string[]> {
  const found = new Set<string>()
  for (const given of typeof paths === 'string' || paths instanceof URL ? [paths] : paths) {
    const path = given instanceof URL || given.startsWith('file:') ? fileURLToPath(given) : given
    const files = await filesOf(path, extension)
    if (files.length === 0) {
      const hint =
        (await kindOf(path)) === 'directory' ? `the directory has no ${extension} files` : `paths are relative to the working directory ${process.cwd()}`
      throw new BeamlineError('FILES_NOT_FOUND', { what, paths: path, hint })
    }
    for (const file of files) found.add(file)
  }
  return [...found]
}

async function filesOf(path: string, extension: string): Promise<string[]> {
  switch (await kindOf(path)) {
    case 'file':
      return [resolve(path)]
    case 'directory':
      return below(resolve(path), extension)
    default: {
      if (!GLOB.test(path)) return []
      const files: string[] = []
      for await (const match of glob(path)) {
        const kind = await kindOf(match)
        if (kind === 'file') files.push(resolve(match))
        else if (kind === 'directory') files.push(...(await below(resolve(match), extension)))
      }
      return files.sort()
    }
  }
}

async function below(directory: string, extension: string): Promise<string[]> {
  const names: string[] = []
  for await (const name of glob(`**/*${extension}`, { cwd: directory })) {
    if (!name.split(sep).some((part) => part.startsWith('_') || part.startsWith('.'))) names.push(name)
  }
  return names.sort().map((name) => resolve(directory, name))
}

async function kindOf(path: string): Promise<'file' | 'directory' | undefined> {
  const stats = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
    throw error
  })
  return stats?.isDirectory() ? 'directory' : stats?.isFile() ? 'file' : undefined
}
