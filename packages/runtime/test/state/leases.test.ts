/** Stories of leases and workers on one node: events in, exact instructions out. */
import { expect, test } from 'vitest'
import { granted, JOB, ONE_CPU, shape, TestMachine, worker } from './machine.ts'

const GPUS = { total: { cpus: 40_000, gpus: 20_000, memoryBytes: 0, custom: {} }, gpuDevices: ['6', '7'] }
const CODE = { cwd: JOB.cwd, entry: JOB.entry, workingDir: '', root: '', package: '', packageDir: '', modules: [], failure: undefined }
const spawn = (n: number, execArgv: string[] = [], env: Record<string, string> = {}, cwd: string = ''): unknown => ({
  kind: 'worker-spawn',
  worker: worker(n),
  cwd,
  execArgv,
  env,
})
const stop = (n: number, force: boolean, reason: string): unknown => ({ kind: 'worker-stop', worker: worker(n), force, reason })
const ask = (n: number): unknown => ({ kind: 'worker-ask', worker: worker(n) })
const send = (process: string, $case: string, value: unknown): unknown => ({ kind: 'send', process, message: { $case, value } })
const assign = (n: number, job: string, env: Record<string, string> = {}): unknown => send(worker(n), 'assign', { job, env, namespace: '', ...CODE })
const grant = (process: string, key: number, lease: number, n: number, gpuIndices: number[] = []): unknown =>
  send(process, 'leaseGranted', { key, lease, worker: worker(n), address: `at w${n}`, gpuIndices, again: false })

test('workers are started ahead of demand, as many as may start at one time', () => {
  const machine = new TestMachine({ prestart: 3, startingMax: 2 })
  expect(machine.take()).toEqual([spawn(1), spawn(2)])
  expect(machine.up(1).take()).toEqual([])
  expect(machine.tick().take()).toEqual([spawn(3)])
})

test('the first worker need not share the machine with the others while it starts', () => {
  const machine = new TestMachine({ prestart: 3, prestartAtOnce: 1 })
  expect(machine.take()).toEqual([spawn(1)])
  expect(machine.tick().take()).toEqual([spawn(2), spawn(3)])
  const hurried = new TestMachine({ prestart: 3, prestartAtOnce: 1 }).driver('d1')
  hurried.take()
  expect(hurried.demand('d1', 1, 2).take()).toEqual([spawn(2)])
})

test('a demand binds a fresh worker to the job, and reuses it without another word', () => {
  const machine = new TestMachine({ prestart: 1 }).up(1).driver('d1')
  machine.take()
  expect(machine.demand('d1', 1, 1).take()).toEqual([assign(1, 'd1'), grant('d1', 1, 1, 1)])
  expect(machine.giveBack('d1', 1).take()).toEqual([])
  expect(machine.demand('d1', 2, 1, shape({ cpus: 5_000 })).take()).toEqual([grant('d1', 2, 2, 1)])
})

test('a demand larger than the cpus is met as leases come back, and starts only workers that it can use', () => {
  const machine = new TestMachine().driver('d1')
  expect(machine.demand('d1', 1, 5).take()).toEqual([spawn(1), spawn(2)])
  expect(machine.up(1).take()).toEqual([assign(1, 'd1'), grant('d1', 1, 1, 1)])
  expect(machine.up(2).take()).toEqual([assign(2, 'd1'), grant('d1', 1, 2, 2)])
  expect(machine.giveBack('d1', 2).take()).toEqual([grant('d1', 1, 3, 2)])
})

test('a demand that is withdrawn is not met', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1)
  machine.take()
  machine.demand('d1', 1, 0)
  expect(machine.up(1).take()).toEqual([])
})

test('workers are not shared between jobs, environments and start flags', () => {
  const machine = new TestMachine({ prestart: 1, total: { cpus: 100_000, gpus: 0, memoryBytes: 0, custom: {} } })
    .up(1)
    .driver('d1')
    .driver('d2')
    .driver('d3', { execArgv: ['--import', 'tsx'] })
  machine.demand('d1', 1, 1).giveBack('d1', 1).take()
  expect(machine.demand('d2', 1, 1).take()).toEqual([spawn(2)])
  expect(machine.demand('d1', 2, 1, shape({ cpus: 1 }, { env: { A: 'x' } })).take()).toEqual([spawn(3)])
  expect(machine.demand('d3', 1, 1).take()).toEqual([spawn(4, ['--import', 'tsx'])])
  expect(machine.up(4).take()).toEqual([assign(4, 'd3'), grant('d3', 1, 2, 4)])
  expect(machine.up(2).take()).toEqual([assign(2, 'd2'), grant('d2', 1, 3, 2)])
  expect(machine.up(3).take()).toEqual([assign(3, 'd1', { A: 'x' }), grant('d1', 2, 4, 3)])
})

