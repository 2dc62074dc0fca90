/**
 * Every event may come twice: after a head was started again, processes and nodes ask again for what they do not know to be done. The second one
 * changes nothing, and asks nobody to do anything again; questions are answered again.
 */
import { expect, test } from 'vitest'
import { amounts, JOB, nodeConfig, ONE_CPU, shape } from './machine.ts'
import type { NodeInfo } from '../../src/net/gen/mesh.ts'
import type { ActorCreate, GroupCreate } from '../../src/net/gen/node.ts'
import type { EdgeInstruction } from '../../src/state/events.ts'
import { type MachineEvent, MachineState } from '../../src/state/machine-state.ts'

const HEAD = 'aaaaaaaa00000000'
const OTHER = 'bbbbbbbb00000000'
const DRIVER = 'd000000000000000'
/** Of the other node. */
const REMOTE = 'e000000000000000'
const W1 = 'aaaaaaaa00000001'
const W2 = 'aaaaaaaa00000002'

const info: NodeInfo = {
  ...{ node: OTHER, number: 0, address: 'at b', bulkAddress: '', host: 'b', total: amounts({ cpus: 40_000 }), available: amounts({ cpus: 40_000 }) },
  ...{ labels: {}, state: 'ALIVE', cause: undefined, queued: 0, storeBytes: 0, storeUsedBytes: 0, pid: 1, head: false },
}
const create = (actor: string, more: Partial<ActorCreate> = {}): ActorCreate => ({
  ...{
    actor,
    name: '',
    namespace: '',
    className: 'A',
    detached: false,
    getIfExists: false,
    maxRestarts: 1,
    shape: shape({}),
    request: 1,
    stopTimeoutMs: 1_000,
  },
  ...{ creation: new Uint8Array(), handle: new Uint8Array() },
  ...more,
})
const group = (id: string): GroupCreate => ({
  ...{ group: id, name: '', strategy: 'PACK', bundles: [amounts({ cpus: 2_500 })], detached: false, selectors: [] },
})
const failure = { code: 'WORKER_CRASHED', detailsJson: '{"how":"died","stderr":""}' }

/** The head of two nodes, with a driver on each, work in all states, and two workers. */
function cluster(): MachineState {
  const config = nodeConfig({ node: HEAD, workerIdPrefix: 'aaaaaaaa', total: amounts({ cpus: 40_000 }) })
  const machine = new MachineState(config, { head: true, growable: true, restores: true, leaseMs: 10_000 }, true)
  machine.start(1_000)
  const story: MachineEvent[] = [
    { kind: 'restore', records: new Map() },
    { kind: 'node-registered', register: { node: info, processes: [], actors: [], groups: [] } },
    { kind: 'process-attached', process: DRIVER, processKind: 'driver', pid: 1, address: '', job: JOB },
    { kind: 'process-attached', process: REMOTE, node: OTHER, processKind: 'driver', pid: 1, address: '', job: JOB },
    { kind: 'lease-demand', process: DRIVER, key: 1, shape: ONE_CPU, wanted: 1, backlog: 1, label: 'f' },
    { kind: 'process-attached', process: W1, processKind: 'worker', pid: 2, address: '', job: undefined },
    { kind: 'actor-create', process: DRIVER, create: create('a1', { name: 'one', shape: shape({}, { node: HEAD }) }) },
    { kind: 'process-attached', process: W2, processKind: 'worker', pid: 3, address: '', job: undefined },
    { kind: 'actor-create', process: DRIVER, create: create('a2', { shape: shape({}, { node: OTHER }) }) },
    { kind: 'group-create', process: DRIVER, create: group('g1') },
    { kind: 'tick', nowMs: 1_250 },
  ]
  for (const event of story) machine.handle(event)
  return machine
}

