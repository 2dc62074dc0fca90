/** Starting, sharing and leaving clusters; workers before, during and after work; what they print. Real processes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { clusterInfo, get, init, isInitialized, placementGroup, remote, shutdown } from '@beamline/runtime'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { current } from '../../src/core/current.ts'
import { startDaemon } from '../../src/daemon/start.ts'
import { failure, Gate } from './helpers.ts'

afterEach(shutdown)

const fixture = (name: string): string => new URL(`./fixtures/${name}`, import.meta.url).pathname

function program(name: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, ['--conditions=@beamline/source', fixture(name), ...args], { stdio: 'pipe', env: { ...process.env, NODE_OPTIONS: '' } })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  return child
}

interface Worker {
  readonly pid: number
  readonly state: string
}

const workers = async (): Promise<Worker[]> => (await current().query('workers', 0)) as Worker[]

async function workersUntil(done: (all: Worker[]) => boolean): Promise<Worker[]> {
  for (;;) {
    const all = await workers()
    if (done(all)) return all
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

describe('init and shutdown', () => {
  test('a process belongs to one cluster at a time, and may join another one afterwards', async () => {
    expect(isInitialized()).toBe(false)
    expect(await failure(get([]))).toMatchObject({ code: 'NOT_INITIALIZED' })
    expect(() => remote(() => 1).remote()).toThrow(expect.objectContaining({ code: 'NOT_INITIALIZED' }))
    const answer = remote(() => 42)
    const ids: string[] = []
    for (let i = 0; i < 2; i++) {
      await using cluster = await init({ cpus: 1, resources: { lamp: 2.5 }, gpus: 1, memory: 1000, storeBytes: 2 ** 24 })
      ids.push(cluster.id)
      expect(await failure(init())).toMatchObject({ code: 'ALREADY_INITIALIZED' })
      expect(clusterInfo()).toMatchObject({ id: cluster.id, cpus: 1, gpus: 1, memory: 1000, resources: { lamp: 2.5 }, storeBytes: 2 ** 24 })
      expect(await get(answer.remote())).toBe(42)
    }
    expect(isInitialized()).toBe(false)
    expect(ids[0]).not.toBe(ids[1])
    expect(() => answer.remote()).toThrow(expect.objectContaining({ code: 'NOT_INITIALIZED' }))
  })

  test('what is pending at shutdown fails with a reason', async () => {
    await init({ cpus: 1 })
    const gate = remote(Gate).remote(2)
    const pending = failure(get(gate.arrive.remote()))
    const task = failure(get(remote(async () => await new Promise(() => undefined)).remote()))
    await shutdown()
    expect((await pending).message).toMatch(/shut/)
    expect((await task).code).toBe('NODE_DIED')
  })

  test('impossible options are refused before anything starts', async () => {
    expect(await failure(init({ cpus: -1 }))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect((await failure(init({ cpu: 1 } as never))).message).toContain('option "cpu" of init')
    expect((await failure(init({ address: 'tcp://1.2.3.4' }))).message).toContain('address')
    expect(await failure(init({ address: 'unix:/nowhere/node.sock' }))).toMatchObject({ code: 'START_FAILED' })
    expect(isInitialized()).toBe(false)
    await init({ cpus: 1 })
  })

  test('two calls of init at once: one of them is refused', async () => {
    const [a, b] = await Promise.allSettled([init({ cpus: 1 }), init({ cpus: 1 })])
    expect([a.status, b.status]).toEqual(['fulfilled', 'rejected'])
  })
})

describe('workers', () => {
  test('start before they are needed, more when they are, and end when they idle', async () => {
    await init({ cpus: 1, prestart: 2, idleTimeoutMs: 400 })
    const warm = await workersUntil((all) => all.length === 2 && all.every(({ state }) => state === 'idle'))
    const gate = remote(Gate).remote(5)
    const meet = remote(
      async () => {
        await get(gate.arrive.remote())
        return process.pid
      },
      { cpus: 0 },
    )
    const refs = Array.from({ length: 4 }, () => meet.remote())
    await get(gate.arrive.remote())
    const pids = await get(refs)
    expect(new Set(pids).size).toBeGreaterThan(2)
    expect(pids.some((pid) => warm.some((worker) => worker.pid === pid))).toBe(true)
    await workersUntil((all) => all.filter(({ state }) => state === 'idle').length === 2)
  })

  test('no more task workers than four for each CPU, however many tasks could run', async () => {
    await init({ cpus: 1 })
    const pid = remote(
      async () => {
        await new Promise((resolve) => setTimeout(resolve, 5))
        return process.pid
      },
      { cpus: 0 },
    )
    const refs = Array.from({ length: 60 }, () => pid.remote())
    expect(new Set(await get(refs)).size).toBeLessThanOrEqual(4)
    expect((await workers()).length).toBeLessThanOrEqual(4)
  })

  test('end with the cluster', async () => {
    await init({ cpus: 2 })
    const all = await workersUntil((list) => list.length === 2 && list.every(({ pid }) => pid > 0))
    await shutdown()
    for (const { pid } of all) expect(() => readFileSync(`/proc/${pid}/cmdline`)).toThrow()
  })
})

describe('output', () => {
  test('of workers reaches the driver with a prefix and without repetitions, and is kept whole in files', async () => {
    const child = program('printing.ts')
    const seen = { stdout: '', stderr: '' }
    child.stdout?.on('data', (chunk: Buffer) => {
      seen.stdout += chunk.toString()
    })
    child.stderr?.on('data', (chunk: Buffer) => {
      seen.stderr += chunk.toString()
    })
    const [code] = (await once(child, 'close')) as [number]
    expect(code).toBe(0)
    expect(seen.stdout).toMatch(/^\(speak pid=\d+\) out: one$/m)
    expect(seen.stderr).toMatch(/^\(speak pid=\d+\) err: one$/m)
    expect(seen.stdout).not.toContain('err: one')
    expect(seen.stdout.split('over and over').length - 1).toBeLessThanOrEqual(3)
    expect(seen.stdout).toMatch(/over and over \[repeated 49×\]/)
    expect(seen.stdout).toMatch(/and done/)
    expect(seen.stdout).toMatch(/^\(Parrot pid=\d+\) hello$/m)
    expect(seen.stdout).toMatch(/^\(Parrot pid=\d+\) half a line$/m)
    expect(seen.stderr).toMatch(/^beamline: "impossible" asks for 99 cpus/m)
    expect(seen.stdout).toContain('kept: {"one":true,"repeated":50}')
  })
})

describe('several drivers on one head', () => {
  test('share the cluster and its named actors, but no workers and no anonymous state', async () => {
    const head = await startDaemon({ embedded: false, cpus: 2 })
    try {
      const seen: {
        cluster: string
        pids: number[]
        actor: { pid: number; name: string; calls: number }
        shared: { pid: number; calls: number }
        other: string
      }[] = []
      const drivers: ChildProcess[] = []
      for (const name of ['a', 'b']) {
        const child = program('driver.ts', head.address, name)
        const [line] = (await once(createInterface({ input: child.stdout as never }), 'line')) as [string]
        seen.push(JSON.parse(line) as never)
        drivers.push(child)
      }
      const [a, b] = seen
      expect(a!.cluster).toBe(head.cluster)
      expect(b!.cluster).toBe(head.cluster)
      expect([a!.actor.name, b!.actor.name]).toEqual(['a', 'b'])
      expect([a!.actor.calls, b!.actor.calls]).toEqual([1, 1])
      expect(new Set([...a!.pids, a!.actor.pid]).isDisjointFrom(new Set([...b!.pids, b!.actor.pid]))).toBe(true)
      expect(b!.shared.pid).toBe(a!.shared.pid)
      expect([a!.shared.calls, b!.shared.calls]).toEqual([1, 2])
      expect(a!.other).toBe('ACTOR_NOT_FOUND')

      // One leaves; the other goes on, and so does what is detached.
      drivers[0]!.stdin?.end()
      await once(drivers[0]!, 'close')
      await init({ address: head.address, quiet: true })
      expect(await get(remote(() => 'third').remote())).toBe('third')
      const { pid } = a!.actor
      while (alive(pid)) await new Promise((resolve) => setTimeout(resolve, 20))
      expect(alive(b!.actor.pid)).toBe(true)
      expect(alive(a!.shared.pid)).toBe(true)
      await shutdown()
      drivers[1]!.stdin?.end()
      await once(drivers[1]!, 'close')
    } finally {
      process.kill(head.pid, 'SIGTERM')
      await head.exited
    }
  })

  test('a wrong token is refused', async () => {
    const head = await startDaemon({ embedded: false, cpus: 1 })
    try {
      expect(await failure(init({ address: head.address, token: 'f'.repeat(head.token.length) }))).toMatchObject({ code: 'UNAUTHENTICATED' })
      expect((await failure(init({ address: head.address, token: '' }))).code).toBe('UNAUTHENTICATED')
      expect(isInitialized()).toBe(false)
      await init({ address: head.address, token: head.token })
      expect(await get(remote(() => 'in').remote())).toBe('in')
      await shutdown()
    } finally {
      process.kill(head.pid, 'SIGTERM')
      await head.exited
    }
  })
})

describe('placement groups', () => {
  test('reserve resources together, for tasks and actors; removal gives them back', async () => {
    await init({ cpus: 2, quiet: true })
    await using group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_PACK' })
    await group.ready()
    const inside = remote(() => 'inside', { placementGroup: group, bundleIndex: 1 })
    expect(await get(inside.remote())).toBe('inside')
    const outside = remote(() => 'outside').remote()
    expect((await failure(get(outside, { timeoutMs: 200 }))).code).toBe('GET_TIMEOUT')
    await group.remove()
    expect(await get(outside)).toBe('outside')
    expect((await failure(get(inside.remote()))).code).toMatch(/INFEASIBLE|CANCELLED/)
  })

  test('waiting for a group ends with its time, and the group still comes', async () => {
    await init({ cpus: 1, quiet: true })
    const first = placementGroup([{ cpus: 1 }])
    expect(await first.wait(60_000)).toBe(true)
    await using second = placementGroup([{ cpus: 1 }])
    expect(await second.wait(0)).toBe(false)
    expect(await second.wait(50)).toBe(false)
    const soon = second.wait(60_000)
    await first.remove()
    expect(await soon).toBe(true)
    expect((await failure(first.wait(0))).code).toBe('CANCELLED')
    expect((await failure(second.wait(-1))).code).toBe('INVALID_ARGUMENT')
  })

  test('what can never be reserved fails, and bad requests are refused', async () => {
    await init({ cpus: 2, quiet: true })
    expect((await failure(placementGroup([{ cpus: 2 }, { cpus: 1 }]).ready())).code).toBe('INFEASIBLE')
    expect((await failure(placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_SPREAD' }).ready())).code).toBe('INFEASIBLE')
    expect(() => placementGroup([])).toThrow(/at least one bundle/)
  })
})

function alive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
