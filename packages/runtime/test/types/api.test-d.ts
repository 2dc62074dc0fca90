/**
 * Types of the public API, checked by `npm run typecheck`: what must infer infers, what must be refused is refused. Never runs.
 */
import {
  type ActorHandle,
  ActorPool,
  currentTask,
  type Explanation,
  explain,
  get,
  getActor,
  init,
  kill,
  ObjectRef,
  type ObjectRefStream,
  put,
  Queue,
  remote,
  stop,
  wait,
} from '@beamline/runtime'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** `expectType<Expected>()(value)` compiles when the type of `value` is exactly Expected. */
const expectType =
  <Expected>() =>
  <Actual>(_value: Actual, ..._same: Equal<Actual, Expected> extends true ? [] : [never]): void =>
    undefined

export async function tasks(): Promise<void> {
  const add = remote((a: number, b: number) => a + b)
  const sum = add.remote(1, 2)
  expectType<ObjectRef<number>>()(sum)
  expectType<ObjectRef<number>>()(add.remote(sum, 2))
  expectType<ObjectRef<number>>()(add.remote(sum, sum))
  expectType<ObjectRef<number>>()(add.options({ cpus: 2, name: 'sum' }).remote(1, sum))
  expectType<number>()(await get(sum))
  // @ts-expect-error a string is no number
  add.remote('1', 2)
  // @ts-expect-error a reference to a string is none either
  add.remote(await put('1'), 2)
  // @ts-expect-error an argument is missing
  add.remote(1)
  // @ts-expect-error one too many
  add.remote(1, 2, 3)
  // @ts-expect-error only through .remote()
  add(1, 2)
  // @ts-expect-error no such option
  remote(() => 1, { cpu: 2 })
  // @ts-expect-error not a function
  remote(5)

  const optional = remote((a: string, b?: number, ...rest: boolean[]) => `${a}${b}${rest.length}`)
  optional.remote('a')
  optional.remote('a', 1)
  optional.remote('a', await put(1), true, await put(false))
  // @ts-expect-error
  optional.remote('a', true)

  const fetched = remote(async (url: string) => ({ url, status: 200 as const }))
  expectType<ObjectRef<{ url: string; status: 200 }>>()(fetched.remote('x'))
  expectType<{ url: string; status: 200 }>()(await get(fetched.remote('x')))
  expectType<ObjectRef<void>>()(remote(() => undefined as void).remote())
  // A reference inside a value stays one.
  const inner = remote(async () => await put(1))
  expectType<ObjectRef<ObjectRef<number>>>()(inner.remote())
  expectType<number>()(await get(await get(inner.remote())))
  // An argument that is a promise's value: the reference is to the value.
  const unwrap = remote((value: { n: number }) => value.n)
  unwrap.remote(remote(async () => ({ n: 1 })).remote())
}

export async function severalResults(): Promise<void> {
  const split = remote((text: string) => [text.length, text] as [number, string], { returns: 2 })
  const [length, text] = split.remote('x')
  expectType<ObjectRef<number>>()(length)
  expectType<ObjectRef<string>>()(text)
  expectType<number>()(await get(length))
  const eventually = remote(async () => [1, 'a', true] as const, { returns: 3 })
  const [one, a, yes] = eventually.remote()
  expectType<ObjectRef<1>>()(one)
  expectType<ObjectRef<'a'>>()(a)
  expectType<ObjectRef<true>>()(yes)
  const many = remote(() => [1, 2, 3], { returns: 3 })
  for (const ref of many.remote()) expectType<ObjectRef<number>>()(ref)
}

export async function streams(): Promise<void> {
  const sync = remote(function* (n: number) {
    for (let i = 0; i < n; i++) yield i
  })
  const asynchronous = remote(async function* () {
    yield { a: 1 }
  })
  expectType<ObjectRefStream<number>>()(sync.remote(3))
  expectType<ObjectRefStream<{ a: number }>>()(asynchronous.remote())
  for await (const ref of sync.remote(3)) expectType<ObjectRef<number>>()(ref)
  for await (const ref of asynchronous.remote()) expectType<{ a: number }>()(await get(ref))
  // @ts-expect-error a stream is no reference
  await get(sync.remote(3))
}

