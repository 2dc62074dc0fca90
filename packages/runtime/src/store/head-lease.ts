/**
 * Who is the head of a cluster: whoever holds the leased key `head`. Taking it counts the key `epoch` in the same transaction, so that no two heads ever
 * have the same epoch, and a second head is impossible.
 *
 * A head that was paused finds out in two ways, neither of which needs luck: `isHead` is false as soon as its lease may have ended by its own monotonic
 * clock, and the store refuses writes that carry its `guard` when the lease has ended. A lost lease is not taken up again: lead anew, in a new epoch.
 */
import { readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import type { ControlStore, Entry, Guard, Lease } from './control-store.ts'

/** The value of the key `head`. */
export interface HeadRecord {
  readonly cluster: string
  readonly node: string
  /** HOST:PORT of its daemon. */
  readonly address: string
  readonly epoch: number
  readonly ttlMs: number
  /** Name of the machine, for people. */
  readonly host: string
  readonly pid: number
  /** When the process started, as the kernel counts, which tells it from a later one with its pid. */
  readonly started: string
  /** Which kernel, and which of its spaces of process ids, the pid is of; "": not known. */
  readonly machine: string
}

export const HEAD_KEY = 'head'
const EPOCH_KEY = 'epoch'
/** Looks at a lease that somebody else has. */
const LOOK_MS = 100
/** Beyond the lease's time, for the way to the store. */
const SLACK_MS = 1_000
const RENEWALS_PER_TTL = 4

const log = debug('store')

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))

export const decodeHead = ({ value }: Entry): HeadRecord => JSON.parse(new TextDecoder().decode(value)) as HeadRecord

/** What one does who wants to lead and finds the lease taken, for `waitedMs` by the same holder. */
export function succession(holder: HeadRecord, self: Pick<HeadRecord, 'machine'>, alive: boolean, waitedMs: number): 'replace' | 'wait' | 'refuse' {
  // Seen from the very machine: it cannot come back.
  if (!alive && holder.machine !== '' && holder.machine === self.machine) return 'replace'
  // By now the lease would be over, had nobody renewed it.
  return waitedMs > holder.ttlMs + SLACK_MS ? 'refuse' : 'wait'
}

export interface LeadOptions {
  readonly self: Omit<HeadRecord, 'epoch' | 'machine'>
  /** Whether the process of a holder on this machine exists. */
  readonly isProcess: (pid: number, started: string) => boolean
}

export class HeadLease {
  readonly epoch: number
  /** Goes with every write of the head. */
  readonly guard: Guard
  /** Resolves with the reason once this process is not the head any more; never after `release`. */
  readonly lost: Promise<string>
  readonly #lease: Lease
  readonly #url: string
  readonly #ttlMs: number
  #renewal: NodeJS.Timeout | undefined
  #end: NodeJS.Timeout | undefined
  #over = false
  #tell!: (reason: string) => void

  /**
   * Become the head; waits for the lease of a former one to end.
   *
   * @throws {@link BeamlineError} `HEAD_EXISTS` when another head renews it
   */
  static async lead(store: ControlStore, { self, isProcess }: LeadOptions): Promise<HeadLease> {
    const machine = machineId()
    let seen = { revision: 0, sinceMs: 0 }
    for (;;) {
      const [held, counted] = await Promise.all([store.get(HEAD_KEY), store.get(EPOCH_KEY)])
      if (held !== undefined) {
        if (held.revision !== seen.revision) seen = { revision: held.revision, sinceMs: performance.now() }
        const holder = decodeHead(held)
        const next = succession(holder, { machine }, isProcess(holder.pid, holder.started), performance.now() - seen.sinceMs)
        if (next === 'refuse') {
          const { cluster, node, address, host, pid } = holder
          throw new BeamlineError('HEAD_EXISTS', { store: store.url, cluster, node, address, host, pid })
        }
        if (next === 'wait') {
          await delay(LOOK_MS)
          continue
        }
      }
      const epoch = (counted === undefined ? 0 : Number(new TextDecoder().decode(counted.value))) + 1
      const also = [{ key: EPOCH_KEY, value: encode(epoch), expectedRevision: counted?.revision ?? 0 }]
      const lease = await store.lease(HEAD_KEY, encode({ ...self, machine, epoch } satisfies HeadRecord), self.ttlMs, also, held?.revision)
      if (lease !== undefined) return new HeadLease(lease, epoch, store.url, self.ttlMs)
    }
  }

  private constructor(lease: Lease, epoch: number, url: string, ttlMs: number) {
    this.epoch = epoch
    this.guard = lease
    this.#lease = lease
    this.#url = url
    this.#ttlMs = ttlMs
    this.lost = new Promise((resolve) => {
      this.#tell = resolve
    })
    log(() => `holds "${lease.key}" in epoch ${epoch}`)
    this.#schedule()
  }

  /** Asked before each act of a head, at the last moment. */
  get isHead(): boolean {
    return !this.#over && this.#lease.held
  }

  /** Let a successor in at once. */
  async release(): Promise<void> {
    this.#finish()
    await this.#lease.release()
  }

  #schedule(): void {
    clearTimeout(this.#end)
    this.#end = setTimeout(() => this.#lose('it could not renew its lease in time'), Math.max(0, this.#lease.deadlineMs - performance.now())).unref()
    this.#renewal = setTimeout(() => void this.#renew(), this.#ttlMs / RENEWALS_PER_TTL)
    this.#renewal.unref()
  }

  async #renew(): Promise<void> {
    if (!this.isHead) return this.#lose('it could not renew its lease in time')
    try {
      if (!(await this.#lease.renew())) return this.#lose('its lease is over, and another head may have taken over')
      if (!this.#over) this.#schedule()
    } catch (error) {
      this.#lose((error as Error).message)
    }
  }

  #lose(reason: string): void {
    if (this.#over) return
    this.#finish()
    this.#tell(`${reason} (${this.#ttlMs} ms, control store ${this.#url})`)
  }

  #finish(): void {
    this.#over = true
    clearTimeout(this.#renewal)
    clearTimeout(this.#end)
  }
}

/** The same for all processes whose pids can be compared. */
function machineId(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return ''
  }
}
