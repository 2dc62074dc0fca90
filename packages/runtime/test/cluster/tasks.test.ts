/** Tasks as users call them: options, retries, time limits, several results, nesting. Real processes. */
import { type ActorHandle, type BeamlineError, cancel, currentTask, get, init, remote, shutdown, wait } from '@beamline/runtime'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failure, Gate, Tally } from './helpers.ts'

beforeAll(async () => {
  await init({ cpus: 2, gpus: 2, memory: 1_000_000, resources: { widget: 3 }, env: { vars: { OF_THE_JOB: 'job' } }, quiet: true })
})
afterAll(shutdown)

describe('resources', () => {
  test('a task runs in another process and returns its value', async () => {
    const where = remote((a: number, b: number) => ({ pid: process.pid, sum: a + b }))
    const { pid, sum } = await get(where.remote(1, 2))
    expect(sum).toBe(3)
    expect(pid).not.toBe(process.pid)
  })

  test.each([
    ['cpus', { cpus: 1 }, 2],
    ['half cpus', { cpus: 0.5 }, 4],
    ['memory', { cpus: 0, memory: 400_000 }, 2],
    ['custom resources', { cpus: 0, resources: { widget: 1.5 } }, 2],
  ])('as many tasks at once as %s allow, and never more', async (_, options, atOnce) => {
    const folder = await mkdtemp(join(tmpdir(), 'beamline-test-'))
    // They meet in a folder: who waits in get() lends its CPU.
    const work = remote(async (name: number): Promise<[number, number]> => {
      const started = performance.timeOrigin + performance.now()
      await writeFile(join(folder, String(name)), '')
      while ((await readdir(folder)).length < atOnce) await new Promise((resolve) => setTimeout(resolve, 5))
      return [started, performance.timeOrigin + performance.now()]
    }, options)
    const spans = await get(Array.from({ length: 2 * atOnce }, (_, i) => work.remote(i)))
    const together = spans.map(([start]) => spans.filter(([from, to]) => from <= start && start < to).length)
    expect(Math.max(...together)).toBe(atOnce)
    await rm(folder, { recursive: true })
  })

  test('whole GPUs come with their devices in CUDA_VISIBLE_DEVICES, never the same for two at once', async () => {
    const gate = remote(Gate).remote(2)
    const see = remote(
      async () => {
        await get(gate.arrive.remote())
        return process.env['CUDA_VISIBLE_DEVICES']
      },
      { cpus: 0, gpus: 1 },
    )
    expect((await get([see.remote(), see.remote()])).sort()).toEqual(['0', '1'])
    expect(await get(remote(() => process.env['CUDA_VISIBLE_DEVICES'], { gpus: 2 }).remote())).toBe('0,1')
  })

  test('shares of a GPU are of one device each, and a task without GPUs sees none', async () => {
    const gate = remote(Gate).remote(4)
    const see = remote(
      async () => {
        await get(gate.arrive.remote())
        return process.env['CUDA_VISIBLE_DEVICES']
      },
      { cpus: 0, gpus: 0.5 },
    )
    expect((await get(Array.from({ length: 4 }, () => see.remote()))).sort()).toEqual(['0', '0', '1', '1'])
    expect(await get(remote(() => process.env['CUDA_VISIBLE_DEVICES']).remote())).toBe('')
  })

  test('what the cluster can never give fails within two seconds and says what it has', async () => {
    const started = performance.now()
    const error = await failure(get(remote(() => 1, { cpus: 3, name: 'too big' }).remote()))
    expect(performance.now() - started).toBeLessThan(2_000)
    expect(error).toMatchObject({ code: 'INFEASIBLE' })
    expect(error.message).toMatch(/"too big" asks for 3 cpus.*it has 2 cpus, 2 gpus/)
    expect(await failure(get(remote(() => 1, { resources: { gadget: 1 } }).remote()))).toMatchObject({ code: 'INFEASIBLE' })
    // The same shape later: refused again, and others go on.
    expect(await failure(get(remote(() => 1, { cpus: 3 }).remote()))).toMatchObject({ code: 'INFEASIBLE' })
    expect(await get(remote(() => 'still here').remote())).toBe('still here')
  })

  test.each<[string, object, RegExp]>([
    ['a misspelt option', { cpu: 2 }, /option "cpu" of a task is .*expected one of cpus/],
    ['a negative amount', { cpus: -1 }, /cpus is -1/],
    ['more than one GPU that is not whole', { gpus: 1.5 }, /gpus is 1.5/],
    ['a fraction of a retry', { maxRetries: 0.5 }, /maxRetries is 0.5/],
    ['no results', { returns: 0 }, /returns is 0/],
    ['cpus as a custom resource', { resources: { cpus: 1 } }, /the option cpus itself/],
  ])('%s is refused when the function is declared', (_, options, text) => {
    expect(() => remote(() => 1, options)).toThrow(text)
  })
})

