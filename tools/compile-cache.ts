/** All processes of one run of the tests share what Node compiles: most of the tests' time is the start of processes, which then takes half as long. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'beamline-compile-cache-'))
  process.env['NODE_COMPILE_CACHE'] = folder
  return () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
}
