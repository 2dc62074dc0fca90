/** Full stores, folders that cannot be written, wrong tokens, and other clusters on the same machine. */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { finished, Program, type ProgramOptions } from './program.ts'

const start = (args: readonly string[], options: ProgramOptions = {}): Program => new Program('surroundings.ts', { ...options, args })

/** A command that runs the rest in a mount namespace of its own, after `setup`; undefined where the system does not allow it. */
function namespaced(setup: string): string[] | undefined {
  const under = ['unshare', ...(process.getuid?.() === 0 ? ['-m'] : ['-rm']), 'sh', '-c', `${setup} && exec "$0" "$@"`]
  return spawnSync(under[0]!, [...under.slice(1), 'true']).status === 0 ? under : undefined
}

const tinyMemory = namespaced('mount -t tmpfs -o size=24m tmpfs /dev/shm')

test('a full store refuses with the holders named, and a put that waits gets the room that is released', async () => {
  const program = start(['storeFull'])
  const full = await program.event('full')
  expect(full).toMatchObject({ error: { code: 'STORE_FULL', details: { capacityBytes: 64 * 2 ** 20 } } })
  expect((full['error'] as { details: { holders: string } }).details.holders).toMatch(/put/)
  expect(await program.event('result')).toMatchObject({ error: { code: 'STORE_FULL' } })
  expect(await program.event('waited')).toMatchObject({ last: 9, first: 0 })
  await finished(program)
})

test.skipIf(!tinyMemory)('full shared memory is an error of the put that met it, and hurts nothing else', async () => {
  const program = start(['sharedMemoryFull'], { under: tinyMemory ?? [], flags: ['--expose-gc'], env: { BEAMLINE_STORE_DIR: undefined } })
  const full = await program.event('full')
  expect(full).toMatchObject({ error: { code: 'STORE_UNAVAILABLE', details: { reason: expect.stringMatching(/ENOSPC/) as unknown } } })
  expect(full['kept']).toBeGreaterThan(2)
  expect(full['kept']).toBeLessThan(6)
  expect((await program.event('intact'))['values']).toEqual(Array.from({ length: full['kept'] as number }, () => true))
  expect(await program.event('small')).toMatchObject({ value: 2 })
  expect(await program.event('again')).toMatchObject({ value: 'stored' })
  await finished(program)
})

test('a temporary folder that cannot be written is named in START_FAILED', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'bl-ro-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'sub'))
  chmodSync(join(folder, 'sub'), 0o555)
  const path = process.getuid?.() === 0 ? '/sys/kernel' : join(folder, 'sub')
  const program = start(['start'], { env: { BEAMLINE_TMPDIR: path } })
  const refused = await program.event('refused')
  expect(refused).toMatchObject({ code: 'START_FAILED' })
  expect(refused['message']).toContain(path)
  await finished(program)
})

test('a temporary folder that is a file is named in START_FAILED', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'bl-file-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, 'f'), '')
  const program = start(['start'], { env: { BEAMLINE_TMPDIR: join(folder, 'f') } })
  expect((await program.event('refused'))['message']).toContain(join(folder, 'f'))
  await finished(program)
})

test('a wrong token is refused, and the cluster goes on', async () => {
  const server = start(['serve'])
  const { address } = await server.event('started')
  await server.event('value')
  const intruder = start(['attach', String(address), 'f'.repeat(64)])
  expect(await intruder.event('refused')).toMatchObject({ code: 'UNAUTHENTICATED', details: { address } })
  await finished(intruder)
  const guest = start(['attach', String(address)])
  expect(await guest.event('started')).toMatchObject({ address })
  await finished(guest)
  server.end()
  expect(await server.event('again')).toMatchObject({ value: 2 })
  await finished(server)
})

test('the address of no cluster is refused', async () => {
  const program = start(['attach', 'unix:/nowhere/node.sock'])
  expect(await program.event('refused')).toMatchObject({ code: 'START_FAILED' })
  await finished(program)
})

test('two clusters on one machine do not see each other', async () => {
  const [one, two] = [start(['serve']), start(['serve'])]
  const [first, second] = await Promise.all([one.event('value'), two.event('value')])
  expect(first['cluster']).not.toBe(second['cluster'])
  one.end()
  await finished(one)
  two.end()
  expect(await two.event('again')).toMatchObject({ value: 2 })
  await finished(two)
})

test('what a daemon that died left is removed by the next', async () => {
  const program = start(['stale'])
  expect(await program.event('sessions')).toMatchObject({ count: 1 })
  await finished(program)
})

test('garbage on the sockets of a cluster ends nothing', async () => {
  const program = start(['garbage'])
  const after = await program.event('after')
  expect(after).toMatchObject({ values: [2, 3] })
  expect(after['sockets']).toBeGreaterThanOrEqual(3)
  await finished(program)
})
