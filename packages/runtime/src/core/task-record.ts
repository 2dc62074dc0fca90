/**
 * One submitted call from `.remote()` to its results, and the template that it shares with its siblings.
 */
import type { BeamlineError } from '../errors.ts'
import type { Value } from '../net/gen/peer.ts'
import type { ObjectEntry, Producer, Stored, Waiter } from './object-entry.ts'
import type { ItemStream } from './item-stream.ts'
import type { Kept } from './lineage.ts'
import type { Lease, ShapeQueue } from './shape-queue.ts'

/** What all calls of one function or method with one set of options share. */
export interface CallTemplate {
  readonly name: string
  /** Of the shipped function; "" for actor methods. */
  readonly hash: string
  readonly function: Value | undefined
  readonly returns: number
  readonly streaming: boolean
  readonly itemsMax: number
  readonly actor: string
  readonly method: string
  readonly concurrencyGroup: string
  readonly retryOn: Value | undefined
  readonly maxCalls: number
  /** -1: no limit. */
  readonly maxRetries: number
  readonly timeoutMs: number | undefined
  /** Placement group that calls made by it join; "": none. */
  readonly group: string
}

/** `waiting` for arguments, `queued` for a lease, `pushed` to a worker, `done` in whatever way. */
export type TaskPhase = 'waiting' | 'queued' | 'pushed' | 'delayed' | 'done'

export interface Dependency {
  /** Position in the argument list. */
  readonly index: number
  readonly entry: ObjectEntry
}

export class TaskRecord implements Producer, Waiter {
  readonly template: CallTemplate
  /** Number of the first result; identifies the call between its owner and its worker. */
  readonly number: number
  readonly outputs: readonly ObjectEntry[]
  readonly stream: ItemStream | undefined
  readonly args: Uint8Array
  /** Arguments that are large or hold references; `args` is empty then. */
  storedArgs: ObjectEntry | Promise<ObjectEntry> | undefined
  dependencies: readonly Dependency[]
  /** Undefined for actor calls. */
  queue: ShapeQueue | undefined
  phase: TaskPhase = 'waiting'
  waitingFor = 0
  attempt = 0
  /** Its attempt with which the run began that it is in: each run has all its retries. */
  firstAttempt = 0
  /** Set while results of it that could be lost are needed. */
  kept: Kept | undefined = undefined
  /** It runs again, to bring lost results back. */
  rebuilding = false
  lease: Lease | undefined = undefined
  pushedAt = 0
  timer: NodeJS.Timeout | undefined = undefined
  /** Pushed and not answered: what it refers to must stay, even when its outputs were settled meanwhile. */
  atWorker = false
  /** Held until it is done: the lifetime of the actor that it calls. */
  keeps: ObjectEntry | undefined = undefined
  #whenReady: ((record: TaskRecord) => void) | undefined

  constructor(fields: {
    template: CallTemplate
    number: number
    outputs: readonly ObjectEntry[]
    stream: ItemStream | undefined
    args: Uint8Array
    storedArgs: ObjectEntry | Promise<ObjectEntry> | undefined
    dependencies: readonly Dependency[]
    queue: ShapeQueue | undefined
  }) {
    this.template = fields.template
    this.number = fields.number
    this.outputs = fields.outputs
    this.stream = fields.stream
    this.args = fields.args
    this.storedArgs = fields.storedArgs
    this.dependencies = fields.dependencies
    this.queue = fields.queue
  }

  get label(): string {
    return this.template.name
  }

  /** Calls back once all dependencies are ready, at once if they are. */
  awaitDependencies(whenReady: (record: TaskRecord) => void): void {
    this.#whenReady = whenReady
    this.waitingFor = 0
    for (const { entry } of this.dependencies) {
      if (entry.stored !== undefined) continue
      this.waitingFor++
      entry.addWaiter(this)
    }
    if (this.waitingFor === 0) whenReady(this)
  }

  entryReady(): void {
    if (--this.waitingFor === 0 && this.phase === 'waiting') this.#whenReady?.(this)
  }

  /** An argument that was ready is lost. */
  get lacksArgument(): boolean {
    return this.dependencies.some(({ entry }) => entry.stored === undefined)
  }

  /** The node that holds most bytes of its arguments; `own` unless another one holds more. */
  nodeOfMost(own: string): string {
    let most = own
    const bytes = new Map([[own, 0]])
    const add = (stored: Stored | undefined): void => {
      if (stored?.kind !== 'place') return
      const { node } = stored.place
      const total = (bytes.get(node) ?? 0) + stored.place.bytes
      bytes.set(node, total)
      if (total > (bytes.get(most) as number)) most = node
    }
    if (!(this.storedArgs instanceof Promise)) add(this.storedArgs?.stored)
    for (const { entry } of this.dependencies) add(entry.stored)
    return most
  }

  /** The first dependency that failed, which is this call's failure too. */
  failedDependency(): Error | undefined {
    for (const { entry } of this.dependencies) if (entry.stored?.kind === 'error') return entry.stored.error
    return undefined
  }

  /** Makes the results fail. Returns false when they were settled before. */
  fail(error: Error | BeamlineError): boolean {
    let first = false
    for (const output of this.outputs) first = output.settle({ kind: 'error', error }) || first
    if (this.stream?.fail(error)) first = true
    return first
  }
}
