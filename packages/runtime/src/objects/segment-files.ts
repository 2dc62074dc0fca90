/**
 * The files of the store on the daemon's side: its folder, and segments with all pages reserved. Decides nothing.
 */
import { lstatSync, mkdirSync, readdirSync, rmSync, unlinkSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { BeamlineError } from '../errors.ts'
import { reserveFile } from './libc.ts'

/**
 * Makes the folder of the store, private to this user, and empties it of what a dead daemon left.
 *
 * @throws {@link BeamlineError} `STORE_UNAVAILABLE`
 */
export function openStoreDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
    const stats = lstatSync(path)
    if (!stats.isDirectory()) throw new Error('it is not a folder')
    const { uid, mode } = stats
    if (uid !== process.getuid?.()) throw new Error(`it belongs to user ${uid}`)
    if ((mode & 0o077) !== 0) throw new Error('other users may enter it')
    for (const name of readdirSync(path)) rmSync(`${path}/${name}`, { recursive: true, force: true })
  } catch (error) {
    throw new BeamlineError('STORE_UNAVAILABLE', { path, reason: (error as Error).message }, { cause: error })
  }
}

/** Creates a segment file of `bytes` that only this user may open; nothing is left behind when it fails. */
export async function createSegmentFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'wx+', 0o600)
  try {
    await reserveFile(file.fd, bytes)
  } catch (error) {
    removeSegmentFile(path)
    throw error
  } finally {
    await file.close()
  }
}

/** Mappings of it stay valid; the memory goes with the last of them. */
export function removeSegmentFile(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/** Removes the folder and what is in it. */
export function removeStoreDirectory(path: string): void {
  rmSync(path, { recursive: true, force: true })
}
