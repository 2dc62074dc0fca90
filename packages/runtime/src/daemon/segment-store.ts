/**
 * The object store of a node at its edge: messages of processes and calls of the object plane to the segment directory
 * (objects/segment-directory.ts, pure), and its instructions to files, messages and timers.
 */
import type { Failure, ObjectPin, ObjectsAdded, ObjectsFreed, SegmentRequest } from '../net/gen/node.ts'
import { BeamlineError } from '../errors.ts'
import { SegmentDirectory } from '../objects/segment-directory.ts'
import {
  type DirectoryEvent,
  type DirectoryInstruction,
  type DirectoryObject,
  type ObjectLost,
  type ObjectMemory,
  type ObjectName,
  type StoredPlace,
  type StoreFailure,
  type StoreUsage,
  type Use,
  USES,
} from '../objects/segment-directory-events.ts'
import { NODE } from '../objects/segment-table.ts'
import { SPILL_RULES } from '../objects/spiller.ts'
import type { SpillIo } from '../spill/spill-io.ts'
import type { MessageBody } from '../state/events.ts'
import type { CopyStore, CopyStoreListener, PrimaryObject } from '../transfer/copy-store.ts'

export interface SegmentStoreOptions {
  readonly node: string
  readonly storeDir: string
  readonly capacityBytes: number
  readonly send: (process: string, message: MessageBody) => void
  /** Those that may hold objects or segments. */
  readonly processes: () => readonly string[]
  readonly validate: boolean
  /** Writes objects to disk when the memory runs short; absent: it never happens. */
  readonly spill: SpillIo | undefined
}

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0
const keyOf = ({ owner, object }: ObjectName): string => `${owner}:${object}`

/** The files need the native library, which is loaded with the first of them. */
const files = (): Promise<typeof import('../objects/segment-files.ts')> => import('../objects/segment-files.ts')

interface Settled<T> {
  readonly resolve: (value: T) => void
  readonly reject: (error: Error) => void
}

export class SegmentStore implements CopyStore {
  readonly #options: SegmentStoreOptions
  readonly #directory: SegmentDirectory
  /** Room that was asked for copies, by name. */
  readonly #copies = new Map<string, Settled<ObjectMemory>>()
  /** The node's own pins: those that wait, and by name those that hold an object. */
  readonly #holding = new Map<number, { readonly name: ObjectName; readonly resolve: (memory: ObjectMemory | undefined) => void }>()
  readonly #held = new Map<string, number[]>()
  #nextHold = 1
  #listener: CopyStoreListener | undefined
  #closed = false

  constructor(options: SegmentStoreOptions) {
    this.#options = options
    const spill = options.spill && SPILL_RULES
    this.#directory = new SegmentDirectory({ directory: options.storeDir, capacityBytes: options.capacityBytes, spill })
  }

  /** The object plane wants to know what happens here. */
  tell(listener: CopyStoreListener): void {
    this.#listener = listener
  }

  get usage(): StoreUsage {
    return this.#directory.usage
  }

  /** Objects, biggest first. */
  objects(limit: number): DirectoryObject[] {
    return this.#directory.objects(limit)
  }

  // ---------------------------------------------------------------- messages of processes

  request(process: string, { request, bytes }: SegmentRequest): void {
    if (isCount(bytes) && bytes > 0) return this.#handle({ kind: 'segmentRequested', process, request, bytes })
    const failure = {
      code: 'INVALID_ARGUMENT',
      detailsJson: JSON.stringify({ what: 'the size of a segment', got: String(bytes), expected: 'a whole number of bytes' }),
    }
    this.#options.send(process, { $case: 'segmentGrant', value: { request, segment: '', path: '', bytes: 0, failure } })
  }

  giveBack(process: string, segment: string): void {
    this.#handle({ kind: 'segmentReturned', process, segment })
  }

