/** A node that is short of memory: its limit is lowered, and tasks of real workers exceed it. */
import { readFileSync } from 'node:fs'
import { get, init, type ObjectRef, remote } from '@beamline/runtime'
import { afterEach, expect, test } from 'vitest'
import { type DaemonHandle, startDaemon } from '../../src/daemon/start.ts'
import { failure, Tally } from './helpers.ts'

const MIB = 1_048_576
const LIMIT = 400 * MIB

let daemon: DaemonHandle | undefined
afterEach(async () => {
  await daemon?.stop()
  daemon = undefined
})

async function startShort(): Promise<AsyncDisposable> {
  daemon = await startDaemon({ embedded: true, cpus: 2, prestart: 1, memoryLimitBytes: LIMIT, storeBytes: 64 * MIB })
  return await init({ address: daemon.address, token: daemon.token, quiet: true })
}

/** Takes memory and keeps it until its worker ends. */
const holding = async (mib: number, tally: { count: { remote(key: string): ObjectRef<number> } }, key: string): Promise<never> => {
  await get(tally.count.remote(key))
  const blocks = Array.from({ length: mib }, () => Buffer.alloc(1_048_576, 1))
  await get(tally.count.remote(`${key} holds`))
  for (;;) await new Promise((resolve) => setTimeout(resolve, 60_000, blocks))
}

test('a task that takes too much is ended, tried again later and later, and fails with the numbers and the biggest processes', async () => {
  await using _cluster = await startShort()
  const tally = remote(Tally).remote()
  const startMs = performance.now()
  const error = await failure(get(remote(holding, { maxRetries: 2, name: 'hungry' }).remote(450, tally as never, 'attempt')))
  // Waits of 1 and 2 seconds lie between the three attempts.
  expect(performance.now() - startMs).toBeGreaterThan(3_000)
  expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', details: { task: 'hungry', memory: { limitBytes: LIMIT, threshold: 0.95 } } })
  const { memory, pid } = error.details as { memory: { usedBytes: number; processes: { pid: number; bytes: number; what: string }[] }; pid: number }
  expect(memory.usedBytes).toBeGreaterThan(0.95 * LIMIT)
  expect(memory.processes.find((one) => one.pid === pid)).toMatchObject({ what: '"hungry"' })
  expect(error.message).toMatch(
    /ran out of memory \(was ended by Beamline: [\d.]+ MiB of the 400\.0 MiB that the workers of this node may use were in use, .*"hungry" \(pid \d+\) [\d.]+ MiB.*\) while it ran "hungry"/,
  )
  expect(await get(tally.counted.remote('attempt'))).toBe(3)
})

test('what may run again ends first, also when it is older, and what may not goes on', async () => {
  await using _cluster = await startShort()
  const tally = remote(Tally).remote()
  const again = remote(holding, { maxRetries: 1, name: 'again' }).remote(150, tally as never, 'again')
  await get(tally.reached.remote('again holds', 1))
  const once = remote(holding, { maxRetries: 0, name: 'once' }).remote(200, tally as never, 'once')
  // It is ended, comes back, and is ended again: for good.
  expect(await failure(get(again))).toMatchObject({ code: 'OUT_OF_MEMORY', details: { task: 'again' } })
  expect(await get([tally.counted.remote('again'), tally.counted.remote('once'), tally.counted.remote('once holds')])).toEqual([2, 1, 1])
  await expect(get(once, { timeoutMs: 1 })).rejects.toMatchObject({ code: 'GET_TIMEOUT' })
})

test('idle workers that hold memory end before any work does', async () => {
  await using _cluster = await startShort()
  const hoard = remote(
    (mib: number) => {
      Object.assign(globalThis, { hoard: Array.from({ length: mib }, () => Buffer.alloc(1_048_576, 1)) })
      return process.pid
    },
    { name: 'hoard' },
  )
  const idle = await get(hoard.remote(200))
  const work = remote(
    async (mib: number, gone: number) => {
      const blocks = Array.from({ length: mib }, () => Buffer.alloc(1_048_576, 1))
      for (;;) {
        try {
          process.kill(gone, 0)
        } catch {
          return blocks.length
        }
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    },
    { env: { vars: { SOMEWHERE: 'else' } }, maxRetries: 0, name: 'work' },
  )
  expect(await get(work.remote(200, idle))).toBe(200)
})

test.runIf(process.platform === 'linux')('the kernel is to end workers before their daemon', async () => {
  await using _cluster = await startShort()
  const score = remote(() => Number(process.getBuiltinModule('node:fs').readFileSync('/proc/self/oom_score_adj', 'utf8')))
  expect(await get(score.remote())).toBe(500)
  expect(Number(readFileSync(`/proc/${daemon?.pid}/oom_score_adj`, 'utf8'))).toBeLessThan(500)
})
