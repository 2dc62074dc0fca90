/**
 * Carries out what the pull manager decides: memory for copies, fetches of their chunks, seals. Everything that a pull has here goes with it.
 */
import { BeamlineError } from '../errors.ts'
import type { BulkClient } from './bulk-client.ts'
import { Chunks } from './chunks.ts'
import type { CopyStore, ObjectMemory, ObjectName, TheirPlace } from './copy-store.ts'
import type { FetchOutcome, PullEvent, PullFailure, PullInstruction } from './pull-events.ts'
import { PullManager } from './pull-manager.ts'
import type { SegmentMaps } from './segment-maps.ts'

/** What is pulled, and where its primary copy is. */
export interface Wanted {
  readonly name: ObjectName
  readonly node: string
  readonly place: TheirPlace
}

export interface TransfersOptions {
  readonly node: string
  readonly store: CopyStore
  readonly client: BulkClient
  readonly maps: SegmentMaps
  /** HOST:PORT of a node's bulk server; undefined when it is not known (yet). */
  readonly bulkAddress: (node: string) => string | undefined
  /** Why a node is dead, also one that was so before this one came; undefined while it is not. */
  readonly whyDead: (node: string) => string | undefined
  readonly wanted: (key: string) => Wanted | undefined
  /** The copy is whole and sealed; these may pin it in this turn. */
  readonly sealed: (key: string, wanters: readonly string[], memory: ObjectMemory) => void
  /** The object is on this node without having been pulled. */
  readonly here: (wanters: readonly string[]) => void
  readonly failed: (wanters: readonly string[], failure: PullFailure) => void
  readonly validate: boolean
}

/** A copy that is being made. */
export class Transfer {
  readonly name: ObjectName
  readonly chunks: Chunks
  memory: ObjectMemory | undefined
  /** Its bytes, from the moment at which it may be written and read. */
  view: Uint8Array | undefined
  /** Nodes that read it from here while it arrives. */
  readers = 0
  sealed = false
  abandoned = false
  fetch: AbortController | undefined

  constructor(name: ObjectName, bytes: number) {
    this.name = name
    this.chunks = new Chunks(bytes)
  }
}

export class Transfers {
  readonly #options: TransfersOptions
  readonly #manager: PullManager
  readonly #transfers = new Map<string, Transfer>()
  /** Memory that was asked for and is not wanted any more when it comes; the store knows one copy of a name at a time. */
  readonly #allocating = new Map<string, Promise<void>>()
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #events: PullEvent[] = []
  #handling = false
  #closed = false

  constructor(options: TransfersOptions) {
    this.#options = options
    this.#manager = new PullManager(options.node)
  }

  get(key: string): Transfer | undefined {
    return this.#transfers.get(key)
  }

  /** Pulls that are not whole yet. */
  get size(): number {
    return this.#manager.size
  }