  added(process: string, { objects }: ObjectsAdded): void {
    const valid = objects.filter((object) => isCount(object.offset) && isCount(object.bytes) && isCount(object.object))
    this.#handle({ kind: 'objectsAdded', process, objects: valid })
  }

  freed(process: string, { places }: ObjectsFreed): void {
    this.#handle({ kind: 'objectsFreed', process, objects: places.map(({ object }) => object) })
  }

  pin(process: string, { pin, owner, object, node, place, use }: ObjectPin): void {
    const here = node === this.#options.node || node === '' ? validPlace(place) : undefined
    this.#handle({ kind: 'pinned', process, pin, owner, object, place: here, use: useOf(use) })
  }

  unpin(process: string, pins: readonly number[]): void {
    this.#handle({ kind: 'unpinned', process, pins })
  }

  /** The process is dead: nothing of it is written any more, and what it owned is gone. */
  processGone(process: string): void {
    this.#handle({ kind: 'processGone', process })
  }

  // ---------------------------------------------------------------- for the object plane

  find(name: ObjectName): 'primary' | 'copy' | undefined {
    return this.#directory.find(name)
  }

  hold(name: ObjectName, place: StoredPlace | undefined): Promise<ObjectMemory | undefined> {
    const pin = this.#nextHold++
    const { promise, resolve } = Promise.withResolvers<ObjectMemory | undefined>()
    this.#holding.set(pin, { name, resolve })
    this.#handle({ kind: 'pinned', process: NODE, pin, ...name, place: place && validPlace(place), use: 'get' })
    return promise
  }

  release(name: ObjectName): void {
    const pins = this.#held.get(keyOf(name))
    const pin = pins?.pop()
    if (pins?.length === 0) this.#held.delete(keyOf(name))
    if (pin !== undefined) this.#handle({ kind: 'unpinned', process: NODE, pins: [pin] })
  }

  get roomBytes(): number {
    return this.#directory.roomBytes
  }

  allocateCopy(name: ObjectName, bytes: number, urgent: boolean): Promise<ObjectMemory> {
    const { promise, resolve, reject } = Promise.withResolvers<ObjectMemory>()
    this.#copies.set(keyOf(name), { resolve, reject })
    this.#handle({ kind: 'copyRequested', ...name, bytes, urgent })
    return promise
  }

  copySealed(name: ObjectName): void {
    this.#handle({ kind: 'copySealed', ...name })
  }

  copyFailed(name: ObjectName): void {
    this.#handle({ kind: 'copyFailed', ...name })
  }

  dropCopies(names: readonly ObjectName[]): void {
    this.#handle({ kind: 'copiesDropped', names })
  }

  promote(name: ObjectName, label: string): StoredPlace | undefined {
    if (this.find(name) === 'copy') this.#handle({ kind: 'promoted', ...name, label })
    return this.#directory.memory(name)
  }

  demote(name: ObjectName): void {
    this.#handle({ kind: 'demoted', ...name })
  }

  primaries(): PrimaryObject[] {
    return this.#directory.primaries()
  }

