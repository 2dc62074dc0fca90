/**
 * All processes of one run of the tests share what Node compiles: most of the tests' time is the start of processes, which then takes half as long.
 * Processes write there as they end, some after the run itself: so the folder is one that is there anyway, and each run begins with an empty one.
 */
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export default function setup(): void {
  const folder = fileURLToPath(new URL('../node_modules/.cache/beamline-tests', import.meta.url))
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  process.env['NODE_COMPILE_CACHE'] = folder
}
