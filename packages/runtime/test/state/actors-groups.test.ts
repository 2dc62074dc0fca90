/** Stories of actors and placement groups: events in, what is sent and ordered out. */
import { expect, test } from 'vitest'
import type { Failure } from '../../src/net/gen/node.ts'
import { MachineState } from '../../src/state/machine-state.ts'
import { amounts, JOB, nodeConfig, ONE_CPU, shape, TestMachine, worker } from './machine.ts'

const started = (machine: TestMachine, actor: string, n: number, error: string = ''): TestMachine =>
  machine.do({ kind: 'actor-started', process: worker(n), started: { actor, error: Buffer.from(error), errorText: error } })
const watch = (machine: TestMachine, process: string, actor: string): TestMachine => machine.do({ kind: 'actor-watch', process, actor })
const stop = (machine: TestMachine, actor: string, how: { force?: boolean; noRestart?: boolean; incarnation?: number } = {}): TestMachine =>
  machine.do({ kind: 'actor-stop', process: 'd1', stop: { actor, force: false, noRestart: true, reason: 'enough', ...how } })
const states = (machine: TestMachine, process: string): unknown[] =>
  machine
    .sent(process)
    .flatMap(([$case, value]) =>
      $case === 'actorState'
        ? [(({ state, worker: at, incarnation }) => [state, at, incarnation])(value as { state: string; worker: string; incarnation: number })]
        : [],
    )
const stateOf = (machine: TestMachine, actor: string): string | undefined => machine.state.control.actors.actors.get(actor)?.state
const causeOf = (machine: TestMachine, actor: string): Record<string, string> => {
  const cause = machine.state.control.actors.actors.get(actor)?.cause as Failure
  return { code: cause.code, ...(JSON.parse(cause.detailsJson) as object) }
}

test('an actor goes from PENDING to ALIVE, and its watcher sees each step', () => {
  const machine = new TestMachine({ prestart: 1 }).driver('d1')
  machine.take()
  const first = machine.actor('d1', 'a1').take()
  expect(first).toEqual([
    { kind: 'send', process: 'd1', message: { $case: 'actorCreated', value: { request: 7, actor: 'a1', handle: new Uint8Array([2]), failure: undefined } } },
  ])
  expect(states(watch(machine, 'd1', 'a1'), 'd1')).toEqual([['PENDING', '', 0]])
  machine.up(1)
  const placed = machine.take()
  expect(placed.map((each) => (each.kind === 'send' ? `${each.message.$case} to ${each.process}` : each.kind))).toEqual([
    `assign to ${worker(1)}`,
    `actorStart to ${worker(1)}`,
    'actorState to d1',
  ])
  expect(placed[1]).toMatchObject({ message: { value: { actor: 'a1', creation: new Uint8Array([1]), incarnation: 0, gpuIndices: [] } } })
  expect(states(started(machine, 'a1', 1), 'd1')).toEqual([['ALIVE', worker(1), 0]])
  // A warm worker takes the place of the one that became an actor.
  expect(machine.tick().take()).toEqual([{ kind: 'worker-spawn', worker: worker(2), cwd: '', execArgv: [], env: {} }])
})

test('a constructor that throws ends the actor with its error', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: -1 }).up(1)
  watch(machine, 'd1', 'a1').take()
  expect(started(machine, 'a1', 1, 'boom').take()).toMatchObject([
    { process: 'd1', message: { $case: 'actorState', value: { state: 'DEAD', error: Buffer.from('boom') } } },
    { kind: 'worker-stop', worker: worker(1), force: false },
  ])
  expect(causeOf(machine, 'a1')).toEqual({ code: 'ACTOR_DIED', actor: 'a1', className: 'Counter', reason: 'its constructor threw boom' })
  expect(machine.exit(1).state.node.tables.placements.size).toBe(0)
})

test('an actor restarts as often as it may, with the same creation, and then is dead', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: 1 }).up(1)
  watch(started(machine, 'a1', 1), 'd1', 'a1').take()
  expect(states(machine.exit(1, { code: 1 }), 'd1')).toEqual([['RESTARTING', '', 1]])
  expect(machine.up(2).take()).toContainEqual({
    kind: 'send',
    process: worker(2),
    message: { $case: 'actorStart', value: { actor: 'a1', creation: new Uint8Array([1]), incarnation: 1, gpuIndices: [] } },
  })
  started(machine, 'a1', 2).take()
  const out = machine.exit(2, { signal: 'SIGKILL', stderr: 'x' }).sent('d1')
  expect(out.map(([$case]) => $case)).toEqual(['workerLost', 'actorState'])
  expect(causeOf(machine, 'a1')).toMatchObject({ code: 'ACTOR_DIED', reason: 'its worker was ended by signal SIGKILL; its last lines on stderr:\nx' })
})