  /** From now on nothing happens; the segments go with their folder. Resolves when what was written to disk is gone. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#options.spill?.close()
  }

  // ---------------------------------------------------------------- events and instructions

  #handle(event: DirectoryEvent): void {
    if (this.#closed) return
    for (const instruction of this.#directory.handle(event, Date.now())) this.#run(instruction)
    if (this.#options.validate) this.#directory.checkInvariants()
  }

  #run(instruction: DirectoryInstruction): void {
    const { send, spill } = this.#options
    switch (instruction.kind) {
      case 'createFile':
        void this.#create(instruction.segment, instruction.path, instruction.bytes)
        break
      case 'unlinkFile':
        this.#listener?.segmentGone(instruction.segment)
        void files().then(({ removeSegmentFile }) => removeSegmentFile(instruction.path))
        break
      case 'grant': {
        const { process, request, segment, path, bytes } = instruction
        send(process, { $case: 'segmentGrant', value: { request, segment, path, bytes, failure: undefined } })
        break
      }
      case 'fail': {
        const { process, request } = instruction
        send(process, { $case: 'segmentGrant', value: { request, segment: '', path: '', bytes: 0, failure: failureOf(instruction) } })
        break
      }
      case 'pinned':
        this.#pinned(instruction.process, instruction.pin, instruction.memory)
        break
      case 'pinFailed':
        this.#pinFailed(instruction.process, instruction.pin, failureOf(instruction))
        break
      case 'blocksFreed': {
        const { process, blocks, giveBack } = instruction
        send(process, { $case: 'blocksFreed', value: { places: blocks.map((block) => ({ ...block, node: '' })), giveBack } })
        break
      }
      case 'writeObjects': {
        const { file, objects } = instruction
        void spill?.write(file, objects).then((error) => this.#handle({ kind: 'objectsWritten', file, ...(error !== undefined && { error }) }))
        break
      }
      case 'readObject': {
        const { owner, object, file, from, memory } = instruction
        void spill?.read(file, from, memory).then((error) => this.#handle({ kind: 'objectRead', owner, object, ...(error !== undefined && { error }) }))
        break
      }
      case 'removeFile':
        void spill?.remove(instruction.file)
        break
      case 'copyGranted':
        this.#copyAnswered(instruction)?.resolve(instruction.memory)
        break
      case 'copyRefused':
        this.#copyAnswered(instruction)?.reject(new BeamlineError(instruction.code, instruction.details))
        break
      case 'primariesFreed':
        this.#listener?.primariesFreed(instruction.names)
        break
      case 'roomChanged':
        this.#listener?.roomChanged()
        break
      case 'releaseMemory':
        for (const process of this.#options.processes()) send(process, { $case: 'releaseMemory', value: {} })
        break
      case 'startTimer': {
        const { timer, afterMs } = instruction
        setTimeout(() => this.#handle({ kind: 'timerRang', timer }), afterMs).unref()
        break
      }
      default:
        instruction satisfies never
    }
  }

  #pinned(process: string, pin: number, memory: ObjectMemory): void {
    const { path, segment, offset, bytes } = memory
    if (process !== NODE) return this.#options.send(process, { $case: 'objectPinned', value: { pin, path, segment, offset, bytes, failure: undefined } })
    const holding = this.#holding.get(pin)
    this.#holding.delete(pin)
    if (!holding) return
    const key = keyOf(holding.name)
    this.#held.set(key, [...(this.#held.get(key) ?? []), pin])
    holding.resolve(memory)
  }

  #pinFailed(process: string, pin: number, failure: Failure): void {
    if (process !== NODE) return this.#options.send(process, { $case: 'objectPinned', value: { pin, path: '', segment: '', offset: 0, bytes: 0, failure } })
    this.#holding.get(pin)?.resolve(undefined)
    this.#holding.delete(pin)
  }

  #copyAnswered(name: ObjectName): Settled<ObjectMemory> | undefined {
    const key = keyOf(name)
    const waiting = this.#copies.get(key)
    this.#copies.delete(key)
    return waiting
  }

  async #create(segment: string, path: string, bytes: number): Promise<void> {
    try {
      const { createSegmentFile } = await files()
      await createSegmentFile(path, bytes)
      this.#handle({ kind: 'fileCreated', segment })
    } catch (error) {
      this.#handle({ kind: 'fileCreated', segment, error: (error as Error).message })
    }
  }
}

function useOf(use: string): Use {
  return USES.find((each) => each === use) ?? 'get'
}

/** Also what no process should send: then the object is nowhere. */
function validPlace(place: StoredPlace | undefined): StoredPlace | undefined {
  if (!place || !isCount(place.offset) || !isCount(place.bytes)) return { segment: '', offset: 0, bytes: 0 }
  return { segment: place.segment, offset: place.offset, bytes: place.bytes }
}

function failureOf({ code, details }: StoreFailure | ObjectLost): Failure {
  return { code, detailsJson: JSON.stringify(details) }
}
