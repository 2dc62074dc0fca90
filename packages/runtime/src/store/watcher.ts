/**
 * One watch: asks the engine what changed whenever it may have, and tells each key's latest state once, in order of revisions.
 */
import type { Backend } from './backend.ts'
import type { Change, Entry } from './control-store.ts'

/** Timers are set for the end of leases, but not for later than this; a hint that got lost costs no more. */
const LOOK_MS_MAX = 5_000

export class Watcher {
  readonly #backend: Backend
  readonly #prefix: string
  readonly #tell: (changes: readonly Change[]) => void
  readonly #repeat: (call: () => Promise<void>) => Promise<void>
  /** What was told and exists. */
  readonly #known = new Map<string, number>()
  #revision = 0
  #woken = false
  #looking = false
  #timer: NodeJS.Timeout | undefined
  #unfollow: (() => void) | undefined
  #closed = false

  constructor(backend: Backend, prefix: string, tell: (changes: readonly Change[]) => void, repeat: (call: () => Promise<void>) => Promise<void>) {
    this.#backend = backend
    this.#prefix = prefix
    this.#tell = tell
    this.#repeat = repeat
  }

  /** Follow first: what changes between that and the reading wakes it. */
  async start(): Promise<void> {
    this.#unfollow ??= await this.#backend.follow(() => this.#wake())
    if (this.#closed) return this.#unfollow()
    this.#looking = true
    const { revision, entries } = await this.#backend.scan(this.#prefix)
    this.#read(revision, entries, true)
    this.#looking = false
    this.#wake()
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#unfollow?.()
  }

  #wake(): void {
    this.#woken = true
    if (!this.#looking && !this.#closed) void this.#look()
  }

  async #look(): Promise<void> {
    this.#looking = true
    clearTimeout(this.#timer)
    let nextDueMs = LOOK_MS_MAX
    while (this.#woken && !this.#closed) {
      this.#woken = false
      try {
        await this.#repeat(async () => {
          nextDueMs = Math.min(LOOK_MS_MAX, (await this.#catchUp()) ?? LOOK_MS_MAX)
        })
      } catch {
        // Closed, or broken for good: the next look says the same, and so does every call of the user.
      }
    }
    this.#looking = false
    if (!this.#closed) this.#timer = setTimeout(() => this.#wake(), nextDueMs).unref()
  }

  async #catchUp(): Promise<number | undefined> {
    const { revision, changes, nextDueMs } = await this.#backend.changes(this.#prefix, this.#revision)
    if (this.#closed) return undefined
    const lost = revision < this.#revision
    // A store with fewer revisions than it had has lost some; the same number may stand for another value.
    if (lost) for (const key of this.#known.keys()) this.#known.set(key, 0)
    if (changes === undefined || lost) {
      const scan = await this.#backend.scan(this.#prefix)
      if (!this.#closed) this.#read(scan.revision, scan.entries, false)
    } else {
      this.#revision = revision
      this.#report(changes.filter(({ key, value }) => value !== undefined || this.#known.has(key)))
    }
    return nextDueMs
  }

  #read(revision: number, entries: readonly Entry[], evenEmpty: boolean): void {
    this.#revision = revision
    const gone = new Set(this.#known.keys())
    for (const { key } of entries) gone.delete(key)
    const changes: Change[] = [...gone].map((key) => ({ key, value: undefined, revision }))
    for (const entry of entries) if (this.#known.get(entry.key) !== entry.revision) changes.push(entry)
    changes.sort((a, b) => a.revision - b.revision)
    this.#report(changes, evenEmpty)
  }

  #report(changes: readonly Change[], evenEmpty: boolean = false): void {
    for (const { key, value, revision } of changes) {
      if (value === undefined) this.#known.delete(key)
      else this.#known.set(key, revision)
    }
    if (changes.length > 0 || evenEmpty) this.#tell(changes)
  }
}
