/**
 * What a worker does before its first task: it takes on the environment of the job and of the task. What is missing on this machine fails whatever
 * waits for this worker, with the path where it was looked for, before any of it has begun.
 */
import { existsSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { wireError } from '../core/wire-error.ts'
import { BeamlineError } from '../errors.ts'
import { importFrom, placed, setCodeRoot, setEntry } from '../functions/index.ts'
import type { Assign } from '../net/gen/node.ts'

/** @returns undefined when all is done already; a promise of the modules that are imported, else */
export function enterEnvironment({ cwd, workingDir, entry, env, root, packageDir, modules, failure }: Assign): Promise<void> | undefined {
  if (failure) throw wireError(failure)
  if (packageDir) setCodeRoot(root, packageDir)
  const wanted = placed(workingDir || cwd)
  // Where the program happened to be started need not exist on other machines.
  const folder = workingDir === '' && packageDir !== '' && !existsSync(wanted) ? packageDir : wanted
  if (folder) {
    try {
      process.chdir(folder)
    } catch (error) {
      throw invalid(`the working directory ${workingDir || cwd}`, folder, problemOf(folder, error as NodeJS.ErrnoException), HINTS.workingDir)
    }
  }
  Object.assign(process.env, env)
  if (entry) setEntry(placed(entry))
  return modules.length === 0 ? undefined : importAll(modules, folder || process.cwd())
}

const HINTS = {
  workingDir: 'it must be part of the code root of the program, or exist on every machine',
  modules: 'install it on every machine, or make it part of the code root of the program',
}

async function importAll(modules: readonly string[], folder: string): Promise<void> {
  for (const module of modules) {
    const isFile = /^(\.{0,2}\/|file:)/.test(module)
    const specifier = isFile && !module.startsWith('file:') ? pathToFileURL(placed(resolve(folder, module))).href : module
    try {
      await importFrom(pathToFileURL(join(folder, 'here')).href, specifier)
    } catch (error) {
      const { message, code } = error as NodeJS.ErrnoException
      const path = isFile ? new URL(specifier).pathname : join(folder, 'node_modules', module)
      const reason = code === 'ERR_MODULE_NOT_FOUND' ? (message.split('\n')[0] as string) : `importing it failed: ${message}`
      throw invalid(`module "${module}"`, path, reason, HINTS.modules, error)
    }
  }
}

function problemOf(folder: string, error: NodeJS.ErrnoException): string {
  if (!existsSync(folder)) return 'it does not exist'
  return statSync(folder).isDirectory() ? `it cannot be entered (${error.code})` : 'it is not a folder'
}

function invalid(what: string, path: string, reason: string, hint: string, cause?: unknown): BeamlineError {
  return new BeamlineError('ENVIRONMENT_INVALID', { what, path, host: hostname(), reason, hint }, cause === undefined ? undefined : { cause })
}
