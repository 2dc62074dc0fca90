/**
 * The store of a daemon, with what a test has to do in the place of processes: one that writes objects and owns them.
 */
import type { NodeMessage, SegmentGrant } from '../../src/net/gen/node.ts'
import { SegmentStore } from '../../src/daemon/segment-store.ts'
import type { ObjectMemory, ObjectName } from '../../src/transfer/copy-store.ts'

type NodeBody = NonNullable<NodeMessage['body']>

const WRITER = 'writer'

export class RealStore extends SegmentStore {
  readonly #node: string
  readonly #requests = new Map<number, (grant: SegmentGrant) => void>()
  #nextRequest = 1

  constructor(node: string, directory: string, capacityBytes: number, send: (process: string, body: NodeBody) => void) {
    const deliver = (process: string, body: NodeBody): void => {
      if (process !== WRITER) send(process, body)
      else if (body.$case === 'segmentGrant') this.#requests.get(body.value.request)?.(body.value)
    }
    super({ node, storeDir: directory, capacityBytes, send: deliver, processes: () => [WRITER], validate: true, spill: undefined })
    this.#node = node
  }

  /** Room for an object of `name.owner`; its bytes must be written before anybody reads it. */
  async put(name: ObjectName, bytes: number): Promise<ObjectMemory> {
    const request = this.#nextRequest++
    const {
      segment,
      path,
      failure,
      bytes: segmentBytes,
    } = await new Promise<SegmentGrant>((resolve) => {
      this.#requests.set(request, resolve)
      this.request(WRITER, { request, bytes: Math.max(1, bytes) })
    })
    if (failure) throw new Error(`${failure.code} ${failure.detailsJson}`)
    this.added(name.owner, { objects: [{ segment, offset: 0, bytes, object: name.object, label: 'put', node: this.#node }] })
    this.giveBack(WRITER, segment)
    return { segment, path, segmentBytes, offset: 0, bytes }
  }

  free(name: ObjectName): void {
    this.freed(name.owner, { places: [{ segment: '', offset: 0, bytes: 0, node: this.#node, ...name }] })
  }

  list(): { key: string; state: string; pins: number }[] {
    return this.objects(1_000).map(({ owner, object, pins }) => ({
      key: `${owner}:${object}`,
      state: this.find({ owner, object }) ?? 'writing or freed',
      pins,
    }))
  }
}
