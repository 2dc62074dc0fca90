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
import { holdLoading } from '../functions/index.ts'
import { networkOf } from '../net/network.ts'
import { dieWithParent } from '../objects/libc.ts'
import { endWithNode } from './end.ts'
import { enterEnvironment } from './environment.ts'
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
  const { promise: entered, resolve, reject } = Promise.withResolvers<void>()
  holdLoading(entered)
  runtime.events.once('assign', (assign) => {
    try {
      const entering = enterEnvironment(assign)
      if (entering) entering.then(resolve, reject)
      else resolve()
    } catch (error) {
      reject(error as Error)
    }
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
