/**
 * A worker's life: attach, become part of a job, run, and end in order when told to.
 */
import { join } from 'node:path'
import { KINDS } from '../api/kinds.ts'
// Queues and remote functions may arrive before user code has imported anything.
import '../api/queue.ts'
import { setCurrent } from '../core/current.ts'
import { Runtime } from '../core/runtime.ts'
import type { WorkerBootstrap } from '../daemon/bootstrap.ts'
import { setEntry } from '../functions/index.ts'
import { networkOf } from '../net/network.ts'
import { dieWithParent } from '../objects/libc.ts'
import { endWithNode } from './end.ts'
import { markOutput } from './output-marks.ts'

export async function serve(bootstrap: WorkerBootstrap): Promise<void> {
  const { process: id, address, token, sessionDir, node, host, tlsDir } = bootstrap
  await Runtime.attach({
    kind: 'worker',
    process: id,
    address: `unix:${join(sessionDir, `${id}.sock`)}`,
    nodeAddress: address,
    network: await networkOf({ node, host, tlsDir }),
    token,
    job: undefined,
    kinds: KINDS,
    prepare,
  })
  // A worker in an endless loop sees no end of its stdin; the kernel ends it with the daemon.
  dieWithParent()
}

function prepare(runtime: Runtime): void {
  setCurrent(runtime)
  markOutput()
  runtime.events.on('assign', ({ cwd, entry, env }) => {
    if (cwd) process.chdir(cwd)
    Object.assign(process.env, env)
    if (entry) setEntry(entry)
  })
  const end = (): void => {
    void runtime.close(false, 'the worker ends').finally(() => process.exit(0))
  }
  // The actor may put its things in order; the node does not wait for long.
  runtime.events.on('exit', () => void runtime.executor.actor.dispose().then(end, end))
  runtime.events.on('terminate', () => {
    runtime.executor.actor.stop().then(end, (error: unknown) => runtime.crash(error))
  })
  runtime.events.once('closed', (error) => {
    if (error) endWithNode()
  })
}
