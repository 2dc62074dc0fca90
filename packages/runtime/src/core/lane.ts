/** Calls at their worker, and the lanes that they wait in. */
import type { Push } from '../net/gen/peer.ts'
import { Deque } from './deque.ts'
import type { Executable } from './executable.ts'
import type { Peer } from './peers.ts'
import type { Pin } from './pins.ts'
import type { RunningTask } from './running-task.ts'

/** A call that arrived. */
export interface Call {
  readonly peer: Peer
  readonly executable: Executable
  readonly push: Push
  /** Of its large arguments, from its arrival until they are loaded; undefined when it has none. */
  pins: readonly Pin[] | undefined
  running: RunningTask | undefined
  /** Items of a stream that its consumer took. */
  consumed: number
  stopped: boolean
  wake: (() => void) | undefined
}

/** Calls that run one after the other (tasks of a lease) or `limit` at once (a concurrency group of the actor). */
export class Lane {
  readonly queue: Deque<Call> = new Deque()
  readonly running: Set<Call> = new Set()
  limit: number
  scheduled = false
  /** The running task waits and its queue was given back. */
  blocked = false
  /** Whose lease it is; none for a lane of the actor. */
  readonly owner: Peer | undefined

  constructor(limit: number, owner?: Peer) {
    this.limit = limit
    this.owner = owner
  }

  get isIdle(): boolean {
    return this.running.size === 0 && this.queue.size === 0
  }
}