test('variables that count only at the start of a process get a worker that starts with them', () => {
  const machine = new TestMachine({ prestart: 1 }).up(1).driver('d1')
  machine.take()
  const env = { NODE_OPTIONS: '--max-old-space-size=64', B: 'y' }
  expect(machine.demand('d1', 1, 1, shape({ cpus: 1 }, { env })).take()).toEqual([spawn(2, [], { NODE_OPTIONS: '--max-old-space-size=64' })])
  expect(machine.up(2).take()).toEqual([assign(2, 'd1', env), grant('d1', 1, 1, 2)])
})

test('flags that name files relative to the folder of the program are used in that folder', () => {
  const machine = new TestMachine().driver('d1', { execArgv: ['--import', './setup.ts'], cwd: '/there' })
  expect(machine.demand('d1', 1, 1).take()).toEqual([spawn(1, ['--import', './setup.ts'], {}, '/there')])
})

test('gpus are given by index and shown to the worker by the name of the device', () => {
  const machine = new TestMachine(GPUS).driver('d1').demand('d1', 1, 2, shape({ gpus: 10_000 }))
  machine.take()
  expect(machine.up(1).take()).toEqual([assign(1, 'd1', { CUDA_VISIBLE_DEVICES: '6' }), grant('d1', 1, 1, 1, [0])])
  expect(machine.up(2).take()).toEqual([assign(2, 'd1', { CUDA_VISIBLE_DEVICES: '7' }), grant('d1', 1, 2, 2, [1])])
  expect(machine.demand('d1', 2, 1, shape({})).up(3).take()).toEqual([spawn(3), assign(3, 'd1', { CUDA_VISIBLE_DEVICES: '' }), grant('d1', 2, 3, 3)])
})

test('halves of a gpu share one device, and a worker keeps its device', () => {
  const machine = new TestMachine(GPUS)
    .driver('d1')
    .demand('d1', 1, 3, shape({ gpus: 5_000 }))
    .allUp()
  const leases = [...machine.state.node.tables.leases.values()]
  expect(leases.map((lease) => [...lease.allocation.gpus.keys()])).toEqual([[0], [0], [1]])
  machine.giveBack('d1', 1).giveBack('d1', 2).giveBack('d1', 3).take()
  expect(machine.demand('d1', 2, 1, shape({ gpus: 10_000 })).take()).toEqual([grant('d1', 2, 4, 1, [0])])
  expect(machine.demand('d1', 3, 1, shape({ gpus: 2_500 })).take()).toEqual([grant('d1', 3, 5, 3, [1])])
})

test('a blocked lease lends its cpu, and takes it back without waiting', () => {
  const machine = new TestMachine({ total: { cpus: 10_000, gpus: 0, memoryBytes: 0, custom: {} } }).driver('d1').demand('d1', 1, 1).up(1)
  machine.demand(worker(1), 1, 1)
  machine.take()
  expect(machine.block(worker(1), 1).take()).toEqual([spawn(2)])
  expect(machine.up(2).take()).toEqual([assign(2, 'd1'), grant(worker(1), 1, 2, 2)])
  expect(machine.block(worker(1), 1, false).take()).toEqual([])
  expect(machine.state.node.tables.root.cpus).toBe(-10_000)
  expect(machine.giveBack(worker(1), 2).giveBack('d1', 1).state.node.tables.root.cpus).toBe(10_000)
})

test('a blocked lease lends no memory, gpus or custom resources', () => {
  const total = { cpus: 20_000, gpus: 10_000, memoryBytes: 100, custom: { tape: 10_000 } }
  const machine = new TestMachine({ total, gpuDevices: ['0'] }).driver('d1')
  machine
    .demand('d1', 1, 1, { ...ONE_CPU, resources: { ...total, cpus: 10_000 } })
    .up(1)
    .block('d1', 1)
  expect(machine.state.node.tables.root.available()).toEqual({ cpus: 20_000, gpus: 0, memoryBytes: 0, custom: { tape: 0 } })
})

test('at the limit of workers a blocked worker takes the nested task', () => {
  const machine = new TestMachine({ taskWorkersMax: 1 }).driver('d1').demand('d1', 1, 1).up(1)
  machine.block(worker(1), 1).take()
  expect(machine.demand(worker(1), 1, 1).take()).toEqual([grant(worker(1), 1, 2, 1)])
  expect(machine.block(worker(1), 2).demand(worker(1), 2, 1).take()).toEqual([grant(worker(1), 2, 3, 1)])
})

