/**
 * A program's code as one gzipped tar, named by the SHA-256 of its bytes.
 *
 * Owners, times and the order of files do not get into it, so the same code gives the same name and is stored and fetched once. It is made in one
 * go while nothing else runs in this process: what a program does after `init` cannot change it half way.
 */
import { createHash } from 'node:crypto'
import { PackSync } from 'tar'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import { type CodeFile, codeFiles } from './code-files.ts'
import type { CodeRoot } from './code-root.ts'

export interface CodePackage {
  readonly digest: string
  readonly bytes: Buffer
}

/** Files may change or go while they are read: all is read again then. */
const ATTEMPTS = 3

/** @throws BeamlineError `CODE_TOO_LARGE` with the largest files, `FILE_UNREADABLE` */
export function packCode({ root, isLoose }: CodeRoot, limitBytes: number = LIMITS.packageBytesMax): CodePackage {
  for (let attempt = 1; ; attempt++) {
    try {
      return pack(root, codeFiles(root, isLoose), limitBytes)
    } catch (error) {
      if (BeamlineError.is(error)) throw error
      if (attempt === ATTEMPTS) throw new BeamlineError('FILE_UNREADABLE', { path: root, part: 'its code', reason: (error as Error).message }, { cause: error })
    }
  }
}

function pack(root: string, files: readonly CodeFile[], limitBytes: number): CodePackage {
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  if (total > limitBytes) throw new BeamlineError('CODE_TOO_LARGE', { root, bytes: total, limitBytes, files: files.length, largest: largest(files) })
  const archive = new PackSync({ cwd: root, gzip: true, portable: true, noDirRecurse: true, mtime: new Date(0) })
  for (const { path, link } of files) {
    // A link that leads out of the root travels as what it leads to.
    archive.follow = link === undefined
    archive.add(path)
  }
  archive.end()
  const chunks: Buffer[] = []
  for (let chunk = archive.read(); chunk !== null; chunk = archive.read()) chunks.push(chunk)
  const bytes = Buffer.concat(chunks)
  return { digest: createHash('sha256').update(bytes).digest('hex'), bytes }
}

function largest(files: readonly CodeFile[]): string {
  const top = files.toSorted((a, b) => b.bytes - a.bytes).slice(0, 5)
  return top.map(({ path, bytes }) => `${path} (${(bytes / 1_048_576).toFixed(1)} MiB)`).join(', ')
}
