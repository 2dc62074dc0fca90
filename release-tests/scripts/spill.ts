/**
 * spill: objects of four times the store are put and read again, beside dd writing as much to the same disk and waiting for it. Rates count the bytes
 * that went to spill files and came back; the whole time of both is the time of the working set.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { get, init, type ObjectRef, put, shutdown } from '@beamline/runtime'
import { internal } from '../src/internals.ts'
import { SMOKE, report } from '../src/measure.ts'

const MiB = 1_048_576
const STORE_BYTES = (SMOKE ? 128 : 512) * MiB
const OBJECT_BYTES = 8 * MiB
const OBJECTS = (4 * STORE_BYTES) / OBJECT_BYTES
const ROUNDS = SMOKE ? 1 : 3
/** Reads that are on their way at the same time. */
const READERS = 4

const { current } = await internal<typeof import('../../packages/runtime/src/core/current.ts')>('core/current')

async function moved(): Promise<{ writtenBytes: number; restoredBytes: number }> {
  const { nodes } = (await current().query('status', 0)) as { nodes: { store: { writtenBytes: number; restoredBytes: number } }[] }
  return nodes[0]!.store
}

/** MiB/s of dd with fsync, for as much as is spilled. */
function dd(folder: string): number {
  const path = join(folder, 'dd')
  const startMs = performance.now()
  const { status, stderr } = spawnSync('dd', ['if=/dev/zero', `of=${path}`, `bs=${OBJECT_BYTES}`, `count=${OBJECTS}`, 'conv=fsync'])
  const seconds = (performance.now() - startMs) / 1000
  if (status !== 0) throw new Error(`dd failed: ${stderr.toString()}`)
  rmSync(path)
  return (OBJECTS * OBJECT_BYTES) / MiB / seconds
}

const samples = {
  spill_mib_per_s: [] as number[],
  restore_mib_per_s: [] as number[],
  yardstick_dd_fsync_mib_per_s: [] as number[],
  working_set_s: [] as number[],
}
const folder = mkdtempSync(join(tmpdir(), 'beamline-spill-test-'))
try {
  await init({ cpus: 1, storeBytes: STORE_BYTES, spill: { directories: [folder] }, quiet: true })
  const data = new Uint8Array(OBJECT_BYTES).fill(7)
  for (let round = 0; round < ROUNDS; round++) {
    samples.yardstick_dd_fsync_mib_per_s.push(dd(folder))
    const before = await moved()
    const startMs = performance.now()
    const refs: ObjectRef<Uint8Array>[] = []
    for (let i = 0; i < OBJECTS; i++) {
      data[0] = i
      refs.push(await put(data))
    }
    const putMs = performance.now()
    const spilled = await moved()
    let next = 0
    const read = async (): Promise<void> => {
      for (let i = next++; i < OBJECTS; i = next++) {
        const [first, last] = await (async () => {
          const view = await get(refs[i]!)
          return [view[0], view.at(-1)]
        })()
        if (first !== i % 256 || last !== 7) throw new Error(`object ${i} came back as ${first}…${last}`)
        if (i % READERS === 0) globalThis.gc?.() // a view holds its object until it is collected
      }
    }
    await Promise.all(Array.from({ length: READERS }, read))
    const endMs = performance.now()
    const restored = await moved()
    samples.spill_mib_per_s.push((spilled.writtenBytes - before.writtenBytes) / MiB / ((putMs - startMs) / 1000))
    samples.restore_mib_per_s.push((restored.restoredBytes - before.restoredBytes) / MiB / ((endMs - putMs) / 1000))
    samples.working_set_s.push((endMs - startMs) / 1000)
    for (const ref of refs) ref.release()
  }
  await shutdown()
} finally {
  rmSync(folder, { recursive: true, force: true })
}
for (const [name, values] of Object.entries(samples)) report(name, name === 'working_set_s' ? 's' : 'MiB/s', values)