test('the limit of workers is exceeded when all are blocked and none can take the task', () => {
  const machine = new TestMachine({ taskWorkersMax: 1 }).driver('d1').demand('d1', 1, 1).up(1).block('d1', 1)
  machine.take()
  expect(machine.demand(worker(1), 1, 1, shape({ cpus: 10_000 }, { env: { A: '1' } })).take()).toEqual([spawn(2)])
})

test('at the limit of workers an idle one of another job makes room, unless it owns objects', () => {
  const idle = (): TestMachine => {
    const machine = new TestMachine({ taskWorkersMax: 1 }).driver('d1').driver('d2').demand('d1', 1, 1).up(1).giveBack('d1', 1)
    machine.take()
    expect(machine.demand('d2', 1, 1).take()).toEqual([ask(1)])
    return machine
  }
  expect(idle().answer().take()).toEqual([stop(1, false, 'its place is needed for another job or environment'), spawn(2)])
  // Its objects keep it alive, and must not shut out others.
  expect(idle().answer(true).take()).toEqual([spawn(2)])
})

test('a process that holds nothing gets a lease back from one that holds all', () => {
  const machine = new TestMachine().driver('d1').driver('d2').demand('d1', 1, 100).allUp()
  machine.take()
  expect(machine.demand('d2', 1, 3).take()).toEqual([send('d1', 'leaseReclaim', { lease: 2 })])
  machine.giveBack('d1', 2).allUp()
  expect(machine.take().filter((each) => each.kind === 'send' && each.process === 'd2')).toEqual([grant('d2', 1, 3, 3)])
  // One each is fair: nothing more is asked back.
  expect(machine.demand('d1', 1, 100).take()).toEqual([])
})

test('a holder without anything to do is asked first', () => {
  const machine = new TestMachine({ total: { cpus: 40_000, gpus: 0, memoryBytes: 0, custom: {} } }).driver('d1').driver('d2').driver('d3')
  machine.demand('d1', 1, 100).demand('d2', 1, 1).allUp()
  expect([...machine.state.node.tables.leases.values()].filter((lease) => lease.process === 'd2').length).toBe(1)
  machine.take()
  expect(machine.demand('d3', 1, 1).sent('d2')).toEqual([['leaseReclaim', { lease: 2 }]])
})

test('another shape of the same process gets its turn', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 100).allUp()
  machine.take()
  expect(machine.demand('d1', 2, 1, shape({ cpus: 10_000, memoryBytes: 1 })).take()).toEqual([send('d1', 'leaseReclaim', { lease: 2 })])
})

test('a wide request that waited long keeps what becomes free; before that smaller ones pass', () => {
  const machine = new TestMachine().driver('d1').driver('d2').demand('d1', 1, 2).allUp()
  machine.demand('d2', 1, 1, shape({ cpus: 20_000 }))
  machine.giveBack('d1', 1).demand('d1', 1, 1).take()
  expect([...machine.state.node.tables.leases.keys()]).toEqual([2, 3])
  machine.tick(2_500).giveBack('d1', 2).demand('d1', 1, 1)
  expect([...machine.state.node.tables.leases.keys()]).toEqual([3])
  machine.giveBack('d1', 3).allUp()
  expect([...machine.state.node.tables.leases.values()].map((lease) => lease.process)).toEqual(['d2'])
})

test('requests that an actor shuts out for ever do not hold back others', () => {
  const machine = new TestMachine().driver('d1').actor('d1', 'a1', { shape: ONE_CPU }).allUp()
  machine.demand('d1', 1, 1, shape({ cpus: 20_000 })).tick(60_000)
  machine.demand('d1', 2, 1).allUp()
  expect([...machine.state.node.tables.leases.values()].map((lease) => lease.key)).toEqual([2])
})

test('what can never be given is refused at once, with what is wanted and what there is', () => {
  const machine = new TestMachine().driver('d1')
  machine.take()
  const text = '"f1" asks for 3 cpus, which this cluster can never give: it has 2 cpus, 1000 B of memory'
  const details = { code: 'INFEASIBLE', what: '"f1"', wanted: '3 cpus', has: '2 cpus, 1000 B of memory' }
  expect(machine.demand('d1', 1, 1, shape({ cpus: 30_000 })).take()).toEqual([
    send('d1', 'infeasible', { key: 1, text, detailsJson: JSON.stringify(details), waits: false }),
  ])
  const [tape] = machine.demand('d1', 2, 1, shape({ custom: { tape: 1 } })).sent('d1')
  expect(tape).toMatchObject(['infeasible', { key: 2, text: expect.stringContaining('0.0001 of "tape"') }])
  const [negative] = machine.demand('d1', 3, 1, shape({ cpus: -1 })).sent('d1')
  expect(JSON.parse((negative?.[1] as { detailsJson: string }).detailsJson)).toMatchObject({ code: 'INVALID_ARGUMENT' })
  expect(machine.state.node.tables.queue.length).toBe(2)
})

