/**
 * What runs while faults happen: five programs that say exactly what must come out, so that a lost task, a task counted twice or a wrong byte is seen.
 * A module of its own, so that workers import it by its exports. Sizes come from outside; contents from a seed.
 *
 * | workload | load | what must hold |
 * |---|---|---|
 * | tasks | outer tasks that wait and get a nested task's 50 kB | each returns the right sum |
 * | actors | reporters that restart without limit, each with a database actor on the spared node | each report counted at least once, and exactly `reports` different ones |
 * | streaming | generators of small and large items | every item once, in order, the right bytes |
 * | borrowing | a task makes an object, another gets it through a nested reference; one after the other, then at once | exact byte total |
 * | pipeline | split, exchange, merge: each merge reads a part of every block | each sum right, also where blocks were computed again |
 */
import { appendFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { currentTask, get, type ObjectRef, remote } from '@beamline/runtime'

/** Custom resource of the node that no fault kills: the program is there, and what must not be lost with a process. */
export const SPARED = 'spared'

/** How much a workload does. */
export interface Load {
  /** Tasks, reports per actor, items per stream, pairs, or blocks. */
  readonly count: number
  /** Actors or streams; partitions of the pipeline. */
  readonly width: number
  /** Bytes of one large object. */
  readonly bytes: number
  /** How long a task takes, so that faults meet it. */
  readonly holdMs: number
  readonly seed: number
  /** File that gets one byte for each run of a task or constructor: the difference to what was asked for is what ran again. */
  readonly marks: string
}

export interface Outcome {
  /** Tasks, calls or items that the program asked for. */
  readonly asked: number
  /** Runs that leave a mark when nothing fails. */
  readonly marked: number
  /** Attempts of calls that its tasks made, because one before was lost. */
  readonly nestedRetries: number
  /** What was wrong; empty: nothing. */
  readonly wrong: readonly string[]
}

const NO_LIMIT = -1
const WRONG_SHOWN = 5

/** `bytes` that depend on seed and number only. */
export function pattern(seed: number, number: number, bytes: number): Uint32Array {
  const words = new Uint32Array(bytes >> 2)
  let state = (Math.imul(seed + 1, 0x9e37_79b1) ^ Math.imul(number + 1, 0x85eb_ca6b)) >>> 0 || 1
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    words[index] = state
  }
  return words
}

/** Depends on every word and its position. */
export function checksum(words: Uint32Array): number {
  let sum = 0x811c_9dc5
  for (const word of words) sum = Math.imul(sum ^ word, 0x0100_0193)
  return sum >>> 0
}

const mark = (file: string): void => appendFileSync(file, '.')

function compare(wrong: string[], what: string, got: unknown, expected: unknown): void {
  if (got !== expected) wrong.push(`${what}: ${String(got)} instead of ${String(expected)}`)
}

// ---------------------------------------------------------------- tasks

const NESTED_BYTES = 50_000

export const nested = remote(
  function nested(seed: number, number: number): { words: Uint32Array; retries: number } {
    return { words: pattern(seed, number, NESTED_BYTES), retries: currentTask()?.attempt ?? 0 }
  },
  { maxRetries: NO_LIMIT },
)

export const outer = remote(
  async function outer(load: Load, number: number): Promise<readonly [sum: number, retries: number]> {
    mark(load.marks)
    await delay(load.holdMs)
    const { words, retries } = await get(nested.remote(load.seed, number))
    return [checksum(words), retries]
  },
  { maxRetries: NO_LIMIT },
)

async function tasks(load: Load): Promise<Outcome> {
  const wrong: string[] = []
  let nestedRetries = 0
  const refs = Array.from({ length: load.count }, (_, number) => outer.remote(load, number))
  for (const [number, ref] of refs.entries()) {
    const [sum, retries] = await get(ref)
    compare(wrong, `task ${number}`, sum, checksum(pattern(load.seed, number, NESTED_BYTES)))
    nestedRetries += retries
    ref.release()
  }
  return { asked: load.count, marked: load.count, nestedRetries, wrong }
}

