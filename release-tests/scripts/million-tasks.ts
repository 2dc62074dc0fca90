/**
 * million-tasks: every CPU is held while a million tasks are submitted; then they run. All of it counts, from the first submission to the last
 * result. The driver's memory is its peak.
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { get, init, remote } from '@beamline/runtime'
import { SMOKE, report } from '../src/measure.ts'
import { OK, smallValue } from './workload.ts'

const CPUS = availableParallelism()
const TASKS = SMOKE ? 50_000 : 1_000_000
const GET_BATCH = 1000

await using _cluster = await init({ cpus: CPUS, quiet: true })
await get(Array.from({ length: 1000 }, () => smallValue.remote()))

const folder = mkdtempSync(path.join(tmpdir(), 'million-tasks-'))
try {
  const gate = path.join(folder, 'open')
  const hold = remote(async (file: string) => {
    while (!existsSync(file)) await new Promise((resolve) => setTimeout(resolve, 10))
  })

  const startMs = performance.now()
  const holders = Array.from({ length: CPUS }, () => hold.remote(gate))
  const refs = Array.from({ length: TASKS }, () => smallValue.remote())
  const submittedMs = performance.now()
  writeFileSync(gate, '')
  await get(holders)
  let right = 0
  for (let first = 0; first < TASKS; first += GET_BATCH) {
    for (const value of await get(refs.slice(first, first + GET_BATCH))) right += value === OK ? 1 : 0
  }
  const endMs = performance.now()
  if (right !== TASKS) throw new Error(`${TASKS - right} of ${TASKS} tasks returned something else`)
  report('queued_tasks', '/s', [(TASKS / (endMs - startMs)) * 1000])
  report('queued_tasks_submission', '/s', [(TASKS / (submittedMs - startMs)) * 1000])
  report('driver_rss_max_mb', 'MB', [(process.resourceUsage().maxRSS * 1024) / 1e6])
} finally {
  rmSync(folder, { recursive: true })
}
