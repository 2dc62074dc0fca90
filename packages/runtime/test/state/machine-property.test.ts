/**
 * Random sequences of events, sensible and not, against the invariants of state/invariants.ts (checked inside the machine after each event)
 * and against promises that need more than one event.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Resources } from '../../src/net/gen/node.ts'
import { checkControl, checkNode } from '../../src/state/invariants.ts'
import { amounts, shape, TestMachine, worker } from './machine.ts'

const PROCESSES = ['d1', 'd2']
const GROUPS = ['g1', 'g2', 'g3']
const ACTORS = ['a1', 'a2', 'a3', 'a4']
const NAMES = ['', 'x', 'y']

const resources = fc.record({
  cpus: fc.constantFrom(0, 5_000, 10_000, 20_000, 90_000),
  gpus: fc.constantFrom(0, 0, 0, 2_500, 10_000, 20_000),
  memoryBytes: fc.constantFrom(0, 0, 400),
  custom: fc.constantFrom({}, {}, { tape: 10_000 }, { moon: 10_000 }),
})
const bundle = fc.record({ cpus: fc.constantFrom(0, 5_000, 10_000), gpus: fc.constantFrom(0, 0, 5_000, 10_000) }).map(amounts)
const index = fc.nat({ max: 20 })
const shapes = fc.record({
  resources,
  env: fc.constantFrom({}, {}, { A: '1' }, { NODE_OPTIONS: '--x' }),
  placementGroup: fc.constantFrom('', '', '', ...GROUPS),
  bundle: fc.constantFrom(-1, 0, 1, 5),
})

type Op = (machine: TestMachine) => void

/** A process that may be attached, gone or never known: a driver or one of the workers. */
const someone = fc.oneof(
  fc.constantFrom(...PROCESSES),
  index.map((n) => worker(n)),
)

const op: fc.Arbitrary<Op> = fc.oneof(
  fc.constantFrom(...PROCESSES).map(
    (process): Op =>
      (m) =>
        m.driver(process),
  ),
  {
    weight: 6,
    arbitrary: index.map(
      (n): Op =>
        (m) =>
          m.up(n),
    ),
  },
  { weight: 3, arbitrary: fc.constant<Op>((m) => m.allUp()) },
  {
    weight: 6,
    arbitrary: fc.tuple(someone, fc.nat({ max: 3 }), fc.nat({ max: 4 }), shapes).map(
      ([process, key, wanted, of]): Op =>
        (m) =>
          m.demand(process, key, wanted, of),
    ),
  },
  {
    weight: 6,
    arbitrary: index.map(
      (n): Op =>
        (m) => {
          const leases = [...m.state.node.tables.leases.values()]
          const lease = leases[n % Math.max(1, leases.length)]
          if (lease !== undefined) m.giveBack(lease.process, lease.id, n % 5 === 0)
        },
    ),
  },
  {
    weight: 4,
    arbitrary: fc.tuple(index, fc.boolean()).map(
      ([n, blocked]): Op =>
        (m) => {
          const leases = [...m.state.node.tables.leases.values()]
          const lease = leases[n % Math.max(1, leases.length)]
          if (lease !== undefined) m.block(lease.process, lease.id, blocked)
        },
    ),
  },
  fc.tuple(someone, fc.nat({ max: 30 })).map(
    ([process, lease]): Op =>
      (m) =>
        m.giveBack(process, lease),
  ),
  fc.tuple(someone, fc.nat({ max: 5 }), fc.boolean()).map(
    ([process, lease, blocked]): Op =>
      (m) =>
        m.block(process, lease, blocked),
  ),
  {
    weight: 3,
    arbitrary: fc.tuple(index, fc.constantFrom(0, 1)).map(
      ([n, code]): Op =>
        (m) =>
          m.exit(n, { code }),
    ),
  },
  someone.map(
    (process): Op =>
      (m) =>
        m.do({ kind: 'process-lost', process }),
  ),
  index.map(
    (n): Op =>
      (m) =>
        m.do({ kind: 'worker-kill', process: 'd1', worker: worker(n), reason: 'test' }),
  ),
  {
    weight: 4,
    arbitrary: fc.tuple(someone, fc.constantFrom(...ACTORS), fc.constantFrom(...NAMES), fc.boolean(), fc.boolean(), fc.constantFrom(0, 1, -1), shapes).map(
      ([process, actor, name, detached, getIfExists, maxRestarts, of]): Op =>
        (m) =>
          m.actor(process, actor, { name, detached, getIfExists, maxRestarts, shape: of }),
    ),
  },
  {
    weight: 3,
    arbitrary: fc.tuple(fc.constantFrom(...ACTORS), fc.constantFrom('', 'boom')).map(
      ([actor, errorText]): Op =>
        (m) => {
          const process = m.state.control.actors.actors.get(actor)?.worker ?? ''
          m.do({ kind: 'actor-started', process, started: { actor, error: new Uint8Array(), errorText } })
        },
    ),
  },
  fc.tuple(someone, fc.constantFrom(...ACTORS, 'unknown')).map(
    ([process, actor]): Op =>
      (m) =>
        m.do({ kind: 'actor-watch', process, actor }),
  ),
  fc.tuple(fc.constantFrom(...ACTORS), fc.boolean(), fc.boolean()).map(
    ([actor, force, noRestart]): Op =>
      (m) =>
        m.do({ kind: 'actor-stop', process: 'd1', stop: { actor, force, noRestart, reason: 'test' } }),
  ),
  fc.constantFrom(...NAMES).map(
    (name): Op =>
      (m) =>
        m.do({ kind: 'actor-lookup', process: 'd1', request: 1, name, namespace: '' }),
  ),
  {
    weight: 2,
    arbitrary: fc
      .tuple(someone, fc.constantFrom(...GROUPS), fc.constantFrom('PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD', 'NONE'), fc.array(bundle, { maxLength: 3 }))
      .map(
        ([process, group, strategy, bundles]): Op =>
          (m) =>
            m.group(process, group, strategy, bundles as Resources[]),
      ),
  },
  fc.constantFrom(...GROUPS).map(
    (group): Op =>
      (m) =>
        m.do({ kind: 'group-remove', process: 'd1', group }),
  ),
  fc.boolean().map(
    (owns): Op =>
      (m) =>
        m.answer(owns),
  ),
  {
    weight: 2,
    arbitrary: fc.constantFrom(250, 3_000, 20_000, 70_000).map(
      (byMs): Op =>
        (m) =>
          m.tick(byMs),
    ),
  },
)

const config = {
  total: amounts({ cpus: 20_000, gpus: 20_000, memoryBytes: 1_000, custom: { tape: 10_000 } }),
  gpuDevices: ['0', '1'],
  prestart: 1,
  taskWorkersMax: 3,
  startingMax: 2,
}

test('no sequence of events breaks an invariant', () => {
  fc.assert(
    fc.property(fc.array(op, { maxLength: 60 }), (ops) => {
      const machine = new TestMachine(config).driver('d1')
      for (const each of ops) each(machine)
      checkNode(machine.state.node)
      checkControl(machine.state.control)
    }),
    { numRuns: 4_000 },
  )
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