// ---------------------------------------------------------------- actors

/** Keeps how often each report came. */
export class Database {
  readonly #counts = new Map<number, number>()

  add(report: number): void {
    this.#counts.set(report, (this.#counts.get(report) ?? 0) + 1)
  }

  counts(): readonly (readonly [number, number])[] {
    return [...this.#counts]
  }
}

export class Reporter {
  readonly #database: { add: { remote(report: number): ObjectRef<void> } }
  readonly #holdMs: number

  constructor(database: { add: { remote(report: number): ObjectRef<void> } }, holdMs: number, marks: string) {
    this.#database = database
    this.#holdMs = holdMs
    mark(marks)
  }

  async report(number: number): Promise<number> {
    await delay(this.#holdMs)
    await get(this.#database.add.remote(number))
    return number
  }
}

async function actors(load: Load): Promise<Outcome> {
  const wrong: string[] = []
  const RemoteDatabase = remote(Database, { resources: { [SPARED]: 0.01 } })
  const RemoteReporter = remote(Reporter, { cpus: 0.25, strategy: 'spread', maxRestarts: NO_LIMIT, maxTaskRetries: NO_LIMIT, maxConcurrency: 1 })
  const pairs = Array.from({ length: load.width }, () => {
    const database = RemoteDatabase.remote()
    return { database, reporter: RemoteReporter.remote(database, load.holdMs, load.marks) }
  })
  for (let number = 0; number < load.count; number++) {
    const reported = await get(pairs.map(({ reporter }) => reporter.report.remote(number)))
    for (const each of reported) compare(wrong, 'answer to a report', each, number)
  }
  for (const [actor, { database }] of pairs.entries()) {
    const counts = await get(database.counts.remote())
    compare(wrong, `different reports of actor ${actor}`, counts.length, load.count)
    for (const [number, count] of counts)
      if (number < 0 || number >= load.count || count < 1) wrong.push(`report ${number} of actor ${actor}: counted ${count} times`)
  }
  return { asked: load.count * load.width, marked: load.width, nestedRetries: 0, wrong }
}

// ---------------------------------------------------------------- streaming

const SMALL_BYTES = 1_000

export const stream = remote(
  async function* stream(load: Load, number: number): AsyncGenerator<Uint32Array, void, void> {
    mark(load.marks)
    for (let item = 0; item < load.count; item++) {
      await delay(load.holdMs)
      yield itemOf(load, number, item)
    }
  },
  { maxRetries: NO_LIMIT, strategy: 'spread' },
)

/** Every third item is large. */
function itemOf({ count, seed, bytes }: Load, number: number, item: number): Uint32Array {
  return pattern(seed, number * count + item, item % 3 === 0 ? bytes : SMALL_BYTES)
}

async function streaming(load: Load): Promise<Outcome> {
  const wrong: string[] = []
  const consume = async (number: number): Promise<void> => {
    let item = 0
    for await (const ref of stream.remote(load, number)) {
      compare(wrong, `item ${item} of stream ${number}`, checksum(await get(ref)), checksum(itemOf(load, number, item)))
      ref.release()
      item++
    }
    compare(wrong, `items of stream ${number}`, item, load.count)
  }
  await Promise.all(Array.from({ length: load.width }, (_, number) => consume(number)))
  return { asked: load.count * load.width, marked: load.width, nestedRetries: 0, wrong }
}

// ---------------------------------------------------------------- borrowing

export const create = remote(
  async function create(load: Load, number: number): Promise<Uint32Array> {
    mark(load.marks)
    await delay(load.holdMs)
    return pattern(load.seed, number, load.bytes)
  },
  { maxRetries: NO_LIMIT, strategy: 'spread' },
)

export const borrow = remote(
  async function borrow(load: Load, { ref }: { readonly ref: ObjectRef<Uint32Array> }): Promise<readonly [number, number]> {
    mark(load.marks)
    const words = await get(ref)
    return [words.byteLength, checksum(words)]
  },
  { maxRetries: NO_LIMIT },
)

async function borrowing(load: Load): Promise<Outcome> {
  const wrong: string[] = []
  let bytes = 0
  const pair = async (number: number): Promise<void> => {
    using made = create.remote(load, number)
    using borrowed = borrow.remote(load, { ref: made })
    const [length, sum] = await get(borrowed)
    bytes += length
    compare(wrong, `pair ${number}`, sum, checksum(pattern(load.seed, number, load.bytes)))
  }
  const half = load.count >> 1
  for (let number = 0; number < half; number++) await pair(number)
  await Promise.all(Array.from({ length: load.count - half }, (_, index) => pair(half + index)))
  compare(wrong, 'bytes in all', bytes, load.count * (load.bytes & ~3))
  return { asked: 2 * load.count, marked: 2 * load.count, nestedRetries: 0, wrong }
}

// ---------------------------------------------------------------- pipeline

const partOf = (words: Uint32Array, part: number, width: number): Uint32Array => {
  const length = Math.floor(words.length / width)
  return words.subarray(part * length, (part + 1) * length)
}

export const split = remote(
  async function split(load: Load, words: Uint32Array): Promise<Uint32Array[]> {
    mark(load.marks)
    await delay(load.holdMs)
    return Array.from({ length: load.width }, (_, part) => partOf(words, part, load.width).slice())
  },
  { maxRetries: NO_LIMIT },
)

export const merge = remote(
  async function merge(load: Load, ...parts: Uint32Array[]): Promise<Uint32Array> {
    mark(load.marks)
    await delay(load.holdMs)
    const all = new Uint32Array(parts.reduce((length, part) => length + part.length, 0))
    let at = 0
    for (const part of parts) {
      all.set(part, at)
      at += part.length
    }
    return all
  },
  { maxRetries: NO_LIMIT },
)

export const sumOf = remote(
  function sumOf(load: Load, words: Uint32Array): readonly [number, number] {
    mark(load.marks)
    return [words.byteLength, checksum(words)]
  },
  { maxRetries: NO_LIMIT },
)

async function pipeline(load: Load): Promise<Outcome> {
  const { count, width, seed } = load
  const wrong: string[] = []
  const splitter = split as unknown as {
    options(options: { returns: number }): { remote(load: Load, words: ObjectRef<Uint32Array>): ObjectRef<Uint32Array>[] }
  }
  const blocks = Array.from({ length: count }, (_, block) => splitter.options({ returns: width }).remote(load, create.remote(load, block)))
  const merged = Array.from({ length: width }, (_, part) => merge.remote(load, ...blocks.map((parts) => parts[part] as ObjectRef<Uint32Array>)))
  for (const [part, ref] of merged.entries()) {
    const expected = Array.from({ length: count }, (_, block) => partOf(pattern(seed, block, load.bytes), part, width))
    const all = new Uint32Array(expected.reduce((length, words) => length + words.length, 0))
    let at = 0
    for (const words of expected) {
      all.set(words, at)
      at += words.length
    }
    const [bytes, sum] = await get(sumOf.remote(load, ref))
    compare(wrong, `bytes of part ${part}`, bytes, all.byteLength)
    compare(wrong, `sum of part ${part}`, sum, checksum(all))
  }
  const ran = 2 * count + 2 * width
  return { asked: ran, marked: ran, nestedRetries: 0, wrong }
}

export const WORKLOADS = { tasks, actors, streaming, borrowing, pipeline } as const

export type WorkloadName = keyof typeof WORKLOADS

/** What the first wrong things were, for people. */
export function describeWrong(wrong: readonly string[]): string {
  return `${wrong.slice(0, WRONG_SHOWN).join('; ')}${wrong.length > WRONG_SHOWN ? `; and ${wrong.length - WRONG_SHOWN} more` : ''}`
}
