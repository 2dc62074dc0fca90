/** A real daemon with real processes: workers and drivers are stand-ins that only speak the protocol. */
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { findCurrentHead } from '../../src/daemon/session.ts'
import { startDaemon } from '../../src/daemon/start.ts'
import type { Failure } from '../../src/net/gen/node.ts'
import { CPU, eventually, isClean, isGone, newId, shapeOf, StandInDriver, startTestDaemon, type ValueOf } from '../daemon/stand-in.ts'

interface WorkerRow {
  readonly worker: string
  readonly pid: number
  readonly state: string
}

const details = (failure: Failure | undefined): Record<string, string> => JSON.parse(failure?.detailsJson ?? '{}') as Record<string, string>
const pidOf = async (driver: StandInDriver, worker: string): Promise<number> =>
  (await driver.query<WorkerRow[]>('workers')).find((row) => row.worker === worker)?.pid ?? 0
/** A lease on a worker that does something as soon as it belongs to the job. */
const leaseThat = async (driver: StandInDriver, key: number, order: string): Promise<ValueOf<'leaseGranted'>> => {
  driver.demand(key, 1, shapeOf(CPU, { BEAMLINE_TEST_DO: order }))
  return await driver.next('leaseGranted', (granted) => granted.key === key)
}
const createActor = (driver: StandInDriver, actor: string, order: string, more: object = {}): void =>
  driver.send({
    $case: 'actorCreate',
    value: {
      actor,
      name: '',
      namespace: '',
      className: 'A',
      detached: false,
      getIfExists: false,
      maxRestarts: 0,
      shape: shapeOf({}),
      creation: Buffer.from(order),
      request: 1,
      handle: Buffer.from('h'),
      stopTimeoutMs: 500,
      ...more,
    },
  })
const actorIn = (driver: StandInDriver, actor: string, state: string): Promise<ValueOf<'actorState'>> =>
  driver.next('actorState', (value) => value.actor === actor && value.state === state)

test('a driver attaches, leases warm workers, and nothing is left after the stop', async () => {
  const daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  expect(await driver.next('welcome')).toMatchObject({
    cluster: daemon.cluster,
    total: { cpus: 20_000 },
    storeBytes: 64 * 1024 * 1024,
    sessionDir: daemon.sessionDir,
  })
  driver.demand(1, 2)
  const [one, two] = [await driver.next('leaseGranted'), await driver.next('leaseGranted')]
  expect(new Set([one.worker, two.worker]).size).toBe(2)
  const pids = (await driver.query<WorkerRow[]>('workers')).map((row) => row.pid)
  expect(pids).toHaveLength(2)
  expect([
    statSync(daemon.sessionDir).mode & 0o777,
    statSync(join(daemon.sessionDir, 'node.sock')).mode & 0o777,
    statSync(join(daemon.sessionDir, 'token')).mode & 0o777,
  ]).toEqual([0o700, 0o600, 0o600])
  driver.link.close()
  await daemon.stop()
  expect([...pids, daemon.pid].every(isGone)).toBe(true)
  expect(isClean(daemon)).toBe(true)
})

