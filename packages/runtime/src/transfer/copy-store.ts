/**
 * What the object plane needs of this node's store, and nothing more: where objects are, room for copies of objects of other nodes, and
 * which objects it holds as the primary copy. The store decides what it evicts or spills; the plane decides what is moved.
 *
 * A *copy* is a secondary one: the store may evict it when nothing pins or holds it. It becomes readable with `copySealed`.
 */
import type { ObjectPin } from '../net/gen/node.ts'

/** An object, for ever: the process that owns it and that process's number of it. */
export interface ObjectName {
  readonly owner: string
  readonly object: number
}

/** Memory of one object on this node. Stays where it is while it is pinned, held, or a copy that is not sealed yet. */
export interface ObjectMemory {
  readonly segment: string
  /** File of the segment, and its size: the plane maps whole segments, since pages that are mapped already are many times faster. */
  readonly path: string
  readonly segmentBytes: number
  readonly offset: number
  readonly bytes: number
}

export interface PrimaryObject extends ObjectName {
  readonly bytes: number
  readonly label: string
}

/** Where a process was told that an object is; used for objects whose owner's report has not arrived yet. */
export interface TheirPlace {
  readonly segment: string
  readonly offset: number
  readonly bytes: number
}

export interface CopyStore {
  /** What this node has of it, in memory or spilled: `primary`, a sealed `copy`, or nothing. */
  find(name: ObjectName): 'primary' | 'copy' | undefined
  /**
   * Keeps a whole object (primary or sealed copy) in memory until `release`, reading it back when it was spilled. For an object in memory this
   * holds from the call on, not only when the promise resolves.
   *
   * @param place - where a reader was told that it is on this node: an object that its owner has not reported yet is held there
   * @returns undefined when this node does not have it
   */
  hold(name: ObjectName, place: TheirPlace | undefined): Promise<ObjectMemory | undefined>
  /** Ends one `hold`. */
  release(name: ObjectName): void
  /**
   * Pins an object that is whole on this node for a reader and answers it with ObjectPinned. Called in the same turn as `copySealed`, it
   * comes before any eviction.
   */
  pin(process: string, pin: ObjectPin): void
  /** Bytes that `allocateCopy` could give now: free memory, and copies that nothing pins. Primary objects are not spilled for it. */
  readonly roomBytes: number
  /**
   * Room for a copy that is about to be written; nobody can read it yet. At most one per name at a time.
   *
   * @param urgent - a reader is blocked on it: primary objects are spilled for it if need be
   * @throws (rejects) {@link BeamlineError} `STORE_FULL`, `STORE_UNAVAILABLE`
   */
  allocateCopy(name: ObjectName, bytes: number, urgent: boolean): Promise<ObjectMemory>
  /** All bytes are there: from now on it may be pinned, held and evicted. */
  copySealed(name: ObjectName): void
  /** It is not going to be complete: its memory is free at once. */
  copyFailed(name: ObjectName): void
  /** The objects were freed: their sealed copies go, each with its last pin or hold. Primary ones stay. */
  dropCopies(names: readonly ObjectName[]): void
  /**
   * Makes a sealed copy the primary one, which is spilled instead of evicted and goes only when its owner frees it. One that is the primary
   * already stays it.
   *
   * @returns its place, or undefined when the copy is gone
   */
  promote(name: ObjectName, label: string): TheirPlace | undefined
  /** Another node has the primary copy now: what is here is a copy like any other. */
  demote(name: ObjectName): void
  /** The primary objects of this node, also spilled ones. */
  primaries(): PrimaryObject[]
}

/** What the store tells the plane. */
export interface CopyStoreListener {
  /** `roomBytes` may be larger than before. */
  roomChanged(): void
  /** The segment's file is gone: its mapping goes too. */
  segmentGone(segment: string): void
  /** Primary objects of this node were freed by their owners (or these are dead): copies elsewhere are to go. */
  primariesFreed(names: readonly ObjectName[]): void
}