describe('environment', () => {
  test('env of the job and of the task reach the worker; workers of different env are not shared', async () => {
    const read = remote(() => [process.env['OF_THE_JOB'], process.env['COLOUR'], process.pid] as const)
    const [job, none, pid] = await get(read.remote())
    const [jobToo, red, redPid] = await get(read.options({ env: { vars: { COLOUR: 'red' } } }).remote())
    expect([job, none]).toEqual(['job', undefined])
    expect([jobToo, red]).toEqual(['job', 'red'])
    expect(redPid).not.toBe(pid)
  })

  test('a task may override a variable of its job', async () => {
    expect(await get(remote(() => process.env['OF_THE_JOB'], { env: { vars: { OF_THE_JOB: 'task' } } }).remote())).toBe('task')
  })

  test('workers run in the working directory of the driver', async () => {
    expect(await get(remote(() => process.cwd()).remote())).toBe(process.cwd())
  })

  test('a worker ends after maxCalls calls', async () => {
    const pid = remote(() => process.pid, { maxCalls: 2 })
    const pids: number[] = []
    for (let i = 0; i < 6; i++) pids.push(await get(pid.remote()))
    const counts = Object.values(Object.groupBy(pids, String)).map((group) => group?.length ?? 0)
    expect(Math.max(...counts)).toBeLessThanOrEqual(2)
    expect(new Set(pids).size).toBeGreaterThanOrEqual(3)
  })

  test('maxCalls loses none of many calls that are under way at once', async () => {
    const square = remote((x: number) => x * x, { maxCalls: 5 })
    expect(await get(Array.from({ length: 40 }, (_, i) => square.remote(i)))).toEqual(Array.from({ length: 40 }, (_, i) => i * i))
  })
})

describe('names and results', () => {
  test('a task knows itself by its name', async () => {
    const self = remote(() => currentTask()?.name, { name: 'a name of its own' })
    expect(await get(self.remote())).toBe('a name of its own')
    expect(currentTask()).toBeUndefined()
  })

  test('returns: n gives n references', async () => {
    const split = remote((text: string) => [text.length, text.toUpperCase(), new Uint8Array(200_000).fill(7)] as [number, string, Uint8Array], { returns: 3 })
    const [length, upper, bytes] = split.remote('abc')
    expect(await get(upper)).toBe('ABC')
    expect(await get(length)).toBe(3)
    expect((await get(bytes)).at(-1)).toBe(7)
  })

  test('a task that returns another number of values fails all its references', async () => {
    const wrong = remote(() => [1, 2, 3] as number[], { returns: 2 })
    const refs = wrong.remote()
    expect(await failure(get(refs[0]!))).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect((await failure(get(refs[1]!))).message).toContain('an array of 3')
  })

  test('references as arguments are resolved, also when they are not ready, and mixed with values', async () => {
    const slow = remote(async (x: number) => {
      await new Promise((resolve) => setTimeout(resolve, 30))
      return x
    })
    const join = remote((a: number, b: string, c: number, d: { e: number }) => `${a}${b}${c}${d.e}`)
    expect(await get(join.remote(slow.remote(1), 'x', slow.remote(2), { e: 3 }))).toBe('1x23')
  })

  test('a chain of a hundred tasks', async () => {
    const plusOne = remote((x: number) => x + 1)
    let ref = plusOne.remote(0)
    for (let i = 0; i < 99; i++) ref = plusOne.remote(ref)
    expect(await get(ref)).toBe(100)
  })

  test('five thousand tasks, each with its own result', async () => {
    const negate = remote((x: number) => -x)
    const values = await get(Array.from({ length: 5_000 }, (_, i) => negate.remote(i)))
    expect(values.every((value, i) => value === -i)).toBe(true)
  })
})

