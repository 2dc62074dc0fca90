/**
 * What the segment directory of a node is told and what it wants done: two closed unions on `kind`.
 *
 * Field names mirror net/proto/node.proto (SegmentRequest, SegmentGrant, StoredObject, StoredPlace), so the daemon passes
 * messages through unchanged. No clock: where time matters the directory asks for a timer and is told when it rang.
 */
import type { ErrorDetails } from '../errors.ts'

/** A block of a segment, in bytes from its start. */
export interface StoredPlace {
  readonly segment: string
  readonly offset: number
  readonly bytes: number
}

/** The block of an object, by the owner's number of it. */
export interface ObjectPlace extends StoredPlace {
  readonly object: number
}

export interface OwnedPlace extends ObjectPlace {
  readonly owner: string
}

/** A sealed object, as its owner reports it. */
export interface StoredObject extends StoredPlace {
  /** The owner's number of it. */
  readonly object: number
  /** Task or call that made it. */
  readonly label: string
}

export type DirectoryEvent =
  /** A process wants a segment with room for `bytes`; answered by exactly one `grant` or `fail`, unless the process goes first. */
  | { readonly kind: 'segmentRequested'; readonly process: string; readonly request: number; readonly bytes: number }
  /** The process gives back a segment in which it holds no block and will write no more. */
  | { readonly kind: 'segmentReturned'; readonly process: string; readonly segment: string }
  | { readonly kind: 'objectsAdded'; readonly process: string; readonly objects: readonly StoredObject[] }
  | { readonly kind: 'objectsFreed'; readonly process: string; readonly places: readonly ObjectPlace[] }
  /**
   * The process is about to map an object: answered by exactly one `pinned` or `pinFailed`. Its memory stays as it is until `unpinned` or the end of
   * the process. The pin may come before the owner's `objectsAdded`: whoever reads has borrowed the object, so it cannot be gone.
   */
  | { readonly kind: 'pinned'; readonly process: string; readonly pin: number; readonly owner: string; readonly object: number; readonly place: StoredPlace }
  | { readonly kind: 'unpinned'; readonly process: string; readonly pins: readonly number[] }
  /** The process is dead and writes no more: what it owned is freed, what it created is recycled once empty. */
  | { readonly kind: 'processGone'; readonly process: string }
  /** Outcome of a `createFile`. `error` absent: the file exists with all its pages reserved. */
  | { readonly kind: 'fileCreated'; readonly segment: string; readonly error?: string }
  /** A timer of `startTimer`. */
  | { readonly kind: 'timerRang'; readonly timer: number }

export type DirectoryInstruction =
  /** Create `path` with `bytes` reserved, then report `fileCreated`. */
  | { readonly kind: 'createFile'; readonly segment: string; readonly path: string; readonly bytes: number }
  | { readonly kind: 'unlinkFile'; readonly segment: string; readonly path: string }
  /** Answer to `request`: send SegmentGrant. */
  | { readonly kind: 'grant'; readonly process: string; readonly request: number; readonly segment: string; readonly path: string; readonly bytes: number }
  /** Answer to `request`: send SegmentGrant with this failure. */
  | ({ readonly kind: 'fail'; readonly process: string; readonly request: number } & SegmentFailure)
  /** Answer to `pin`: send ObjectPinned. */
  | ({ readonly kind: 'pinned'; readonly process: string; readonly pin: number; readonly path: string } & StoredPlace)
  | { readonly kind: 'pinFailed'; readonly process: string; readonly pin: number; readonly code: 'OBJECT_LOST'; readonly details: ErrorDetails<'OBJECT_LOST'> }
  /** To the creator of these blocks: they may be written again; or, `retired`, they never may, since their owner died and others may read them. */
  | { readonly kind: 'blocksFreed'; readonly process: string; readonly places: readonly OwnedPlace[]; readonly retired: boolean }
  /** The store is short: ask every process to collect garbage and return empty segments. Also those that only read: what they map is kept by its owner. */
  | { readonly kind: 'releaseMemory' }
  /** Report `timerRang` after `afterMs`. A timer that is no longer needed may ring; it is ignored. */
  | { readonly kind: 'startTimer'; readonly timer: number; readonly afterMs: number }

export type SegmentFailure =
  | { readonly code: 'STORE_FULL'; readonly details: ErrorDetails<'STORE_FULL'> }
  | { readonly code: 'STORE_UNAVAILABLE'; readonly details: ErrorDetails<'STORE_UNAVAILABLE'> }

/** Facts for `status` and `list objects`. All sizes in bytes. */
export interface StoreUsage {
  readonly capacityBytes: number
  /** Sum of the segment files, also the empty ones kept for reuse. */
  readonly fileBytes: number
  /** Sum of the live objects. */
  readonly liveBytes: number
  readonly segments: number
  readonly objects: number
  /** Requests that wait for room. */
  readonly waiting: number
}

/** One live object, for `list objects`. */
export interface DirectoryObject extends StoredObject {
  readonly owner: string
  /** Process that wrote it; "" when that process is gone. */
  readonly creator: string
}
