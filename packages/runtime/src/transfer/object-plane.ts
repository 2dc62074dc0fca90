/**
 * The object plane of a node: brings objects of other nodes here when processes of this node want to read them, sends this node's objects to
 * others, and knows which nodes have copies of them. Edge: the decisions are the pull manager's, the referrals', and the store's.
 *
 * What a pull costs. Bytes: once over the network per node. Copies: one into the kernel at the source and one out of it at the reader, straight
 * between mapped segments; beside those each byte is read once at both ends for its tag. Round trips: one to connect and one for the greeting,
 * once per connection; one per object. System calls: three to five reads per chunk of 5 MiB at the reader, one of them for the head. Memory that
 * was never written costs more than all of that (256 MiB from node to node: 0.7 GiB/s the first time, 2.9 after), so the store gives recycled
 * segments, and mappings are kept.
 *
 *   pin ──► here already? ── yes ──────────────────────────────────────────────► pinned
 *            │ no                                                                  ▲
 *            └─► pull manager ──► memory from the store ──► chunks from a node ──► sealed ──► CopyAdded to the node of the primary copy
 */
import type { CopiesFreed, CopyAdded, CopyMove, MeshMessage } from '../net/gen/mesh.ts'
import type { NodeMessage, ObjectPin, ObjectRecover } from '../net/gen/node.ts'
import type { Faults } from '../net/faults.ts'
import type { Tls } from '../net/tls.ts'
import { BulkClient } from './bulk-client.ts'
import type { BulkRequest } from './bulk-protocol.ts'
import { BulkServer, type OpenAnswer } from './bulk-server.ts'
import type { CopyStore, CopyStoreListener, ObjectMemory, ObjectName } from './copy-store.ts'
import { Drain, type DrainResult } from './drain.ts'
import { objectKey, type PullFailure, type Use, USES } from './pull-events.ts'
import { Recovery } from './recovery.ts'
import { Referrals } from './referrals.ts'
import { SegmentMaps } from './segment-maps.ts'
import { Transfers, type Wanted } from './transfers.ts'

type MeshBody = NonNullable<MeshMessage['body']>
type NodeBody = NonNullable<NodeMessage['body']>

/** Another node that lives. */
export interface PlaneNode {
  readonly node: string
  /** HOST:PORT */
  readonly bulkAddress: string
  readonly draining: boolean
  /** Room in its store, as far as is known. */
  readonly freeBytes: number
}

export interface ObjectPlaneOptions {
  readonly node: string
  readonly cluster: string
  readonly token: string
  readonly tls: Tls | undefined
  readonly faults: Faults | undefined
  readonly store: CopyStore
  readonly nodes: () => readonly PlaneNode[]
  /** Why a node is dead, also one that was so before this one came; undefined while it is not. */
  readonly whyDead: (node: string) => string | undefined
  /** To another daemon; to one that is dead nothing is sent. */
  readonly sendToNode: (node: string, body: MeshBody) => void
  /** To a process, on whichever node it is. */
  readonly sendToProcess: (process: string, body: NodeBody) => void
  /** Check the pull manager's books after every event. */
  readonly validate: boolean
}

export interface PlaneCounts {
  readonly sentBytes: number
  readonly receivedBytes: number
  /** Chunks that arrived damaged and were fetched again. */
  readonly damaged: number
  /** Objects on their way here. */
  readonly pulls: number
  /** Objects on their way to others. */
  readonly streams: number
  readonly connections: number
}

/** Why an object is pulled: a pin of a process, or a node that drains. */
type Wanter = { readonly key: string } & (
  | { readonly kind: 'pin'; readonly process: string; readonly pin: ObjectPin }
  | { readonly kind: 'move'; readonly node: string; readonly move: CopyMove }
)

export class ObjectPlane implements CopyStoreListener {
  readonly #options: ObjectPlaneOptions
  readonly #maps = new SegmentMaps()
  readonly #client: BulkClient
  readonly #server: BulkServer
  readonly #transfers: Transfers
  readonly #referrals = new Referrals()
  readonly #recovery: Recovery
  readonly #drain: Drain
  readonly #wanters = new Map<string, Wanter>()
  /** Wanters by object, the newest last. */
  readonly #wantersOf = new Map<string, Map<string, Wanted>>()
  readonly #pinsOf = new Map<string, Set<string>>()
  /** Objects that this node had as the primary copy before it drained. */
  readonly #handedTo = new Map<string, string>()
  #sentBytes = 0
  #streams = 0

