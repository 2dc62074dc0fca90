/**
 * Random sequences of events, sensible and not, against the invariants of state/invariants.ts (checked inside the machine after each event)
 * and against promises that need more than one event.
 */
import { ANYWHERE } from '../shapes.ts'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checkControl, checkNode } from '../../src/state/invariants.ts'
import type { Lease } from '../../src/state/node-tables.ts'
import { amounts, shape, TestMachine, worker } from './machine.ts'

const PROCESSES = ['d1', 'd2']
const GROUPS = ['g1', 'g2']
const ACTORS = ['a1', 'a2', 'a3', 'a4']
const NAMES = ['', 'x', 'y']

const often = <T>(weight: number, ...values: T[]): { weight: number; arbitrary: fc.Arbitrary<T> } => ({ weight, arbitrary: fc.constantFrom(...values) })

const resources = fc.record({
  cpus: fc.oneof(often(6, 0, 5_000, 10_000), often(1, 20_000, 90_000)),
  gpus: fc.oneof(often(6, 0), often(2, 2_500, 10_000), often(1, 20_000)),
  memoryBytes: fc.oneof(often(6, 0), often(1, 400)),
  custom: fc.oneof(often(8, {}), often(1, { tape: 10_000 }, { moon: 10_000 })),
})
const bundle = fc.record({ cpus: fc.constantFrom(0, 5_000, 10_000), gpus: fc.constantFrom(0, 0, 5_000, 10_000) }).map(amounts)
const shapes = fc
  .record({
    resources,
    env: fc.oneof(often(8, {}), often(1, { A: '1' }, { NODE_OPTIONS: '--x' })),
    placementGroup: fc.oneof(often(3, ''), often(2, ...GROUPS)),
    bundle: fc.constantFrom(-1, -1, 0, 1, 5),
  })
  .map((of) => ({ ...of, ...ANYWHERE }))

type Op = (machine: TestMachine) => void
type Pick = (machine: TestMachine) => string

/** Mostly one of those that are there; sometimes one that is gone or never was. */
const among = (there: (machine: TestMachine) => Iterable<string>): fc.Arbitrary<Pick> =>
  fc.tuple(fc.nat({ max: 1_000 }), fc.nat({ max: 9 })).map(([n, odd]) => (machine) => {
    const all = [...there(machine)]
    return (odd === 0 ? undefined : all[n % all.length]) ?? worker(n % 25)
  })
const someone = among((m) => m.state.node.tables.processes.keys())
const someWorker = among((m) => m.state.node.tables.workers.keys())
const numberOf = (id: string): number => Number.parseInt(id.slice(8), 16)

