/**
 * Runs one script in its own process group under a timeout, reads its metrics, and makes sure that nothing survives it.
 * The runtime's daemons and workers have process groups of their own, so on Linux leftovers are found by a mark in their environment.
 */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { Ending, Metric, ScriptRun } from './judge.ts'
import { ENV, METRICS_FD, decodeMetric } from './protocol.ts'

/** How long processes that a script started may take to notice that it is gone. */
const GRACE_MS = 5000
/** How often leftovers are looked for within the grace period. */
const POLL_MS = 50
/** How long SIGKILL may take; a process in uninterruptible sleep is given up after that. */
const KILL_MS = 5000
const TAIL_LINES = 40

export interface ScriptOptions {
  readonly command: string
  readonly args: readonly string[]
  readonly cwd: string
  readonly env: Readonly<Record<string, string | undefined>>
  readonly timeoutMs: number
  /** Aborting kills the script at once. */
  readonly signal?: AbortSignal | undefined
  readonly graceMs?: number
  onMetric?(metric: Metric): void
  onLine?(line: string): void
}

/** Run a script to its end. Resolves also when it crashes, hangs or cannot start; rejects only when `signal` aborts, after everything is killed. */
export async function runScript(options: ScriptOptions): Promise<ScriptRun> {
  const mark = randomUUID()
  const startedMs = performance.now()
  const child = spawn(options.command, options.args, {
    cwd: options.cwd,
    env: { ...options.env, [ENV.metricsFd]: String(METRICS_FD), [ENV.mark]: mark },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
  })
  const metrics = new Map<string, Metric>()
  const tail: string[] = []
  const print = (line: string): void => {
    tail.push(line)
    if (tail.length > TAIL_LINES) tail.shift()
    options.onLine?.(line)
  }
  const streams = child.stdio.slice(1) as [stdout: Readable, stderr: Readable, reports: Readable]
  const [stdout, stderr, reports] = streams
  createInterface({ input: stdout }).on('line', print)
  createInterface({ input: stderr }).on('line', print)
  createInterface({ input: reports }).on('line', (line) => {
    const metric = decodeMetric(line)
    if (metric === undefined) return print(`not a metric: ${line}`)
    metrics.set(metric.name, metric)
    options.onMetric?.(metric)
  })
  const closed = Promise.all(streams.map((stream) => new Promise<void>((resolve) => void stream.once('close', resolve))))

  let timedOut = false
  const kill = (): void => killGroup(child.pid)
  const timer = setTimeout(() => {
    timedOut = true
    kill()
  }, options.timeoutMs)
  options.signal?.addEventListener('abort', kill, { once: true })
  if (options.signal?.aborted) kill()

  const exit = await new Promise<Ending>((resolve) => {
    child.once('error', (error) => resolve({ kind: 'not-started', reason: error.message }))
    child.once('exit', (code, signal) => resolve(signal === null ? { kind: 'exited', code: code ?? 0 } : { kind: 'signalled', signal }))
  })
  clearTimeout(timer)
  options.signal?.removeEventListener('abort', kill)
  const seconds = (performance.now() - startedMs) / 1000

  const leftBehind = exit.kind === 'not-started' ? [] : await sweep(child.pid, mark, options.graceMs ?? GRACE_MS)
  // Everything that could hold the pipes is dead now; the last lines may still be on their way.
  await Promise.race([closed, delay(1000, undefined, { ref: false })])
  for (const stream of streams) stream.destroy()
  options.signal?.throwIfAborted()
  const ending: Ending = timedOut ? { kind: 'timeout', afterMs: options.timeoutMs } : exit
  return { ending, metrics: [...metrics.values()], leftBehind, tail: tail.join('\n'), seconds }
}

/** Wait for the script's processes to leave, then kill those that did not. Returns what had to be killed. */
async function sweep(pid: number | undefined, mark: string, graceMs: number): Promise<string[]> {
  const deadlineMs = performance.now() + graceMs
  let left = marked(mark)
  while (left.length > 0 && performance.now() < deadlineMs) {
    await delay(POLL_MS)
    left = marked(mark)
  }
  killGroup(pid)
  const killedByMs = performance.now() + KILL_MS
  for (let round = left; round.length > 0 && performance.now() < killedByMs; round = marked(mark)) {
    for (const other of round) killQuietly(other.pid)
    await delay(POLL_MS)
  }
  return left.map((other) => `${other.pid} (${other.command})`)
}

/** Living processes of this user that carry the mark. Empty where there is no /proc. */
function marked(mark: string): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = []
  for (const entry of listProc()) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue
    try {
      if (!readFileSync(`/proc/${entry}/environ`, 'latin1').includes(mark)) continue
      if (/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${entry}/stat`, 'latin1'))) continue
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').filter(Boolean).join(' ')
      found.push({ pid: Number(entry), command })
    } catch {
      // Gone meanwhile, or not ours.
    }
  }
  return found
}

function listProc(): string[] {
  try {
    return readdirSync('/proc')
  } catch {
    return []
  }
}

function killGroup(pid: number | undefined): void {
  if (pid !== undefined) killQuietly(-pid)
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // Gone already.
  }
}
