/**
 * `beamline timeline`: finished tasks as a Chrome trace, for chrome://tracing or https://ui.perfetto.dev.
 */
import { writeFileSync } from 'node:fs'
import type { TaskEvent } from '../net/gen/node.ts'
import { ClusterClient } from './client.ts'
import { note, print, printJson } from './output.ts'

/** One entry of the trace event format; times in microseconds. */
export interface TraceEvent {
  readonly name: string
  readonly ph: 'X' | 'M'
  readonly pid: number
  readonly tid: number
  readonly ts?: number
  readonly dur?: number
  readonly cat?: string
  readonly args: Readonly<Record<string, string>>
}

/** A row per worker, in the order in which workers appear. */
export function chromeTrace(events: readonly TaskEvent[], cluster: string): TraceEvent[] {
  const rows = new Map<string, number>()
  const out: TraceEvent[] = [{ name: 'process_name', ph: 'M', pid: 1, tid: 0, args: { name: `beamline ${cluster}` } }]
  const inOrder = [...events].sort((a, b) => a.startMs - b.startMs)
  for (const { task, name, worker, owner, startMs, endMs, state, errorCode } of inOrder) {
    let tid = rows.get(worker)
    if (tid === undefined) {
      tid = rows.size + 1
      rows.set(worker, tid)
      out.push({ name: 'thread_name', ph: 'M', pid: 1, tid, args: { name: `worker ${worker}` } })
    }
    const args: Record<string, string> = { task, owner, state }
    if (errorCode !== '') args['error'] = errorCode
    out.push({ name, ph: 'X', pid: 1, tid, ts: startMs * 1_000, dur: Math.max(0, endMs - startMs) * 1_000, cat: state, args })
  }
  return out
}

export async function timeline(file: string | undefined, address: string | undefined, json: boolean): Promise<void> {
  await using client = await ClusterClient.connect(address)
  const { events, dropped } = await client.query<{ events: TaskEvent[]; dropped: number }>('timeline', 0)
  const { cluster } = client.welcome
  const trace = { traceEvents: chromeTrace(events, cluster), displayTimeUnit: 'ms' }
  if (dropped > 0) note(`${dropped} more tasks were too many to report and are missing`)
  if (file === '-') return printJson(trace)
  const path = file ?? `timeline-${cluster}.json`
  writeFileSync(path, JSON.stringify(trace))
  if (json) printJson({ file: path, tasks: events.length, dropped })
  else print(`${events.length} tasks in ${path}; open it in https://ui.perfetto.dev or chrome://tracing`)
}
