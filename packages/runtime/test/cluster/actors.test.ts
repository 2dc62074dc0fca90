/** Actors as users call them: order, concurrency, life and death, names. Real processes. */
import {
  type ActorHandle,
  type BeamlineError,
  currentTask,
  get,
  getActor,
  init,
  kill,
  type ObjectRef,
  put,
  remote,
  shutdown,
  stop,
  wait,
} from '@beamline/runtime'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { collectUntil, failure, Gate, Tally } from './helpers.ts'

beforeAll(async () => {
  await init({ cpus: 2, gpus: 2, quiet: true })
})
afterAll(shutdown)

class Counter {
  #n: number
  constructor(start: number = 0) {
    this.#n = start
  }
  add(k: number): number {
    return (this.#n += k)
  }
  async addLater(k: number): Promise<number> {
    await new Promise((resolve) => setImmediate(resolve))
    return this.add(k)
  }
  pid(): number {
    return process.pid
  }
  crash(): void {
    process.exit(3)
  }
  crashOnce(file: string, value: number): number {
    const { existsSync, writeFileSync: write } = process.getBuiltinModule('node:fs')
    if (!existsSync(file)) {
      write(file, '')
      process.exit(4)
    }
    return this.add(value)
  }
}

describe('calls', () => {
  test('an actor keeps its state between calls, sync and async', async () => {
    const counter = remote(Counter).remote(10)
    expect(await get([counter.add.remote(1), counter.addLater.remote(2), counter.add.remote(3)])).toHaveLength(3)
    expect(await get(counter.add.remote(0))).toBe(16)
    expect(await get(counter.pid.remote())).not.toBe(process.pid)
  })

  test('calls of one caller run in their order, whatever their arguments wait for', async () => {
    class Recorder {
      readonly seen: unknown[] = []
      add(value: unknown): void {
        this.seen.push(value)
      }
      all(): unknown[] {
        return this.seen
      }
    }
    const recorder = remote(Recorder).remote()
    const late = remote(async () => {
      await new Promise((resolve) => setTimeout(resolve, 100))
      return 'late'
    })
    recorder.add.remote(0)
    recorder.add.remote(late.remote())
    for (let i = 1; i < 200; i++) recorder.add.remote(i)
    expect(await get(recorder.all.remote())).toEqual([0, 'late', ...Array.from({ length: 199 }, (_, i) => i + 1)])
  })

  test('one call at a time for a class with sync methods only', async () => {
    class Sync {
      #inside = 0
      block(): number {
        this.#inside++
        const end = performance.now() + 5
        while (performance.now() < end);
        return this.#inside--
      }
    }
    const actor = remote(Sync).remote()
    expect(new Set(await get(Array.from({ length: 10 }, () => actor.block.remote())))).toEqual(new Set([1]))
  })

  test('maxConcurrency bounds the async calls at once', async () => {
    class Async {
      #inside = 0
      async visit(): Promise<number> {
        const inside = ++this.#inside
        await new Promise((resolve) => setTimeout(resolve, 10))
        this.#inside--
        return inside
      }
    }
    const bounded = remote(Async, { maxConcurrency: 3 }).remote()
    expect(Math.max(...(await get(Array.from({ length: 12 }, () => bounded.visit.remote()))))).toBe(3)
    const free = remote(Async).remote()
    expect(Math.max(...(await get(Array.from({ length: 12 }, () => free.visit.remote()))))).toBe(12)
  })

  test('concurrency groups have limits of their own', async () => {
    class Grouped {
      readonly #inside = { io: 0, compute: 0 }
      async read(): Promise<number> {
        return await this.#visit('io')
      }
      async work(): Promise<number> {
        return await this.#visit('compute')
      }
      async #visit(group: 'io' | 'compute'): Promise<number> {
        const inside = ++this.#inside[group]
        await new Promise((resolve) => setTimeout(resolve, 10))
        this.#inside[group]--
        return inside
      }
      async ping(): Promise<string> {
        return 'pong'
      }
    }
    const actor = remote(Grouped, { concurrencyGroups: { io: { limit: 4, methods: ['read'] }, compute: { limit: 1, methods: ['work'] } } }).remote()
    const reads = Array.from({ length: 8 }, () => actor.read.remote())
    const works = Array.from({ length: 4 }, () => actor.work.remote())
    expect(await get(actor.ping.remote())).toBe('pong')
    expect(Math.max(...(await get(reads)))).toBe(4)
    expect(Math.max(...(await get(works)))).toBe(1)
    expect(() => remote(Grouped, { concurrencyGroups: { io: { limit: 1, methods: ['missing'] } } })).toThrow(/"missing"/)
  })

  test('maxPendingCalls refuses further calls until some are done', async () => {
    const gate = remote(Gate, { maxPendingCalls: 2 }).remote(1)
    const held = remote(Gate, { maxPendingCalls: 2 }).remote(3)
    const refs = [held.arrive.remote(), held.arrive.remote()]
    expect(() => held.arrive.remote()).toThrow(expect.objectContaining({ code: 'PENDING_CALLS_LIMIT' }))
    await get(gate.arrive.remote())
    await get(gate.arrive.remote())
    kill(held)
    for (const ref of refs) expect((await failure(get(ref))).code).toBe('ACTOR_DIED')
  })

  test('an error of a method does not end the actor', async () => {
    class Picky {
      #calls = 0
      take(value: number): number {
        this.#calls++
        if (value < 0) throw new RangeError(`negative: ${value}`)
        return this.#calls
      }
    }
    const picky = remote(Picky).remote()
    const error = await failure(get(picky.take.remote(-5)))
    expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'Picky.take' }, cause: { name: 'RangeError', message: 'negative: -5' } })
    expect(await get(picky.take.remote(1))).toBe(2)
  })

  test('a method that is not there is refused at once; a handle is no promise and no data', async () => {
    const counter = remote(Counter).remote()
    // @ts-expect-error no such method
    expect(() => counter.subtract.remote(1)).toThrow(/method "subtract" of actor Counter/)
    expect(await counter).toBe(counter)
    expect(String(counter)).toMatch(/^ActorHandle\(Counter [0-9a-f]{16}\)$/)
    expect(() => {
      ;(counter as { n?: number }).n = 1
    }).toThrow(/state lives in the actor/)
  })

  test('inherited methods, getters and private members work as in one process', async () => {
    class Base {
      protected readonly factor: number = 2
      twice(x: number): number {
        return x * this.factor
      }
    }
    class Derived extends Base {
      #calls = 0
      override twice(x: number): number {
        this.#calls++
        return super.twice(x) + 1
      }
      calls(): number {
        return this.#calls
      }
    }
    const derived = remote(Derived).remote()
    expect(await get(derived.twice.remote(4))).toBe(9)
    expect(await get(derived.calls.remote())).toBe(1)
  })

  test('an actor with GPUs sees its devices', async () => {
    class Devices {
      visible(): string | undefined {
        return process.env['CUDA_VISIBLE_DEVICES']
      }
    }
    const actors = [remote(Devices, { gpus: 1 }).remote(), remote(Devices, { gpus: 1 }).remote()]
    expect((await get(actors.map((actor) => actor.visible.remote()))).sort()).toEqual(['0', '1'])
    await Promise.all(actors.map((actor) => stop(actor)))
  })

  test('an actor that waits for tasks lends its CPU', async () => {
    class Boss {
      async work(): Promise<number> {
        const leaf = remote((x: number) => x)
        return (await get([leaf.remote(1), leaf.remote(2)])).reduce((a, b) => a + b)
      }
    }
    const bosses = [remote(Boss, { cpus: 1 }).remote(), remote(Boss, { cpus: 1 }).remote()]
    expect(await get(bosses.map((boss) => boss.work.remote()))).toEqual([3, 3])
    await Promise.all(bosses.map((boss) => stop(boss)))
  })
})

