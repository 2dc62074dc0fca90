/**
 * The last finished task attempts of a node, for `list tasks` and `timeline`: a ring of columns, about 45 bytes per attempt, because a node keeps
 * 100,000 of them. Pure.
 */
import type { TaskEvent } from '../net/gen/node.ts'

const GROWTH_MIN = 1_024
/** Strings are kept once; when so many are (or twice as many as were in use the last time), those that no event uses any more are dropped. */
const STRINGS_MIN = 20_000

interface Columns {
  readonly start: Float64Array
  readonly end: Float64Array
  /** The number in a task id `<owner>:<number>`; NaN: the id is in `strings`. */
  readonly number: Float64Array
  readonly task: Uint32Array
  readonly name: Uint32Array
  readonly worker: Uint32Array
  readonly owner: Uint32Array
  readonly state: Uint32Array
  readonly code: Uint32Array
}

const INTERNED = ['task', 'name', 'worker', 'owner', 'state', 'code'] as const

function columns(size: number): Columns {
  const words = (): Uint32Array => new Uint32Array(size)
  return {
    start: new Float64Array(size),
    end: new Float64Array(size),
    number: new Float64Array(size),
    task: words(),
    name: words(),
    worker: words(),
    owner: words(),
    state: words(),
    code: words(),
  }
}

export class TaskEventLog {
  readonly #max: number
  #columns: Columns = columns(0)
  #size = 0
  #next = 0
  #strings: string[] = ['']
  #ids: Map<string, number> = new Map([['', 0]])
  #stringsMax = STRINGS_MIN
  /** Attempts by state since the start, and how many were never reported. */
  readonly totals: Map<string, number> = new Map()
  dropped = 0

  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#size
  }

  /** Distinct strings that are kept. */
  get strings(): number {
    return this.#strings.length
  }

  add(event: TaskEvent): void {
    this.totals.set(event.state, (this.totals.get(event.state) ?? 0) + 1)
    if (this.#strings.length > this.#stringsMax) this.#compact()
    const slot = this.#next
    if (slot >= this.#columns.start.length) this.#grow()
    this.#next = (slot + 1) % this.#max
    this.#size = Math.min(this.#size + 1, this.#max)
    const c = this.#columns
    const number = event.task.startsWith(`${event.owner}:`) ? Number(event.task.slice(event.owner.length + 1)) : Number.NaN
    const plain = `${event.owner}:${number}` === event.task
    c.start[slot] = event.startMs
    c.end[slot] = event.endMs
    c.number[slot] = plain ? number : Number.NaN
    c.task[slot] = plain ? 0 : this.#intern(event.task)
    c.name[slot] = this.#intern(event.name)
    c.worker[slot] = this.#intern(event.worker)
    c.owner[slot] = this.#intern(event.owner)
    c.state[slot] = this.#intern(event.state)
    c.code[slot] = this.#intern(event.errorCode)
  }

  /** The newest `limit`, newest first. */
  latest(limit: number): TaskEvent[] {
    const out: TaskEvent[] = []
    for (let i = 0; i < Math.min(limit, this.#size); i++) out.push(this.#at((this.#next - 1 - i + this.#max) % this.#max))
    return out
  }

  #at(slot: number): TaskEvent {
    const c = this.#columns
    const text = (column: Uint32Array): string => this.#strings[column[slot] ?? 0] ?? ''
    const owner = text(c.owner)
    const number = c.number[slot] ?? Number.NaN
    return {
      task: Number.isNaN(number) ? text(c.task) : `${owner}:${number}`,
      name: text(c.name),
      worker: text(c.worker),
      owner,
      startMs: c.start[slot] ?? 0,
      endMs: c.end[slot] ?? 0,
      state: text(c.state),
      errorCode: text(c.code),
    }
  }

  #intern(text: string): number {
    let id = this.#ids.get(text)
    if (id === undefined) {
      id = this.#strings.push(text) - 1
      this.#ids.set(text, id)
    }
    return id
  }

  #grow(): void {
    const old = this.#columns
    const size = Math.min(this.#max, Math.max(GROWTH_MIN, old.start.length * 2))
    this.#columns = columns(size)
    for (const [name, values] of Object.entries(old)) (this.#columns[name as keyof Columns] as Float64Array).set(values as Float64Array)
  }

  #compact(): void {
    const strings = this.#strings
    this.#strings = ['']
    this.#ids = new Map([['', 0]])
    for (let slot = 0; slot < this.#size; slot++) {
      for (const name of INTERNED) {
        const column = this.#columns[name]
        column[slot] = this.#intern(strings[column[slot] ?? 0] ?? '')
      }
    }
    this.#stringsMax = Math.max(STRINGS_MIN, 2 * this.#strings.length)
  }
}