/** Everything that a machine knows, as text. */
function snapshot({ node, control, router, view }: MachineState): string {
  const seen = new Set<unknown>()
  const plain = (key: string, value: unknown): unknown => {
    // What a node has free is only a hint, and heard anew each time.
    if (/^(out|askedMs|lastSeenMs|available|free|queued|bookedAtMs|info)$/.test(key)) return undefined
    if (typeof value === 'object' && value !== null) {
      if (seen.has(value)) return '(again)'
      seen.add(value)
    }
    return value instanceof Map ? [...value] : value instanceof Set ? [...value] : value
  }
  const { actors, names } = control.actors
  const parts = [node.tables, actors, names, control.groups.groups, control.jobs.jobs, control.nodes.members, control.nodes.tombstones]
  return JSON.stringify([...parts, router.demands, view.nodes, view.groups], plain)
}

type Case<K extends MachineEvent['kind']> = (machine: MachineState) => Extract<MachineEvent, { kind: K }>
const lease = (machine: MachineState): number => [...machine.node.tables.leases.keys()][0] as number

/** Before the event that is to come twice. */
const before: { [K in MachineEvent['kind']]?: (machine: MachineState) => MachineEvent[] } = {
  'worker-answered': (machine) => {
    machine.handle({ kind: 'lease-return', process: DRIVER, lease: lease(machine), retire: false })
    return [{ kind: 'tick', nowMs: 30_000 }]
  },
  'actor-placed': () => [],
  'bundles-commit': () => [{ kind: 'bundles-prepare', group: 'g7', attempt: 1, bundles: new Map([[0, amounts({ cpus: 1 })]]) }],
  'bundles-prepared': () => [{ kind: 'group-create', process: DRIVER, create: { ...group('g5'), strategy: 'STRICT_SPREAD', bundles: [ONE, ONE] } }],
  'bundles-refused': () => [{ kind: 'group-create', process: DRIVER, create: { ...group('g5'), strategy: 'STRICT_SPREAD', bundles: [ONE, ONE] } }],
  'actor-worker-lost': () => [
    { kind: 'actor-placed', node: OTHER, actor: 'a2', attempt: 1, worker: 'bbbbbbbb00000001', address: '', gpuIndices: [] },
    { kind: 'actor-started', process: 'bbbbbbbb00000001', started: { actor: 'a2', error: new Uint8Array(), errorText: '' } },
  ],
  'remote-granted': () => [
    { kind: 'lease-demand', process: DRIVER, key: 5, shape: shape({ cpus: 5_000 }, { node: OTHER }), wanted: 3, backlog: 3, label: 'f' },
  ],
}
const ONE = amounts({ cpus: 1 })

