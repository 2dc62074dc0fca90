/**
 * Which worker ends when memory runs out: idle ones that own nothing (the largest first), then those whose work may run again (the newest first), then
 * idle ones that own objects, then the rest (the newest first). One at a time: the next one not before the last is gone and memory is still short.
 * Ending a worker that holds next to nothing frees nothing, so small ones are spared unless all of them together are what the memory went to. Pure.
 */

export interface MemoryUsage {
  readonly usedBytes: number
  readonly limitBytes: number
  /** Whose memory that is: "of the machine", … */
  readonly of: string
}

export interface MemoryWorker {
  readonly worker: string
  /** Of its own: what others share would stay. */
  readonly bytes: number
  /** `unsure`: idle, and it was not asked yet whether it owns objects. `ending`: it was told to. */
  readonly work: 'idle' | 'unsure' | 'owner' | 'retriable' | 'other' | 'ending'
  /** When its newest work began. */
  readonly sinceMs: number
}

/** `ask`: first learn which idle workers own nothing. */
export type MemoryDecision = { readonly kind: 'kill'; readonly worker: string } | { readonly kind: 'ask' } | undefined

export interface MemoryPolicyOptions {
  /** Part of the limit. */
  readonly threshold: number
  /** Workers with less are not worth it… */
  readonly smallBytes: number
  /** …unless all workers together have this part of the limit. */
  readonly allTogether: number
  /** A worker that does not go within this time is not waited for. */
  readonly goneMs: number
}

const ORDER: readonly MemoryWorker['work'][] = ['idle', 'retriable', 'owner', 'unsure', 'other']

export class MemoryPolicy {
  readonly #options: MemoryPolicyOptions
  #last: { readonly worker: string; readonly killedMs: number } | undefined
  #asked = false

  constructor(options: MemoryPolicyOptions) {
    this.#options = options
  }

  isShort({ usedBytes, limitBytes }: MemoryUsage): boolean {
    return usedBytes >= this.#options.threshold * limitBytes
  }

  /** What to do now, told all workers that are there, also those that were just ended. */
  decide(nowMs: number, usage: MemoryUsage, workers: readonly MemoryWorker[]): MemoryDecision {
    const last = this.#last
    if (!this.isShort(usage)) {
      this.#last = undefined
      this.#asked = false
      return undefined
    }
    if (last !== undefined && nowMs - last.killedMs < this.#options.goneMs && workers.some(({ worker }) => worker === last.worker)) return undefined
    const together = workers.reduce((sum, { bytes }) => sum + bytes, 0) >= this.#options.allTogether * usage.limitBytes
    const candidates = workers.filter(({ bytes }) => together || bytes >= this.#options.smallBytes)
    if (!this.#asked && candidates.some(({ work }) => work === 'unsure')) {
      this.#asked = true
      return { kind: 'ask' }
    }
    for (const work of ORDER) {
      const found = candidates.filter((candidate) => candidate.work === work)
      const largest = (a: MemoryWorker, b: MemoryWorker): number => b.bytes - a.bytes
      const newest = (a: MemoryWorker, b: MemoryWorker): number => b.sinceMs - a.sinceMs || largest(a, b)
      const [first] = found.toSorted(work === 'retriable' || work === 'other' ? newest : largest)
      if (first === undefined) continue
      this.#last = { worker: first.worker, killedMs: nowMs }
      this.#asked = false
      return { kind: 'kill', worker: first.worker }
    }
    return undefined
  }
}
