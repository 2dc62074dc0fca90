/**
 * A template at the worker: the function that was shipped, loaded once, and what its options ask of the worker.
 */
import type { Template } from '../net/gen/peer.ts'
import type { Extras } from './object-entry.ts'
import type { Values } from './values.ts'

interface Loaded {
  fn: Function | Promise<Function>
  /** Templates that use it. */
  uses: number
  /** What it captured. */
  readonly extras: Extras | undefined
}

/** Functions by hash, shared by all links of a process: the same function arrives from several owners. */
export class FunctionCache {
  readonly #values: Values
  readonly #loaded = new Map<string, Loaded>()

  constructor(values: Values) {
    this.#values = values
  }

  /** Makes the function of a template known under its hash. */
  add(template: Template): void {
    const { hash, function: value } = template
    const known = this.#loaded.get(hash)
    if (known) known.uses++
    if (known || !value) return
    const stored = this.#values.fromWire(value)
    const extras = stored.kind === 'bytes' || stored.kind === 'place' ? stored.extras : undefined
    const loading = Promise.resolve(this.#values.load(stored, undefined)).then((loaded) => {
      entry.fn = loaded as Function
      return loaded as Function
    })
    loading.catch(() => undefined) // reported by the call that needs it
    const entry: Loaded = { fn: loading, uses: 1, extras }
    this.#loaded.set(hash, entry)
  }

  get(hash: string): Function | Promise<Function> | undefined {
    return this.#loaded.get(hash)?.fn
  }

  /** One template less uses it. */
  release(hash: string): void {
    const known = this.#loaded.get(hash)
    if (!known || --known.uses > 0) return
    this.#loaded.delete(hash)
    if (known.extras) this.#values.letGo(known.extras)
  }
}

type RetryRule = true | readonly string[] | ((error: unknown) => unknown)

export class Executable {
  readonly template: Template
  readonly #functions: FunctionCache
  readonly #values: Values
  #retryRule: RetryRule | undefined
  /** Calls of it in this process, for `maxCalls`. */
  calls = 0

  constructor(template: Template, functions: FunctionCache, values: Values) {
    this.template = template
    this.#functions = functions
    this.#values = values
    functions.add(template)
  }

  /** The function, at once when it is loaded. */
  get function(): Function | Promise<Function> {
    return this.#functions.get(this.template.hash) ?? Promise.reject(new Error(`function ${this.template.hash} of "${this.template.name}" never arrived`))
  }

  /** No call of it will come any more. */
  release(): void {
    this.#functions.release(this.template.hash)
  }

  /** Whether `retryOn` wants this error repeated. A predicate that throws counts as no. */
  async retries(error: unknown): Promise<boolean> {
    const { retryOn } = this.template
    if (!retryOn) return false
    this.#retryRule ??= (await this.#values.load(this.#values.fromWire(retryOn), undefined)) as RetryRule
    const rule = this.#retryRule
    if (rule === true) return true
    if (typeof rule === 'function') {
      try {
        return Boolean(await rule(error))
      } catch {
        return false
      }
    }
    const { code, name } = (typeof error === 'object' && error !== null ? error : {}) as { code?: unknown; name?: unknown }
    return rule.includes(String(code)) || rule.includes(String(name))
  }
}
