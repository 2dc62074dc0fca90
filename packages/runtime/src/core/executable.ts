/**
 * A template at the worker: the function that was shipped, loaded once, and what its options ask of the worker.
 */
import type { Template } from '../net/gen/peer.ts'
import type { Values } from './values.ts'

/** Functions by hash, shared by all links of a process: the same function arrives from several owners. */
export class FunctionCache {
  readonly #values: Values
  readonly #loaded = new Map<string, Function | Promise<Function>>()

  constructor(values: Values) {
    this.#values = values
  }

  /** Makes the function of a template known under its hash. */
  add(template: Template): void {
    const { hash, function: value } = template
    if (!value || this.#loaded.has(hash)) return
    const loading = Promise.resolve(this.#values.load(this.#values.fromWire(value), undefined)).then((loaded) => {
      this.#loaded.set(hash, loaded as Function)
      return loaded as Function
    })
    loading.catch(() => undefined) // reported by the call that needs it
    this.#loaded.set(hash, loading)
  }

  get(hash: string): Function | Promise<Function> | undefined {
    return this.#loaded.get(hash)
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
