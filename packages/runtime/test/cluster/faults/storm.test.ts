/** Many workers die while tasks, streams, nested tasks and large objects are on their way: every result is right. */
import { expect, test } from 'vitest'
import { finished, Program } from './program.ts'

test('every result is right when each third task kills its worker', async () => {
  const program = new Program('storm.ts', { args: ['12'], env: { BEAMLINE_VALIDATE: '1' } })
  expect(await program.event('done')).toMatchObject({ wrong: [], pending: 0 })
  await finished(program)
}, 120_000)
