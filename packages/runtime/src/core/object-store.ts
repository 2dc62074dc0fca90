/**
 * This process's side of the shared-memory store: writes values into its slabs, maps pinned objects for reading, and
 * tells the node where the objects that it owns lie. Loads the native part at the first large object.
 */
import type { NodeMessage, ProcessMessage, StoredObject, StoredPlace } from '../net/gen/node.ts'
import type { Place, Ref } from '../net/gen/peer.ts'
import type { Block } from '../objects/segments.ts'
import type { Encoded } from '../objects/codec.ts'
import { snapshot, write } from '../objects/codec.ts'
import { BeamlineError } from '../errors.ts'
import { type OwnBlock, type PinnedMemory, Pins } from './pins.ts'
import { wireError } from './wire-error.ts'

type Segments = typeof import('../objects/segments.ts')
type Granted = { segment: string; path: string; bytes: number }
type NodeBody<K extends string> = Extract<NonNullable<NodeMessage['body']>, { $case: K }>['value']

/** What this process wrote into the store of one node, whose segments have names of their own. */
interface Writing {
  readonly node: string
  readonly pool: InstanceType<Segments['SegmentPool']>
  /** Paths of the segments that this process writes, to reuse its own blocks at once. */
  readonly mine: Map<string, string>
  /** Blocks of those segments that hold an object, and which one: news from the node about a block may come after it was used again. */
  readonly written: Map<string, string>
  /** Blocks that this process reads without an answer of the node. They are not written again before that ends, also when the node frees them. */
  readonly reading: Map<string, { freed: boolean }>
}

const blockOf = ({ segment, offset }: { readonly segment: string; readonly offset: number }): string => `${segment}:${offset}`
const nameOf = (object: Ref | undefined): string => `${object?.owner ?? ''}:${object?.object ?? 0}`

export class ObjectStore {
  readonly #send: (message: ProcessMessage) => void
  /** The objects that this process reads. */
  readonly pins: Pins
  /** The node of this process, where its segments are; known once it is attached. */
  node = ''
  #loading: Promise<Segments> | undefined
  #writing: Writing | undefined
  #mapper: InstanceType<Segments['ObjectMapper']> | undefined
  /** At the node before, until that is elsewhere. */
  #writingBefore: Writing | undefined
  #requests = new Map<number, { bytes: number; resolve: (granted: Granted) => void; reject: (error: Error) => void }>()
  #searches = new Map<number, { message: ProcessMessage; resolve: (found: NodeBody<'objectRecovered'> | undefined) => void }>()
  #nextRequest = 1
  /** Additions and removals since the last flush, in order: a block may be freed and taken again within one turn. */
  #changes: ({ added: StoredObject } | { freed: StoredPlace })[] = []
  #scheduled = false
  #failed: Error | undefined
  /** Bytes of objects that this process owns in shared memory. */
  ownedBytes = 0

  constructor(send: (message: ProcessMessage) => void) {
    this.#send = send
    const sendPin = (message: ProcessMessage): void => {
      this.#flush() // the node must know an object before it hears who reads it
      send(message)
    }
    this.pins = new Pins(sendPin, (place) => this.#readOwn(place))
  }

  /** Loads the native part; needed before `map`. */
  async ready(): Promise<void> {
    this.#loading ??= import('../objects/segments.ts')
    const { SegmentPool, ObjectMapper } = await this.#loading
    this.#mapper ??= new ObjectMapper()
    this.#writing ??= this.#write(SegmentPool)
  }

  #write(SegmentPool: Segments['SegmentPool']): Writing {
    const { node } = this
    const mine = new Map<string, string>()
    const giveBack = (segment: string): void => {
      mine.delete(segment)
      if (this.node !== node) return
      this.#flush() // what was freed in it must be known before somebody else gets it
      this.#send({ body: { $case: 'segmentReturn', value: { segment } } })
    }
    const request = async (bytes: number): Promise<Granted> => {
      const granted = await this.#request(bytes)
      mine.set(granted.segment, granted.path)
      return granted
    }
    return { node, pool: new SegmentPool(request, giveBack), mine, written: new Map(), reading: new Map() }
  }

  get isReady(): boolean {
    return this.#mapper !== undefined
  }