const op: fc.Arbitrary<Op> = fc.oneof(
  fc.constantFrom(...PROCESSES).map(
    (process): Op =>
      (m) =>
        void m.driver(process),
  ),
  {
    weight: 4,
    arbitrary: someWorker.map(
      (who): Op =>
        (m) =>
          void m.up(numberOf(who(m))),
    ),
  },
  { weight: 4, arbitrary: fc.constant<Op>((m) => void m.allUp()) },
  {
    weight: 12,
    arbitrary: fc.tuple(someone, fc.nat({ max: 3 }), fc.nat({ max: 4 }), shapes).map(
      ([who, key, wanted, of]): Op =>
        (m) =>
          void m.demand(who(m), key, wanted, of),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.nat({ max: 100 }).map(
      (n): Op =>
        (m) =>
          withLease(m, n, ({ process, id }) => m.giveBack(process, id, n % 7 === 0)),
    ),
  },
  {
    weight: 8,
    arbitrary: fc.tuple(fc.nat({ max: 100 }), fc.boolean(), fc.boolean()).map(
      ([n, blocked, byWorker]): Op =>
        (m) =>
          withLease(m, n, (lease) => m.block(byWorker ? lease.worker.id : lease.process, lease.id, blocked)),
    ),
  },
  fc.tuple(someone, fc.nat({ max: 30 })).map(
    ([who, lease]): Op =>
      (m) =>
        void m.giveBack(who(m), lease),
  ),
  {
    weight: 2,
    arbitrary: fc.tuple(someone, fc.nat({ max: 5 }), fc.boolean()).map(
      ([who, lease, blocked]): Op =>
        (m) =>
          void m.block(who(m), lease, blocked),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(someWorker, fc.constantFrom(0, 1)).map(
      ([who, code]): Op =>
        (m) =>
          void m.exit(numberOf(who(m)), { code }),
    ),
  },
  someone.map(
    (who): Op =>
      (m) =>
        void m.do({ kind: 'process-lost', process: who(m) }),
  ),
  someWorker.map(
    (who): Op =>
      (m) =>
        void m.do({ kind: 'worker-kill', process: 'd1', worker: who(m), reason: 'test' }),
  ),
  {
    weight: 6,
    arbitrary: fc.tuple(someone, fc.constantFrom(...ACTORS), fc.constantFrom(...NAMES), fc.boolean(), fc.boolean(), fc.constantFrom(0, 1, -1), shapes).map(
      ([who, actor, name, detached, getIfExists, maxRestarts, of]): Op =>
        (m) =>
          void m.actor(who(m), actor, { name, detached, getIfExists, maxRestarts, shape: of }),
    ),
  },
  {
    weight: 8,
    arbitrary: fc.tuple(fc.constantFrom(...ACTORS), fc.constantFrom('', '', '', 'boom')).map(
      ([actor, errorText]): Op =>
        (m) => {
          const process = m.state.control.actors.actors.get(actor)?.worker ?? ''
          m.do({ kind: 'actor-started', process, started: { actor, error: new Uint8Array(), errorText } })
        },
    ),
  },
  fc.tuple(someone, fc.constantFrom(...ACTORS, 'unknown')).map(
    ([who, actor]): Op =>
      (m) =>
        void m.do({ kind: 'actor-watch', process: who(m), actor }),
  ),
  fc.tuple(fc.constantFrom(...ACTORS), fc.boolean(), fc.boolean()).map(
    ([actor, force, noRestart]): Op =>
      (m) =>
        void m.do({ kind: 'actor-stop', process: 'd1', stop: { actor, force, noRestart, reason: 'test' } }),
  ),
  fc.constantFrom(...NAMES).map(
    (name): Op =>
      (m) =>
        void m.do({ kind: 'actor-lookup', process: 'd1', request: 1, name, namespace: '' }),
  ),
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        someone,
        fc.constantFrom(...GROUPS),
        fc.oneof(often(8, 'PACK', 'SPREAD', 'STRICT_PACK'), often(1, 'STRICT_SPREAD', 'NONE')),
        fc.array(bundle, { minLength: 1, maxLength: 2 }),
      )
      .map(
        ([who, group, strategy, bundles]): Op =>
          (m) =>
            void m.group(who(m), group, strategy, bundles),
      ),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom(...GROUPS).map(
      (group): Op =>
        (m) =>
          void m.do({ kind: 'group-remove', process: 'd1', group }),
    ),
  },
  fc.boolean().map(
    (owns): Op =>
      (m) =>
        void m.answer(owns),
  ),
  {
    weight: 2,
    arbitrary: fc.oneof(often(4, 250, 3_000), often(1, 20_000, 70_000)).map(
      (byMs): Op =>
        (m) =>
          void m.tick(byMs),
    ),
  },
)

function withLease(m: TestMachine, n: number, act: (lease: Lease) => void): void {
  const leases = [...m.state.node.tables.leases.values()]
  const lease = leases[n % Math.max(1, leases.length)]
  if (lease !== undefined) act(lease)
}

const config = {
  total: amounts({ cpus: 20_000, gpus: 20_000, memoryBytes: 1_000, custom: { tape: 10_000 } }),
  gpuDevices: ['0', '1'],
  prestart: 1,
  taskWorkersMax: 3,
  startingMax: 2,
}

test('no sequence of events breaks an invariant', () => {
  // How many sequences came to what they are about.
  const seen: Record<string, number> = {}
  fc.assert(
    fc.property(fc.array(op, { minLength: 10, maxLength: 80 }), (ops) => {
      const machine = new TestMachine(config).driver('d1')
      const reached = new Set<string>()
      for (const each of ops) {
        each(machine)
        const { leases, workers, groups } = machine.state.node.tables
        for (const lease of leases.values())
          reached.add(lease.blocked ? 'a blocked lease' : 'a lease').add(lease.allocation.pool.name === 'node' ? 'a lease' : 'a lease in a group')
        for (const { state } of workers.values()) reached.add(`a worker that is ${state}`)
        for (const { bundles } of groups.values()) for (const { state } of bundles.values()) reached.add(`a group that is ${state}`)
        for (const { state } of machine.state.control.actors.actors.values()) reached.add(`an actor that is ${state}`)
      }
      for (const what of reached) seen[what] = (seen[what] ?? 0) + 1
      checkNode(machine.state.node)
      checkControl(machine.state.control)
    }),
    { numRuns: 2_000 },
  )
  const expected = ['a lease', 'a blocked lease', 'a lease in a group', 'a group that is committed', 'a group that is returning']
  for (const state of ['starting', 'idle', 'leased', 'blocked', 'actor', 'stopping']) expected.push(`a worker that is ${state}`)
  for (const state of ['PENDING', 'STARTING', 'ALIVE', 'RESTARTING', 'DEAD']) expected.push(`an actor that is ${state}`)
  for (const what of expected) expect([what, (seen[what] ?? 0) > 5]).toEqual([what, true])
})

