/**
 * many-tasks: ten thousand tasks over four nodes beside the same on one node, with as many workers. All on one machine: what is measured is what the
 * nodes cost each other, not what more machines would give. Rounds take turns on two clusters, one after the other.
 */
import { get, init } from '@beamline/runtime'
import { startTestCluster } from '@beamline/runtime/testing'
import { SMOKE, report } from '../src/measure.ts'
import { nodeHere } from './cluster-work.ts'
import { OK, smallValue } from './workload.ts'

const TASKS = SMOKE ? 2_000 : 10_000
const ROUNDS = SMOKE ? 2 : 5
const WORKERS = 4

async function rates(nodes: number): Promise<number[]> {
  await using cluster = await startTestCluster({ nodes, cpus: WORKERS / nodes, storeBytes: 64 << 20 })
  using _here = cluster.head.settle()
  await using _program = await init({ quiet: true })
  const samples: number[] = []
  // The first round starts workers and loads code.
  for (let round = -1; round < ROUNDS; round++) {
    const startMs = performance.now()
    const values = await get(Array.from({ length: TASKS }, () => smallValue.remote()))
    const seconds = (performance.now() - startMs) / 1000
    if (values.some((value) => value !== OK)) throw new Error('a task returned something else')
    if (round >= 0) samples.push(TASKS / seconds)
  }
  const used = new Set(await get(Array.from({ length: 200 }, () => nodeHere.remote())))
  report(`nodes_used_of_${nodes}`, 'nodes', [used.size])
  return samples
}

report('tasks_on_1_node', '/s', await rates(1))
report('tasks_on_4_nodes', '/s', await rates(4))
