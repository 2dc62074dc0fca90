/**
 * What the pull manager is told and what it wants done: two closed unions on `kind`. Objects travel as keys ({@link objectKey}); nodes as ids.
 *
 * No clock: where time matters the manager asks for a timer and is told when it rang.
 */
import type { ErrorDetails } from '../errors.ts'
import type { ObjectName } from './copy-store.ts'

/** Who comes first when there is not room for all: blocked readers, then waiters, then arguments of tasks that have not started. */
export const USES = ['get', 'wait', 'argument'] as const
export type Use = (typeof USES)[number]

export function objectKey({ owner, object }: ObjectName): string {
  return `${owner}:${object}`
}

export type PullEvent =
  /** A reader of this node wants an object whose primary copy is on `node`. `wanter` names the reader's pin, uniquely. */
  | { readonly kind: 'wanted'; readonly wanter: string; readonly key: string; readonly bytes: number; readonly use: Use; readonly node: string }
  | { readonly kind: 'unwanted'; readonly wanter: string }
  /** The store may have more room than before. */
  | { readonly kind: 'roomChanged' }
  /** Outcome of `allocate`. */
  | { readonly kind: 'allocated'; readonly key: string }
  | { readonly kind: 'refused'; readonly key: string; readonly failure: PullFailure; readonly forGood: boolean }
  /** Instead of being allocated: the object has come to be on this node in another way. */
  | { readonly kind: 'here'; readonly key: string }
  /** A fetch is over, in exactly one way. Chunks that it brought are kept for the next one. */
  | { readonly kind: 'ended'; readonly key: string; readonly attempt: number; readonly outcome: FetchOutcome }
  /** The node is dead: it is nobody's source any more. */
  | { readonly kind: 'nodeLost'; readonly node: string; readonly reason: string }
  | { readonly kind: 'timerRang'; readonly timer: number }

export type FetchOutcome =
  /** Every byte is there and was verified. */
  | { readonly kind: 'whole' }
  /** The connection failed, or nothing came for too long. */
  | { readonly kind: 'cut'; readonly reason: string }
  /** The source does not have it (any more), or what it has is not usable. */
  | { readonly kind: 'gone'; readonly reason: string }
  /** The source serves others, or has not got far enough itself; these nodes hold it or are getting it. */
  | { readonly kind: 'busy'; readonly nodes: readonly string[] }

export type PullFailure =
  | { readonly code: 'OBJECT_LOST'; readonly details: ErrorDetails<'OBJECT_LOST'> }
  | { readonly code: 'STORE_FULL'; readonly details: ErrorDetails<'STORE_FULL'> }
  | { readonly code: 'STORE_UNAVAILABLE'; readonly details: ErrorDetails<'STORE_UNAVAILABLE'> }

export type PullInstruction =
  /** Get memory for it, then report `allocated` or `refused`. `urgent`: primary objects may be spilled for it. */
  | { readonly kind: 'allocate'; readonly key: string; readonly bytes: number; readonly urgent: boolean }
  /** Read the missing chunks from `node`, then report `ended` with this attempt. */
  | { readonly kind: 'fetch'; readonly key: string; readonly node: string; readonly attempt: number }
  /** End the running fetch; it need not be reported. */
  | { readonly kind: 'stop'; readonly key: string }
  /** Give the memory back, and what was fetched with it. */
  | { readonly kind: 'abandon'; readonly key: string }
  /** It is whole: seal it, and pin it for these wanters at once. */
  | { readonly kind: 'seal'; readonly key: string; readonly wanters: readonly string[] }
  /** It is here without having been pulled: pin it for these wanters. */
  | { readonly kind: 'pin'; readonly key: string; readonly wanters: readonly string[] }
  /** These wanters do not get it. */
  | { readonly kind: 'fail'; readonly key: string; readonly wanters: readonly string[]; readonly failure: PullFailure }
  /** Report `timerRang` after `afterMs`. A timer that is no longer needed may ring; it is ignored. */
  | { readonly kind: 'startTimer'; readonly timer: number; readonly afterMs: number }
