/** Values of every size, cycles, and results that nobody keeps or reads. */
import { expect, test } from 'vitest'
import { finished, Program } from './program.ts'

const start = (...args: string[]): Program => new Program('values.ts', { args, flags: ['--expose-gc'] })
const NOTHING_LEFT = { owned: 0, bytes: 0 }
const GIB = 2 ** 30

test('values of 0 B, 1 B, 100 KiB ± 1 and more travel as argument, as result and through put', async () => {
  const program = start('sizes')
  await finished(program)
  const sizes = program.events.filter(({ event }) => event === 'size')
  expect(sizes).toHaveLength(12)
  for (const { sent, got } of sizes) expect(got).toEqual([sent, sent, sent])
  expect(sizes.map(({ sent }) => (sent as { bytes: number }).bytes)).toEqual([
    0, 0, 1, 1, 102_399, 102_399, 102_400, 102_400, 102_401, 102_401, 3_145_728, 3_145_728,
  ])
  expect(await program.event('left')).toMatchObject(NOTHING_LEFT)
})

test('an argument of 2 GiB + 1 B travels', async () => {
  const program = start('twoGiB', String(3 * 1024))
  expect(await program.event('argument')).toMatchObject({ value: 2 * GIB + 1 })
  await finished(program)
}, 180_000)

test('a value larger than the store is refused with the numbers, wherever it comes from', async () => {
  const program = start('tooLarge', '32')
  const full = { error: { code: 'STORE_FULL', details: { capacityBytes: 32 * 2 ** 20 } } }
  const put = await program.event('put')
  expect(put).toMatchObject(full)
  expect((put['error'] as { details: { wantedBytes: number } }).details.wantedBytes).toBeGreaterThan(32 * 2 ** 20)
  expect(await program.event('argument')).toMatchObject(full)
  expect(await program.event('result')).toMatchObject(full)
  expect(await program.event('other')).toMatchObject({ value: 2 ** 20 })
  await finished(program)
})

test('circular structures arrive as they were', async () => {
  const program = start('circular')
  expect(await program.event('circular')).toMatchObject({ there: true, back: true, stored: true })
  await finished(program)
})

test('a million references to tiny objects can be held and are gone when they are dropped', async () => {
  const program = start('tiny')
  expect(await program.event('held')).toMatchObject({ owned: 1_000_000, last: 999_999 })
  expect(await program.event('left')).toMatchObject(NOTHING_LEFT)
  await finished(program)
})

test('results that nobody reads or keeps leave nothing', async () => {
  const program = start('dropped')
  expect(await program.event('last')).toMatchObject({ value: 7 })
  expect(await program.event('left')).toMatchObject(NOTHING_LEFT)
  expect(await program.event('again')).toMatchObject({ value: 224 * 2 ** 20 })
  await finished(program)
})
