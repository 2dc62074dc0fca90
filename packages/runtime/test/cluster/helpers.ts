/** What several of these tests use: actors to meet at, errors as values. */
import { type BeamlineError, get, remote } from '@beamline/runtime'
import { current } from '../../src/core/current.ts'

/** The error that a promise rejects with; fails when it does not. */
export async function failure(promise: Promise<unknown>): Promise<BeamlineError & { cause: never }> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  if ('value' in outcome) throw new Error(`resolved with ${String(outcome.value)} instead of failing`)
  return outcome.error as BeamlineError & { cause: never }
}

/** An actor: `arrive()` resolves for all once `size` callers are there. */
export class Gate {
  readonly #size: number
  #arrived = 0
  #open: () => void = () => undefined
  readonly #opened: Promise<void>

  constructor(size: number) {
    this.#size = size
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#opened = promise
    this.#open = resolve
  }

  async arrive(): Promise<void> {
    if (++this.#arrived >= this.#size) this.#open()
    await this.#opened
  }

  async arrived(): Promise<number> {
    return this.#arrived
  }
}

/** An actor: counts by key, waits for counts, and keeps the highest number of visitors at once. */
export class Tally {
  #inside = 0
  #peak = 0
  readonly #counts = new Map<string, number>()
  #waiting: { key: string; count: number; resolve: () => void }[] = []

  enter(): void {
    this.#peak = Math.max(this.#peak, ++this.#inside)
  }

  leave(): void {
    this.#inside--
  }

  peak(): number {
    return this.#peak
  }

  count(key: string): number {
    const count = this.counted(key) + 1
    this.#counts.set(key, count)
    this.#waiting = this.#waiting.filter((each) => {
      if (each.key === key && each.count <= count) each.resolve()
      return each.key !== key || each.count > count
    })
    return count
  }

  counted(key: string): number {
    return this.#counts.get(key) ?? 0
  }

  /** Resolves once `key` was counted so often. */
  async reached(key: string, count: number): Promise<void> {
    if (this.counted(key) >= count) return
    await new Promise<void>((resolve) => this.#waiting.push({ key, count, resolve }))
  }
}

/** Collects garbage until something that depends on it has happened. */
export async function collectUntil(happened: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await happened())) {
    global.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

export interface StoreUse {
  /** Bytes of living objects in shared memory, of all processes. */
  readonly objectBytes: number
  /** What `list objects` shows of shared memory. */
  readonly objects: number
  /** Objects of this process that somebody holds. */
  readonly owned: number
  readonly ownedBytes: number
  readonly borrowed: number
}

const sweep = remote(() => {
  global.gc?.()
})

/** Collects the garbage of the workers: what their code dropped is held until then. */
export async function sweepWorkers(): Promise<void> {
  const refs = Array.from({ length: 4 }, () => sweep.remote())
  await get(refs)
  for (const ref of refs) ref.release()
}

/** What the store and the references of this process hold at the moment. */
export async function storeUse(): Promise<StoreUse> {
  const runtime = current()
  const { rows: stored } = (await runtime.query('objects', 0)) as { rows: { bytes: number }[] }
  const { references, store } = runtime
  return {
    objectBytes: stored.reduce((sum, { bytes }) => sum + bytes, 0),
    objects: stored.length,
    owned: references.owned,
    ownedBytes: store.ownedBytes,
    borrowed: references.borrowedCount,
  }
}

/** {@link storeUse} once collecting garbage changes nothing any more. */
export async function restingUse(): Promise<StoreUse> {
  await sweepWorkers()
  let last = await storeUse()
  for (let same = 0; same < 3; ) {
    global.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 20))
    const now = await storeUse()
    same = JSON.stringify(now) === JSON.stringify(last) ? same + 1 : 0
    last = now
  }
  return last
}