  constructor(options: ObjectPlaneOptions) {
    const { node, cluster, token, tls, faults, store, sendToNode, sendToProcess, nodes, whyDead, validate } = options
    this.#options = options
    this.#client = new BulkClient({ token, cluster, node, tls })
    this.#server = new BulkServer({ token, cluster, node, tls, faults, source: { open: (request, from) => this.#open(request, from) } })
    this.#transfers = new Transfers({
      node,
      store,
      client: this.#client,
      maps: this.#maps,
      bulkAddress: (other) => nodes().find((candidate) => candidate.node === other)?.bulkAddress || undefined,
      whyDead,
      wanted: (key) => [...(this.#wantersOf.get(key)?.values() ?? [])].at(-1),
      sealed: (key, wanters, memory) => this.#sealed(key, wanters, memory),
      here: (wanters) => void this.#deliver(wanters),
      failed: (wanters, failure) => {
        for (const wanter of wanters) this.#failed(wanter, failure)
      },
      validate,
    })
    this.#recovery = new Recovery({
      node,
      store,
      nodes: () => nodes().map((other) => other.node),
      ask: (other, value) => sendToNode(other, { $case: 'copyWanted', value }),
      answer: (other, value) => sendToNode(other, { $case: 'copyFound', value }),
      recovered: (process, value) => sendToProcess(process, { $case: 'objectRecovered', value }),
      copyKnown: (primary, name, holder) => this.#copyKnown(primary, name, holder),
    })
    this.#drain = new Drain({
      node,
      store,
      targets: () => nodes().filter(({ draining }) => !draining),
      move: (other, value) => sendToNode(other, { $case: 'copyMove', value }),
      moved: (owner, value) => sendToProcess(owner, { $case: 'objectsMoved', value }),
      handOver: (object, other) => {
        const key = objectKey(object)
        this.#handedTo.set(key, other)
        for (const holder of [...this.#referrals.forget(key), node]) if (holder !== other) this.#copyKnown(other, object, holder)
      },
    })
  }

  /** @returns HOST:PORT where other nodes read this node's objects */
  listen(host: string, port = 0): Promise<string> {
    return this.#server.listen(host, port)
  }

  get counts(): PlaneCounts {
    return { sentBytes: this.#sentBytes, ...this.#client.counts, pulls: this.#transfers.size, streams: this.#streams }
  }

  // ---------------------------------------------------------------- processes

  /** A process of this node wants to read an object whose primary copy is on another: answered by ObjectPinned when it is here. */
  pin(process: string, pin: ObjectPin): void {
    const name = { owner: pin.owner, object: pin.object }
    if (this.#options.store.find(name)) return this.#options.store.pin(process, pin)
    const id = `${process}/${pin.pin}`
    const { segment, offset, bytes } = pin.place ?? { segment: '', offset: 0, bytes: 0 }
    const pins = this.#pinsOf.get(process)
    if (pins) pins.add(id)
    else this.#pinsOf.set(process, new Set([id]))
    this.#want(id, { kind: 'pin', process, pin, key: objectKey(name) }, { name, node: pin.node, place: { segment, offset, bytes } }, useOf(pin))
  }

  /** Of pins that are waiting; those that were answered are the store's. */
  unpin(process: string, pins: readonly number[]): void {
    for (const pin of pins) this.#unwant(`${process}/${pin}`)
  }

  /** Its pins end, and its searches. What it owned the store reports as freed. */
  processGone(process: string): void {
    for (const id of this.#pinsOf.get(process) ?? []) this.#unwant(id)
    this.#recovery.processGone(process)
  }

  /** The owner of an object whose primary copy is lost asks for another one: answered by ObjectRecovered. */
  recover(process: string, recover: ObjectRecover): void {
    this.#recovery.recover(process, recover)
  }

  // ---------------------------------------------------------------- nodes

  /** @returns whether the message was for the object plane */
  meshMessage(node: string, body: MeshBody): boolean {
    switch (body.$case) {
      case 'copyAdded':
        this.#copyAdded(node, body.value)
        return true
      case 'copiesFreed':
        this.#options.store.dropCopies(body.value.objects)
        return true
      case 'copyWanted':
        this.#recovery.wanted(node, body.value)
        return true
      case 'copyFound':
        this.#recovery.found(node, body.value)
        return true
      case 'copyMove':
        this.#copyMove(node, body.value)
        return true
      case 'copyMoved':
        this.#drain.copyMoved(node, body.value)
        return true
      default:
        return false
    }
  }

  /** The node is dead, or has left. */
  nodeLost(node: string, reason: string): void {
    this.#client.drop(node)
    this.#server.drop(node)
    this.#referrals.nodeLost(node)
    this.#transfers.handle({ kind: 'nodeLost', node, reason })
    this.#recovery.nodeLost(node)
    this.#drain.nodeLost(node)
  }

  /** Objects were freed whose primary copy was on a node that is dead: whoever has a copy lets it go. */
  freedOnLostNode(names: readonly ObjectName[]): void {
    this.#options.store.dropCopies(names)
    for (const { node } of this.#options.nodes()) this.#sendFreed(node, names)
  }

  /** Moves this node's primary objects to other nodes; resolves when all are moved, or none can be, or the time is over. */
  drain(deadlineMs: number): Promise<DrainResult> {
    return this.#drain.run(deadlineMs)
  }

  async close(): Promise<void> {
    this.#transfers.close()
    await Promise.all([this.#server.close(), this.#client.close()])
    this.#maps.close()
  }

  // ---------------------------------------------------------------- the store

  roomChanged(): void {
    if (this.#transfers.size > 0) this.#transfers.handle({ kind: 'roomChanged' })
  }

  segmentGone(segment: string): void {
    this.#maps.letGo(segment)
  }

  primariesFreed(names: readonly ObjectName[]): void {
    const byNode = new Map<string, ObjectName[]>()
    for (const name of names) {
      for (const node of this.#referrals.forget(objectKey(name))) {
        const list = byNode.get(node)
        if (list) list.push(name)
        else byNode.set(node, [name])
      }
    }
    for (const [node, freed] of byNode) this.#sendFreed(node, freed)
  }

  // ---------------------------------------------------------------- reading

  #want(id: string, wanter: Wanter, wanted: Wanted, use: Use): void {
    const { key } = wanter
    this.#wanters.set(id, wanter)
    const wanters = this.#wantersOf.get(key)
    if (wanters) wanters.set(id, wanted)
    else this.#wantersOf.set(key, new Map([[id, wanted]]))
    this.#transfers.handle({ kind: 'wanted', wanter: id, key, bytes: wanted.place.bytes, use, node: wanted.node })
  }

  #unwant(id: string): void {
    if (this.#forget(id)) this.#transfers.handle({ kind: 'unwanted', wanter: id })
  }

  #forget(id: string): Wanter | undefined {
    const wanter = this.#wanters.get(id)
    if (!wanter) return undefined
    this.#wanters.delete(id)
    const wanters = this.#wantersOf.get(wanter.key)
    if (wanters?.delete(id) && wanters.size === 0) this.#wantersOf.delete(wanter.key)
    if (wanter.kind === 'pin') {
      const pins = this.#pinsOf.get(wanter.process)
      if (pins?.delete(id) && pins.size === 0) this.#pinsOf.delete(wanter.process)
    }
    return wanter
  }

  #sealed(key: string, ids: readonly string[], { segment, offset, bytes }: ObjectMemory): void {
    const { sendToNode } = this.#options
    const { name, node } = [...this.#wantersOf.get(key)!.values()].at(-1)!
    if (this.#deliver(ids) === 0) sendToNode(node, { $case: 'copyAdded', value: { object: name, segment, offset, bytes, node: '' } })
  }

  /** The object is here. @returns nodes whose primary copy it has become */
  #deliver(ids: readonly string[]): number {
    const wanters = ids.map((id) => this.#forget(id)).filter((wanter) => wanter !== undefined)
    for (const wanter of wanters) if (wanter.kind === 'pin') this.#options.store.pin(wanter.process, wanter.pin)
    const moves = wanters.filter((wanter) => wanter.kind === 'move')
    for (const { node, move } of moves) this.#promoteMoved(node, move)
    return moves.length
  }

  #failed(id: string, { code, details }: PullFailure): void {
    const wanter = this.#forget(id)
    if (!wanter) return
    const failure = { code, detailsJson: JSON.stringify(details) }
    const { sendToNode, sendToProcess } = this.#options
    if (wanter.kind === 'pin') {
      sendToProcess(wanter.process, { $case: 'objectPinned', value: { pin: wanter.pin.pin, path: '', segment: '', offset: 0, bytes: 0, failure } })
    } else {
      const { request, object } = wanter.move
      sendToNode(wanter.node, { $case: 'copyMoved', value: { request, object, segment: '', offset: 0, failure } })
    }
  }

  // ---------------------------------------------------------------- sending

  async #open(request: BulkRequest, from: string): Promise<OpenAnswer> {
    const { store } = this.#options
    const { bytes, segment, offset, have, feeds } = request
    const name = { owner: request.owner, object: request.object }
    const key = objectKey(name)
    const transfer = this.#transfers.get(key)
    if (transfer && !transfer.view) return { kind: 'busy', nodes: [] }
    const others = this.#referrals.admit(key, bytes, from, transfer && { here: transfer.chunks.count, have, feeds })
    if (others) return { kind: 'busy', nodes: others }
    const memory = transfer?.memory ?? (await store.hold(name, segment ? { segment, offset, bytes } : undefined))
    if (transfer) transfer.readers++
    else if (!memory) {
      this.#referrals.done(key, from)
      return { kind: 'gone', reason: 'it does not have it' }
    }
    this.#streams++
    let closed = false
    const close = (): void => {
      if (closed) return
      closed = true
      this.#streams--
      this.#referrals.done(key, from)
      if (transfer) this.#transfers.leave(transfer)
      else store.release(name)
    }
    try {
      const view = transfer?.view ?? (await this.#maps.map(memory!))
      const sent = (count: number): void => {
        this.#sentBytes += count
        this.#referrals.sent(key, from, count)
      }
      return { kind: 'object', memory: view, chunks: transfer?.chunks, sent, close }
    } catch (error) {
      close()
      return { kind: 'gone', reason: `it cannot map it: ${(error as Error).message}` }
    }
  }

  #copyAdded(from: string, { object, node }: CopyAdded): void {
    if (!object) return
    const holder = node || from
    const key = objectKey(object)
    const moved = this.#handedTo.get(key)
    if (moved !== undefined) return this.#copyKnown(moved, object, holder)
    if (this.#options.store.find(object)) this.#referrals.addCopy(key, holder)
    else this.#sendFreed(holder, [object])
  }

  #copyKnown(primary: string, name: ObjectName, holder: string): void {
    if (primary === this.#options.node) this.#referrals.addCopy(objectKey(name), holder)
    else this.#options.sendToNode(primary, { $case: 'copyAdded', value: { object: name, segment: '', offset: 0, bytes: 0, node: holder } })
  }

  #sendFreed(node: string, names: readonly ObjectName[]): void {
    const objects: CopiesFreed['objects'] = names.map(({ owner, object }) => ({ owner, object }))
    this.#options.sendToNode(node, { $case: 'copiesFreed', value: { objects } })
  }

  // ---------------------------------------------------------------- a node that drains

  #copyMove(from: string, move: CopyMove): void {
    const { object, bytes, request } = move
    if (!object) return
    if (this.#options.store.find(object)) return this.#promoteMoved(from, move)
    const place = { segment: '', offset: 0, bytes }
    this.#want(`move/${from}/${request}`, { kind: 'move', node: from, move, key: objectKey(object) }, { name: object, node: from, place }, 'argument')
  }

  #promoteMoved(from: string, { request, object, label }: CopyMove): void {
    const place = this.#options.store.promote(object!, label)
    const { segment, offset } = place ?? { segment: '', offset: 0 }
    const failure = place ? undefined : { code: 'OBJECT_LOST', detailsJson: JSON.stringify({ object: objectKey(object!), reason: 'its copy was evicted' }) }
    this.#options.sendToNode(from, { $case: 'copyMoved', value: { request, object, segment, offset, failure } })
  }
}

function useOf({ use }: ObjectPin): Use {
  return USES.find((known) => known === use) ?? 'get'
}
