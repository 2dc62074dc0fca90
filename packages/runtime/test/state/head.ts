/** Drives the control of a cluster in tests: a head that remembers what it made durable, nodes and a driver that say what they have. */
import { amounts, JOB, shape } from './machine.ts'
import type { ActorHere, GroupHere, NodeInfo, ProcessInfo } from '../../src/net/gen/mesh.ts'
import type { ActorCreate, GroupCreate } from '../../src/net/gen/node.ts'
import { ControlState } from '../../src/state/control-state.ts'
import type { ControlEvent, ControlInstruction } from '../../src/state/events.ts'

export const LEASE_MS = 10_000
export const DRIVER = 'd1'

export const info = (node: string, more: Partial<NodeInfo> = {}): NodeInfo => ({
  ...{ node, number: 0, address: '', bulkAddress: '', host: '', total: amounts({ cpus: 40_000 }), available: amounts({ cpus: 40_000 }), labels: {} },
  ...{ state: 'ALIVE', cause: undefined, queued: 0, storeBytes: 0, storeUsedBytes: 0, pid: 0, head: false },
  ...more,
})
export const create = (actor: string, more: Partial<ActorCreate> = {}): ActorCreate => ({
  ...{ actor, name: '', namespace: '', className: 'A', detached: false, getIfExists: false, maxRestarts: 0, shape: shape({}, { node: 'n1' }), request: 1 },
  ...{ creation: new Uint8Array([1, 2]), handle: new Uint8Array([3]), stopTimeoutMs: 1_000 },
  ...more,
})
export const group: GroupCreate = {
  group: 'g1',
  name: '',
  strategy: 'SPREAD',
  bundles: [amounts({ cpus: 1 }), amounts({ cpus: 1 })],
  detached: true,
  selectors: [],
}
export const driver: ProcessInfo = { process: DRIVER, kind: 'driver', pid: 1, address: '', job: JOB, jobId: DRIVER, attach: 1 }

/** A head, and what it made durable. */
export class Head {
  readonly control: ControlState
  readonly records: Map<string, string>
  out: ControlInstruction[] = []
  nowMs = 1_000

  constructor(self: string, records: ReadonlyMap<string, string> = new Map(), leaseMs: number = LEASE_MS) {
    this.records = new Map(records)
    this.control = new ControlState({ self, growable: true, leaseMs, persists: true })
    this.do({ kind: 'tick', nowMs: this.nowMs }, { kind: 'restore', records: new Map(records) })
    this.register(self)
  }

  do(...events: ControlEvent[]): this {
    for (const event of events) {
      for (const instruction of this.control.handle(event)) {
        this.out.push(instruction)
        if (instruction.kind !== 'persist') continue
        if (instruction.value === undefined) this.records.delete(instruction.key)
        else this.records.set(instruction.key, instruction.value)
      }
    }
    return this
  }

  register(node: string, here: { actors?: ActorHere[]; groups?: GroupHere[]; processes?: ProcessInfo[] } = {}, more: Partial<NodeInfo> = {}): this {
    this.out = []
    return this.do({ kind: 'node-registered', register: { node: info(node, more), processes: [], actors: [], groups: [], ...here } })
  }

  /** The actor is placed on node n1, and its worker says that it started. */
  runs(actor: string): this {
    const { process, pid, address, job, jobId } = workerOf(actor)
    const worker: ControlEvent = { kind: 'process-attached', process, node: 'n1', processKind: 'worker', pid, address, job, jobId }
    return this.do(worker, placed(actor), started(actor))
  }

  tick(ms: number): this {
    for (let left = ms; left > 0; left -= 250) this.do({ kind: 'tick', nowMs: (this.nowMs += 250) })
    return this
  }

  orders(): unknown[] {
    return this.out.flatMap((each) => (each.kind === 'order' ? [{ to: each.node, ...each.order }] : []))
  }

  actor(id: string): unknown[] {
    const actor = this.control.actors.actors.get(id)
    return [actor?.state, actor?.worker, actor?.incarnation]
  }
}

const placed = (actor: string): ControlEvent => ({
  kind: 'actor-placed',
  node: 'n1',
  actor,
  attempt: 1,
  worker: `w-${actor}`,
  address: 'there',
  gpuIndices: [],
})
const started = (actor: string): ControlEvent => ({
  kind: 'actor-started',
  process: `w-${actor}`,
  started: { actor, error: new Uint8Array(), errorText: '' },
})
export const workerOf = (actor: string): ProcessInfo => ({ process: `w-${actor}`, kind: 'worker', pid: 2, address: '', job: JOB, jobId: DRIVER, attach: 1 })
export const here = (actor: string, more: Partial<ActorHere> = {}): ActorHere => ({
  ...{ actor, worker: `w-${actor}`, address: 'there', attempt: 1, alive: true, gpuIndices: [] },
  ...more,
})
