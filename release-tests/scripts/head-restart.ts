/**
 * head-restart: the head is killed with SIGKILL and started again, with the control in SQLite; the program is on another node. From the start of the new head
 * until a new task has run on that node, which needs the head, and until a new actor there has answered.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { get, init, remote } from '@beamline/runtime'
import { startTestCluster, type TestNode } from '@beamline/runtime/testing'
import { SMOKE, report } from '../src/measure.ts'
import { MARKED, nodeHere, Once } from './cluster-work.ts'

const ROUNDS = SMOKE ? 1 : 5

const folder = mkdtempSync(join(tmpdir(), 'head-restart-'))
try {
  await using cluster = await startTestCluster({
    nodes: [{ resources: { [MARKED]: 1 } }, {}, {}],
    cpus: 1,
    storeBytes: 64 << 20,
    store: `sqlite:${join(folder, 'control.sqlite')}`,
  })
  using _here = (cluster.nodes[1] as TestNode).settle()
  await using _program = await init({ quiet: true })
  const atHead = nodeHere.options({ resources: { [MARKED]: 0.1 } })
  const OnceAtHead = remote(Once, { resources: { [MARKED]: 0.1 } })
  await get([atHead.remote(), OnceAtHead.remote().call.remote()])

  const taskSeconds: number[] = []
  const actorSeconds: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    await cluster.head.kill()
    const startMs = performance.now()
    const restarted = cluster.head.start()
    const first = get(atHead.remote()).then((node) => {
      if (node !== '0') throw new Error(`the task ran on node ${node}`)
      taskSeconds.push((performance.now() - startMs) / 1000)
    })
    const actor = get(OnceAtHead.remote().call.remote()).then(() => actorSeconds.push((performance.now() - startMs) / 1000))
    await Promise.all([restarted, first, actor])
  }
  report('first_task_s', 's', taskSeconds)
  report('first_actor_s', 's', actorSeconds)
} finally {
  rmSync(folder, { recursive: true })
}