const events: { [K in MachineEvent['kind']]: Case<K> } = {
  'process-attached': () => ({ kind: 'process-attached', process: 'd100000000000000', processKind: 'driver', pid: 1, address: '', job: JOB }),
  'process-lost': () => ({ kind: 'process-lost', process: DRIVER }),
  tick: () => ({ kind: 'tick', nowMs: 3_000 }),
  'actor-place': () => ({ kind: 'actor-place', actor: 'a9', attempt: 1, job: { id: DRIVER, config: JOB }, shape: shape({}), label: 'A' }),
  'actor-release': () => ({ kind: 'actor-release', actor: 'a1', attempt: 1, force: true, reason: 'test' }),
  'bundles-prepare': () => ({ kind: 'bundles-prepare', group: 'g8', attempt: 1, bundles: new Map([[0, amounts({ cpus: 1 })]]) }),
  'bundles-commit': () => ({ kind: 'bundles-commit', group: 'g7', attempt: 1 }),
  'bundles-return': () => ({ kind: 'bundles-return', group: 'g1', bundles: [], reason: 'test' }),
  'worker-answered': () => ({ kind: 'worker-answered', worker: W1, owns: true }),
  'worker-exited': () => ({ kind: 'worker-exited', worker: W1, exit: { code: 1, signal: null, stderr: '' } }),
  'lease-demand': () => ({ kind: 'lease-demand', process: DRIVER, key: 3, shape: ONE_CPU, wanted: 9, backlog: 9, label: 'f' }),
  'lease-return': (machine) => ({ kind: 'lease-return', process: DRIVER, lease: lease(machine), retire: false }),
  'lease-blocked': (machine) => ({ kind: 'lease-blocked', process: DRIVER, lease: lease(machine), blocked: true }),
  'worker-kill': () => ({ kind: 'worker-kill', process: DRIVER, worker: W1, reason: 'test' }),
  'memory-short': () => ({ kind: 'memory-short' }),
  'actor-started': () => ({ kind: 'actor-started', process: W2, started: { actor: 'a1', error: new Uint8Array(), errorText: '' } }),
  registered: () => ({ kind: 'registered', number: 7 }),
  drain: () => ({ kind: 'drain', reason: 'test' }),
  'node-ends': () => ({ kind: 'node-ends', reason: 'test' }),
  'job-ended': () => ({ kind: 'job-ended', job: REMOTE }),
  'node-gone': () => ({ kind: 'node-gone', node: OTHER }),
  'actor-placed': () => ({ kind: 'actor-placed', node: OTHER, actor: 'a2', attempt: 1, worker: 'bbbbbbbb00000001', address: '', gpuIndices: [] }),
  'actor-unplaceable': () => ({ kind: 'actor-unplaceable', node: OTHER, actor: 'a2', attempt: 1, failure }),
  'actor-worker-lost': () => ({ kind: 'actor-worker-lost', node: OTHER, actor: 'a2', attempt: 1, worker: 'bbbbbbbb00000001', failure }),
  'bundles-prepared': () => ({ kind: 'bundles-prepared', node: OTHER, group: 'g5', attempt: 1 }),
  'bundles-refused': () => ({ kind: 'bundles-refused', node: OTHER, group: 'g5', attempt: 1, reason: 'test' }),
  'worker-bound': () => ({ kind: 'worker-bound', worker: 'bbbbbbbb00000001', job: { id: REMOTE, config: JOB } }),
  'actor-create': () => ({ kind: 'actor-create', process: DRIVER, create: create('a3', { name: 'three' }) }),
  'actor-watch': () => ({ kind: 'actor-watch', process: REMOTE, actor: 'a1' }),
  'actor-stop': () => ({ kind: 'actor-stop', process: DRIVER, stop: { actor: 'a1', force: true, noRestart: true, reason: 'test' } }),
  'actor-lookup': () => ({ kind: 'actor-lookup', process: DRIVER, request: 1, name: 'one', namespace: '' }),
  'group-create': () => ({ kind: 'group-create', process: REMOTE, create: group('g2') }),
  'group-remove': () => ({ kind: 'group-remove', process: DRIVER, group: 'g1' }),
  'node-registered': () => ({ kind: 'node-registered', register: { node: { ...info, node: 'cccccccc00000000' }, processes: [], actors: [], groups: [] } }),
  'node-heartbeat': () => ({ kind: 'node-heartbeat', node: OTHER, available: amounts({ cpus: 1 }), queued: 1, storeUsedBytes: 0, nowMs: 2_000 }),
  'node-drain': () => ({ kind: 'node-drain', node: OTHER, reason: 'test' }),
  'node-left': () => ({ kind: 'node-left', node: OTHER, reason: 'test' }),
  restore: () => ({ kind: 'restore', records: new Map() }),
  view: () => ({ kind: 'view', view: { all: false, nodes: [{ ...info, number: 1 }], groups: [], jobsEnded: [] } }),
  'remote-granted': () => ({ kind: 'remote-granted', node: OTHER, process: DRIVER, key: 5, lease: 2 ** 32 + 1 }),
}

/** What may be said again: answers, what holds, and a record as it is. */
const isAnswer = (each: EdgeInstruction): boolean =>
  ['send', 'view', 'node-accepted', 'node-refused', 'persist'].includes(each.kind) || (each.kind === 'order' && each.order.kind === 'bundles-commit')

test.each(Object.keys(events) as MachineEvent['kind'][])('%s', (kind) => {
  const machine = cluster()
  for (const event of before[kind]?.(machine) ?? []) machine.handle(event)
  const event = (events[kind] as (machine: MachineState) => MachineEvent)(machine)
  machine.handle(event)
  const once = snapshot(machine)
  const again = machine.handle(event)
  expect(JSON.parse(snapshot(machine))).toEqual(JSON.parse(once))
  expect(again.filter((each) => !isAnswer(each))).toEqual([])
})