test('a wrong token is refused, and garbage does not disturb the others', async () => {
  await using daemon = await startTestDaemon()
  const stranger = new StandInDriver({ address: daemon.address, token: 'wrong' })
  expect(await stranger.link.closed).toMatchObject({ code: 'UNAUTHENTICATED' })
  const driver = new StandInDriver(daemon)
  for (const [options, reason] of [
    [{ id: 'no id' }, /16 hex digits/],
    [{ id: driver.id }, /in use/],
    [{ kind: 'worker' }, /did not start that worker/],
    [{ kind: 'boss' }, /unknown kind/],
  ] as const) {
    const odd = new StandInDriver(daemon, options)
    expect((await odd.next('exit')).reason).toMatch(reason)
    await odd.link.closed
  }
  driver.send({ $case: 'leaseReturn', value: { lease: Number.NaN, retire: false } })
  driver.send({ $case: 'leaseDemand', value: { key: 7, shape: undefined, wanted: 4_000_000_000, backlog: 0, label: '', seen: 0 } })
  driver.send({ $case: 'leaseDemand', value: { key: 8, shape: shapeOf({ cpus: Number.NaN }), wanted: 1, backlog: 0, label: 'odd', seen: 0 } })
  expect(details({ code: '', detailsJson: (await driver.next('infeasible', (value) => value.key === 8)).detailsJson })['code']).toBe('INVALID_ARGUMENT')
  driver.send({ $case: 'segmentRequest', value: { request: 1, bytes: -5 } })
  expect((await driver.next('segmentGrant')).failure?.code).toBe('INVALID_ARGUMENT')
  driver.send({ $case: 'objectsAdded', value: { objects: [{ segment: 'x', offset: -1, bytes: Number.POSITIVE_INFINITY, object: 1, label: '', node: '' }] } })
  driver.send({ $case: 'objectsFreed', value: { places: [{ segment: 'x', offset: 1, bytes: 1, node: '', owner: '', object: 0 }] } })
  driver.send({ $case: 'queryReply', value: { request: 99, json: '{', silent: [] } })
  driver.send({ $case: 'groupCreate', value: { group: 'g', name: '', strategy: 'ODD', bundles: [], detached: false, selectors: [] } })
  expect((await driver.next('groupState')).cause?.code).toBe('INVALID_ARGUMENT')
  expect(await driver.query('nothing of that kind')).toEqual({ error: 'unknown query "nothing of that kind"' })
  // Zero resources are a shape too: as many leases as workers are allowed.
  await driver.next('leaseGranted', (value) => value.key === 7)
})

test('the holder of a lease learns how its worker died', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  const exited = await leaseThat(driver, 1, 'complain something is wrong;exit 3')
  const lost = await driver.next('workerLost', (value) => value.worker === exited.worker)
  expect(lost).toMatchObject({ leases: [exited.lease], cause: { code: 'WORKER_CRASHED' } })
  expect(details(lost.cause)).toMatchObject({ how: 'exited with code 3', stderr: 'something is wrong' })
  const killed = await leaseThat(driver, 2, '')
  process.kill(await pidOf(driver, killed.worker), 'SIGKILL')
  expect(details((await driver.next('workerLost', (value) => value.worker === killed.worker)).cause)['how']).toBe('was ended by signal SIGKILL')
  const full = await leaseThat(driver, 3, 'complain FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory;abort')
  const memory = await driver.next('workerLost', (value) => value.worker === full.worker)
  expect([memory.cause?.code, details(memory.cause)['how']]).toEqual(['OUT_OF_MEMORY', 'was ended by signal SIGABRT'])
})

test('a worker in an endless loop is killed with what it started', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  const { worker } = await leaseThat(driver, 1, 'child')
  const child = Number((await driver.next('logLines')).lines[0]?.split(' ')[1])
  expect(isGone(child)).toBe(false)
  driver.send({ $case: 'workerKill', value: { worker, reason: 'it took too long' } })
  const lost = await driver.next('workerLost')
  expect(details(lost.cause)['how']).toBe('was ended by Beamline: it took too long')
  await eventually(() => isGone(child), 'the child of the worker is gone')
  const spinning = await leaseThat(driver, 2, 'spin')
  const pid = await pidOf(driver, spinning.worker)
  const before = performance.now()
  await daemon.stop()
  expect(performance.now() - before).toBeLessThan(5_000)
  expect(isGone(pid)).toBe(true)
})

test('what workers print reaches their driver, counted where it repeats, and is kept in files', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  const other = new StandInDriver(daemon)
  const { worker } = await leaseThat(driver, 1, 'print hello;repeat 100;print bye')
  const lines: string[] = []
  while (!lines.includes('bye')) {
    const batch = await driver.next('logLines')
    expect(batch).toMatchObject({ worker, stream: 'out', source: 'task 1' })
    lines.push(...batch.lines)
  }
  expect(lines).toEqual(['hello', 'again', 'again [repeated 99×]', 'bye'])
  const file = readFileSync(join(daemon.sessionDir, 'logs', `worker-${worker}.out`), 'utf8')
  expect(file).toBe(`hello\n${'again\n'.repeat(100)}bye\n`)
  expect(other.count('logLines')).toBe(0)
})