describe('retries', () => {
  let attempts: ActorHandle<Tally>
  beforeAll(() => {
    attempts = remote(Tally).remote()
  })

  test('a crashed worker is retried three times by default, then the crash is the error', async () => {
    const die = remote(
      async () => {
        console.error('last words')
        await get(attempts.count.remote('die'))
        process.exit(9)
      },
      { name: 'die' },
    )
    const error = await failure(get(die.remote()))
    expect(error).toMatchObject({ code: 'WORKER_CRASHED', details: { task: 'die' } })
    expect(error.message).toContain('exited with code 9')
    expect(error.message).toContain('last words')
    expect(await get(attempts.counted.remote('die'))).toBe(4)
  })

  test('maxRetries: 0 runs at most once', async () => {
    const die = remote(
      async () => {
        await get(attempts.count.remote('once'))
        process.kill(process.pid, 'SIGKILL')
        await new Promise(() => undefined)
      },
      { maxRetries: 0 },
    )
    const error = await failure(get(die.remote()))
    expect(error.code).toBe('WORKER_CRASHED')
    expect(error.message).toContain('SIGKILL')
    expect(await get(attempts.counted.remote('once'))).toBe(1)
  })

  test('a crash that does not repeat is invisible, and the task knows its attempt', async () => {
    const flaky = remote(() => {
      const { attempt } = currentTask() ?? { attempt: -1 }
      if (attempt < 2) process.exit(1)
      return attempt
    })
    expect(await get(flaky.remote())).toBe(2)
  })

  test('exceptions are not retried by default', async () => {
    const fail = remote(async () => {
      await get(attempts.count.remote('thrown'))
      throw new Error('no')
    })
    expect((await failure(get(fail.remote()))).code).toBe('TASK_FAILED')
    expect(await get(attempts.counted.remote('thrown'))).toBe(1)
  })

  test('retryOn: true retries exceptions, with a back-off that grows', async () => {
    const fail = remote(
      async (key: string) => {
        await get(attempts.count.remote(key))
        throw new Error('again')
      },
      { retryOn: true, maxRetries: 2 },
    )
    const started = performance.now()
    expect(await failure(get(fail.remote('all')))).toMatchObject({ code: 'TASK_FAILED', cause: { message: 'again' } })
    // 100 ms, then 200 ms.
    expect(performance.now() - started).toBeGreaterThan(290)
    expect(await get(attempts.counted.remote('all'))).toBe(3)
  })

  test('retryOn: codes and class names', async () => {
    class Busy extends Error {
      override readonly name = 'Busy'
    }
    const fail = remote(
      async (key: string, how: 'code' | 'class' | 'other') => {
        await get(attempts.count.remote(key))
        if (how === 'code') throw Object.assign(new Error('reset'), { code: 'ECONNRESET' })
        throw how === 'class' ? new Busy('later') : new Error('fatal')
      },
      { retryOn: ['ECONNRESET', 'Busy'], maxRetries: 1 },
    )
    for (const [how, runs] of [
      ['code', 2],
      ['class', 2],
      ['other', 1],
    ] as const) {
      expect((await failure(get(fail.remote(how, how)))).code).toBe('TASK_FAILED')
      expect(await get(attempts.counted.remote(how))).toBe(runs)
    }
  })

  test('retryOn: a predicate that captures, sync or async', async () => {
    const threshold = 3
    const fail = remote(
      () => {
        const { attempt } = currentTask() ?? { attempt: 0 }
        if (attempt < 4) throw Object.assign(new Error('status'), { status: attempt < 2 ? 503 : 404 })
        return attempt
      },
      { retryOn: async (error) => (error as { status: number }).status > threshold * 100 + 200, maxRetries: 10 },
    )
    const error = await failure(get(fail.remote()))
    expect(error.cause).toMatchObject({ status: 404 })
  })
})

