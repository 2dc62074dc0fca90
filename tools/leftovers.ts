/**
 * Setup of each test file that starts real processes. The file gets a temporary folder of its own through BEAMLINE_TMPDIR, which everything it
 * starts inherits; at its end no process with that variable, no session in that folder and no shared memory of those sessions may be left. What goes away by
 * itself has five seconds to do so. Unhandled rejections of the tests themselves fail the run (vitest); those of programs end them with code 1.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { graceMs, LeftBehind } from './left-behind.ts'

const folder = mkdtempSync(join(tmpdir(), 'bl-'))
process.env['BEAMLINE_TMPDIR'] = folder
const leftBehind = new LeftBehind(folder)

afterAll(async () => {
  const left = await leftBehind.found()
  leftBehind.kill()
  rmSync(folder, { recursive: true, force: true })
  if (left.length > 0) throw new Error(`left behind ${graceMs / 1_000} s after the last test of this file:\n${left.join('\n')}`)
}, graceMs + 10_000)