test('an actor whose constructor keeps crashing is restarted more and more slowly', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: -1 }).allUp()
  const waits: number[] = []
  for (let death = 1; death <= 6; death++) {
    machine.exit(death, { code: 1 })
    let waited = 0
    for (; machine.state.node.tables.placements.size === 0; waited += 50) machine.tick(50)
    waits.push(waited)
    machine.allUp()
  }
  expect(waits).toEqual([100, 200, 400, 800, 1_600, 3_200])
})

test('a name is taken once per namespace, and free again after death', () => {
  const machine = new TestMachine().driver('d1', { namespace: 'ns' }).driver('d2', { namespace: 'other' })
  machine.actor('d1', 'a1', { name: 'x' }).take()
  const [taken] = machine.actor('d1', 'a2', { name: 'x' }).sent('d1')
  expect(taken).toMatchObject(['actorCreated', { actor: 'a2', failure: { code: 'ACTOR_NAME_TAKEN', detailsJson: '{"name":"x","namespace":"ns"}' } }])
  expect(machine.actor('d1', 'a3', { name: 'x', getIfExists: true, handle: new Uint8Array([9]) }).sent('d1')).toMatchObject([
    ['actorCreated', { actor: 'a1', handle: new Uint8Array([2]), failure: undefined }],
  ])
  expect(machine.actor('d2', 'a4', { name: 'x' }).sent('d2')).toMatchObject([['actorCreated', { actor: 'a4', failure: undefined }]])
  const lookup = (process: string, namespace: string): unknown => machine.do({ kind: 'actor-lookup', process, request: 5, name: 'x', namespace }).sent(process)
  expect(lookup('d1', '')).toMatchObject([['actorFound', { actor: 'a1' }]])
  expect(lookup('d1', 'other')).toMatchObject([['actorFound', { actor: 'a4' }]])
  stop(machine, 'a1', { force: true }).take()
  expect(lookup('d1', '')).toMatchObject([['actorFound', { actor: '' }]])
  expect(machine.actor('d1', 'a5', { name: 'x' }).sent('d1')).toMatchObject([['actorCreated', { actor: 'a5', failure: undefined }]])
})

test('a stop in order asks the actor, and kills it when its time is over', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: 5, stopTimeoutMs: 1_000 }).up(1)
  started(machine, 'a1', 1).take()
  expect(stop(machine, 'a1').take()).toEqual([
    { kind: 'send', process: worker(1), message: { $case: 'actorTerminate', value: { actor: 'a1', reason: 'enough' } } },
  ])
  expect(machine.tick(900).take()).toEqual([])
  expect(machine.tick(200).take()).toMatchObject([{ kind: 'worker-stop', worker: worker(1), force: true }])
  expect(machine.tick(200).take()).toEqual([])
  machine.exit(1, { signal: 'SIGKILL' })
  expect([stateOf(machine, 'a1'), causeOf(machine, 'a1')['reason']]).toEqual(['DEAD', 'enough'])
})

test('a kill that allows a restart restarts', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: 1 }).up(1)
  started(machine, 'a1', 1).take()
  expect(stop(machine, 'a1', { force: true, noRestart: false }).take()).toMatchObject([{ kind: 'worker-stop', force: true }])
  expect(stateOf(machine.exit(1, { signal: 'SIGKILL' }), 'a1')).toBe('RESTARTING')
})

test('a kill that allows a restart comes too late for an actor that restarted before, and one for good never does', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { maxRestarts: 2 }).up(1)
  started(machine, 'a1', 1).exit(1).up(2)
  started(machine, 'a1', 2).take()
  expect(stop(machine, 'a1', { force: true, noRestart: false, incarnation: 0 }).take()).toEqual([])
  expect(stop(machine, 'a1', { force: true, noRestart: false, incarnation: 1 }).take()).toMatchObject([{ kind: 'worker-stop', worker: worker(2) }])
  machine.exit(2, { signal: 'SIGKILL' }).up(3)
  started(machine, 'a1', 3).take()
  expect(stop(machine, 'a1', { force: true, noRestart: true, incarnation: 1 }).take()).toMatchObject([{ kind: 'worker-stop', worker: worker(3) }])
})