describe('constructor', () => {
  test('its arguments may be references', async () => {
    const start = remote(() => 40).remote()
    const counter = remote(Counter).remote(start)
    expect(await get(counter.add.remote(2))).toBe(42)
  })

  test('its error is the reason that calls fail', async () => {
    class Broken {
      constructor(text: string) {
        throw Object.assign(new TypeError(text), { hint: 'try another' })
      }
      ping(): string {
        return 'pong'
      }
    }
    const broken = remote(Broken, { maxRestarts: 3 }).remote('bad config')
    const error = await failure(get(broken.ping.remote()))
    expect(error.code).toBe('ACTOR_DIED')
    expect(error.message).toContain('bad config')
    expect((error.cause as BeamlineError).cause).toMatchObject({ name: 'TypeError', message: 'bad config', hint: 'try another' })
    expect((await failure(get(broken.ping.remote()))).code).toBe('ACTOR_DIED')
  })

  test('what it could never get is INFEASIBLE', async () => {
    const huge = remote(Counter, { cpus: 64 }).remote()
    expect(await failure(get(huge.add.remote(1)))).toMatchObject({ code: 'INFEASIBLE' })
  })
})

describe('death and restarts', () => {
  test('a crashed actor fails its calls and says how it ended', async () => {
    const counter = remote(Counter).remote()
    await get(counter.add.remote(1))
    const error = await failure(get(counter.crash.remote()))
    expect(error.code).toBe('ACTOR_DIED')
    expect(error.message).toContain('exited with code 3')
    expect((await failure(get(counter.add.remote(1)))).code).toBe('ACTOR_DIED')
  })

  test('maxRestarts starts it again with new state; the interrupted call says that it may have run', async () => {
    const counter = remote(Counter, { maxRestarts: 1 }).remote(5)
    expect(await get(counter.add.remote(1))).toBe(6)
    expect((await failure(get(counter.crash.remote()))).code).toBe('ACTOR_UNAVAILABLE')
    expect(await get(counter.add.remote(1))).toBe(6)
    expect((await failure(get(counter.crash.remote()))).code).toBe('ACTOR_DIED')
  })

  test('maxTaskRetries repeats interrupted calls, in their order', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'beamline-test-'))
    const counter = remote(Counter, { maxRestarts: -1, maxTaskRetries: 2 }).remote()
    const refs = [counter.add.remote(1), counter.crashOnce.remote(join(folder, 'crashed'), 10), counter.add.remote(100)]
    // The first call was answered before the crash or is repeated after it.
    const [first, second, third] = await get(refs)
    expect([first, third! - second!]).toEqual([1, 100])
    expect([10, 11]).toContain(second)
    rmSync(folder, { recursive: true })
  })

  test('kill ends it at once, also while it is busy; with restart it starts again', async () => {
    const counter = remote(Counter, { maxRestarts: 1 }).remote()
    const before = await get(counter.pid.remote())
    kill(counter, { restart: true })
    const after = await (async () => {
      for (;;) {
        const pid = await get(counter.pid.remote()).catch((error: BeamlineError) => error.code)
        if (pid !== 'ACTOR_UNAVAILABLE' && pid !== before) return pid
      }
    })()
    expect(after).toBeTypeOf('number')
    class Spinner {
      spin(): void {
        for (;;);
      }
    }
    const spinner = remote(Spinner).remote()
    const spinning = spinner.spin.remote()
    kill(counter)
    kill(spinner)
    expect((await failure(get(spinning))).code).toBe('ACTOR_DIED')
    expect((await failure(get(counter.add.remote(1)))).message).toContain('kill')
  })

  test('stop lets running calls finish, disposes, and then ends the process', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'beamline-test-'))
    class Disposable {
      readonly #file: string
      constructor(file: string) {
        this.#file = file
      }
      async work(): Promise<string> {
        await new Promise((resolve) => setTimeout(resolve, 50))
        return 'finished'
      }
      pid(): number {
        return process.pid
      }
      async [Symbol.asyncDispose](): Promise<void> {
        await new Promise((resolve) => setImmediate(resolve))
        writeFileSync(this.#file, 'disposed')
      }
    }
    const actor = remote(Disposable).remote(join(folder, 'note'))
    await get(actor.pid.remote())
    const working = actor.work.remote()
    await stop(actor)
    expect(await get(working)).toBe('finished')
    expect(readFileSync(join(folder, 'note'), 'utf8')).toBe('disposed')
    expect((await failure(get(actor.pid.remote()))).code).toBe('ACTOR_DIED')
    rmSync(folder, { recursive: true })
  })

  test('a stop that takes longer than stopTimeoutMs ends by force', async () => {
    class Stubborn {
      pid(): number {
        return process.pid
      }
      async [Symbol.asyncDispose](): Promise<void> {
        await new Promise(() => undefined)
      }
    }
    const actor = remote(Stubborn, { stopTimeoutMs: 300 }).remote()
    await get(actor.pid.remote())
    const started = performance.now()
    await stop(actor)
    expect(performance.now() - started).toBeLessThan(3_000)
  })
})

