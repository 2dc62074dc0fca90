/**
 * many-pgs: placement groups created, waited for and removed on four nodes, a hundred at a time, as in the reference system's suite; those of one bundle,
 * and those of three bundles on three nodes. A program that removes them one after the other waits for a round trip each, beside one that asks for all.
 * The reference system's benchmark waits for them and removes them one after the other, as `groups_of_1_removed_in_turn`: a program there has no other form.
 * `groups_of_1` is how a program here does the same work.
 */
import { init, type PlacementGroup, placementGroup } from '@beamline/runtime'
import { startTestCluster } from '@beamline/runtime/testing'
import { measureTogether } from '../src/measure.ts'

const GROUPS_PER_CALL = 100

await using cluster = await startTestCluster({ nodes: 4, cpus: 1, resources: { custom: 100 }, storeBytes: 64 << 20 })
using _here = cluster.head.settle()
await using _program = await init({ quiet: true })

function create(bundles: number): PlacementGroup[] {
  const strategy = bundles > 1 ? 'STRICT_SPREAD' : 'PACK'
  const each = Array.from({ length: bundles }, () => ({ resources: { custom: 0.001 } }))
  return Array.from({ length: GROUPS_PER_CALL }, () => placementGroup(each, { strategy }))
}

async function together(bundles: number): Promise<void> {
  const created = create(bundles)
  await Promise.all(created.map((group) => group.ready()))
  await Promise.all(created.map((group) => group.remove()))
}

async function inTurn(bundles: number): Promise<void> {
  const created = create(bundles)
  for (const group of created) await group.ready()
  for (const group of created) await group.remove()
}

const sample = (callsPerSecond: number): number => callsPerSecond * GROUPS_PER_CALL
await measureTogether(
  { name: 'groups_of_1', sample, op: () => together(1) },
  { name: 'groups_of_1_removed_in_turn', sample, op: () => inTurn(1) },
  { name: 'groups_of_3_nodes', sample, op: () => together(3) },
)