test('an actor ends with its owner unless it is detached', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1').actor('d1', 'a2', { detached: true, maxRestarts: 1 }).allUp()
  started(started(machine, 'a1', 1), 'a2', 2).take()
  machine.do({ kind: 'process-lost', process: 'd1' })
  expect(machine.take()).toMatchObject([{ kind: 'worker-stop', worker: worker(1), force: true }])
  expect([stateOf(machine, 'a1'), stateOf(machine, 'a2')]).toEqual(['DEAD', 'ALIVE'])
  // Even its restart needs no driver: the node remembers the job.
  machine.exit(1).exit(2, { code: 1 })
  expect(machine.allUp().take()).toContainEqual({
    kind: 'send',
    process: worker(3),
    message: { $case: 'assign', value: expect.objectContaining({ job: 'd1', cwd: '/app', entry: '/app/app.ts', env: {} }) },
  })
})

test('an actor that can never be placed is dead at once', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { shape: shape({ gpus: 10_000 }) })
  expect([stateOf(machine, 'a1'), causeOf(machine, 'a1')]).toEqual([
    'DEAD',
    { code: 'INFEASIBLE', what: 'actor Counter', wanted: '1 gpu', has: '2 cpus, 1000 B of memory' },
  ])
})

test('a watcher may come before the actor; one of an actor that never comes is told so', () => {
  const machine = new TestMachine().driver('d1').driver('d2')
  expect(states(watch(machine, 'd2', 'a1'), 'd2')).toEqual([])
  machine.actor('d1', 'a1')
  expect(states(machine, 'd2')).toEqual([['PENDING', '', 0]])
  watch(machine, 'd2', 'a9').take()
  machine.tick(500)
  expect(states(machine, 'd2')).toEqual([])
  machine.tick(600)
  expect(states(machine, 'd2')).toEqual([['DEAD', '', 0]])
})

test('a method of an actor that waits lends the cpu of the actor', () => {
  const machine = new TestMachine({ total: { cpus: 10_000, gpus: 0, memoryBytes: 0, custom: {} } }).driver('d1').actor('d1', 'a1', { shape: ONE_CPU }).up(1)
  started(machine, 'a1', 1).demand(worker(1), 1, 1).take()
  machine.block(worker(1), 0).allUp()
  expect([...machine.state.node.tables.leases.values()].map((lease) => lease.process)).toEqual([worker(1)])
})

// ---------------------------------------------------------------- groups

const groupStates = (machine: TestMachine, process: string): unknown[] =>
  machine
    .sent(process)
    .flatMap(([$case, value]) =>
      $case === 'groupState' ? [(({ state, cause }) => (cause === undefined ? state : [state, cause.code]))(value as { state: string; cause?: Failure })] : [],
    )

test('a group reserves its bundles, tasks run in them, and its end gives everything back', () => {
  const machine = new TestMachine().driver('d1').group('d1', 'g1', 'PACK', [{ cpus: 10_000 }, { cpus: 5_000, memoryBytes: 100 }])
  expect(groupStates(machine, 'd1')).toEqual(['PENDING', 'CREATED'])
  const { root } = machine.state.node.tables
  expect(root.available()).toEqual({ cpus: 5_000, gpus: 0, memoryBytes: 900, custom: {} })
  machine
    .demand('d1', 1, 1, shape({ cpus: 10_000 }, { placementGroup: 'g1', bundle: 0 }))
    .demand('d1', 2, 1, shape({ cpus: 5_000 }, { placementGroup: 'g1' }))
    .allUp()
  expect([...machine.state.node.tables.leases.values()].map((lease) => lease.allocation.pool.name)).toEqual(['g1/0', 'g1/1'])
  machine.take()
  expect(machine.do({ kind: 'group-remove', process: 'd1', group: 'g1' }).take()).toMatchObject([
    { kind: 'worker-stop', worker: worker(1), force: true, reason: 'the group was removed' },
    { kind: 'worker-stop', worker: worker(2), force: true },
    { message: { $case: 'groupState', value: { state: 'REMOVED' } } },
  ])
  expect(root.cpus).toBe(5_000)
  machine.exit(1).exit(2)
  expect(root.available()).toEqual({ cpus: 20_000, gpus: 0, memoryBytes: 1_000, custom: {} })
})