  #request(bytes: number): Promise<Granted> {
    if (this.#failed) return Promise.reject(this.#failed)
    const request = this.#nextRequest++
    this.#flush()
    this.#send({ body: { $case: 'segmentRequest', value: { request, bytes } } })
    return new Promise((resolve, reject) => this.#requests.set(request, { bytes, resolve, reject }))
  }

  granted(grant: NodeBody<'segmentGrant'>): void {
    const waiting = this.#requests.get(grant.request)
    this.#requests.delete(grant.request)
    if (!waiting) return
    if (grant.failure) waiting.reject(wireError(grant.failure))
    else waiting.resolve({ segment: grant.segment, path: grant.path, bytes: grant.bytes })
  }

  /**
   * Copies an encoded value into shared memory, as it is at the time of the call. `object` is the identity under which its owner knows it.
   */
  async write(encoded: Encoded, object: Ref): Promise<Place> {
    let source = encoded
    if (!this.#writing) {
      source = snapshot(encoded)
      await this.ready()
    }
    const writing = this.#writing!
    const allocated = writing.pool.allocate(encoded.byteLength)
    if (allocated instanceof Promise && source === encoded) source = snapshot(encoded)
    const block = allocated instanceof Promise ? await allocated : allocated
    try {
      write(source, block.view)
    } catch (error) {
      writing.pool.free(block.segment, block.offset, block.bytes)
      throw error
    }
    return this.#placed(writing, block, encoded.byteLength, object)
  }

  #placed({ node, written }: Writing, { path, segment, offset }: Block, bytes: number, object: Ref): Place {
    written.set(blockOf({ segment, offset }), nameOf(object))
    return { path, segment, offset, bytes, object, node }
  }

