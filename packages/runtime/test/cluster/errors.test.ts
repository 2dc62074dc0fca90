/** Errors as they arrive at the caller, and explain() for references that do not arrive. Real processes. */
import { type ActorHandle, BeamlineError, type Explanation, explain, get, init, kill, type ObjectRef, put, remote, shutdown } from '@beamline/runtime'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failure, Gate, Tally } from './helpers.ts'

beforeAll(async () => {
  await init({ cpus: 2, resources: { slot: 1 }, quiet: true })
})
afterAll(shutdown)

class HttpError extends Error {
  override readonly name = 'HttpError'
  readonly status: number
  readonly headers = new Map([['retry-after', '5']])
  constructor(status: number, options?: ErrorOptions) {
    super(`status ${status}`, options)
    this.status = status
  }
}

describe('exceptions of users', () => {
  test('arrive as cause, with class name, message, own fields, cause chain and remote stack', async () => {
    const request = remote(
      function request(url: string): number {
        try {
          throw new TypeError('no route')
        } catch (cause) {
          throw Object.assign(new HttpError(503, { cause: new Error('connect', { cause }) }), { url })
        }
      },
      { name: 'request it' },
    )
    const error = await failure(get(request.remote('http://x')))
    expect(error).toBeInstanceOf(BeamlineError)
    expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'request it' } })
    expect(error.message).toMatch(/^task "request it" failed on worker [0-9a-f]{16}: HttpError: status 503$/)
    const cause = error.cause as HttpError & { url: string }
    expect(cause).toBeInstanceOf(Error)
    expect(cause).toMatchObject({ name: 'HttpError', message: 'status 503', status: 503, url: 'http://x' })
    expect(cause.headers).toEqual(new Map([['retry-after', '5']]))
    expect(cause.stack).toContain('errors.test.ts')
    expect(cause.cause).toMatchObject({ message: 'connect', cause: { name: 'TypeError', message: 'no route' } })
    expect((cause.cause as Error).cause).toBeInstanceOf(TypeError)
    expect(error.stack).toContain('awaited here')
    expect(error.stack).toContain('errors.test.ts')
  })

  test.each<[string, unknown]>([
    ['a string', 'just text'],
    ['null', null],
    ['undefined', undefined],
    ['a number', 42],
    ['an object', { reason: 'because', nested: [1] }],
  ])('%s that is thrown is the cause', async (_, thrown) => {
    const fail = remote((value: unknown) => {
      throw value
    })
    const error = await failure(get(fail.remote(thrown)))
    expect(error.code).toBe('TASK_FAILED')
    expect(error.cause).toEqual(thrown)
  })

  test('what cannot travel in an error is left out and named', async () => {
    const fail = remote(() => {
      throw Object.assign(new Error('with a socket'), { good: 1, bad: () => 1, worse: new WeakMap() })
    })
    const error = await failure(get(fail.remote()))
    expect(error.code).toBe('TASK_FAILED')
    expect(error.cause).toMatchObject({ message: 'with a socket', good: 1 })
    expect((error.cause as { lostFields: string[] }).lostFields).toContain('worse')
  })

  test('a rejected promise, an AggregateError and an error in a finally', async () => {
    expect((await failure(get(remote(async () => await Promise.reject(new RangeError('later'))).remote()))).cause).toMatchObject({ name: 'RangeError' })
    const aggregate = await failure(get(remote(async () => await Promise.any([Promise.reject(new Error('a')), Promise.reject(new Error('b'))])).remote()))
    expect((aggregate.cause as AggregateError).errors.map((each: Error) => each.message)).toEqual(['a', 'b'])
    const last = await failure(
      get(
        remote(() => {
          try {
            throw new Error('first')
          } finally {
            // oxlint-disable-next-line no-unsafe-finally -- what users write
            throw new Error('last')
          }
        }).remote(),
      ),
    )
    expect(last.cause).toMatchObject({ message: 'last' })
  })

  test('propagate through dependants, however many', async () => {
    const fail = remote(
      (): number => {
        throw new Error('the root')
      },
      { name: 'root' },
    )
    const tally = remote(Tally).remote()
    const plusOne = remote(async (x: number) => {
      await get(tally.count.remote('ran'))
      return x + 1
    })
    const error = await failure(get(plusOne.remote(plusOne.remote(plusOne.remote(fail.remote())))))
    expect(error).toMatchObject({ code: 'TASK_FAILED', details: { task: 'root' }, cause: { message: 'the root' } })
    expect(await get(tally.counted.remote('ran'))).toBe(0)
    const method = tally.count.remote(fail.remote() as unknown as ObjectRef<string>)
    expect((await failure(get(method))).details).toMatchObject({ task: 'root' })
  })

  test('of a nested task keep their own task as cause', async () => {
    const inner = remote(
      (): number => {
        throw new Error('deep')
      },
      { name: 'inner' },
    )
    const outer = remote(async () => await get(inner.remote()), { name: 'outer' })
    const error = await failure(get(outer.remote()))
    expect(error.details).toMatchObject({ task: 'outer' })
    expect(error.cause).toMatchObject({ code: 'TASK_FAILED', details: { task: 'inner' }, cause: { message: 'deep' } })
    expect(BeamlineError.is(error.cause, 'TASK_FAILED')).toBe(true)
  })

  test('do not end the worker', async () => {
    const pid = remote(() => process.pid)
    const before = new Set(await get([pid.remote(), pid.remote()]))
    await failure(
      get(
        remote(() => {
          throw new Error('x')
        }).remote(),
      ),
    )
    expect(before.has(await get(pid.remote()))).toBe(true)
  })

  test('the same error is thrown by each get, and get may be called often', async () => {
    const ref = remote(() => {
      throw new Error('again and again')
    }).remote()
    const [a, b] = await Promise.all([failure(get(ref)), failure(get(ref))])
    expect(a.message).toBe(b.message)
    expect((await failure(get(ref))).cause).toMatchObject({ message: 'again and again' })
  })
})

