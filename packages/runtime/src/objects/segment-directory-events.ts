/**
 * What the segment directory of a node is told and what it wants done: two closed unions on `kind`.
 *
 * Field names mirror net/proto/node.proto (SegmentRequest, SegmentGrant, StoredObject, StoredPlace, ObjectPin), so the daemon passes
 * messages through unchanged. Time comes with each event, for people; where it matters the directory asks for a timer and is told when it rang.
 */
import type { ErrorDetails } from '../errors.ts'

/** A block of a segment, in bytes from its start. */
export interface StoredPlace {
  readonly segment: string
  readonly offset: number
  readonly bytes: number
}

/** An object, for ever: the process that owns it and that process's number of it. */
export interface ObjectName {
  readonly owner: string
  readonly object: number
}

/** A sealed object, as its owner reports it. */
export interface StoredObject extends StoredPlace {
  /** The owner's number of it. */
  readonly object: number
  /** Task or call that made it. */
  readonly label: string
}

/** Memory of an object on this node. */
export interface ObjectMemory extends StoredPlace {
  /** File of the segment, and its size. */
  readonly path: string
  readonly segmentBytes: number
}

/** Who gets room first: blocked readers, then those that wait for any of several, then arguments of tasks that have not started. */
export const USES = ['get', 'wait', 'argument'] as const
export type Use = (typeof USES)[number]

export type DirectoryEvent =
  /** A process wants a segment with room for `bytes`; answered by exactly one `grant` or `fail`, unless the process goes first. */
  | { readonly kind: 'segmentRequested'; readonly process: string; readonly request: number; readonly bytes: number }
  /** The process gives back a segment in which it holds no block and will write no more. */
  | { readonly kind: 'segmentReturned'; readonly process: string; readonly segment: string }
  | { readonly kind: 'objectsAdded'; readonly process: string; readonly objects: readonly StoredObject[] }
  | { readonly kind: 'objectsFreed'; readonly process: string; readonly objects: readonly number[] }
  /**
   * The process is about to map an object: answered by exactly one `pinned` or `pinFailed`, unless it is unpinned first. Its memory then
   * stays where it is until `unpinned` or the end of the process. The pin may come before the owner's `objectsAdded`: whoever reads has borrowed the
   * object, so it cannot be gone.
   */
  | ({
      readonly kind: 'pinned'
      readonly process: string
      readonly pin: number
      /** Where its owner said that it is, if that is on this node. */
      readonly place: StoredPlace | undefined
      readonly use: Use
    } & ObjectName)
  | { readonly kind: 'unpinned'; readonly process: string; readonly pins: readonly number[] }
  /** The process is dead and writes no more: what it owned is freed, what it created is removed once empty. */
  | { readonly kind: 'processGone'; readonly process: string }
  /** Outcome of a `createFile`. `error` absent: the file exists with all its pages reserved. */
  | { readonly kind: 'fileCreated'; readonly segment: string; readonly error?: string }
  /** Outcome of a `writeObjects`. */
  | { readonly kind: 'objectsWritten'; readonly file: number; readonly error?: string }
  /** Outcome of a `readObject`. */
  | ({ readonly kind: 'objectRead'; readonly error?: string } & ObjectName)
  /** Room for a copy of an object of another node; answered by exactly one `copyGranted` or `copyRefused`. `urgent`: a reader is blocked on it. */
  | ({ readonly kind: 'copyRequested'; readonly bytes: number; readonly urgent: boolean } & ObjectName)
  | ({ readonly kind: 'copySealed' } & ObjectName)
  | ({ readonly kind: 'copyFailed' } & ObjectName)
  | { readonly kind: 'copiesDropped'; readonly names: readonly ObjectName[] }
  /** A sealed copy becomes the primary one, and the other way round. */
  | ({ readonly kind: 'promoted'; readonly label: string } & ObjectName)
  | ({ readonly kind: 'demoted' } & ObjectName)
  /** A timer of `startTimer`. */
  | { readonly kind: 'timerRang'; readonly timer: number }

