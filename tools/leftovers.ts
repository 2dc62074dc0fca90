/**
 * Setup of each test file that starts real processes. The file gets a temporary folder and a folder for shared memory of its own through
 * BEAMLINE_TMPDIR and BEAMLINE_STORE_DIR, which everything it starts inherits; at its end no process with that variable and no session and no shared
 * memory in those folders may be left. What goes away by itself has five seconds to do so. Unhandled rejections of the tests themselves fail the run
 * (vitest); those of programs end them with code 1.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll } from 'vitest'
import { graceMs, LeftBehind } from './left-behind.ts'

const folder = mkdtempSync(join(tmpdir(), 'bl-'))
const store = join(process.platform === 'linux' ? '/dev/shm' : folder, `${basename(folder)}-store`)
mkdirSync(store, { mode: 0o700 })
process.env['BEAMLINE_TMPDIR'] = folder
process.env['BEAMLINE_STORE_DIR'] = store
const leftBehind = new LeftBehind(folder, store)

afterAll(async () => {
  const left = await leftBehind.found()
  leftBehind.kill()
  for (const each of [folder, store]) rmSync(each, { recursive: true, force: true })
  if (left.length > 0) throw new Error(`left behind ${graceMs / 1_000} s after the last test of this file:\n${left.join('\n')}`)
}, graceMs + 10_000)