test('a worker that dies takes its leases with it, and their holders learn how', () => {
  const machine = new TestMachine().driver('d1').driver('d2').demand('d1', 1, 1).demand('d2', 1, 1).allUp()
  machine.take()
  const cause = {
    code: 'WORKER_CRASHED',
    detailsJson: JSON.stringify({ task: '', worker: worker(1), pid: 101, how: 'was ended by signal SIGSEGV', stderr: 'oh no' }),
  }
  expect(machine.exit(1, { signal: 'SIGSEGV', stderr: 'oh no' }).take()).toEqual([send('d1', 'workerLost', { worker: worker(1), leases: [1], cause })])
  expect(machine.state.node.tables.root.cpus).toBe(10_000)
})

test.each([
  ['a full heap', { signal: 'SIGABRT', stderr: 'FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory' }, 'OUT_OF_MEMORY'],
  ['abort() without a word about memory', { signal: 'SIGABRT', stderr: 'assertion failed' }, 'WORKER_CRASHED'],
  ['exit(3)', { code: 3 }, 'WORKER_CRASHED'],
])('the holder of a worker that died by %s is told so', (_how, exit, code) => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1).up(1)
  machine.take()
  expect(machine.exit(1, exit).sent('d1')).toMatchObject([['workerLost', { cause: { code } }]])
})

test('a worker that Beamline killed says so', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1).up(1)
  machine.take()
  expect(machine.do({ kind: 'worker-kill', process: 'd1', worker: worker(1), reason: 'cancelled by force' }).take()).toEqual([
    stop(1, true, 'cancelled by force'),
  ])
  const [lost] = machine.exit(1, { signal: 'SIGKILL' }).sent('d1')
  expect((lost?.[1] as { cause: { detailsJson: string } }).cause.detailsJson).toContain('was ended by Beamline: cancelled by force')
})

test('a driver that goes takes its demand, leases and workers with it', () => {
  const machine = new TestMachine()
    .driver('d1')
    .demand('d1', 1, 1)
    .allUp()
    .giveBack('d1', 1)
    .demand('d1', 2, 1, shape({ cpus: 10_000 }, { env: { A: '1' } }))
    .allUp()
  machine.take()
  expect(machine.do({ kind: 'process-lost', process: 'd1' }).take()).toEqual([
    stop(2, false, 'the process d1 that it worked for is gone'),
    stop(1, false, 'its job has ended'),
  ])
  expect(machine.state.node.tables.queue).toEqual([])
})

test('a worker that holds a lease on itself ends with its job', () => {
  const machine = new TestMachine({ taskWorkersMax: 1 }).driver('d1').demand('d1', 1, 1).up(1).demand(worker(1), 1, 1).giveBack('d1', 1)
  expect([...machine.state.node.tables.leases.values()].map((lease) => [lease.process, lease.worker.id])).toEqual([[worker(1), worker(1)]])
  machine.take()
  expect(machine.do({ kind: 'process-lost', process: 'd1' }).take()).toEqual([stop(1, false, 'its job has ended')])
})

test('what a dead worker had borrowed is free, and those that worked for it end', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1).up(1).demand(worker(1), 1, 1).up(2)
  machine.take()
  expect(machine.exit(1, { code: 1 }).take()).toMatchObject([
    stop(2, false, `the process ${worker(1)} that it worked for is gone`),
    { kind: 'send', process: 'd1' },
  ])
  expect(machine.state.node.tables.root.cpus).toBe(20_000)
})

test('a worker that cannot start fails what waits for it after three tries, and is tried again for whoever asks again', () => {
  const machine = new TestMachine({ total: { cpus: 10_000, gpus: 0, memoryBytes: 0, custom: {} } }).driver('d1', { execArgv: ['--bad'] }).demand('d1', 1, 1)
  machine.exit(1, { code: 9, stderr: 'bad option: --bad' }).exit(2, { code: 9, stderr: 'bad option: --bad' })
  machine.take()
  const [failed, ...others] = machine.exit(3, { code: 9, stderr: 'bad option: --bad' }).take()
  expect(others).toEqual([])
  expect(failed).toMatchObject({
    kind: 'send',
    process: 'd1',
    message: { $case: 'infeasible', value: { key: 1, text: expect.stringContaining('bad option: --bad') } },
  })
  const { code, reason } = JSON.parse((failed as { message: { value: { detailsJson: string } } }).message.value.detailsJson) as { code: string; reason: string }
  expect([code, reason]).toEqual(['START_FAILED', 'exited with code 9; its last lines on stderr:\nbad option: --bad'])
  expect(machine.demand('d1', 1, 1).take()).toEqual([spawn(4, ['--bad'])])
  expect(machine.exit(4, { code: 9, stderr: 'again' }).sent('d1')).toMatchObject([['infeasible', { key: 1 }]])
})

