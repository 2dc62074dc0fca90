/**
 * many-actors: two hundred actors on four nodes, created, called once each, and stopped. An actor is a process: how fast it starts and how much it holds is
 * bounded by what a bare Node process takes, measured beside it.
 *
 * All of the time is processor time, the same for 25 actors as for 200. Where bare Node takes 25 ms from start to end, an actor takes 290: its worker 260, and
 * 30 the four daemons and the program. Of the worker's, Node itself takes 25 and its http2 and tls as much again; 95 are for the 175 files of the runtime and
 * of gRPC, found, read and taken from the cache of compiled code (without it 130, and 8 MB more an actor); 35 for attaching to the node, 45 for the user's
 * code, the program's connection and the call, and 35 for the end.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type ActorHandle, get, init, remote, stop } from '@beamline/runtime'
import { startTestCluster, type TestCluster, until } from '@beamline/runtime/testing'
import { SMOKE, report, skip } from '../src/measure.ts'
import { hasProc, pssMb } from '../src/processes.ts'
import { Once } from './cluster-work.ts'

const ACTORS = SMOKE ? 24 : 200
const BARE_AT_ONCE = 4

if (!hasProc()) skip('needs /proc/PID/smaps_rollup')

/** Node processes that start and end, as many at once as the nodes start. */
async function bareProcesses(count: number): Promise<number> {
  const startMs = performance.now()
  let left = count
  const one = async (): Promise<void> => {
    while (left-- > 0) await once(spawn(process.execPath, ['--eval', '0'], { stdio: 'ignore' }), 'exit')
  }
  await Promise.all(Array.from({ length: BARE_AT_ONCE }, one))
  return count / ((performance.now() - startMs) / 1000)
}

async function barePssMb(): Promise<number> {
  const child = spawn(process.execPath, ['--eval', 'process.stdin.resume(); console.log(1)'], { stdio: ['pipe', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  const mb = pssMb(child.pid as number)
  child.kill()
  await once(child, 'exit')
  return mb
}

const actorPids = async (cluster: TestCluster): Promise<number[]> =>
  (await cluster.head.list<{ pid: number; state: string }>('workers')).filter(({ state }) => state === 'actor').map(({ pid }) => pid)

report('yardstick_bare_processes', '/s', [await bareProcesses(ACTORS)])
report('yardstick_bare_process_mb', 'MB', [await barePssMb()])

await using cluster = await startTestCluster({ nodes: 4, cpus: 1, storeBytes: 64 << 20 })
using _here = cluster.head.settle()
await using _program = await init({ quiet: true })
const RemoteOnce = remote(Once)
// Every node has the program's code and what Node compiled of it before the first actor that counts.
const first = cluster.nodes.map(({ id }) => RemoteOnce.options({ node: id }).remote())
await get(first.map((handle) => handle.call.remote()))
await Promise.all(first.map((handle) => stop(handle)))

const startMs = performance.now()
let handles: ActorHandle<Once>[] = Array.from({ length: ACTORS }, () => RemoteOnce.remote())
const values = await get(handles.map((handle) => handle.call.remote()))
if (values.some((value) => value !== 'ok')) throw new Error('an actor returned something else')
const calledMs = performance.now()
const pids = await actorPids(cluster)
if (pids.length !== ACTORS) throw new Error(`${pids.length} of ${ACTORS} actors are in the list of workers`)
report('memory_per_actor_mb', 'MB', [pids.reduce((sum, pid) => sum + pssMb(pid), 0) / ACTORS])
const measuredMs = performance.now()
await Promise.all(handles.map((handle) => stop(handle)))
handles = []
await until('end of all actors', async () => {
  const left = await actorPids(cluster)
  return left.length === 0 || `${left.length} actors are left`
})
const endMs = performance.now()
report('actors', '/s', [ACTORS / ((endMs - measuredMs + calledMs - startMs) / 1000)])
report('actors_created_and_called', '/s', [ACTORS / ((calledMs - startMs) / 1000)])