test('a flood of output is cut for the driver and complete in the file', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  const { worker } = await leaseThat(driver, 1, 'flood 30000;exit 0')
  await driver.next('workerLost')
  let seen = 0
  let note = ''
  while (note === '') {
    const { lines } = await driver.next('logLines')
    seen += lines.length
    note = lines.find((line) => line.includes('more lines in one second')) ?? ''
  }
  expect(seen).toBeLessThan(12_000)
  expect(readFileSync(join(daemon.sessionDir, 'logs', `worker-${worker}.out`), 'utf8').split('\n')).toHaveLength(30_001)
})

test('an actor is created, found by name, restarted after a crash, and stopped in order or by force', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon, { job: { namespace: 'tests' } })
  const actor = newId()
  createActor(driver, actor, 'print made', { name: 'it', maxRestarts: 1 })
  driver.send({ $case: 'actorWatch', value: { actor, creates: false } })
  const alive = await actorIn(driver, actor, 'ALIVE')
  const other = new StandInDriver(daemon)
  other.send({ $case: 'actorLookup', value: { request: 5, name: 'it', namespace: 'tests' } })
  expect(await other.next('actorFound')).toMatchObject({ request: 5, actor, handle: Buffer.from('h') })
  process.kill(await pidOf(driver, alive.worker), 'SIGKILL')
  expect(await actorIn(driver, actor, 'RESTARTING')).toMatchObject({ incarnation: 1, cause: { code: 'WORKER_CRASHED' } })
  const again = await driver.next('actorState', (value) => value.state === 'ALIVE')
  expect([again.incarnation, again.worker === alive.worker]).toEqual([1, false])
  driver.send({ $case: 'actorStop', value: { actor, force: false, noRestart: true, reason: 'enough' } })
  expect(details((await actorIn(driver, actor, 'DEAD')).cause)).toMatchObject({ actor, className: 'A', reason: 'enough' })
  const deaf = newId()
  createActor(driver, deaf, 'hang')
  driver.send({ $case: 'actorWatch', value: { actor: deaf, creates: false } })
  await actorIn(driver, deaf, 'ALIVE')
  driver.send({ $case: 'actorStop', value: { actor: deaf, force: false, noRestart: true, reason: 'enough' } })
  await actorIn(driver, deaf, 'DEAD')
  const broken = newId()
  createActor(driver, broken, 'throw no luck')
  driver.send({ $case: 'actorWatch', value: { actor: broken, creates: false } })
  expect(await actorIn(driver, broken, 'DEAD')).toMatchObject({ error: Buffer.from('no luck') })
})

test('flags that Node does not know fail what waits, with what Node said, instead of a start loop', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon, { job: { execArgv: ['--no-such-flag'] } })
  driver.demand(1, 1)
  const { text, detailsJson } = await driver.next('infeasible')
  expect(JSON.parse(detailsJson)).toMatchObject({ code: 'START_FAILED', what: 'a worker with flags --no-such-flag (3 tries)' })
  expect(text).toContain('bad option: --no-such-flag')
  const other = new StandInDriver(daemon)
  other.demand(1, 1)
  await other.next('leaseGranted')
})

