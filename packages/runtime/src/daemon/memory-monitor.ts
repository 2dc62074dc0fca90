/**
 * Ends workers before the machine dies of them: looks a few times a second how much memory is in use, and has the worker killed that memory-policy.ts names.
 * Its holder learns the numbers and the biggest processes with an OUT_OF_MEMORY.
 */
import type { MemoryFacts } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { WorkerExit } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import { MemoryPolicy, type MemoryUsage, type MemoryWorker } from '../state/memory-policy.ts'
import type { NodeTables, Worker } from '../state/node-tables.ts'
import { MemoryReader } from './memory-usage.ts'

/** Named in the error. */
const BIGGEST = 5

export interface MemoryMonitorOptions {
  readonly tables: NodeTables
  /** What the workers together may use; undefined: as much as the machine has. */
  readonly limitBytes: number | undefined
  readonly handle: (event: MachineEvent) => void
  readonly reader?: MemoryReader
}

export class MemoryMonitor {
  readonly #options: MemoryMonitorOptions
  readonly #reader: MemoryReader
  /** Those that are explained, and since when all are. */
  #kernelKills: number
  #explainedMs = performance.now()
  readonly #policy = new MemoryPolicy({
    threshold: LIMITS.memoryThreshold,
    smallBytes: LIMITS.memorySmallBytes,
    allTogether: LIMITS.memoryAllTogether,
    goneMs: LIMITS.memoryGoneMs,
  })

  constructor(options: MemoryMonitorOptions) {
    this.#options = options
    this.#reader = options.reader ?? new MemoryReader()
    this.#kernelKills = this.#reader.kernelKills()
  }

  /** What is known of memory when a worker ended in this way, if the kernel ended it for want of some: it has ended as many, and none of them is explained. */
  endedByKernel({ code, signal }: Pick<WorkerExit, 'code' | 'signal'>): MemoryFacts | undefined {
    if (code !== null || signal !== 'SIGKILL' || this.#reader.kernelKills() <= this.#kernelKills) return undefined
    this.#kernelKills++
    const usage = this.#reader.usage()
    return usage && this.#facts(usage)
  }

  look(): void {
    const { limitBytes, handle } = this.#options
    this.#lookAtKernel()
    let usage: MemoryUsage | undefined
    let workers: MemoryWorker[] = []
    if (limitBytes === undefined) {
      usage = this.#reader.usage()
      if (usage === undefined) return
      // Workers are only looked at when it matters.
      if (this.#policy.isShort(usage)) workers = this.#workers()
    } else {
      workers = this.#workers()
      usage = { usedBytes: workers.reduce((sum, { bytes }) => sum + bytes, 0), limitBytes, of: 'that the workers of this node may use' }
    }
    const decision = this.#policy.decide(performance.now(), usage, workers)
    if (decision?.kind === 'ask') handle({ kind: 'memory-short' })
    else if (decision?.kind === 'kill') {
      const memory = this.#facts(usage)
      handle({ kind: 'worker-kill', process: '', worker: decision.worker, reason: inWords(memory), memory })
    }
  }

  /** It also ends processes that are no workers. */
  #lookAtKernel(): void {
    const kills = this.#reader.kernelKills()
    const nowMs = performance.now()
    if (kills > this.#kernelKills && nowMs - this.#explainedMs < LIMITS.memoryGoneMs) return
    this.#kernelKills = kills
    this.#explainedMs = nowMs
  }

  #workers(): MemoryWorker[] {
    const workers: MemoryWorker[] = []
    for (const worker of this.#options.tables.workers.values()) {
      const sizes = worker.pid === 0 ? undefined : this.#reader.sizes(worker.pid)
      if (sizes !== undefined) workers.push({ worker: worker.id, bytes: sizes.ownBytes, ...workOf(worker) })
    }
    return workers
  }

  #facts({ usedBytes, limitBytes, of }: MemoryUsage): MemoryFacts {
    const workers = new Map([...this.#options.tables.workers.values()].map((worker) => [worker.pid, worker]))
    const processes = this.#reader.biggest(BIGGEST).map(({ pid, bytes, name }) => {
      const worker = workers.get(pid)
      return { pid, bytes, what: worker === undefined ? name : labelOf(worker) }
    })
    return { usedBytes, limitBytes, of, threshold: LIMITS.memoryThreshold, processes }
  }
}

function workOf(worker: Worker): Pick<MemoryWorker, 'work' | 'sinceMs'> {
  const { state, placement, leases, owns, idleSinceMs } = worker
  if (state === 'stopping') return { work: 'ending', sinceMs: 0 }
  if (placement !== undefined) return { work: placement.retriable ? 'retriable' : 'other', sinceMs: placement.sinceMs }
  if (leases.size > 0) {
    const all = [...leases]
    return { work: all.every(({ retriable }) => retriable) ? 'retriable' : 'other', sinceMs: Math.max(...all.map(({ sinceMs }) => sinceMs)) }
  }
  return { work: owns === 'nothing' ? 'idle' : owns === 'objects' ? 'owner' : 'unsure', sinceMs: idleSinceMs }
}

function labelOf({ placement, leases }: Worker): string {
  const [lease] = leases
  return placement !== undefined ? `actor ${placement.label}` : lease !== undefined ? `"${lease.label}"` : 'an idle worker'
}

const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`

function inWords({ usedBytes, limitBytes, of, threshold, processes }: MemoryFacts): string {
  const biggest = processes.map(({ pid, bytes, what }) => `${what} (pid ${pid}) ${mib(bytes)}`).join(', ')
  return `${mib(usedBytes)} of the ${mib(limitBytes)} ${of} were in use, beyond ${100 * threshold} % workers are ended; the biggest processes: ${biggest}`
}
