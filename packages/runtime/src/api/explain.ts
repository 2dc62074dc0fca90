/**
 * Why a reference is not ready yet, in words and data.
 */
import { current } from '../core/current.ts'
import { CopySearch } from '../core/lineage.ts'
import type { ObjectEntry } from '../core/object-entry.ts'
import { localTask } from '../core/report.ts'
import type { Runtime } from '../core/runtime.ts'
import { TaskRecord } from '../core/task-record.ts'
import { BeamlineError } from '../errors.ts'
import type { Resources } from '../net/gen/node.ts'
import { entryOf, type ObjectRef } from './object-ref.ts'

/** What {@link explain} found. */
export interface Explanation {
  /** One sentence. */
  readonly text: string
  readonly state:
    | 'READY'
    | 'FAILED'
    | 'WAITING_FOR_ARGUMENT'
    | 'QUEUED'
    | 'QUEUED_AT_WORKER'
    | 'RUNNING'
    | 'RETRYING'
    | 'RECOVERING'
    | 'WAITING_FOR_ACTOR'
    | 'WAITING_FOR_OWNER'
  /** What makes it, when a task or call does. */
  readonly task?: string
  /** Arguments that it waits for, by position. */
  readonly arguments?: readonly { readonly index: number; readonly object: string; readonly because: string }[]
  readonly worker?: string
  /** Since it was sent to its worker. */
  readonly runningForMs?: number
  /** Tasks of the same shape in front of it. */
  readonly ahead?: number
  /** What it needs, for queued tasks. */
  readonly needs?: string
  readonly error?: string
  /** What the node says that it lacks, for queued tasks and actors that wait for a worker. */
  readonly node?: string
}

export function resourceText({ cpus, gpus, memoryBytes, custom }: Resources): string {
  const parts = [cpus > 0 ? `${cpus / 10_000} CPU` : '', gpus > 0 ? `${gpus / 10_000} GPU` : '', memoryBytes > 0 ? `${memoryBytes} bytes of memory` : '']
  for (const [name, amount] of Object.entries(custom)) parts.push(`${amount / 10_000} ${name}`)
  return parts.filter(Boolean).join(', ') || 'no resources'
}

/**
 * What a reference waits for: which argument, which resources behind how many others, or where it runs since when.
 *
 * What this process knows of itself needs no message; for queued work the node says what it lacks (one round trip).
 *
 * @example
 * console.log((await explain(ref)).text) // "train" is queued behind 3 tasks for 2 CPU; the node: needs 2 CPU; free now: 1 of 4 CPU
 */
export async function explain(ref: ObjectRef<unknown>): Promise<Explanation> {
  const runtime = current('explain()')
  const entry = entryOf(ref)
  if (!entry) throw new BeamlineError('INVALID_ARGUMENT', { what: 'the argument of explain()', got: typeof ref, expected: 'an ObjectRef' })
  const known = describe(entry)
  const reason = await nodeReason(runtime, entry, known)
  return reason === '' ? known : { ...known, node: reason, text: `${known.text}; the node: ${reason}` }
}

/** Why the node has not given what a queued task or a waiting actor needs; "" when it has nothing to add. */
async function nodeReason(runtime: Runtime, entry: ObjectEntry, known: Explanation): Promise<string> {
  const { producer } = entry
  if (!(producer instanceof TaskRecord)) return ''
  if (known.state === 'QUEUED' && producer.queue) {
    const demand = (await runtime.query(`demand ${producer.queue.key}`, 1)) as { reason?: string } | null
    return demand?.reason ?? ''
  }
  const client = known.state === 'WAITING_FOR_ACTOR' ? runtime.actors.clientOfCall(producer) : undefined
  if (!client) return ''
  const waiting = (await runtime.query('waiting', 1_000_000)) as readonly { actor?: string; reason?: string }[] | null
  return waiting?.find(({ actor }) => actor === client.id)?.reason ?? ''
}

