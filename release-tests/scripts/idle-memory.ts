/**
 * idle-memory: what an idle cluster costs: the daemon and two workers that have run tasks. The program itself does not count.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { get, init } from '@beamline/runtime'
import { SMOKE, report, skip } from '../src/measure.ts'
import { descendants, hasProc, pssMb } from '../src/processes.ts'
import { smallValue } from './workload.ts'

const WORKERS = 2
/** Long enough for garbage collections that idle time triggers. */
const SETTLE_MS = SMOKE ? 500 : 3000

if (!hasProc()) skip('needs /proc/PID/smaps_rollup')
await using _cluster = await init({ cpus: WORKERS, quiet: true })
await get(Array.from({ length: 1000 }, () => smallValue.remote()))
await delay(SETTLE_MS)
const processes = descendants(process.pid)
const daemons = processes.filter((found) => found.parent === process.pid)
const workers = processes.filter((found) => found.parent !== process.pid)
if (daemons.length !== 1 || workers.length !== WORKERS) throw new Error(`expected a daemon and ${WORKERS} workers: ${JSON.stringify(processes)}`)
report('idle_pss_mb', 'MB', [processes.reduce((sum, { pid }) => sum + pssMb(pid), 0)])
report('idle_daemon_pss_mb', 'MB', [daemons.reduce((sum, { pid }) => sum + pssMb(pid), 0)])
report('idle_worker_pss_mb', 'MB', [workers.reduce((sum, { pid }) => sum + pssMb(pid), 0) / WORKERS])
