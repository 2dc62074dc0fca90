/**
 * One actor as the control knows it, what its table needs of the rest of the control, and its durable record.
 */
import { LIMITS } from '../limits.ts'
import type { ActorCreate, Failure, Shape } from '../net/gen/node.ts'
import type { ControlInstruction, Job } from './events.ts'
import type { ActorRecord } from './records.ts'

export type ActorStateName = 'PENDING' | 'STARTING' | 'ALIVE' | 'RESTARTING' | 'DEAD'

export interface Actor {
  readonly id: string
  readonly name: string
  readonly namespace: string
  readonly create: ActorCreate
  /** Process whose death ends it, unless detached. */
  readonly owner: string
  readonly job: Job
  /** "" while no node can have it, or none is chosen. */
  node: string
  attempt: number
  readonly sinceMs: number
  /** Since when it waits at its node. */
  placedAtMs: number
  /** Why it waits, in words. */
  reason: string
  /** It has had a worker since it was placed last. */
  ran: boolean
  /** From before a restart of the head: its node has not come back yet, and nobody knows how it is. */
  unheard: boolean
  state: ActorStateName
  /** "" unless STARTING or ALIVE, or while a stopped worker ends */
  worker: string
  address: string
  /** How often it was begun again. */
  incarnation: number
  /** How often for a reason that counts: a node that drains is none. */
  restarts: number
  /** Deaths since it was last ALIVE: the delay before the next try grows with it. */
  failedStarts: number
  /** How often its worker was ended because memory was short: each time its node gets longer to recover. */
  memoryEnds: number
  /** RESTARTING and not placed yet: when to place it. */
  restartAtMs: number | undefined
  stopping: { readonly reason: string; readonly noRestart: boolean; readonly killAtMs: number; readonly moves: boolean } | undefined
  cause: Failure | undefined
  error: Uint8Array
  readonly watchers: Set<string>
  /** Ids under which `getIfExists` gave it to others, with who watches it by that id. */
  readonly aliases: Map<string, Set<string>>
}

/** Where an actor goes. */
export type ActorPlace =
  | { readonly kind: 'node'; readonly node: string; readonly now: boolean }
  | { readonly kind: 'wait'; readonly reason: string }
  | { readonly kind: 'never'; readonly failure: Failure }

export interface ActorPort {
  readonly out: (instruction: ControlInstruction) => void
  readonly choose: (actor: Actor) => ActorPlace
  /** It is sent to a node, or leaves it when `units` is negative. */
  readonly book: (node: string, shape: Shape | undefined, units: number) => void
  /** Where a process is; "" for the node of this head and for those that are gone. */
  readonly nodeOf: (process: string) => string
  /** Of this head. */
  readonly self: string
  /** The record is to be made durable, or forgotten when it is not there any more. */
  readonly changed: (actor: string) => void
  readonly born: (job: string) => void
  readonly died: (job: string) => void
}

export const NOTHING: Uint8Array = new Uint8Array()

export function recordOf(actor: Actor): ActorRecord {
  const { id, namespace, create, owner, job, node, attempt, incarnation, restarts, ran, cause, error } = actor
  const dead = actor.state === 'DEAD'
  // Nobody starts a dead actor again.
  const kept = dead ? { ...create, creation: NOTHING, handle: NOTHING } : create
  return { id, namespace, create: kept, owner, job, node, attempt, incarnation, restarts, ran, dead, cause, error, aliases: [...actor.aliases.keys()] }
}

/** Of an earlier head: nobody has heard of it yet. */
export function actorOf(record: ActorRecord, nowMs: number): Actor {
  const { id, namespace, create, owner, job, node, attempt, incarnation, restarts, ran, dead, cause, error } = record
  const state = dead ? 'DEAD' : incarnation === 0 ? 'PENDING' : 'RESTARTING'
  return {
    ...{ id, name: create.name, namespace, create, owner, job, node, attempt, incarnation, restarts, ran, state, cause, error },
    unheard: !dead && node !== '',
    ...{ sinceMs: nowMs, placedAtMs: nowMs, reason: '', worker: '', address: '', failedStarts: 0, memoryEnds: 0, restartAtMs: undefined, stopping: undefined },
    watchers: new Set(),
    aliases: new Map(record.aliases.map((alias) => [alias, new Set()])),
  }
}

/** Is the report about where the actor is now? */
export const concerns = (actor: Actor, report: { readonly node: string; readonly attempt: number }): boolean =>
  actor.node === report.node && actor.attempt === report.attempt

export function lossText(failure: Failure): string {
  const { how = '', stderr = '', node, reason } = JSON.parse(failure.detailsJson) as { how?: string; stderr?: string; node?: string; reason?: string }
  if (node !== undefined) return `its node ${node} is gone: ${reason}`
  return `its worker ${how}${stderr === '' ? '' : `; its last lines on stderr:\n${stderr}`}`
}

const RESTART_DELAY_MS = 100
const RESTART_DELAY_MAX_MS = 10_000

/** How long an actor that lost its worker waits for its next start; counts the loss. */
export function restartDelay(actor: Actor, { code, detailsJson }: Failure): number {
  const grown = (times: number, firstMs: number, mostMs: number): number => (times === 0 ? 0 : Math.min(firstMs * 2 ** (times - 1), mostMs))
  const afterStarts = grown(actor.failedStarts, RESTART_DELAY_MS, RESTART_DELAY_MAX_MS)
  // Else it was its own heap that was too small.
  const nodeWasShort = code === 'OUT_OF_MEMORY' && 'memory' in (JSON.parse(detailsJson) as object)
  if (!nodeWasShort) return afterStarts
  return Math.max(afterStarts, grown(++actor.memoryEnds, LIMITS.memoryRetryDelayMs, LIMITS.memoryRetryDelayMaxMs))
}
