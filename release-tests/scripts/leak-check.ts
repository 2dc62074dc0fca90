/**
 * leak-check: half a million tasks in batches, with objects in shared memory, nested references and actor calls among them, against what the same
 * processes held after the first few thousand. Memory may move a little; counts of handles, descriptors, objects and references may not.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { get, init, put, remote } from '@beamline/runtime'
import type { ActorHandle } from '@beamline/runtime'
import { processReport } from '@beamline/runtime/testing'
import { collectGarbage } from '../src/heap.ts'
import { SMOKE, report, skip } from '../src/measure.ts'
import { anonymousRssMb, descendants, hasProc, openDescriptors } from '../src/processes.ts'
import { OK, Server, echoBytes, holdings, readNested, smallValue } from './workload.ts'

const WORKERS = 2
const BATCH = 1000
/** Long enough that both workers are up and their heaps have the size that this load gives them; the full form also fills the daemon's history of calls. */
const WARM_UP_BATCHES = SMOKE ? 50 : 300
const BATCHES = SMOKE ? 30 : 500
const OBJECT_BYTES = 200 * 1024
/** Workers that were started beside those that wait for an object end soon, so that counts of processes can be compared. */
const IDLE_TIMEOUT_MS = 300
/** For that, and for frees, returned leases and finished connections, which travel on their own. */
const SETTLE_MS = 2000
const HOLD_MS = 200

interface Snapshot {
  readonly driverHeapMb: number
  readonly driverRssMb: number
  readonly daemonRssMb: number
  readonly workerHeapMb: number
  readonly workerRssMb: number
  readonly handles: number
  readonly descriptors: number
  readonly processes: number
  readonly storeBytes: number
  readonly references: number
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

async function batch(actor: ActorHandle<Server>): Promise<void> {
  using stored = await put(new Uint8Array(OBJECT_BYTES).fill(7))
  const echoed = echoBytes.remote(stored)
  const nested = readNested.remote({ ref: stored })
  const calls = Array.from({ length: 10 }, () => actor.smallValue.remote())
  const values = await get(Array.from({ length: BATCH }, () => smallValue.remote()))
  const bytes = await get(echoed)
  const right = bytes.length === OBJECT_BYTES && bytes.at(-1) === 7 && (await get(nested)) === OBJECT_BYTES
  if (!right || ![...values, ...(await get(calls))].every((value) => value === OK)) throw new Error('a task returned something else')
}

async function snapshot(): Promise<Snapshot> {
  const workers = await get(Array.from({ length: WORKERS }, () => holdings.remote(HOLD_MS)))
  await collectGarbage()
  await delay(SETTLE_MS)
  const { heapMb } = await collectGarbage()
  const processes = descendants(process.pid)
  const daemon = processes.find((found) => found.parent === process.pid)
  if (daemon === undefined) throw new Error('there is no daemon')
  const { ownedObjects, borrowedObjects, ownedStoreBytes } = processReport()
  return {
    driverHeapMb: heapMb,
    driverRssMb: anonymousRssMb(process.pid),
    daemonRssMb: anonymousRssMb(daemon.pid),
    workerHeapMb: Math.max(...workers.map((worker) => worker.heapMb)),
    workerRssMb: Math.max(...processes.filter((found) => found !== daemon).map(({ pid }) => anonymousRssMb(pid))),
    handles: process.getActiveResourcesInfo().filter((kind) => kind !== 'Timeout' && kind !== 'Immediate').length,
    descriptors: sum([process.pid, ...processes.map(({ pid }) => pid)].map(openDescriptors)),
    processes: processes.length,
    storeBytes: ownedStoreBytes,
    references: ownedObjects + borrowedObjects + sum(workers.map((worker) => worker.references)),
  }
}

if (!hasProc()) skip('needs /proc')
await using _cluster = await init({ cpus: WORKERS, idleTimeoutMs: IDLE_TIMEOUT_MS, quiet: true })
const actor = remote(Server, { cpus: 0 }).remote()
for (let index = 0; index < WARM_UP_BATCHES; index += 1) await batch(actor)
const before = await snapshot()
const startMs = performance.now()
for (let index = 0; index < BATCHES; index += 1) await batch(actor)
const seconds = (performance.now() - startMs) / 1000
const after = await snapshot()

report('tasks_in_loop', '/s', [(BATCHES * BATCH) / seconds])
report('driver_heap_growth_mb', 'MB', [after.driverHeapMb - before.driverHeapMb])
report('driver_rss_growth_mb', 'MB', [after.driverRssMb - before.driverRssMb])
report('daemon_rss_growth_mb', 'MB', [after.daemonRssMb - before.daemonRssMb])
report('worker_heap_growth_mb', 'MB', [after.workerHeapMb - before.workerHeapMb])
report('worker_rss_growth_mb', 'MB', [after.workerRssMb - before.workerRssMb])
report('driver_handles_growth', 'count', [after.handles - before.handles])
report('fds_growth', 'count', [after.descriptors - before.descriptors])
report('processes_growth', 'count', [after.processes - before.processes])
report('store_bytes_growth', 'bytes', [after.storeBytes - before.storeBytes])
report('references_growth', 'count', [after.references - before.references])
