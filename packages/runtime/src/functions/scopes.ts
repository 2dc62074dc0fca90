/**
 * The words in which scope-analysis speaks of a script: scopes, bindings, references, special forms and the text ranges of functions.
 */
import type { AnyNode, Class, Function as FunctionNode } from 'acorn'

/** Names that emit.ts adds begin like this. */
export const RESERVED = '$beamline'

export type BindingKind = 'var' | 'let' | 'const' | 'class' | 'function' | 'param' | 'catch' | 'import' | 'self'

export interface ImportedName {
  readonly specifier: string
  /** an export's name, `default`, or `*` for the namespace */
  readonly name: string
  readonly attributes: Readonly<Record<string, string>>
}

export interface Binding {
  readonly name: string
  readonly kind: BindingKind
  readonly scope: Scope
  /** offset of the declaring identifier */
  readonly start: number
  /** written anywhere but in its own declaration */
  reassigned: boolean
  readonly imported: ImportedName | undefined
  /** the initial value's expression, where the declaration is a plain `name = expression` */
  readonly init: AnyNode | undefined
}

export interface Scope {
  readonly parent: Scope | undefined
  readonly bindings: Map<string, Binding>
  /** `var` and function declarations land here */
  readonly functionScope: Scope
  /** the scope whose `this`, `arguments` and `new.target` are seen here; undefined: the script's own */
  readonly thisScope: Scope | undefined
  /** the scope that a `super` seen here belongs to */
  readonly superScope: Scope | undefined
  readonly strict: boolean
  /** declared by a class body that this scope is */
  readonly privateNames: Set<string> | undefined
  /** a direct sloppy `eval` or `with` here makes names unpredictable */
  dynamic: boolean
}

export interface Reference {
  readonly name: string
  readonly start: number
  readonly end: number
  readonly scope: Scope
  readonly write: boolean
  /** how a replacement must be spelt: `{ x }`, `x()` and plain uses differ */
  readonly position: 'plain' | 'call' | 'shorthand' | 'typeof'
  binding: Binding | undefined
}

export type SpecialKind = 'this' | 'super' | 'new.target' | 'arguments' | 'import.meta' | 'private name' | 'eval' | 'with'

export interface Special {
  readonly kind: SpecialKind
  readonly start: number
  /** the scope that gives it its meaning; undefined: the script's own top level */
  readonly owner: Scope | undefined
  readonly text: string
}

export type FunctionForm = 'function' | 'arrow' | 'class' | 'method' | 'getter' | 'setter'

export interface FunctionSite {
  readonly form: FunctionForm
  readonly node: FunctionNode | Class
  /** the range that `Function.prototype.toString` gives */
  readonly start: number
  readonly end: number
  /** where its own scopes begin: free names and specials are looked for from here (after a method's key) */
  readonly bodyStart: number
  /** the scope that it is written in */
  readonly outerScope: Scope
  readonly strict: boolean
  readonly isDeclaration: boolean
  /** a method's key, where it is not computed */
  readonly key: { readonly start: number; readonly end: number; readonly name: string; readonly computed: boolean; readonly isPrivate: boolean } | undefined
  /** `export default` of this very declaration */
  readonly isDefaultExport: boolean
}

export interface ScriptAnalysis {
  readonly source: string
  readonly isModule: boolean
  readonly top: Scope
  readonly functions: readonly FunctionSite[]
  /** in source order */
  readonly references: readonly Reference[]
  readonly specials: readonly Special[]
  /** exported name → local name */
  readonly exports: ReadonlyMap<string, string>
}

/** True when `scope` is `inner` or encloses it. */
export function encloses(scope: Scope | undefined, inner: Scope): boolean {
  if (scope === undefined) return true
  for (let at: Scope | undefined = inner; at; at = at.parent) if (at === scope) return true
  return false
}