  handle(event: PullEvent): void {
    if (this.#closed) return
    this.#events.push(event)
    if (this.#handling) return // an instruction that is carried out tells something: after all of its list
    this.#handling = true
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        for (const instruction of this.#manager.handle(next, this.#options.store.roomBytes)) this.#run(instruction)
        if (this.#options.validate) this.#manager.checkInvariants()
      }
    } finally {
      this.#handling = false
    }
  }

  close(): void {
    this.#closed = true
    for (const timer of this.#timers) clearTimeout(timer)
    for (const key of [...this.#transfers.keys()]) this.#abandon(key)
  }

  #run(instruction: PullInstruction): void {
    switch (instruction.kind) {
      case 'allocate':
        this.#allocate(instruction.key, instruction.bytes, instruction.urgent)
        break
      case 'fetch':
        this.#fetch(instruction.key, instruction.node, instruction.attempt)
        break
      case 'stop':
        this.#transfers.get(instruction.key)?.fetch?.abort()
        break
      case 'abandon':
        this.#abandon(instruction.key)
        break
      case 'seal':
        this.#seal(instruction.key, instruction.wanters)
        break
      case 'pin':
        this.#options.here(instruction.wanters)
        break
      case 'fail':
        this.#options.failed(instruction.wanters, instruction.failure)
        break
      case 'startTimer': {
        const { timer: number, afterMs } = instruction
        const timer = setTimeout(() => {
          this.#timers.delete(timer)
          this.handle({ kind: 'timerRang', timer: number })
        }, afterMs)
        this.#timers.add(timer)
        break
      }
      default:
        instruction satisfies never
    }
  }

  #allocate(key: string, bytes: number, urgent: boolean): void {
    const { name } = this.#options.wanted(key)!
    const transfer = new Transfer(name, bytes)
    this.#transfers.set(key, transfer)
    const before = this.#allocating.get(key)
    const allocating = (async (): Promise<void> => {
      await before
      if (!transfer.abandoned) await this.#take(key, transfer, urgent)
    })()
    this.#allocating.set(key, allocating)
    void allocating.finally(() => {
      if (this.#allocating.get(key) === allocating) this.#allocating.delete(key)
    })
  }

  async #take(key: string, transfer: Transfer, urgent: boolean): Promise<void> {
    const { store, maps } = this.#options
    const { name, chunks } = transfer
    if (store.find(name)) {
      this.#transfers.delete(key)
      return this.handle({ kind: 'here', key })
    }
    try {
      transfer.memory = await store.allocateCopy(name, chunks.bytes, urgent)
      const view = transfer.abandoned ? undefined : await maps.map(transfer.memory)
      if (transfer.abandoned) return store.copyFailed(name)
      transfer.view = view
      this.handle({ kind: 'allocated', key })
    } catch (error) {
      if (transfer.memory) store.copyFailed(name)
      if (transfer.abandoned) return
      this.#transfers.delete(key)
      if (store.find(name)) return this.handle({ kind: 'here', key }) // it was made here meanwhile
      this.handle({ kind: 'refused', key, ...refusal(error) })
    }
  }

  #fetch(key: string, node: string, attempt: number): void {
    const { client, bulkAddress, whyDead, wanted } = this.#options
    const { name, view, chunks, readers } = this.#transfers.get(key)!
    const fetch = new AbortController()
    this.#transfers.get(key)!.fetch = fetch
    const { node: primary, place } = wanted(key)!
    const { segment, offset } = node === primary ? place : { segment: '', offset: 0 }
    const request = { owner: name.owner, object: name.object, bytes: chunks.bytes, segment, offset, feeds: readers }
    const address = bulkAddress(node)
    const dead = whyDead(node)
    const missing: FetchOutcome = dead === undefined ? { kind: 'cut', reason: 'its address is not known' } : { kind: 'gone', reason: dead }
    const outcome: Promise<FetchOutcome> = address
      ? client.fetch({ node, address, request, memory: view!, chunks, signal: fetch.signal })
      : Promise.resolve(missing)
    void outcome.then((outcome) => {
      if (!fetch.signal.aborted) this.handle({ kind: 'ended', key, attempt, outcome })
    })
  }

  #seal(key: string, wanters: readonly string[]): void {
    const transfer = this.#transfers.get(key)!
    const { store, sealed } = this.#options
    this.#transfers.delete(key)
    store.copySealed(transfer.name)
    transfer.sealed = true
    if (transfer.readers > 0) void store.hold(transfer.name, undefined)
    sealed(key, wanters, transfer.memory!)
    transfer.chunks.end()
  }

  /** A reader of a transfer is done with its memory. */
  leave(transfer: Transfer): void {
    if (--transfer.readers === 0 && transfer.sealed) this.#options.store.release(transfer.name)
  }

  #abandon(key: string): void {
    const transfer = this.#transfers.get(key)
    if (!transfer) return
    this.#transfers.delete(key)
    transfer.abandoned = true
    transfer.fetch?.abort()
    transfer.chunks.end()
    if (transfer.view) this.#options.store.copyFailed(transfer.name) // else when its memory comes
  }
}

function refusal(error: unknown): { failure: PullFailure; forGood: boolean } {
  if (BeamlineError.is(error, 'STORE_FULL')) {
    const { details } = error
    return { failure: { code: 'STORE_FULL', details }, forGood: details.wantedBytes > details.capacityBytes }
  }
  if (BeamlineError.is(error, 'STORE_UNAVAILABLE')) return { failure: { code: 'STORE_UNAVAILABLE', details: error.details }, forGood: true }
  return { failure: { code: 'STORE_UNAVAILABLE', details: { path: 'the store', reason: (error as Error).message } }, forGood: true }
}