class Counter {
  static made = 0
  value = 0
  readonly #secret = 'x'
  constructor(start: number, label?: string) {
    this.value = start + (label?.length ?? 0)
  }
  add(k: number): number {
    return (this.value += k + this.#secret.length)
  }
  async later(text: string, ref: ObjectRef<number>): Promise<string> {
    return text + String(ref)
  }
  *each(n: number) {
    for (let i = 0; i < n; i++) yield `${i}`
  }
  async *follow() {
    yield 1n
  }
}

export async function actors(): Promise<void> {
  const Remote = remote(Counter, { maxRestarts: 2 })
  const counter = Remote.remote(1)
  expectType<ActorHandle<Counter>>()(counter)
  Remote.remote(await put(1), 'label')
  // @ts-expect-error the constructor takes a number first
  Remote.remote('1')
  // @ts-expect-error and it must be there
  Remote.remote()
  // @ts-expect-error no such option of actors
  remote(Counter, { maxCalls: 3 })
  // @ts-expect-error no such option of tasks
  remote((x: number) => x, { maxRestarts: 3 })

  expectType<ObjectRef<number>>()(counter.add.remote(1))
  expectType<ObjectRef<number>>()(counter.add.remote(counter.add.remote(1)))
  expectType<ObjectRef<string>>()(counter.later.remote('x', (await put(1)) as never))
  expectType<ObjectRefStream<string>>()(counter.each.remote(2))
  expectType<ObjectRefStream<bigint>>()(counter.follow.remote())
  // @ts-expect-error a field is no method
  void counter.value
  // @ts-expect-error not called directly
  counter.add(1)
  // @ts-expect-error no such method
  counter.subtract.remote(1)
  // @ts-expect-error a handle is read-only
  counter.add = {} as typeof counter.add

  expectType<ActorHandle<Counter>>()(await getActor<Counter>('name'))
  kill(counter)
  await stop(counter)
  const use = remote(async (handle: ActorHandle<Counter>) => await get(handle.add.remote(1)))
  expectType<ObjectRef<number>>()(use.remote(counter))
}

export async function objects(): Promise<void> {
  const number = await put(1)
  const text = await put('x' as string)
  expectType<ObjectRef<string>>()(text)
  expectType<[number, string]>()(await get([number, text] as [ObjectRef<number>, ObjectRef<string>]))
  const [first, second] = await get([number, text])
  expectType<number>()(first)
  expectType<string>()(second)
  const { a, b } = await get({ a: number, b: text })
  expectType<number>()(a)
  expectType<string>()(b)
  const refs: ObjectRef<number>[] = [number]
  expectType<number[]>()(await get(refs))
  const byName: Record<string, ObjectRef<Date>> = {}
  expectType<{ [name: string]: Date }>()(await get(byName))
  expectType<number>()(await get(number, { timeoutMs: 5, signal: new AbortController().signal }))
  // @ts-expect-error a number is no reference
  await get(5)
  // @ts-expect-error nor is a promise of one
  await get(put(1))
  // @ts-expect-error all of them must be references
  await get([number, 5])

  const { ready, pending } = await wait(refs, { count: 1, timeoutMs: 10 })
  expectType<ObjectRef<number>[]>()(ready)
  expectType<ObjectRef<number>[]>()(pending)
  // @ts-expect-error no such option
  await wait(refs, { num: 1 })
  expectType<Explanation>()(await explain(number))
  expectType<AbortSignal | undefined>()(currentTask()?.signal)
  using _scoped = number
  // @ts-expect-error a reference is no promise
  number.then(() => undefined)
}

export async function utilities(): Promise<void> {
  await using _cluster = await init({ cpus: 1 })
  const pool = new ActorPool([remote(Counter).remote(1)])
  for await (const value of pool.map((counter, k: number) => counter.add.remote(k), [1, 2])) expectType<number>()(value)
  for await (const value of pool.mapUnordered((counter, text: string) => counter.later.remote(text, text as never), ['a'])) expectType<string>()(value)
  // @ts-expect-error the values are strings, the call takes numbers
  pool.map((counter, k: number) => counter.add.remote(k), ['1'])
  const queue = new Queue<{ id: number }>({ maxSize: 10 })
  await queue.put({ id: 1 })
  // @ts-expect-error another type of item
  await queue.put(1)
  expectType<{ id: number }>()(await queue.get())
  expectType<{ id: number }[]>()(await queue.getBatch(5, { min: 2 }))
  for await (const item of queue) expectType<{ id: number }>()(item)
}