test('a group waits for leases and asks for them', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 2).allUp()
  machine.take()
  expect(
    machine
      .group('d1', 'g1', 'STRICT_PACK', [{ cpus: 20_000 }])
      .take()
      .map((each) => each.kind === 'send' && each.message.$case),
  ).toEqual(['groupState', 'leaseReclaim', 'leaseReclaim'])
  expect(groupStates(machine.giveBack('d1', 1).giveBack('d1', 2), 'd1')).toEqual(['CREATED'])
})

test('a group that never fits is removed at once with the reason', () => {
  const machine = new TestMachine().driver('d1').group('d1', 'g1', 'PACK', [{ cpus: 10_000 }, { cpus: 20_000 }])
  expect(groupStates(machine, 'd1')).toEqual(['PENDING', ['REMOVED', 'INFEASIBLE']])
  expect(groupStates(machine.group('d1', 'g2', 'STRICT_SPREAD', [{ cpus: 1 }, { cpus: 1 }]), 'd1')).toEqual(['PENDING', ['REMOVED', 'INFEASIBLE']])
  expect(groupStates(machine.group('d1', 'g3', 'ROUND', [{ cpus: 1 }]), 'd1')).toEqual([['REMOVED', 'INVALID_ARGUMENT']])
  expect(groupStates(machine.group('d1', 'g4', 'PACK', []), 'd1')).toEqual([['REMOVED', 'INVALID_ARGUMENT']])
})

test('what is more than the group, or in no group, is refused', () => {
  const machine = new TestMachine().driver('d1').group('d1', 'g1', 'PACK', [{ cpus: 5_000 }])
  machine.take()
  const text = (): string =>
    machine
      .sent('d1')
      .flatMap(([$case, value]) => ($case === 'infeasible' ? [(value as { text: string }).text] : []))
      .join()
  machine.demand('d1', 1, 1, shape({ cpus: 10_000 }, { placementGroup: 'g1' }))
  expect(text()).toBe('"f1" asks for 1 cpu in placement group g1, which this cluster can never give: it has a group of bundle 0: 0.5 cpus')
  machine.demand('d1', 2, 1, shape({ cpus: 1 }, { placementGroup: 'g1', bundle: 3 }))
  expect(text()).toContain('bundle 3')
  // Creation and use may come over different connections.
  machine.demand('d1', 3, 1, shape({ cpus: 1 }, { placementGroup: 'g9' })).tick(500)
  expect(text()).toBe('')
  machine.tick(600)
  expect(text()).toContain('no such placement group')
})

test('a group ends with its owner unless it is detached', () => {
  const machine = new TestMachine()
    .driver('d1')
    .driver('d2')
    .group('d1', 'g1', 'PACK', [{ cpus: 5_000 }])
    .group('d1', 'g2', 'PACK', [{ cpus: 5_000 }], true)
  machine.do({ kind: 'process-lost', process: 'd1' })
  expect(machine.state.node.tables.root.cpus).toBe(15_000)
  expect(groupStates(machine.group('d2', 'g2', 'PACK', []), 'd2')).toEqual(['CREATED'])
})

test('a group is made and removed in less than half a millisecond of processor time', () => {
  const machine = new MachineState(nodeConfig())
  machine.handle({ kind: 'process-attached', process: 'd1', processKind: 'driver', pid: 1, address: '', job: JOB })
  const create = { name: '', strategy: 'PACK', bundles: [amounts({ cpus: 10_000 })], detached: false, selectors: [] }
  let created = 0
  const before = process.cpuUsage()
  for (let i = 0; i < 5_000; i++) {
    const out = machine.handle({ kind: 'group-create', process: 'd1', create: { ...create, group: `g${i}` } })
    if (out.some((each) => each.kind === 'send' && each.message.$case === 'groupState' && each.message.value.state === 'CREATED')) created++
    machine.handle({ kind: 'group-remove', process: 'd1', group: `g${i}` })
  }
  const { user, system } = process.cpuUsage(before)
  expect(created).toBe(5_000)
  expect((user + system) / 1_000 / 5_000).toBeLessThan(0.5)
})