describe('what the runtime refuses', () => {
  test('an argument that cannot be sent is refused at the call, with its path', async () => {
    const f = remote((value: unknown) => value)
    const outcome = ((): unknown => {
      try {
        return f.remote({ layers: [{}, { session: new WeakMap() }] })
      } catch (error) {
        return error
      }
    })()
    const error = outcome instanceof Error ? outcome : await failure(get(outcome as ObjectRef<unknown>))
    expect(error).toMatchObject({ code: 'NOT_SERIALIZABLE' })
    expect((error as Error).message).toMatch(/layers.*1.*session/)
  })

  test('a result that cannot be sent says which task made it', async () => {
    const error = await failure(get(remote(() => ({ ok: 1, handle: new WeakRef({}) }), { name: 'leaks a handle' }).remote()))
    expect(error.code).toBe('NOT_SERIALIZABLE')
    expect(error.message).toMatch(/the result of "leaks a handle".*handle/)
  })

  test('circular values are fine', async () => {
    const loop: { self?: unknown; n: number } = { n: 1 }
    loop.self = loop
    const back = await get(remote((value: typeof loop) => value).remote(loop))
    expect(back.self).toBe(back)
  })
})

describe('explain', () => {
  test('a task that waits for an argument, one that runs, one that is queued, one that is done', async () => {
    const gate = remote(Gate).remote(2)
    const hold = remote(async () => await get(gate.arrive.remote()), { name: 'holds the slot', resources: { slot: 1 } })
    const running = hold.remote()
    const queued = remote(() => 1, { name: 'wants the slot', resources: { slot: 1 } }).remote()
    const second = remote(() => 2, { name: 'wants it too', resources: { slot: 1 } }).remote()
    const waiting = remote((_: unknown) => 1, { name: 'waits' }).remote(running)
    while ((await get(gate.arrived.remote())) < 1) await new Promise((resolve) => setImmediate(resolve))

    const run: Explanation = await explain(running)
    expect(run).toMatchObject({ state: 'RUNNING', task: 'holds the slot', worker: expect.stringMatching(/^[0-9a-f]{16}$/) })
    expect(run.runningForMs).toBeGreaterThan(0)
    expect(run.text).toContain('"holds the slot" runs on worker')
    const argument = await explain(waiting)
    expect(argument).toMatchObject({ state: 'WAITING_FOR_ARGUMENT', task: 'waits', arguments: [{ index: 0 }] })
    expect(argument.text).toContain('"waits" waits for argument 0')
    expect(argument.text).toContain('"holds the slot" runs')
    const queue = await explain(second)
    expect(queue).toMatchObject({ state: 'QUEUED', ahead: 1 })
    expect(queue.text).toContain('1 slot')
    expect((await explain(queued)).ahead).toBe(0)

    await get(gate.arrive.remote())
    await get([running, queued, second, waiting])
    expect(await explain(waiting)).toMatchObject({ state: 'READY' })
  })

  test('failed, retrying, an actor that is not there yet, a call behind another, another owner', async () => {
    const failed = remote(() => {
      throw new Error('known by now')
    }).remote()
    await failure(get(failed))
    expect(await explain(failed)).toMatchObject({ state: 'FAILED', error: expect.stringContaining('known by now') })

    const tally = remote(Tally).remote()
    const flaky = remote(
      async () => {
        await get(tally.count.remote('tried'))
        throw new Error('try again')
      },
      { retryOn: true, maxRetries: -1, name: 'flaky' },
    ).remote()
    await get(tally.reached.remote('tried', 3))
    let retrying: Explanation
    do {
      await new Promise((resolve) => setImmediate(resolve))
      retrying = await explain(flaky)
    } while (retrying.state !== 'RETRYING')
    expect(retrying).toMatchObject({ state: 'RETRYING', task: 'flaky' })
    expect(retrying.text).toMatch(/failed \d times? and will be tried again/)

    const never = remote(Gate).remote(9)
    const late = remote(Tally).remote()
    expect((await explain(late.counted.remote('x'))).state).toMatch(/WAITING_FOR_ACTOR|RUNNING/)
    const first = never.arrive.remote()
    await get(never.arrived.remote())
    const behind = never.arrive.remote()
    expect(await explain(behind)).toMatchObject({ state: 'QUEUED_AT_WORKER', ahead: 1, task: 'Gate.arrive' })
    expect(await explain(first)).toMatchObject({ state: 'RUNNING' })

    const give = remote(async (gate: ActorHandle<Gate>) => ({ ref: gate.arrive.remote() }))
    const { ref } = await get(give.remote(never))
    expect(await explain(ref)).toMatchObject({ state: 'WAITING_FOR_OWNER' })
    kill(never)
    await failure(get(ref))
    await failure(get(first))
    expect((await explain(await put(1))).state).toBe('READY')
  })

  test('an actor that waits for resources says for which', async () => {
    class Holder {
      ping(): string {
        return 'pong'
      }
    }
    const holder = remote(Holder, { resources: { slot: 1 } }).remote()
    await get(holder.ping.remote())
    const waiting = remote(Holder, { resources: { slot: 1 } }).remote()
    const ref = waiting.ping.remote()
    let why: Explanation
    do {
      await new Promise((resolve) => setImmediate(resolve))
      why = await explain(ref)
    } while (!why.text.includes('slot'))
    expect(why.state).toBe('WAITING_FOR_ACTOR')
    kill(holder)
    expect(await get(ref)).toBe('pong')
    kill(waiting)
  })
})