  /** The block of an object that this process wrote and has not freed; not written again before it is released. */
  #readOwn(place: Place): OwnBlock | undefined {
    const { node, segment, offset, bytes } = place
    const writing = this.#writing
    const block = blockOf(place)
    const path = writing?.mine.get(segment)
    if (writing?.node !== node || path === undefined || writing.written.get(block) !== nameOf(place.object)) return undefined
    const read = { freed: false }
    writing.reading.set(block, read)
    const release = (): void => {
      writing.reading.delete(block)
      if (!read.freed) return
      writing.pool.free(segment, offset, bytes)
      writing.pool.releaseEmpty() // the node waits for it
    }
    return { memory: { path, offset, bytes }, release }
  }

  /** The bytes of a pinned object; `onCollected` runs when no view of them is left. */
  map(memory: PinnedMemory, { object }: Place, onCollected: () => void): Uint8Array {
    try {
      return this.#mapper!.map(memory, onCollected)
    } catch (error) {
      const name = `${object?.owner}:${object?.object}`
      throw new BeamlineError(
        'OBJECT_LOST',
        { object: name, reason: `its memory ${memory.path} cannot be mapped: ${(error as Error).message}` },
        { cause: error },
      )
    }
  }

  /** The owner learned where its object lies. */
  own(place: Place, object: number, label: string): void {
    this.ownedBytes += place.bytes
    this.#changes.push({ added: { segment: place.segment, offset: place.offset, bytes: place.bytes, object, label, node: place.node } })
    this.#schedule()
  }

  /** Another copy of an object of this process, which was not found at its place; it is the primary one from now on. */
  async findCopy(place: Place, object: Ref, label: string): Promise<Place | undefined> {
    if (this.#failed) return undefined
    const request = this.#nextRequest++
    const { bytes, node } = place
    if (this.wroteBefore(place)) return await this.#copyOf(place, object)
    const message: ProcessMessage = { body: { $case: 'objectRecover', value: { request, object: object.object, lostNode: node, bytes, label } } }
    this.#send(message)
    const found = await new Promise<NodeBody<'objectRecovered'> | undefined>((resolve) => this.#searches.set(request, { message, resolve }))
    return found && { path: '', segment: found.segment, offset: found.offset, bytes, object, node: found.node }
  }

  recovered(answer: NodeBody<'objectRecovered'>): void {
    this.#searches.get(answer.request)?.resolve(answer.node === '' ? undefined : answer)
    this.#searches.delete(answer.request)
  }

  /** The owner needs its object no longer. */
  disown(place: Place): void {
    this.ownedBytes -= place.bytes
    const { segment, offset, bytes, node, object = { owner: '', object: 0, address: '' } } = place
    this.#changes.push({ freed: { segment, offset, bytes, node, owner: object.owner, object: object.object } })
    this.#schedule()
    this.#free(place)
  }

  /** A place that was written here and never reached its owner. */
  abandon(place: Place): void {
    this.#free(place)
  }

  #free(place: Place): void {
    const { node, segment, offset, bytes } = place
    const writing = node === this.node ? this.#writing : node === this.#writingBefore?.node ? this.#writingBefore : undefined
    const block = blockOf(place)
    if (!writing?.mine.has(segment) || writing.written.get(block) !== nameOf(place.object)) return
    writing.written.delete(block)
    const read = writing.reading.get(block)
    if (read) read.freed = true
    else writing.pool.free(segment, offset, bytes)
    if (writing === this.#writingBefore) writing.pool.releaseEmpty()
  }

  /** `giveBack`: the store is short of memory. */
  blocksFreed({ places, giveBack }: { readonly places: readonly StoredPlace[]; readonly giveBack: boolean }): void {
    for (const { segment, offset, bytes, owner, object } of places) {
      this.#free({ path: '', segment, offset, bytes, node: this.node, object: { owner, object, address: '' } })
    }
    if (giveBack) this.releaseEmpty()
  }

  /** Gives empty slabs back to the node. */
  releaseEmpty(): void {
    this.#writing?.pool.releaseEmpty()
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(() => this.#flush())
  }

  #flush(): void {
    this.#scheduled = false
    const changes = this.#changes
    this.#changes = []
    for (let i = 0; i < changes.length; ) {
      const objects: StoredObject[] = []
      const places: StoredPlace[] = []
      for (let change = changes[i]; change && 'added' in change; change = changes[++i]) objects.push(change.added)
      for (let change = changes[i]; change && 'freed' in change; change = changes[++i]) places.push(change.freed)
      if (objects.length > 0) this.#send({ body: { $case: 'objectsAdded', value: { objects } } })
      if (places.length > 0) this.#send({ body: { $case: 'objectsFreed', value: { places } } })
    }
  }

  /** What this process wrote into the store of its node before, it still has: nobody else does. */
  wroteBefore(place: Place): boolean {
    return this.#keptOf(place) !== undefined
  }

  /** Not when the node freed its block, as it does for what it spills: something else is there by now. */
  #keptOf(place: Place): Uint8Array | undefined {
    const writing = this.#writingBefore
    if (writing?.node !== place.node || writing.written.get(blockOf(place)) !== nameOf(place.object)) return undefined
    return writing.pool.view(place.segment, place.offset, place.bytes)
  }

  async #copyOf(place: Place, object: Ref): Promise<Place | undefined> {
    const { bytes } = place
    try {
      await this.ready()
      const writing = this.#writing!
      const block = await writing.pool.allocate(bytes)
      const kept = this.#keptOf(place)
      if (kept) {
        block.view.set(kept)
        return this.#placed(writing, block, bytes, object)
      }
      // Its memory went while this waited for room: that daemon was killed too.
      writing.pool.free(block.segment, block.offset, block.bytes)
      return undefined
    } catch {
      return undefined // no room: it is lost like any other
    }
  }

  /**
   * The daemon of this process is another one, on the same machine: what was asked is asked again.
   *
   * @param elsewhere - objects that this process owns in the stores of other nodes: some of its messages about them may have been lost
   */
  attachedAgain(node: string, elsewhere: readonly StoredObject[]): void {
    this.node = node
    this.#writingBefore?.pool.close()
    this.#writingBefore = this.#writing
    this.#writing = undefined
    this.pins.attachedAgain()
    if (elsewhere.length > 0) this.#send({ body: { $case: 'objectsAdded', value: { objects: [...elsewhere] } } })
    for (const [request, { bytes }] of this.#requests) this.#send({ body: { $case: 'segmentRequest', value: { request, bytes } } })
    for (const { message } of this.#searches.values()) this.#send(message)
  }

  /** The node is gone: nobody grants segments any more. */
  fail(error: Error): void {
    this.#failed = error
    this.pins.fail(error)
    for (const { reject } of this.#requests.values()) reject(error)
    this.#requests.clear()
    for (const { resolve } of this.#searches.values()) resolve(undefined)
    this.#searches.clear()
  }

  close(): void {
    this.#writingBefore?.pool.close()
    this.#writing?.pool.close()
    this.#mapper?.close()
  }
}