test('when all processes are gone and all told to stop have stopped, everything is free and only prestarted workers are left', () => {
  fc.assert(
    fc.property(fc.array(op, { maxLength: 50 }), (ops) => {
      const machine = new TestMachine(config).driver('d1')
      for (const each of ops) each(machine)
      machine.driver('d3')
      for (const actor of machine.state.control.actors.actors.keys())
        machine.do({ kind: 'actor-stop', process: 'd3', stop: { actor, force: true, noRestart: true, reason: 'end' } })
      for (const group of GROUPS) machine.do({ kind: 'group-remove', process: 'd3', group })
      for (const process of [...PROCESSES, 'd3']) machine.do({ kind: 'process-lost', process })
      // Ends with a fixed point: every worker that is told to stop exits, idle ones time out, starting ones come up.
      for (let round = 0; round < 30; round++) {
        machine.allUp().answer().tick(20_000)
        for (const each of [...machine.state.node.tables.workers.values()]) if (each.state === 'stopping') machine.exit(Number.parseInt(each.id.slice(8), 16))
      }
      const { root, leases, placements, queue, workers, groups, startFailures } = machine.state.node.tables
      expect(root.available()).toEqual(config.total)
      expect([leases.size, placements.size, queue.length, groups.size]).toEqual([0, 0, 0, 0])
      const left = [...workers.values()].map((each) => each.state)
      // After failed starts nothing is started that nobody asks for.
      if (left.length > 0 || startFailures.size === 0) expect(left).toEqual(['idle'])
    }),
    { numRuns: 1_000 },
  )
})

test('every feasible demand is met, however its leases and those of others are blocked and returned', () => {
  // Tasks of 1 cpu that nest: a granted task may block until a task that it demands itself has run. Depth is more than the worker limit.
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 40 }), (children) => {
      const machine = new TestMachine({ prestart: 1, taskWorkersMax: 2, startingMax: 1 }).driver('d1')
      let tasksLeft = children.length
      let finished = 0
      interface Running {
        lease: number
        process: string
        holder: string
        waitingFor: number
        parent: Running | undefined
      }
      const running = new Map<number, Running>()
      const parents = new Map<string, Running[]>()
      const start = (process: string, count: number, parent: Running | undefined): void => {
        const waiting = parents.get(process) ?? []
        for (let i = 0; i < count; i++) if (parent !== undefined) waiting.push(parent)
        parents.set(process, waiting)
        const wanted = parent === undefined ? count : waiting.length
        machine.demand(process, 1, wanted)
      }
      tasksLeft--
      start('d1', 1, undefined)
      for (let step = 0; step < 2_000 && finished < children.length - tasksLeft; step++) {
        machine.allUp()
        for (const instruction of machine.take()) {
          if (instruction.kind !== 'send' || instruction.message.$case !== 'leaseGranted') continue
          const { lease, worker: holder } = instruction.message.value
          const parent = parents.get(instruction.process)?.shift()
          if (parent === undefined && instruction.process !== 'd1') {
            // Demand and grant crossed: one lease more than there are tasks.
            machine.giveBack(instruction.process, lease)
            continue
          }
          const task: Running = { lease, process: instruction.process, holder, waitingFor: 0, parent }
          running.set(lease, task)
          const count = Math.min(tasksLeft, children[running.size % children.length] ?? 0)
          if (count > 0) {
            tasksLeft -= count
            task.waitingFor = count
            machine.block(task.process, lease)
            start(holder, count, task)
          }
        }
        for (const task of [...running.values()]) {
          if (task.waitingFor > 0) continue
          running.delete(task.lease)
          finished++
          machine.giveBack(task.process, task.lease)
          if (task.parent !== undefined && --task.parent.waitingFor === 0) machine.block(task.parent.process, task.parent.lease, false)
        }
      }
      expect(running.size).toBe(0)
      expect(finished).toBe(children.length - tasksLeft)
    }),
    { numRuns: 300 },
  )
})

test('a queue of one process does not shut out another', () => {
  const machine = new TestMachine({ prestart: 2 }).allUp().driver('d1').driver('d2')
  machine.demand('d1', 1, 100)
  const turns: string[] = []
  machine.demand('d2', 1, 100, shape({ cpus: 10_000 }))
  for (let step = 0; step < 40; step++) {
    machine.allUp()
    for (const instruction of machine.take()) if (instruction.kind === 'send' && instruction.message.$case === 'leaseGranted') turns.push(instruction.process)
    const [lease] = [...machine.state.node.tables.leases.values()]
    if (lease !== undefined) machine.giveBack(lease.process, lease.id)
  }
  const counts = PROCESSES.map((process) => turns.filter((each) => each === process).length)
  expect(Math.min(...counts)).toBeGreaterThanOrEqual(15)
})
