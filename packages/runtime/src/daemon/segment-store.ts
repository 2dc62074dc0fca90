/**
 * The object store of a node at its edge: messages of processes to the segment directory (objects/segment-directory.ts, pure), and its instructions
 * to files, messages and timers.
 */
import type { ObjectPin, ObjectsAdded, ObjectsFreed, SegmentRequest } from '../net/gen/node.ts'
import { SegmentDirectory } from '../objects/segment-directory.ts'
import type { DirectoryEvent, DirectoryInstruction, DirectoryObject, StoreUsage } from '../objects/segment-directory-events.ts'
import type { MessageBody } from '../state/events.ts'

export interface SegmentStoreOptions {
  readonly storeDir: string
  readonly capacityBytes: number
  readonly send: (process: string, message: MessageBody) => void
  /** Those that may hold objects or segments. */
  readonly processes: () => readonly string[]
  readonly validate: boolean
}

const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0

/** The files need the native library, which is loaded with the first of them. */
const files = (): Promise<typeof import('../objects/segment-files.ts')> => import('../objects/segment-files.ts')

export class SegmentStore {
  readonly #options: SegmentStoreOptions
  readonly #directory: SegmentDirectory
  #closed = false

  constructor(options: SegmentStoreOptions) {
    this.#options = options
    this.#directory = new SegmentDirectory({ directory: options.storeDir, capacityBytes: options.capacityBytes })
  }

  get usage(): StoreUsage {
    return this.#directory.usage
  }

  /** Live objects, biggest first. */
  objects(limit: number): DirectoryObject[] {
    return this.#directory.objects(limit)
  }

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
    this.#handle({ kind: 'objectsFreed', process, places })
  }

  pin(process: string, { pin, owner, object, place }: ObjectPin): void {
    const { segment, offset, bytes } = place ?? { segment: '', offset: 0, bytes: 0 }
    this.#handle({ kind: 'pinned', process, pin, owner, object, place: { segment, offset, bytes } })
  }

  unpin(process: string, pins: readonly number[]): void {
    this.#handle({ kind: 'unpinned', process, pins })
  }

  /** The process is dead: nothing of it is written any more. */
  processGone(process: string): void {
    this.#handle({ kind: 'processGone', process })
  }

  /** From now on nothing happens; the files go with their folder. */
  close(): void {
    this.#closed = true
  }

  #handle(event: DirectoryEvent): void {
    if (this.#closed) return
    for (const instruction of this.#directory.handle(event)) this.#run(instruction)
    if (this.#options.validate) this.#directory.checkInvariants()
  }

  #run(instruction: DirectoryInstruction): void {
    const { send } = this.#options
    switch (instruction.kind) {
      case 'createFile':
        void this.#create(instruction.segment, instruction.path, instruction.bytes)
        break
      case 'unlinkFile':
        void files().then(({ removeSegmentFile }) => removeSegmentFile(instruction.path))
        break
      case 'grant': {
        const { process, request, segment, path, bytes } = instruction
        send(process, { $case: 'segmentGrant', value: { request, segment, path, bytes, failure: undefined } })
        break
      }
      case 'fail': {
        const { process, request, code, details } = instruction
        const failure = { code, detailsJson: JSON.stringify(details) }
        send(process, { $case: 'segmentGrant', value: { request, segment: '', path: '', bytes: 0, failure } })
        break
      }
      case 'pinned': {
        const { process, pin, path, segment, offset, bytes } = instruction
        send(process, { $case: 'objectPinned', value: { pin, path, segment, offset, bytes, failure: undefined } })
        break
      }
      case 'pinFailed': {
        const { process, pin, code, details } = instruction
        const failure = { code, detailsJson: JSON.stringify(details) }
        send(process, { $case: 'objectPinned', value: { pin, path: '', segment: '', offset: 0, bytes: 0, failure } })
        break
      }
      case 'blocksFreed':
        send(instruction.process, {
          $case: 'blocksFreed',
          value: { places: instruction.places.map((place) => ({ ...place, node: '' })), retired: instruction.retired },
        })
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