test('segments are granted, objects are listed, and a process that goes leaves nothing', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  const watcher = new StandInDriver(daemon)
  driver.send({ $case: 'segmentRequest', value: { request: 1, bytes: 5_000_000 } })
  const { segment, path, bytes } = await driver.next('segmentGrant')
  expect([statSync(path).mode & 0o777, statSync(path).size, bytes >= 5_000_000]).toEqual([0o600, bytes, true])
  driver.send({ $case: 'objectsAdded', value: { objects: [{ segment, offset: 0, bytes: 4_096, object: 3, label: 'put', node: '' }] } })
  interface Objects {
    readonly rows: { object: string; bytes: number; label: string }[]
    readonly silent: number
  }
  const seen = async (): Promise<Objects> => watcher.query<Objects>('objects')
  // Both drivers are asked for what they have in memory, and these stand-ins do not answer.
  expect(await seen()).toMatchObject({ rows: [{ object: `${driver.id}:3`, bytes: 4_096, label: 'put' }], silent: 2 })
  driver.link.close()
  await driver.link.closed
  await eventually(() => !existsSync(path) || watcher.count('exit') > 0, 'the segment is unlinked')
  expect((await seen()).rows).toEqual([])
})

test('leases, tasks and what waits can be asked for', async () => {
  await using daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  driver.demand(1, 3)
  await driver.next('leaseGranted')
  await driver.next('leaseGranted')
  expect(await driver.query<object[]>('leases')).toMatchObject([{ holder: driver.id, label: 'task 1', resources: CPU }, {}])
  const waiting = await driver.query<{ wanted: number; reason: string }>('demand 1')
  expect(waiting).toMatchObject({ wanted: 1, reason: expect.stringMatching(/^needs 1 cpu; free now: .* of 2 cpus/) })
  const event = { task: `${driver.id}:9`, name: 'f', worker: newId(), owner: driver.id, startMs: 1_000, endMs: 1_250, state: 'FINISHED', errorCode: '' }
  driver.send({ $case: 'taskEvents', value: { events: [event], dropped: 2, number: 1 } })
  expect(await driver.query('timeline')).toEqual({ events: [event], dropped: 2 })
  expect(await driver.query('status')).toMatchObject({ cluster: daemon.cluster, leases: 2, tasks: { FINISHED: 1 }, drivers: [{ driver: driver.id }] })
})

test('an idle worker ends after a while, unless it owns objects that others may need', async () => {
  await using daemon = await startTestDaemon({ prestart: 0, idleTimeoutMs: 300 })
  const driver = new StandInDriver(daemon)
  driver.demand(1, 1, shapeOf(CPU, { BEAMLINE_TEST_OWNS: '1' }))
  driver.demand(2, 1, shapeOf(CPU))
  const owner = await driver.next('leaseGranted', (value) => value.key === 1)
  const other = await driver.next('leaseGranted', (value) => value.key === 2)
  const pids = [await pidOf(driver, owner.worker), await pidOf(driver, other.worker)]
  for (const { lease } of [owner, other]) driver.send({ $case: 'leaseReturn', value: { lease, retire: false } })
  await eventually(() => isGone(pids[1] ?? 0), 'the idle worker is gone')
  expect((await driver.query<WorkerRow[]>('workers')).map((row) => [row.worker, row.state])).toEqual([[owner.worker, 'idle']])
})

test('a cluster that a program started is ended by that program only', async () => {
  const daemon = await startTestDaemon()
  const guest = new StandInDriver(daemon, { pid: 1 })
  guest.send({ $case: 'shutdown', value: { reason: 'not mine', cluster: false } })
  expect(await guest.query('status')).toMatchObject({ cluster: daemon.cluster })
  const owner = new StandInDriver(daemon)
  owner.send({ $case: 'shutdown', value: { reason: 'done', cluster: false } })
  expect((await guest.next('exit')).reason).toBe('done')
  expect(await daemon.exited).toBe('it exited in order')
  expect(isClean(daemon)).toBe(true)
})

test('two clusters on one machine do not meet', async () => {
  await using one = await startTestDaemon()
  const two = await startTestDaemon()
  const driver = new StandInDriver(one)
  await two.stop()
  expect([isClean(two), isClean(one)]).toEqual([true, false])
  driver.demand(1, 1)
  await driver.next('leaseGranted')
})