/** What this process knows by itself. */
export function describe(entry: ObjectEntry): Explanation {
  const runtime = current('explain()')
  const object = runtime.references.name(entry)
  if (entry.stored?.kind === 'error')
    return { state: 'FAILED', error: entry.stored.error.message, text: `object ${object} failed: ${entry.stored.error.message}` }
  if (entry.stored) return { state: 'READY', text: `object ${object} is ready` }
  if (entry.owner !== undefined) return { state: 'WAITING_FOR_OWNER', text: `object ${object} is not ready at its owner, process ${entry.owner}` }
  const { producer } = entry
  if (producer instanceof CopySearch) {
    const { node } = producer.lost.place
    return { state: 'RECOVERING', task: producer.label, text: `object ${object} was lost with node ${node}: another copy is looked for` }
  }
  if (!(producer instanceof TaskRecord)) return { state: 'WAITING_FOR_OWNER', text: `object ${object} is being stored` }
  const made = producer.queue ? explainTask(runtime, producer) : explainCall(runtime, producer)
  return producer.rebuilding ? { ...made, text: `object ${object} was lost and is being rebuilt: ${made.text}` } : made
}

function waitingArguments(runtime: Runtime, record: TaskRecord): Explanation | undefined {
  if (record.phase !== 'waiting') return undefined
  const missing = record.dependencies
    .filter(({ entry }) => entry.stored === undefined)
    .map(({ index, entry }) => ({ index, object: runtime.references.name(entry), because: describe(entry).text }))
  const task = record.template.name
  const [first] = missing
  const text = first ? `"${task}" waits for argument ${first.index}: ${first.because}` : `"${task}" waits for its arguments to be stored`
  return { state: 'WAITING_FOR_ARGUMENT', task, arguments: missing, text }
}

function explainTask(runtime: Runtime, record: TaskRecord): Explanation {
  const waiting = waitingArguments(runtime, record)
  if (waiting) return waiting
  const task = record.template.name
  const { state, worker, forMs } = localTask(runtime, record)
  const seconds = (forMs / 1000).toFixed(1)
  if (state === 'RUNNING') return { state: 'RUNNING', task, worker, runningForMs: forMs, text: `"${task}" runs on worker ${worker} for ${seconds} s` }
  if (state === 'DELAYED')
    return { state: 'RETRYING', task, text: `"${task}" failed ${record.attempt} time${record.attempt === 1 ? '' : 's'} and will be tried again` }
  if (state === 'PUSHED') {
    const ahead = [...(record.lease?.inFlight.keys() ?? [])].indexOf(record.number)
    const running = record.lease?.inFlight.values().next().value
    return {
      state: 'QUEUED_AT_WORKER',
      task,
      worker,
      ahead,
      text: `"${task}" is at worker ${worker} behind ${ahead} task${ahead === 1 ? '' : 's'}; "${running?.template.name}" runs there`,
    }
  }
  const queue = record.queue
  const shape = queue && runtime.submitter.leases.shapeOf(queue)
  const needs = shape?.resources ? resourceText(shape.resources) : 'no resources'
  let ahead = 0
  for (const other of queue?.queue ?? []) {
    if (other === record) break
    ahead++
  }
  const held = queue?.leases.size ?? 0
  return {
    state: 'QUEUED',
    task,
    ahead,
    needs,
    text: `"${task}" is queued behind ${ahead} task${ahead === 1 ? '' : 's'} for ${needs}; ${held} worker${held === 1 ? '' : 's'} of that kind are at hand and all busy`,
  }
}

function explainCall(runtime: Runtime, record: TaskRecord): Explanation {
  const waiting = waitingArguments(runtime, record)
  if (waiting) return waiting
  const task = record.template.name
  const client = runtime.actors.clientOfCall(record)
  if (!client) return { state: 'WAITING_FOR_ACTOR', task, text: `"${task}" has been cancelled` }
  if (record.phase === 'pushed') {
    const ahead = [...client.inFlight.keys()].indexOf(record.number)
    const forMs = performance.now() - record.pushedAt
    if (ahead > 0)
      return {
        state: 'QUEUED_AT_WORKER',
        task,
        worker: client.worker,
        ahead,
        text: `"${task}" is at its actor behind ${ahead} earlier call${ahead === 1 ? '' : 's'} of this process`,
      }
    return {
      state: 'RUNNING',
      task,
      worker: client.worker,
      runningForMs: forMs,
      text: `"${task}" is at its actor on worker ${client.worker} for ${(forMs / 1000).toFixed(1)} s`,
    }
  }
  return {
    state: 'WAITING_FOR_ACTOR',
    task,
    text: `"${task}" waits for its actor, which is ${client.state}${client.cause ? ` (${client.cause.message})` : ''}`,
  }
}
