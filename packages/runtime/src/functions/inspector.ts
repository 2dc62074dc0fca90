/**
 * V8's view of a function of this process: where it was written, in which script, and what the scopes around it hold.
 *
 * The only file that talks to `node:inspector`. The session is synchronous and private: it skips every pause, so breakpoints and
 * `debugger` statements of an attached debugger stay its own. Real objects cross through a hidden registry on the global object;
 * remote handles are released after each look.
 */
import type { Debugger, Runtime, Session } from 'node:inspector'

export interface ScriptInfo {
  readonly id: string
  /** what V8 knows it by: a file URL, `node:…`, or empty for evaluated text */
  readonly url: string
  readonly isModule: boolean
  readonly startLine: number
  readonly startColumn: number
}

export interface FunctionView {
  /** undefined: a native or bound function */
  readonly location: { readonly script: ScriptInfo; readonly line: number; readonly column: number } | undefined
  readonly isBound: boolean
  /** from the inside out, without the global one: objects with a variable per property; a variable that is not initialised throws when read */
  readonly scopes: readonly ScopeView[]
  /** static `#private` fields of a class, as far as they are primitives; `unknown` for others */
  readonly privateNames: readonly { readonly name: string; readonly primitive: boolean; readonly value: unknown }[]
}

export interface ScopeView {
  readonly kind: 'closure' | 'module' | 'script' | 'with'
  readonly variables: object
}

const GROUP = 'beamline'

/** What is handed over between this module and the inspector's side. */
interface Registry {
  subject: unknown
  scopes: ArrayLike<{ readonly description: string; readonly object: object }> | undefined
}

class Inspector {
  readonly #session: Session
  /** scripts of functions that were looked at */
  readonly #scripts = new Map<string, ScriptInfo>()
  /** all scripts, while the debugger is on */
  readonly #described = new Map<string, ScriptInfo>()
  readonly #registry: Registry = { subject: undefined, scopes: undefined }
  readonly #registryId: string
  #isEnabled = false

  constructor() {
    // loaded when the first function is captured: most workers never capture one
    this.#session = new (process.getBuiltinModule('node:inspector').Session)()
    this.#session.connect()
    this.#session.on('Debugger.scriptParsed', ({ params }) => {
      this.#described.set(params.scriptId, {
        id: params.scriptId,
        url: params.url,
        isModule: params.isModule ?? false,
        startLine: params.startLine,
        startColumn: params.startColumn,
      })
    })
    const key = 'beamline functions'
    Object.defineProperty(globalThis, key, { value: this.#registry, configurable: true })
    const { result } = this.#post<Runtime.EvaluateReturnType>('Runtime.evaluate', { expression: `globalThis[${JSON.stringify(key)}]`, silent: true })
    Reflect.deleteProperty(globalThis, key)
    this.#registryId = result.objectId as string
  }

  /** The scripts, of those that are loaded, whose URL passes. */
  find(wanted: (url: string) => boolean): ScriptInfo[] {
    this.#enable()
    const found = [...this.#described.values()].filter((script) => wanted(script.url))
    for (const script of found) this.#scripts.set(script.id, script)
    return found
  }

  /** What V8 would say of a script, found out in another way. */
  know(script: ScriptInfo): void {
    this.#scripts.set(script.id, script)
  }

  /** Look at one function. About 0.2 ms. */
  view(fn: Function): FunctionView {
    try {
      const { objectId } = this.#call<{ objectId?: string }>('function () { return this.subject }', fn)
      const { internalProperties = [], privateProperties = [] } = this.#post<Runtime.GetPropertiesReturnType & { privateProperties?: PrivateProperty[] }>(
        'Runtime.getProperties',
        { objectId, ownProperties: true, generatePreview: false },
      )
      const internal = new Map(internalProperties.map((p) => [p.name, p.value]))
      const at = internal.get('[[FunctionLocation]]')?.value as Debugger.Location | undefined
      const scopesId = internal.get('[[Scopes]]')?.objectId
      return {
        location: at && { script: this.#script(at.scriptId), line: at.lineNumber, column: at.columnNumber ?? 0 },
        isBound: internal.has('[[TargetFunction]]'),
        scopes: scopesId ? this.#readScopes(scopesId) : [],
        privateNames: privateProperties
          .filter((p) => p.value !== undefined)
          .map((p) => ({ name: p.name, primitive: p.value?.objectId === undefined, value: primitiveOf(p.value) })),
      }
    } finally {
      this.#registry.subject = undefined
      this.#registry.scopes = undefined
      this.#post('Runtime.releaseObjectGroup', { objectGroup: GROUP })
    }
  }

  /** The JavaScript that V8 runs: types are stripped already. */
  source(script: ScriptInfo): string {
    this.#enable()
    return this.#post<Debugger.GetScriptSourceReturnType>('Debugger.getScriptSource', { scriptId: script.id }).scriptSource
  }

  /**
   * V8 describes its scripts only to a debugger, and an enabled debugger makes promises 5 times and `new Function` 80 times slower: it
   * is on until the end of the event loop's turn in which a function of a script not seen before is looked at.
   */
  #enable(): void {
    if (this.#isEnabled) return
    this.#isEnabled = true
    this.#post('Debugger.enable')
    this.#post('Debugger.setSkipAllPauses', { skip: true })
    setImmediate(() => this.#disable()).unref()
  }

  #disable(): void {
    this.#post('Debugger.disable')
    this.#described.clear()
    this.#isEnabled = false
  }

  #script(id: string): ScriptInfo {
    let script = this.#scripts.get(id)
    if (!script) {
      this.#enable()
      script = this.#described.get(id) ?? { id, url: '', isModule: false, startLine: 0, startColumn: 0 }
      this.#scripts.set(id, script)
    }
    return script
  }

  #readScopes(scopesId: string): ScopeView[] {
    this.#call('function (scopes) { this.scopes = scopes }', undefined, [{ objectId: scopesId }])
    const views: ScopeView[] = []
    // V8's list has no prototype, hence no iterator
    for (const { description, object } of Array.from(this.#registry.scopes ?? [])) {
      if (description === 'Global') continue
      const kind = description === 'Module' ? 'module' : description.startsWith('Script') ? 'script' : description.startsWith('With') ? 'with' : 'closure'
      views.push({ kind, variables: object })
    }
    return views
  }

  #call<T>(functionDeclaration: string, subject: unknown, args: { objectId: string }[] = []): T {
    this.#registry.subject = subject
    return this.#post<Runtime.CallFunctionOnReturnType>('Runtime.callFunctionOn', {
      objectId: this.#registryId,
      functionDeclaration,
      arguments: args,
      objectGroup: GROUP,
      silent: true,
    }).result as T
  }

  #post<T>(method: string, params: object = {}): T {
    let failure: Error | null = null
    let answer: unknown
    this.#session.post(method, params, (error, result) => {
      failure = error
      answer = result
    })
    if (failure) throw new Error(`${method}: ${JSON.stringify(failure)}`)
    return answer as T
  }
}

interface PrivateProperty {
  readonly name: string
  readonly value?: Runtime.RemoteObject
}

function primitiveOf(value: Runtime.RemoteObject | undefined): unknown {
  if (!value || value.objectId !== undefined) return undefined
  return 'value' in value || value.unserializableValue === undefined ? value.value : value.unserializableValue
}

let inspector: Inspector | undefined

/** The process's inspector, connected at the first use (tens of milliseconds, once). */
export function theInspector(): Inspector {
  return (inspector ??= new Inspector())
}
