/**
 * The folder that holds a program's code: what other machines need of it.
 *
 * Upwards from the entry file, the first of these that there is: the folder of its git repository; of its workspace (pnpm-workspace.yaml, or a
 * package.json with `workspaces`); the nearest with a package.json. Never the home folder or `/`, which hold much more than a program. A script
 * outside of all that is loose: its folder may hold anything, so of it only the code directly beside the script is meant.
 */
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

export interface CodeRoot {
  readonly root: string
  readonly isLoose: boolean
}

/** @param entry - the file that the program was started with */
export function findCodeRoot(entry: string): CodeRoot {
  const own = dirname(real(entry))
  const folders: string[] = []
  for (let folder = own; folder !== dirname(folder) && folder !== homedir(); folder = dirname(folder)) folders.push(folder)
  const root = folders.find((folder) => existsSync(join(folder, '.git'))) ?? folders.find(isWorkspace) ?? folders.find(isPackage)
  return { root: root ?? own, isLoose: root === undefined }
}

function real(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

const isPackage = (folder: string): boolean => existsSync(join(folder, 'package.json'))

function isWorkspace(folder: string): boolean {
  if (existsSync(join(folder, 'pnpm-workspace.yaml'))) return true
  if (!isPackage(folder)) return false
  try {
    return 'workspaces' in (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as object)
  } catch {
    return false
  }
}