describe('time limits and cancelling', () => {
  test('a task over its timeoutMs fails, sees its signal, and its worker goes on', async () => {
    const tally = remote(Tally).remote()
    const slow = remote(
      async () => {
        await new Promise<void>((resolve) => currentTask()?.signal.addEventListener('abort', () => resolve()))
        await get(tally.count.remote('aborted')).catch(() => undefined)
        setImmediate(() => void tally.count.remote('and on'))
      },
      { timeoutMs: 100, name: 'slow' },
    )
    const error = await failure(get(slow.remote()))
    expect(error).toMatchObject({ code: 'TASK_TIMEOUT', details: { task: 'slow', timeoutMs: 100 } })
    await get(tally.reached.remote('and on', 1))
    expect(await get(remote(() => 'next').remote())).toBe('next')
  })

  test('a task that never lets go is killed after its time limit, and its CPU is free again', async () => {
    const spin = remote(
      () => {
        for (;;);
      },
      { timeoutMs: 50 },
    )
    expect((await failure(get(spin.remote()))).code).toBe('TASK_TIMEOUT')
    const gate = remote(Gate).remote(2)
    const both = remote(async () => await get(gate.arrive.remote()))
    await get([both.remote(), both.remote()])
  })

  test('cancel drops a queued task and one that waits for arguments', async () => {
    const gate = remote(Gate).remote(2)
    const hold = remote(async () => await get(gate.arrive.remote()), { resources: { widget: 3 } })
    const holding = hold.remote()
    const queued = remote(() => 'ran', { resources: { widget: 3 } }).remote()
    const waiting = remote((value: unknown) => value).remote(holding)
    cancel(queued)
    cancel(waiting)
    expect((await failure(get(queued))).code).toBe('CANCELLED')
    expect((await failure(get(waiting))).code).toBe('CANCELLED')
    await get(gate.arrive.remote())
    await get(holding)
  })

  test('cancel of a running task aborts its signal and its waits, and cancels what it submitted', async () => {
    const tally = remote(Tally).remote()
    const child = remote(async () => {
      const signal = currentTask()?.signal as AbortSignal
      await get(tally.count.remote('child runs'))
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
      await tally.count.remote('child saw it')
    })
    const parent = remote(async () => {
      try {
        await get(child.remote())
      } catch (error) {
        tally.count.remote(`parent: ${(error as BeamlineError).code}`)
        throw error
      }
    })
    const ref = parent.remote()
    await get(tally.reached.remote('child runs', 1))
    cancel(ref)
    expect((await failure(get(ref))).code).toBe('CANCELLED')
    await get([tally.reached.remote('parent: CANCELLED', 1), tally.reached.remote('child saw it', 1)])
  })

  test('cancel by force kills the worker of a task that does not listen', async () => {
    const tally = remote(Tally).remote()
    const spin = remote(async () => {
      await get(tally.count.remote('spins'))
      for (;;);
    })
    const ref = spin.remote()
    await get(tally.reached.remote('spins', 1))
    cancel(ref, { force: true })
    expect((await failure(get(ref))).code).toBe('CANCELLED')
    const gate = remote(Gate).remote(2)
    const both = remote(async () => await get(gate.arrive.remote()))
    await get([both.remote(), both.remote()])
  })

  test('a finished task stays as it is', async () => {
    const ref = remote(() => 5).remote()
    await wait([ref])
    cancel(ref)
    expect(await get(ref)).toBe(5)
  })
})

describe('nesting', () => {
  test('fifty levels deep on two CPUs', async () => {
    const deep = remote(async (n: number): Promise<number> => (n === 0 ? 0 : 1 + (await get(deep.remote(n - 1)))))
    expect(await get(deep.remote(50))).toBe(50)
  }, 60_000)

  test('fan-out of fan-out', async () => {
    const leaf = remote((x: number) => x)
    const inner = remote(async (x: number) => (await get([leaf.remote(x), leaf.remote(x + 1)])).reduce((a, b) => a + b))
    const outer = remote(async (x: number) => (await get([0, 1, 2, 3].map((i) => inner.remote(x + i)))).reduce((a, b) => a + b))
    expect(await get([0, 1, 2].map((x) => outer.remote(10 * x)))).toEqual([16, 96, 176])
  })
})
