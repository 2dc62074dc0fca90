/**
 * The arguments of one call at its worker: values made of what came with it, and what must be held while it runs.
 */
import type { Push, Value } from '../net/gen/peer.ts'
import { decode } from '../objects/codec.ts'
import type { Extras, ObjectEntry } from './object-entry.ts'
import type { Runtime } from './runtime.ts'

export class CallArguments {
  readonly values: unknown[] = []
  readonly #runtime: Runtime
  readonly #entries: ObjectEntry[] = []
  readonly #extras: Extras[] = []

  constructor(runtime: Runtime) {
    this.#runtime = runtime
  }

  /** Fills in the values; returns a promise when some of them need time. */
  load(push: Push): Promise<unknown> | undefined {
    if (!push.storedArgs) {
      if (push.args.length > 0) this.values.push(...(decode(push.args) as unknown[]))
      return this.#resolve(push)
    }
    const list = this.#take(push.storedArgs)
    if (list instanceof Promise) {
      return list.then((values) => {
        this.values.push(...(values as unknown[]))
        return this.#resolve(push)
      })
    }
    this.values.push(...(list as unknown[]))
    return this.#resolve(push)
  }

  /** Puts the values of references where the references stood. */
  #resolve(push: Push): Promise<unknown> | undefined {
    const waits: Promise<unknown>[] = []
    for (const { index, value } of push.resolved) {
      if (!value) continue
      const loaded = this.#take(value)
      if (!(loaded instanceof Promise)) this.values[index] = loaded
      else {
        waits.push(
          loaded.then((ready) => {
            this.values[index] = ready
          }),
        )
      }
    }
    return waits.length > 0 ? Promise.all(waits) : undefined
  }

  /** A value that came with a call. What it refers to is held until the call is done, views of it for longer. */
  #take(value: Value): unknown {
    const { references, values } = this.#runtime
    const stored = values.fromWire(value)
    if ((stored.kind === 'bytes' || stored.kind === 'place') && stored.extras) this.#extras.push(stored.extras)
    if (stored.kind !== 'place' || !stored.place.object) return values.load(stored, undefined)
    const entry = references.borrow(stored.place.object).hold()
    this.#entries.push(entry)
    return values.load(stored, entry)
  }

  release(): void {
    for (const entry of this.#entries) entry.unhold()
    for (const extras of this.#extras) this.#runtime.values.letGo(extras)
  }
}
