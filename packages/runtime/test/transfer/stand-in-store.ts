/**
 * A store that has what the object plane asks of one, and real segments: one per object, used again for the next of that size. It never spills,
 * evicts only when told, and answers pins.
 */
import { BeamlineError } from '../../src/errors.ts'
import type { NodeMessage, ObjectPin } from '../../src/net/gen/node.ts'
import { createSegmentFile, removeSegmentFile } from '../../src/objects/segment-files.ts'
import type { CopyStore, CopyStoreListener, ObjectMemory, ObjectName, PrimaryObject, TheirPlace } from '../../src/transfer/copy-store.ts'
import { objectKey } from '../../src/transfer/pull-events.ts'

interface Kept {
  readonly name: ObjectName
  readonly memory: ObjectMemory
  state: 'writing' | 'copy' | 'primary'
  label: string
  readonly pins: Set<string>
  holds: number
  dropped: boolean
}

export class StandInStore implements CopyStore {
  listener: CopyStoreListener | undefined
  readonly capacityBytes: number
  readonly #directory: string
  readonly #send: (process: string, body: NonNullable<NodeMessage['body']>) => void
  readonly #objects = new Map<string, Kept>()
  /** Segments that can be used again. */
  readonly #spare: ObjectMemory[] = []
  #usedBytes = 0
  #nextSegment = 1

  constructor(directory: string, capacityBytes: number, send: (process: string, body: NonNullable<NodeMessage['body']>) => void) {
    this.#directory = directory
    this.capacityBytes = capacityBytes
    this.#send = send
  }

  async putPrimary(name: ObjectName, bytes: number, label = 'put'): Promise<ObjectMemory> {
    const memory = await this.#allocate(name, bytes)
    const kept = this.#objects.get(objectKey(name))!
    kept.state = 'primary'
    kept.label = label
    return memory
  }

  /** The owner freed it. */
  free(name: ObjectName): void {
    const kept = this.#objects.get(objectKey(name))
    if (kept?.state !== 'primary') return
    kept.dropped = true
    this.#collect(kept)
    this.listener?.primariesFreed([name])
  }

  /** Its segment's file goes too. */
  evict(name: ObjectName): void {
    const kept = this.#objects.get(objectKey(name))
    if (!kept) return
    this.#remove(kept)
    this.#spare.pop()
    removeSegmentFile(kept.memory.path)
    this.listener?.segmentGone(kept.memory.segment)
  }

  unpin(process: string, pin: number): void {
    for (const kept of this.#objects.values()) if (kept.pins.delete(`${process}/${pin}`)) this.#collect(kept)
  }

  /** Everything that is here, and who keeps it. */
  list(): { key: string; state: string; pins: number; holds: number }[] {
    return [...this.#objects].map(([key, { state, pins, holds }]) => ({ key, state, pins: pins.size, holds }))
  }

  find(name: ObjectName): 'primary' | 'copy' | undefined {
    const kept = this.#objects.get(objectKey(name))
    return !kept || kept.dropped || kept.state === 'writing' ? undefined : kept.state
  }

  hold(name: ObjectName, _place: TheirPlace | undefined): Promise<ObjectMemory | undefined> {
    const kept = this.find(name) && this.#objects.get(objectKey(name))
    if (!kept) return Promise.resolve(undefined)
    kept.holds++
    return Promise.resolve(kept.memory)
  }

  release(name: ObjectName): void {
    const kept = this.#objects.get(objectKey(name))
    if (!kept || kept.holds === 0) throw new Error(`released ${objectKey(name)}, which is not held`)
    kept.holds--
    this.#collect(kept)
  }

  pin(process: string, { pin, owner, object }: ObjectPin): void {
    const kept = this.find({ owner, object }) && this.#objects.get(objectKey({ owner, object }))
    if (!kept) throw new Error(`pinned ${objectKey({ owner, object })}, which is not here`)
    kept.pins.add(`${process}/${pin}`)
    const { path, segment, offset, bytes } = kept.memory
    this.#send(process, { $case: 'objectPinned', value: { pin, path, segment, offset, bytes, failure: undefined } })
  }

  get roomBytes(): number {
    return this.capacityBytes - this.#usedBytes
  }

  allocateCopy(name: ObjectName, bytes: number, _urgent: boolean): Promise<ObjectMemory> {
    return this.#allocate(name, bytes)
  }

  copySealed(name: ObjectName): void {
    this.#objects.get(objectKey(name))!.state = 'copy'
  }

  copyFailed(name: ObjectName): void {
    const kept = this.#objects.get(objectKey(name))
    if (kept?.state !== 'writing') throw new Error(`gave up ${objectKey(name)}, which is ${kept?.state}`)
    this.#remove(kept)
  }

  dropCopies(names: readonly ObjectName[]): void {
    for (const name of names) {
      const kept = this.#objects.get(objectKey(name))
      if (kept?.state !== 'copy') continue
      kept.dropped = true
      this.#collect(kept)
    }
  }

  promote(name: ObjectName, label: string): TheirPlace | undefined {
    const kept = this.find(name) && this.#objects.get(objectKey(name))
    if (!kept) return undefined
    kept.state = 'primary'
    kept.label = label
    const { segment, offset, bytes } = kept.memory
    return { segment, offset, bytes }
  }

  demote(name: ObjectName): void {
    this.#objects.get(objectKey(name))!.state = 'copy'
  }

  primaries(): PrimaryObject[] {
    return [...this.#objects.values()].filter(({ state }) => state === 'primary').map(({ name, memory, label }) => ({ ...name, bytes: memory.bytes, label }))
  }

  async #allocate(name: ObjectName, bytes: number): Promise<ObjectMemory> {
    const key = objectKey(name)
    if (this.#objects.has(key)) throw new Error(`${key} is here already`)
    if (bytes > this.roomBytes) {
      throw new BeamlineError('STORE_FULL', { wantedBytes: bytes, usedBytes: this.#usedBytes, capacityBytes: this.capacityBytes, holders: '' })
    }
    this.#usedBytes += bytes
    const offset = 4096
    const segmentBytes = offset + Math.max(4096, Math.ceil(bytes / 4096) * 4096)
    const spare = this.#spare.findIndex((memory) => memory.segmentBytes === segmentBytes)
    const segment = spare >= 0 ? this.#spare.splice(spare, 1)[0]!.segment : `segment-${this.#nextSegment++}`
    const memory = { segment, path: `${this.#directory}/${segment}`, segmentBytes, offset, bytes }
    this.#objects.set(key, { name, memory, state: 'writing', label: '', pins: new Set(), holds: 0, dropped: false })
    if (spare < 0) await createSegmentFile(memory.path, segmentBytes)
    return memory
  }

  #collect(kept: Kept): void {
    if (kept.dropped && kept.pins.size === 0 && kept.holds === 0) this.#remove(kept)
  }

  #remove({ name, memory }: Kept): void {
    this.#objects.delete(objectKey(name))
    this.#usedBytes -= memory.bytes
    this.#spare.push(memory)
    this.listener?.roomChanged()
  }
}