test('the daemon ends with the program that started it, however that ends', async () => {
  const program = spawn(process.execPath, [new URL('../daemon/embedding-program.ts', import.meta.url).pathname], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = (await new Promise<[string]>((resolve) => createInterface(program.stdout).once('line', (text) => resolve([text])))) as [string]
  const daemon = JSON.parse(line) as { address: string; token: string; sessionDir: string; storeDir: string; pid: number }
  const driver = new StandInDriver(daemon)
  const { worker } = await leaseThat(driver, 1, 'spin')
  const pid = await pidOf(driver, worker)
  program.kill('SIGKILL')
  await driver.link.closed
  await eventually(() => isGone(daemon.pid) && isGone(pid) && isClean(daemon), 'daemon, worker and files are gone')
  expect([isGone(daemon.pid), isGone(pid), isClean(daemon)]).toEqual([true, true, true])
})

test('when the daemon is killed its links close, its workers end and its files go', async () => {
  const daemon = await startTestDaemon()
  const driver = new StandInDriver(daemon)
  driver.demand(1, 1)
  const pid = await pidOf(driver, (await driver.next('leaseGranted')).worker)
  process.kill(daemon.pid, 'SIGKILL')
  await driver.link.closed
  expect(await daemon.exited).toBe('it was ended by signal SIGKILL')
  await eventually(() => isGone(pid) && isClean(daemon), 'workers and files are gone')
})

test('a standalone head survives its driver, is found, and what a dead one left is removed by the next', async () => {
  const options = {
    embedded: false,
    cpus: 1,
    gpus: 0,
    storeBytes: 1 << 20,
    execArgv: [],
    workerEntry: new URL('../daemon/stand-in-worker.ts', import.meta.url).pathname,
  }
  const first = await startDaemon(options)
  expect(findCurrentHead()).toMatchObject({ address: first.address, pid: first.pid, cluster: first.cluster })
  const driver = new StandInDriver(first)
  driver.send({ $case: 'shutdown', value: { reason: 'a driver must not end the cluster of others', cluster: false } })
  driver.link.close()
  await driver.link.closed
  const second = new StandInDriver(first)
  second.demand(1, 1)
  await second.next('leaseGranted')
  process.kill(first.pid, 'SIGKILL')
  await first.exited
  // This process removed its files; what is left when it cannot:
  await eventually(() => isClean(first), 'the files are gone')
  for (const dir of [first.sessionDir, first.storeDir]) mkdirSync(dir)
  writeFileSync(join(first.sessionDir, 'daemon.json'), JSON.stringify({ pid: first.pid, started: '1', storeDir: first.storeDir }))
  await using next = await startTestDaemon()
  await eventually(() => findCurrentHead() === undefined, 'no head is found')
  await eventually(() => isClean(first), 'what was left is removed')
  expect(existsSync(next.sessionDir)).toBe(true)
})

test('a temporary folder that cannot be used fails the start with its name', async () => {
  const folder = process.env['BEAMLINE_TMPDIR'] ?? ''
  try {
    process.env['BEAMLINE_TMPDIR'] = join(folder, 'x'.repeat(90))
    await expect(startTestDaemon()).rejects.toMatchObject({ code: 'START_FAILED', message: expect.stringContaining('too long for a socket') })
    process.env['BEAMLINE_TMPDIR'] = '/dev/null/x'
    await expect(startTestDaemon()).rejects.toMatchObject({ code: 'START_FAILED', message: expect.stringContaining('/dev/null/x') })
    const open = join(folder, 'open')
    mkdirSync(join(open, `beamline-${process.getuid?.()}`), { recursive: true })
    chmodSync(join(open, `beamline-${process.getuid?.()}`), 0o777)
    process.env['BEAMLINE_TMPDIR'] = open
    await expect(startTestDaemon()).rejects.toMatchObject({ code: 'START_FAILED', message: expect.stringContaining('other users may write to it') })
  } finally {
    process.env['BEAMLINE_TMPDIR'] = folder
  }
  await expect(startTestDaemon({ cpus: -1 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  await expect(startTestDaemon({ resources: { GPU: 1 } })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})