describe('lifetime', () => {
  const alive = (pid: number): boolean => {
    try {
      return process.kill(pid, 0)
    } catch {
      return false
    }
  }

  test('an actor ends when its last handle is collected', async () => {
    const start = async (): Promise<number> => await get(remote(Counter).remote().pid.remote())
    const pid = await start()
    await collectUntil(() => !alive(pid))
  })

  test('it finishes the calls that were made before, though no handle is left', async () => {
    const start = (): ObjectRef<number>[] => {
      const counter = remote(Counter).remote(1)
      return Array.from({ length: 20 }, () => counter.addLater.remote(1))
    }
    const refs = start()
    global.gc?.()
    expect((await get(refs)).at(-1)).toBe(21)
  })

  test('a method that was taken from a handle keeps the actor', async () => {
    const { add, pid } = remote(Counter).remote(1)
    const id = await get(pid.remote())
    for (let i = 0; i < 5; i++) {
      global.gc?.()
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(alive(id)).toBe(true)
    expect(await get(add.remote(1))).toBe(2)
  })

  test('handles in arguments, results and objects keep it', async () => {
    const keep = async (): Promise<{ holder: ActorHandle<Holder>; pid: number }> => {
      const counter = remote(Counter).remote(100)
      const holder = remote(Holder).remote()
      await get(holder.keep.remote({ counter }))
      return { holder, pid: await get(counter.pid.remote()) }
    }
    class Holder {
      #counter: ActorHandle<Counter> | undefined
      keep({ counter }: { counter: ActorHandle<Counter> }): void {
        this.#counter = counter
      }
      async use(): Promise<number> {
        return await get(this.#counter!.add.remote(1))
      }
      give(): { counter: ActorHandle<Counter> } {
        return { counter: this.#counter! }
      }
      drop(): void {
        this.#counter = undefined
        global.gc?.()
      }
    }
    const { holder, pid } = await keep()
    for (let i = 0; i < 3; i++) {
      global.gc?.()
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(await get(holder.use.remote())).toBe(101)
    const boxed = await put(await get(holder.give.remote()))
    await get(holder.drop.remote())
    global.gc?.()
    const { counter } = await get(boxed)
    expect(await get(counter.add.remote(1))).toBe(102)
    expect(alive(pid)).toBe(true)
  })

  test('a task gets a handle, uses it, and gives it back', async () => {
    const counter = remote(Counter).remote(0)
    const use = remote(async (c: ActorHandle<Counter>, k: number) => {
      await get(c.add.remote(k))
      return c
    })
    const back = await get(use.remote(counter, 5))
    expect(await get(back.add.remote(1))).toBe(6)
    expect(await get(remote(async (k: number) => await get(counter.add.remote(k))).remote(4))).toBe(10)
  })

  test('an actor made in a task ends with the process that made it, unless it was handed on', async () => {
    const make = remote(
      async () => {
        const counter = remote(Counter).remote(7)
        return { pid: await get(counter.pid.remote()) }
      },
      { maxCalls: 1 },
    )
    const { pid } = await get(make.remote())
    await collectUntil(() => !alive(pid))
  })
})

describe('names', () => {
  test('a named actor is found by its name, in its namespace only, and a name is taken once', async () => {
    const counter = remote(Counter, { name: 'shared counter' }).remote(1)
    const found = await getActor<Counter>('shared counter')
    expect(await get(found.add.remote(1))).toBe(2)
    expect(await get(counter.add.remote(1))).toBe(3)
    const again = remote(Counter, { name: 'shared counter' }).remote()
    expect(await failure(get(again.add.remote(1)))).toMatchObject({ code: 'ACTOR_NAME_TAKEN' })
    expect(await failure(getActor('shared counter', { namespace: 'elsewhere' }))).toMatchObject({ code: 'ACTOR_NOT_FOUND' })
    const other = remote(Counter, { name: 'shared counter', namespace: 'elsewhere' }).remote(50)
    expect(await get(other.add.remote(1))).toBe(51)
    expect(await get((await getActor<Counter>('shared counter', { namespace: 'elsewhere' })).add.remote(1))).toBe(52)
  })

  test('getIfExists gives all the same actor', async () => {
    const Shared = remote(Counter, { name: 'one for all', getIfExists: true })
    const [a, b] = [Shared.remote(10), Shared.remote(99)]
    expect(await get(a.add.remote(1))).toBe(11)
    expect(await get(b.add.remote(1))).toBe(12)
    const inTask = remote(async () => await get(Shared.remote(0).add.remote(1)))
    expect(await get(inTask.remote())).toBe(13)
  })

  test('a name is free again when its actor is gone', async () => {
    const first = remote(Counter, { name: 'reused' }).remote(1)
    await get(first.pid.remote())
    await stop(first)
    const second = remote(Counter, { name: 'reused' }).remote(2)
    expect(await get(second.add.remote(0))).toBe(2)
  })

  test('a detached actor lives without handles until it is stopped', async () => {
    const start = async (): Promise<number> => await get(remote(Counter, { name: 'detached', detached: true }).remote(1).pid.remote())
    const pid = await start()
    for (let i = 0; i < 5; i++) {
      global.gc?.()
      await new Promise((resolve) => setImmediate(resolve))
    }
    const found = await getActor<Counter>('detached')
    expect(await get(found.pid.remote())).toBe(pid)
    await stop(found)
    expect((await failure(getActor('detached'))).code).toBe('ACTOR_NOT_FOUND')
    expect(() => remote(Counter, { detached: true })).toThrow(/a name, for detached/)
  })
})

test('calls know their actor, and cancel reaches a running one', async () => {
  const tally = remote(Tally).remote()
  class Self {
    async name(): Promise<string | undefined> {
      return currentTask()?.name
    }
    async listen(t: ActorHandle<Tally>): Promise<void> {
      await get(t.count.remote('listens'))
      await new Promise<void>((resolve) => currentTask()?.signal.addEventListener('abort', () => resolve()))
      await get(t.count.remote('heard')).catch(() => t.count.remote('heard'))
    }
  }
  const self = remote(Self).remote()
  expect(await get(self.name.remote())).toBe('Self.name')
  const listening = self.listen.remote(tally)
  await get(tally.reached.remote('listens', 1))
  const { cancel } = await import('@beamline/runtime')
  cancel(listening)
  expect((await failure(get(listening))).code).toBe('CANCELLED')
  await get(tally.reached.remote('heard', 1))
  expect((await wait([self.name.remote()])).ready).toHaveLength(1)
})
