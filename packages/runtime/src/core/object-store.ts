/**
 * This process's side of the shared-memory store: writes values into its slabs, maps pinned objects for reading, and
 * tells the node where the objects that it owns lie. Loads the native part at the first large object.
 */
import type { NodeMessage, ProcessMessage, StoredObject, StoredPlace } from '../net/gen/node.ts'
import type { Place, Ref } from '../net/gen/peer.ts'
import type { Encoded } from '../objects/codec.ts'
import { snapshot, write } from '../objects/codec.ts'
import { BeamlineError } from '../errors.ts'
import { type PinnedMemory, Pins } from './pins.ts'
import { wireError } from './wire-error.ts'

type Segments = typeof import('../objects/segments.ts')
type Granted = { segment: string; path: string; bytes: number }
type NodeBody<K extends string> = Extract<NonNullable<NodeMessage['body']>, { $case: K }>['value']

export class ObjectStore {
  readonly #send: (message: ProcessMessage) => void
  /** The objects that this process reads. */
  readonly pins: Pins
  /** The node of this process, where its segments are; known once it is attached. */
  node = ''
  #loading: Promise<Segments> | undefined
  #pool: InstanceType<Segments['SegmentPool']> | undefined
  #mapper: InstanceType<Segments['ObjectMapper']> | undefined
  #requests = new Map<number, { resolve: (granted: Granted) => void; reject: (error: Error) => void }>()
  #searches = new Map<number, (found: NodeBody<'objectRecovered'> | undefined) => void>()
  #nextRequest = 1
  /** Additions and removals since the last flush, in order: a block may be freed and taken again within one turn. */
  #changes: ({ added: StoredObject } | { freed: StoredPlace })[] = []
  #scheduled = false
  /** Segments that this process writes, to reuse its own blocks at once. */
  #mine = new Set<string>()
  /** Blocks of those segments that hold an object, and which one: news from the node about a block may come after it was used again. */
  #written = new Map<string, string>()
  #failed: Error | undefined
  /** Bytes of objects that this process owns in shared memory. */
  ownedBytes = 0

  constructor(send: (message: ProcessMessage) => void) {
    this.#send = send
    this.pins = new Pins((message) => {
      this.#flush() // the node must know an object before it hears who reads it
      send(message)
    })
  }

  /** Loads the native part; needed before `map`. */
  async ready(): Promise<void> {
    this.#loading ??= import('../objects/segments.ts')
    const { SegmentPool, ObjectMapper } = await this.#loading
    this.#mapper ??= new ObjectMapper()
    this.#pool ??= new SegmentPool(
      (bytes) => this.#request(bytes),
      (segment) => {
        this.#mine.delete(segment)
        this.#flush() // what was freed in it must be known before somebody else gets it
        this.#send({ body: { $case: 'segmentReturn', value: { segment } } })
      },
    )
  }

  get isReady(): boolean {
    return this.#mapper !== undefined
  }

  #request(bytes: number): Promise<Granted> {
    if (this.#failed) return Promise.reject(this.#failed)
    const request = this.#nextRequest++
    this.#flush()
    this.#send({ body: { $case: 'segmentRequest', value: { request, bytes } } })
    return new Promise((resolve, reject) => this.#requests.set(request, { resolve, reject }))
  }

  granted(grant: NodeBody<'segmentGrant'>): void {
    const waiting = this.#requests.get(grant.request)
    this.#requests.delete(grant.request)
    if (!waiting) return
    if (grant.failure) waiting.reject(wireError(grant.failure))
    else {
      this.#mine.add(grant.segment)
      waiting.resolve({ segment: grant.segment, path: grant.path, bytes: grant.bytes })
    }
  }

  /**
   * Copies an encoded value into shared memory, as it is at the time of the call. `object` is the identity under which its owner knows it.
   */
  async write(encoded: Encoded, object: Ref): Promise<Place> {
    let source = encoded
    if (!this.#pool) {
      source = snapshot(encoded)
      await this.ready()
    }
    const allocated = this.#pool!.allocate(encoded.byteLength)
    if (allocated instanceof Promise && source === encoded) source = snapshot(encoded)
    const block = allocated instanceof Promise ? await allocated : allocated
    try {
      write(source, block.view)
    } catch (error) {
      this.#pool!.free(block.segment, block.offset, block.bytes)
      throw error
    }
    this.#written.set(`${block.segment}:${block.offset}`, `${object.owner}:${object.object}`)
    return { path: block.path, segment: block.segment, offset: block.offset, bytes: encoded.byteLength, object, node: this.node }
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
    this.#send({ body: { $case: 'objectRecover', value: { request, object: object.object, lostNode: node, bytes, label } } })
    const found = await new Promise<NodeBody<'objectRecovered'> | undefined>((resolve) => this.#searches.set(request, resolve))
    return found && { path: '', segment: found.segment, offset: found.offset, bytes, object, node: found.node }
  }

  recovered(answer: NodeBody<'objectRecovered'>): void {
    this.#searches.get(answer.request)?.(answer.node === '' ? undefined : answer)
    this.#searches.delete(answer.request)
  }

  /** The owner needs its object no longer. */
  disown(place: Place): void {
    this.ownedBytes -= place.bytes
    const { segment, offset, bytes, node, object = { owner: '', object: 0, address: '' } } = place
    this.#changes.push({ freed: { segment, offset, bytes, node, owner: object.owner, object: object.object } })
    this.#schedule()
    this.#free(segment, offset, bytes, object)
  }

  /** A place that was written here and never reached its owner. */
  abandon({ segment, offset, bytes, object = { owner: '', object: 0, address: '' } }: Place): void {
    this.#free(segment, offset, bytes, object)
  }

  #free(segment: string, offset: number, bytes: number, { owner, object }: { owner: string; object: number }): void {
    const block = `${segment}:${offset}`
    if (!this.#mine.has(segment) || this.#written.get(block) !== `${owner}:${object}`) return
    this.#written.delete(block)
    this.#pool?.free(segment, offset, bytes)
  }

  /** `giveBack`: the store is short of memory. */
  blocksFreed({ places, giveBack }: { readonly places: readonly StoredPlace[]; readonly giveBack: boolean }): void {
    for (const place of places) this.#free(place.segment, place.offset, place.bytes, place)
    if (giveBack) this.releaseEmpty()
  }

  /** Gives empty slabs back to the node. */
  releaseEmpty(): void {
    this.#pool?.releaseEmpty()
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

  /** The node is gone: nobody grants segments any more. */
  fail(error: Error): void {
    this.#failed = error
    this.pins.fail(error)
    for (const { reject } of this.#requests.values()) reject(error)
    this.#requests.clear()
    for (const answer of this.#searches.values()) answer(undefined)
    this.#searches.clear()
  }

  close(): void {
    this.#pool?.close()
    this.#mapper?.close()
  }
}