export type DirectoryInstruction =
  /** Create `path` with `bytes` reserved, then report `fileCreated`. */
  | { readonly kind: 'createFile'; readonly segment: string; readonly path: string; readonly bytes: number }
  | { readonly kind: 'unlinkFile'; readonly segment: string; readonly path: string }
  /** Answer to `request`: send SegmentGrant. */
  | { readonly kind: 'grant'; readonly process: string; readonly request: number; readonly segment: string; readonly path: string; readonly bytes: number }
  /** Answer to `request`: send SegmentGrant with this failure. */
  | ({ readonly kind: 'fail'; readonly process: string; readonly request: number } & StoreFailure)
  /** Answer to `pin`: send ObjectPinned. */
  | { readonly kind: 'pinned'; readonly process: string; readonly pin: number; readonly memory: ObjectMemory }
  | ({ readonly kind: 'pinFailed'; readonly process: string; readonly pin: number } & (StoreFailure | ObjectLost))
  /**
   * To the creator of these blocks: the objects are not there any more, the blocks may be written again. `giveBack`: the store is short, segments
   * that are empty now are wanted.
   */
  | { readonly kind: 'blocksFreed'; readonly process: string; readonly blocks: readonly (StoredPlace & ObjectName)[]; readonly giveBack: boolean }
  /** Copy these objects into one new spill file, then report `objectsWritten`. Their memory stays as it is meanwhile, unless they are freed. */
  | { readonly kind: 'writeObjects'; readonly file: number; readonly objects: readonly (StoredPlace & { readonly path: string })[] }
  /** Copy a part of a spill file into `memory`, then report `objectRead`. */
  | ({ readonly kind: 'readObject'; readonly file: number; readonly from: number; readonly memory: ObjectMemory } & ObjectName)
  | { readonly kind: 'removeFile'; readonly file: number }
  | ({ readonly kind: 'copyGranted'; readonly memory: ObjectMemory } & ObjectName)
  | ({ readonly kind: 'copyRefused' } & ObjectName & StoreFailure)
  /** Owners of primary objects freed them, or died: copies on other nodes are to go. */
  | { readonly kind: 'primariesFreed'; readonly names: readonly ObjectName[] }
  /** More room for copies than before. */
  | { readonly kind: 'roomChanged' }
  /** The store is short: ask every process to collect garbage and return empty segments. Also those that only read: what they map is kept by its owner. */
  | { readonly kind: 'releaseMemory' }
  /** Report `timerRang` after `afterMs`. A timer that is no longer needed may ring; it is ignored. */
  | { readonly kind: 'startTimer'; readonly timer: number; readonly afterMs: number }

export type StoreFailure =
  | { readonly code: 'STORE_FULL'; readonly details: ErrorDetails<'STORE_FULL'> }
  | { readonly code: 'STORE_UNAVAILABLE'; readonly details: ErrorDetails<'STORE_UNAVAILABLE'> }

export interface ObjectLost {
  readonly code: 'OBJECT_LOST'
  readonly details: ErrorDetails<'OBJECT_LOST'>
}

/** Facts for `status` and `list objects`. All sizes in bytes. */
export interface StoreUsage {
  readonly capacityBytes: number
  /** Sum of the segment files, also the empty ones kept for reuse. */
  readonly fileBytes: number
  /** Of those, the empty ones. */
  readonly spareBytes: number
  /** Sum of the objects in memory. */
  readonly liveBytes: number
  readonly segments: number
  /** Objects, in memory or not. */
  readonly objects: number
  /** Requests that wait for room. */
  readonly waiting: number
  /** Of the objects in memory: those that somebody reads, and copies of objects of other nodes. */
  readonly pinnedBytes: number
  readonly copyBytes: number
  /** Objects that are in spill files only. */
  readonly spilledBytes: number
  readonly spilledObjects: number
  /** Sum of the spill files. */
  readonly spillFileBytes: number
  /** Written to and read back from spill files so far. */
  readonly writtenBytes: number
  readonly restoredBytes: number
}

/** One object, for `list objects`. `segment` is "" while it is in no memory. */
export interface DirectoryObject extends StoredObject {
  readonly owner: string
  /** Process that wrote it; "" when that process is gone, or is the node itself. */
  readonly creator: string
  readonly role: 'primary' | 'copy'
  readonly spilled: boolean
  /** Processes that read it. */
  readonly pins: number
}
