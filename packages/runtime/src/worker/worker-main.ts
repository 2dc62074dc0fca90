/**
 * Entry of a worker process: attach to the node that started it, run what it is given, end with it.
 *
 * Starts attaching before it loads anything that only some tasks need: this is on the path of every cold start.
 */
import { enableCompileCache } from 'node:module'
import { LISTENING_LINE, WORKER_BOOTSTRAP_ENV, type WorkerBootstrap } from '../daemon/bootstrap.ts'

enableCompileCache()

// Output that waits in this process is lost with it, and a flood of it would fill the heap: writes wait for the reader.
for (const stream of [process.stdout, process.stderr]) (stream as unknown as { _handle?: { setBlocking?(on: boolean): void } })._handle?.setBlocking?.(true)

const text = process.env[WORKER_BOOTSTRAP_ENV]
if (!text) {
  process.stderr.write(`this program is started by a node daemon, with ${WORKER_BOOTSTRAP_ENV} in its environment\n`)
  process.exit(2)
}
delete process.env[WORKER_BOOTSTRAP_ENV]
const bootstrap = JSON.parse(text) as WorkerBootstrap

/** Resolves when the node listens; the end of stdin is the end of the node. */
const listening = new Promise<void>((resolve) => {
  let seen = ''
  process.stdin.on('data', (chunk: Buffer) => {
    seen += chunk.toString()
    if (seen.includes(LISTENING_LINE)) resolve()
  })
  process.stdin.on('end', () => process.exit(0))
  process.stdin.on('error', () => process.exit(0))
})

const [{ serve }] = await Promise.all([import('./serve.ts'), listening])
await serve(bootstrap)
