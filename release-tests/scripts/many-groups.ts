/**
 * many-pgs: placement groups created, waited for and removed on four nodes, a hundred at a time, as in the reference system's suite; those of one bundle,
 * and those of three bundles on three nodes.
 */
import { init, placementGroup } from '@beamline/runtime'
import { startTestCluster } from '@beamline/runtime/testing'
import { measureTogether } from '../src/measure.ts'

const GROUPS_PER_CALL = 100

await using cluster = await startTestCluster({ nodes: 4, cpus: 1, resources: { custom: 100 }, storeBytes: 64 << 20 })
using _here = cluster.head.settle()
await using _program = await init({ quiet: true })

async function createAndRemove(bundles: number): Promise<void> {
  const strategy = bundles > 1 ? 'STRICT_SPREAD' : 'PACK'
  const created = Array.from({ length: GROUPS_PER_CALL }, () =>
    placementGroup(
      Array.from({ length: bundles }, () => ({ resources: { custom: 0.001 } })),
      { strategy },
    ),
  )
  for (const group of created) await group.ready()
  for (const group of created) await group.remove()
}

const sample = (callsPerSecond: number): number => callsPerSecond * GROUPS_PER_CALL
await measureTogether({ name: 'groups_of_1', sample, op: () => createAndRemove(1) }, { name: 'groups_of_3_nodes', sample, op: () => createAndRemove(3) })
