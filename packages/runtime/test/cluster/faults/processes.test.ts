/** Drivers and daemons that die, and the ways in which programs end: nothing stays, and exit codes are the program's. */
import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
import { eventually } from '../../daemon/stand-in.ts'
import { type Event, finished, isGone, Program } from './program.ts'

const start = (...args: string[]): Program => new Program('processes.ts', { args })

interface Running extends Event {
  readonly daemon: number
  readonly worker: number
  readonly child: number
}

interface Files extends Event {
  readonly sessionDir: string
  readonly storeDir: string
}

async function working(program: Program): Promise<{ running: Running; pids: number[]; files: Files }> {
  const running = (await program.event('running')) as Running
  const spinning = await program.event('spinning')
  return { running, pids: [running.daemon, running.worker, spinning.by, running.child], files: (await program.event('cluster')) as Files }
}

const areClean = ({ sessionDir, storeDir }: Files): boolean => !existsSync(sessionDir) && !existsSync(storeDir)

test('when a driver is killed, everything that it started and its files are gone within 5 s', async () => {
  const program = start('working')
  const { pids, files } = await working(program)
  expect(pids.map(isGone)).toEqual([false, false, false, false])
  expect(areClean(files)).toBe(false)
  program.kill('SIGKILL')
  expect((await program.exited).signal).toBe('SIGKILL')
  await eventually(() => pids.every(isGone) && areClean(files), 'all processes and files gone')
})

test('when the daemon is killed, all that waits fails with NODE_DIED, workers end, and the program cleans up', async () => {
  const program = start('working')
  const { running, pids, files } = await working(program)
  process.kill(running.daemon, 'SIGKILL')
  const died = { error: { code: 'NODE_DIED' } }
  expect(await program.event('outcome')).toMatchObject({ running: died, spinning: died })
  expect(await program.event('later')).toMatchObject({ later: [died, died], put: died, view: 3 })
  await program.event('shut down')
  await finished(program)
  await eventually(() => pids.every(isGone) && areClean(files), 'all processes and files gone')
})

test('a daemon that is told to stop says so to its program', async () => {
  const program = start('working')
  const { running, pids, files } = await working(program)
  process.kill(running.daemon, 'SIGTERM')
  const outcome = (await program.event('outcome')) as unknown as { running: { error: { code: string; message: string } } }
  expect(outcome.running.error.code).toBe('NODE_DIED')
  expect(outcome.running.error.message).toMatch(/it stopped: SIGTERM/)
  await finished(program)
  await eventually(() => pids.every(isGone) && areClean(files), 'all processes and files gone')
})

test('one SIGINT stops in order with exit code 130: actors dispose, workers and files are gone', async () => {
  const program = start('interrupted')
  const running = (await program.event('running')) as Running
  program.kill('SIGINT')
  const exit = await program.exited
  expect(exit).toMatchObject({ code: 130, signal: null })
  expect(exit.stderr.trim()).toBe('SIGINT: stopping the cluster; again to stop at once')
  expect(await program.event('disposed')).toMatchObject({ event: 'disposed' })
  expect([running.daemon, running.worker, running.child].map(isGone)).toEqual([true, true, true])
})

test('a second SIGINT ends everything now', async () => {
  const program = start('stubborn')
  const { by } = await program.event('spinning')
  program.kill('SIGINT')
  await program.says(/SIGINT: stopping/)
  const before = performance.now()
  program.kill('SIGINT')
  expect(await program.exited).toMatchObject({ code: 130, signal: null })
  // In order it would take 2 s: the worker does not listen.
  expect(performance.now() - before).toBeLessThan(1_900)
  await eventually(() => isGone(by), 'the worker gone')
})

test('a program that is interrupted while its cluster starts leaves nothing', async () => {
  const program = start('starting')
  await program.event('starting')
  program.kill('SIGINT')
  const { code, signal } = await program.exited
  expect([code, signal]).toEqual(code === null ? [null, 'SIGINT'] : [130, null])
})

test('a killed program that was a guest on a cluster takes only its own work with it', async () => {
  const host = start('host')
  const { address } = await host.event('address')
  const guest = start('guest', String(address))
  const running = (await guest.event('running')) as Running
  const spinning = await guest.event('spinning')
  guest.kill('SIGKILL')
  await eventually(() => [running.worker, running.child, spinning.by].every(isGone), 'the workers of the guest gone')
  expect(isGone(running.daemon)).toBe(false)
  host.end()
  expect(await host.event('value')).toMatchObject({ value: [1, 2, 3, 4, 5, 6, 7, 8] })
  await finished(host)
})

test('SIGTERM stops in order with exit code 143', async () => {
  const program = start('interrupted')
  await program.event('running')
  program.kill('SIGTERM')
  expect(await program.exited).toMatchObject({ code: 143, signal: null })
})

test('a program with a handler of its own for SIGINT keeps it', async () => {
  const program = start('ownHandler')
  await program.event('ready')
  program.kill('SIGINT')
  expect(await program.event('handled')).toMatchObject({ value: 2 })
  await finished(program)
})

test('a program that ends without shutdown() ends by itself, with its own exit code', async () => {
  const program = start('ends')
  expect(await program.event('values')).toMatchObject({ values: [2, 'hello'] })
  expect(await program.exited).toMatchObject({ code: 7, signal: null, stderr: '' })
})

test('calls that nobody waits for are done before a program ends by itself', async () => {
  const program = start('pending')
  await finished(program)
  expect(program.events.map(({ event }) => event)).toEqual(['done'])
})

test('a failed result that nobody reads is no unhandled rejection', async () => {
  const program = start('unread')
  expect(await program.event('value')).toMatchObject({ value: 2 })
  await finished(program)
  expect(await program.event('initialized')).toMatchObject({ initialized: false })
})

test('a program that throws at top level while tasks run exits with 1 and its own error', async () => {
  const program = start('throws')
  const { code, stderr } = await program.exited
  expect(code).toBe(1)
  expect(stderr).toMatch(/Error: thrown at top level/)
})

test('process.exit() keeps its code', async () => {
  expect(await start('exits').exited).toMatchObject({ code: 9, stderr: '' })
})

test('one program may start one cluster after the other, and none leaves files or handles open', async () => {
  const program = start('restarts')
  await finished(program)
  const [first, ...later] = program.events
  expect(program.events.map(({ value }) => value)).toEqual([1, 2, 3, 4])
  for (const { files, handles } of later) expect({ files, handles }).toEqual({ files: first?.['files'], handles: [] })
})