test('prestarted workers that cannot start are not started in a loop', () => {
  const machine = new TestMachine({ prestart: 1 })
  for (let n = 1; n <= 5; n++) machine.exit(n, { code: 1 }).tick()
  expect(machine.take()).toEqual([spawn(1), spawn(2)])
})

test('a worker that never attaches is killed and counts as one that cannot start', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1)
  machine.take()
  expect(machine.tick(61_000).take()).toEqual([stop(1, true, 'it did not attach to the node in time'), spawn(2)])
  expect(machine.exit(1, { signal: 'SIGKILL' }).state.node.tables.startFailures.size).toBe(1)
})

test('idle workers above the prestarted ones end after a while, longest idle first', () => {
  const machine = new TestMachine({ prestart: 1, total: { cpus: 30_000, gpus: 0, memoryBytes: 0, custom: {} } }).driver('d1').demand('d1', 1, 3).allUp()
  machine.tick().giveBack('d1', 2).tick().giveBack('d1', 1).tick().giveBack('d1', 3)
  machine.take()
  expect(machine.tick(9_300).take()).toEqual([])
  expect(machine.tick(250).take()).toEqual([ask(2)])
  expect(machine.answer().tick(250).take()).toEqual([stop(2, false, 'idle for 10000 ms'), ask(1)])
  expect(machine.answer().tick(250).take()).toEqual([stop(1, false, 'idle for 10000 ms')])
  expect(machine.tick(60_000).take()).toEqual([])
})

test('an idle worker that owns objects lives on, and is asked again later', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1).up(1).giveBack('d1', 1)
  machine.take()
  expect(machine.tick(10_500).take()).toEqual([ask(1)])
  expect(machine.answer(true).tick(9_000).take()).toEqual([])
  expect(machine.tick(2_000).take()).toEqual([ask(1)])
  // A new task while it thinks: the answer is out of date.
  machine
    .demand('d1', 1, 1)
    .giveBack('d1', 1)
    .do({ kind: 'worker-answered', worker: worker(1), owns: false })
    .take()
  expect(machine.tick(500).take()).toEqual([])
})

test('a worker that is used up ends with its last lease and gets no other', () => {
  const machine = new TestMachine().driver('d1').demand('d1', 1, 1).up(1).demand('d1', 1, 1)
  machine.giveBack('d1', 1, true)
  expect(machine.take()).toContainEqual(stop(1, false, 'it has done as many calls as one worker may'))
  machine.allUp()
  expect([...machine.state.node.tables.leases.values()].map((lease) => lease.worker.id)).toEqual([worker(2)])
})

test('messages with ids that nobody knows change nothing', () => {
  const machine = new TestMachine().driver('d1')
  machine.take()
  machine
    .giveBack('d1', 99)
    .giveBack('nobody', 1)
    .block('d1', 99)
    .demand('nobody', 1, 1)
    .group('nobody', 'g1', 'PACK', [{ cpus: 1 }])
    .actor('nobody', 'a1')
    .exit(9)
  machine
    .do({ kind: 'worker-kill', process: 'd1', worker: 'x', reason: '' })
    .do({ kind: 'process-lost', process: 'x' })
    .do({ kind: 'group-remove', process: 'd1', group: 'x' })
  machine.do({ kind: 'actor-stop', process: 'd1', stop: { actor: 'x', force: true, noRestart: true, reason: '' } })
  // Who removes a group waits for its end.
  expect(machine.take()).toEqual([send('d1', 'groupState', { group: 'x', state: 'REMOVED', cause: undefined, nodes: [] })])
})

test('a lease is returned by its holder only', () => {
  const machine = new TestMachine().driver('d1').driver('d2').demand('d1', 1, 1).up(1).giveBack('d2', 1)
  expect(machine.state.node.tables.leases.size).toBe(1)
  expect(machine.take()).toContainEqual({ kind: 'send', process: 'd1', message: { $case: granted(1, 1, 1)[0], value: granted(1, 1, 1)[1] } })
})
