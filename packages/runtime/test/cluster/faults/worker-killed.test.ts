/** Workers that die by SIGKILL while they work. */
import { expect, test } from 'vitest'
import { finished, Program } from './program.ts'

const start = (...args: string[]): Program => new Program('worker-killed.ts', { args })

/** Ends the process that told the event; the group, as the kernel's OOM killer would not, is left alone. */
async function killTeller(program: Program, event: string, accept?: Parameters<Program['event']>[1]): Promise<number> {
  const { by } = await program.event(event, accept)
  process.kill(by, 'SIGKILL')
  return by
}

test('a task whose worker is killed fails with the signal, the pid and the last lines of stderr', async () => {
  const program = start('task')
  const pid = await killTeller(program, 'running')
  const { error } = (await program.event('outcome')) as unknown as { error: { code: string; message: string; details: object } }
  expect(error).toMatchObject({ code: 'WORKER_CRASHED', details: { task: 'hang', pid, how: 'was ended by signal SIGKILL' } })
  expect(error.message).toMatch(/about to hang/)
  await finished(program, /about to hang/)
})

test('a task whose worker is killed runs again', async () => {
  const program = start('retries')
  const first = await killTeller(program, 'running')
  expect(await program.event('outcome')).toMatchObject({ value: 1 })
  expect((await program.event('running', ({ attempt }) => attempt === 1)).by).not.toBe(first)
  await finished(program)
})

test('the memory of a worker that is killed while it stores objects is there again', async () => {
  const program = start('put')
  await killTeller(program, 'putting')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'WORKER_CRASHED' } })
  expect(await program.event('put')).toMatchObject({ last: 7 })
  await finished(program)
})

test('a stream whose worker is killed ends with the error after the items that came before', async () => {
  const program = start('stream', '0')
  await killTeller(program, 'streaming')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'WORKER_CRASHED' }, items: [0, 1, 2] })
  await finished(program)
})

test('a stream whose worker is killed goes on where it was, without repeating items', async () => {
  const program = start('stream', '1')
  await killTeller(program, 'streaming')
  expect(await program.event('outcome')).toMatchObject({ items: [0, 1, 2, 3, 4] })
  await finished(program)
})

test('an actor whose worker is killed restarts as often as it may, with fresh state, and then is dead with the cause', async () => {
  const program = start('actor')
  expect(await program.event('first')).toMatchObject({ value: [1, 2] })
  const first = await killTeller(program, 'running')
  expect(await program.event('interrupted')).toMatchObject({ error: { code: 'ACTOR_UNAVAILABLE', cause: { code: 'WORKER_CRASHED' } } })
  expect(await program.event('second')).toMatchObject({ value: 1 })
  await killTeller(program, 'running', ({ by }) => by !== first)
  expect(await program.event('dead')).toMatchObject({ error: { code: 'ACTOR_DIED', cause: { code: 'WORKER_CRASHED' } } })
  expect(await program.event('later')).toMatchObject({ error: { code: 'ACTOR_DIED' } })
  await finished(program)
})

test('a call of an actor that may be repeated runs again on the restarted actor', async () => {
  const program = start('actorRetries')
  const { by } = await program.event('pid')
  const first = await killTeller(program, 'running')
  const second = await killTeller(program, 'running', (event) => event.by !== first)
  expect(await program.event('hanging')).toMatchObject({ error: { code: 'ACTOR_UNAVAILABLE', cause: { details: { pid: second } } } })
  expect(by).not.toBe(second)
  await finished(program)
})

test('an object whose owner is killed fails with OWNER_DIED, also as an argument; what was read stays', async () => {
  const program = start('owner')
  await program.event('owned')
  await killTeller(program, 'owner')
  program.write('go')
  const died = { error: { code: 'OWNER_DIED' } }
  expect(await program.event('outcome')).toMatchObject({ small: died, argument: died, view: 5 })
  await finished(program)
})

test('a task sees the death of the worker of a task that it submitted', async () => {
  const program = start('nested')
  const pid = await killTeller(program, 'running')
  expect(await program.event('outcome')).toMatchObject({ inner: { error: { code: 'WORKER_CRASHED', details: { pid } } } })
  await finished(program, /about to hang/)
})

test('an actor whose constructor ends its process is dead after its restarts, and says why', async () => {
  const program = start('constructor')
  expect(await program.event('outcome')).toMatchObject({
    error: { code: 'ACTOR_DIED', cause: { code: 'WORKER_CRASHED', details: { how: 'exited with code 5' } } },
  })
  await finished(program)
})
