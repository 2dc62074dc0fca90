/**
 * Entry of a worker process: attach to the node that started it, run what it is given, end with it.
 *
 * Starts attaching before it loads anything that only some tasks need: this is on the path of every cold start.
 */
import { writeFileSync } from 'node:fs'
import { flushCompileCache } from 'node:module'
import { LISTENING_LINE, WORKER_BOOTSTRAP_ENV, type WorkerBootstrap } from '../daemon/bootstrap.ts'
import { loadOwn } from '../own-imports.ts'
import { endWithNode } from './end.ts'

/** Of -1,000 to 1,000. When the machine has no memory left, its kernel is to end workers, and what they started, before the daemon and other programs. */
const OOM_SCORE = 500
try {
  if (process.platform === 'linux') writeFileSync('/proc/self/oom_score_adj', String(OOM_SCORE))
} catch {
  // Where it may not be changed the kernel chooses by size.
}

// Output that waits in this process is lost with it, and a flood of it would fill the heap: writes wait for the reader.
for (const stream of [process.stdout, process.stderr]) (stream as unknown as { _handle?: { setBlocking?(on: boolean): void } })._handle?.setBlocking?.(true)

const text = process.env[WORKER_BOOTSTRAP_ENV]
if (!text) {
  process.stderr.write(`this program is started by a node daemon, with ${WORKER_BOOTSTRAP_ENV} in its environment\n`)
  process.exit(2)
}
delete process.env[WORKER_BOOTSTRAP_ENV]
const bootstrap = JSON.parse(text) as WorkerBootstrap

/** What a worker may take to put things in order when its node stops; a node that died is noticed earlier. */
const STOP_MS = 1_500
/** When it has loaded and run what most workers do. */
const SETTLED_MS = 1_000
let serving = false

/** Resolves when the node listens; the end of stdin is the end of the node. */
const listening = new Promise<void>((resolve) => {
  let seen = ''
  process.stdin.on('data', (chunk: Buffer) => {
    seen += chunk.toString()
    if (seen.includes(LISTENING_LINE)) resolve()
  })
  const ended = (): void => {
    // A node that stops in order has said so, and the end of its pipe only comes along.
    if (serving) setTimeout(endWithNode, STOP_MS)
    else endWithNode()
  }
  process.stdin.on('end', ended)
  process.stdin.on('error', ended)
})

const [{ serve }] = await Promise.all([loadOwn(() => import('./serve.ts')), listening])
await serve(bootstrap)
serving = true
// Node keeps what it compiled when a process ends, but most workers live on or are killed, and the next ones start meanwhile.
setTimeout(flushCompileCache, SETTLED_MS).unref()
