/** User code that blocks, exits, throws oddly, eats memory or floods the output: a clear error, and other work goes on. */
import { expect, test } from 'vitest'
import { finished, isGone, Program } from './program.ts'

const start = (...args: string[]): Program => new Program('user-code.ts', { args })
const OTHER_WORK = { value: 2 }

test('a task that never ends is stopped at its time limit, also when it blocks its thread', async () => {
  const program = start('timeout')
  const outcome = await program.event('outcome')
  expect(outcome).toMatchObject({ error: { code: 'TASK_TIMEOUT', details: { task: 'spin', timeoutMs: 300 } } })
  expect(outcome['ms']).toBeGreaterThanOrEqual(300)
  expect(outcome['ms']).toBeLessThan(5_000)
  expect(await program.event('hang')).toMatchObject({ error: { code: 'TASK_TIMEOUT', details: { task: 'hang' } } })
  expect(await program.event('others')).toMatchObject({ error: { code: 'TASK_TIMEOUT' } })
  expect(await program.event('all')).toMatchObject({ value: [2, 3, 4, 5] })
  await finished(program)
})

test('cancel by force ends a task that blocks its thread, and its CPU is free again', async () => {
  const program = start('cancelForce')
  const { by } = await program.event('spinning')
  program.write('go')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'CANCELLED', details: { task: 'spin' } } })
  expect(await program.event('all')).toMatchObject({ value: [2, 3, 4, 5] })
  expect(isGone(by)).toBe(true)
  await finished(program)
})

test('cancel ends a task that waits, and what it waits for', async () => {
  const program = start('cancel')
  await program.event('hanging')
  program.write('go')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'CANCELLED', details: { task: 'waitForCancel' } } })
  await program.event('saw it')
  expect(await program.event('all')).toMatchObject({ value: [2, 3, 4, 5] })
  await finished(program)
})

test('a task that exits its process is told with the exit code and the last lines of stderr', async () => {
  const program = start('exits')
  expect(await program.event('outcome')).toMatchObject({
    error: { code: 'WORKER_CRASHED', details: { task: 'exit', how: 'exited with code 3', stderr: 'about to exit' } },
  })
  expect(await program.event('later')).toMatchObject({ error: { code: 'WORKER_CRASHED', details: { task: 'exitLater', how: 'exited with code 0' } } })
  expect(await program.event('retried')).toMatchObject({ error: { code: 'WORKER_CRASHED', details: { how: 'exited with code 4' } } })
  await finished(program, /about to exit/)
  expect(program.events.filter(({ event }) => event === 'other work')).toMatchObject([OTHER_WORK, OTHER_WORK])
})

test('what is thrown arrives as it is, also when it is no Error', async () => {
  const program = start('throws')
  expect(await program.event('other work')).toMatchObject(OTHER_WORK)
  const causes = program.events.filter(({ event }) => event === 'outcome').map(({ error }) => error)
  for (const error of causes) expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'throwThis' } })
  expect(causes.map((error) => (error as { cause?: { thrown: unknown } }).cause?.thrown)).toEqual([
    42,
    'text',
    null,
    undefined,
    true,
    { reason: 'an object', code: 7 },
    [1, 2],
  ])
  await finished(program)
})

test('an exception in a finally is the one that counts, and does not hold up who stopped a stream', async () => {
  const program = start('finally')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'TASK_FAILED', cause: { name: 'SyntaxError', message: 'from finally' } } })
  expect(await program.event('item')).toMatchObject({ value: 1 })
  await program.event('cleanup')
  expect(await program.event('other work')).toMatchObject(OTHER_WORK)
  expect(await program.event('end')).toMatchObject({ error: { code: 'TASK_FAILED', cause: { message: 'from the finally of a generator' } }, items: [1, 2, 3] })
  await finished(program)
})

test('a task that exhausts its heap fails with OUT_OF_MEMORY', async () => {
  const program = start('heap')
  expect(await program.event('outcome')).toMatchObject({ error: { code: 'OUT_OF_MEMORY', details: { task: 'eatHeap' } } })
  expect(await program.event('other work')).toMatchObject(OTHER_WORK)
  await finished(program, /JavaScript heap out of memory/)
})

test('a result or an argument that cannot travel is refused with its path', async () => {
  const program = start('unserializable')
  expect(await program.event('outcome')).toMatchObject({
    error: { code: 'NOT_SERIALIZABLE', details: { what: 'the result of "unserializable"', path: '$.layers[1].session.socket' } },
  })
  expect(await program.event('argument')).toMatchObject({ error: { code: 'NOT_SERIALIZABLE', details: { path: '$[0].deep[0].promise' } } })
  expect(await program.event('other work')).toMatchObject(OTHER_WORK)
  await finished(program)
})

test('a flood of output holds up nothing: the driver sees some of it, with a note', async () => {
  const program = start('flood', '200000')
  expect(await program.event('outcome')).toMatchObject({ value: 200_000 })
  expect(await program.event('other work')).toMatchObject(OTHER_WORK)
  const { stdout } = await finished(program, /more lines in one second are only in/)
  const seen = stdout.split('\n').filter((line) => line.includes('of a flood')).length
  expect(seen).toBeGreaterThan(1_000)
  expect(seen).toBeLessThan(100_000)
})

test('an unhandled rejection or exception ends its worker and says why', async () => {
  const program = start('rejection')
  const outcome = (await program.event('outcome')) as unknown as { error: { message: string } }
  expect(outcome).toMatchObject({ error: { code: 'WORKER_CRASHED', details: { task: 'rejects', how: 'exited with code 1' } } })
  expect(outcome.error.message).toMatch(/Error: nobody handles this/)
  expect(await program.event('timer')).toMatchObject({ error: { code: 'WORKER_CRASHED', details: { task: 'throwsLater', how: 'exited with code 1' } } })
  await finished(program, /nobody handles this[\s\S]*thrown in a timer/)
  expect(program.events.filter(({ event }) => event === 'other work')).toMatchObject([OTHER_WORK, OTHER_WORK])
})
