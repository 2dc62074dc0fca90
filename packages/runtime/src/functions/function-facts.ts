/**
 * What the text of a function says, joined with what its scopes hold: free names with their bindings and how to read their values.
 *
 * Facts that cannot change are kept per function object; values of bindings that can are read anew by every `readValues`.
 */
import type { CallSiteObject } from 'node:util'
import type { Class } from 'acorn'
import { entryText } from './entry-text.ts'
import { type FunctionView, type ScopeView, type ScriptInfo, theInspector } from './inspector.ts'
import { exportOf, importsEntry, isEntry } from './module-reference.ts'
import type { CommonJsNode, ImportNode } from './payload.ts'
import { analyseScript } from './scope-analysis.ts'
import { type Binding, encloses, type FunctionSite, type Reference, type ScriptAnalysis, type Special } from './scopes.ts'

export interface FreeName {
  readonly name: string
  readonly binding: Binding | undefined
  readonly references: readonly Reference[]
  /** its value can never be another one */
  readonly isStable: boolean
}

export interface FunctionFacts {
  readonly script: ScriptInfo
  readonly analysis: ScriptAnalysis
  readonly site: FunctionSite
  readonly free: readonly FreeName[]
  /** specials whose meaning comes from outside of the function */
  readonly specials: readonly Special[]
  /** the free names' values, as they were when the function was looked at */
  readonly readings: ReadonlyMap<string, Reading>
  /** how every process can import it, where it is an export */
  readonly exported: ImportNode | CommonJsNode | undefined
}

/** A free name's value, or why there is none. */
export type Reading = { readonly value: unknown } | 'absent' | 'not initialised' | 'in a with statement'

/** Source text whose analysis is kept, in characters; each takes about 20 bytes of heap. */
const ANALYSED_MAX = 16_000_000

const analyses = new Map<string, ScriptAnalysis | SyntaxError>()
let analysed = 0

function analysisOf(script: ScriptInfo): ScriptAnalysis | SyntaxError {
  const known = analyses.get(script.id)
  if (known) return known
  const source = theInspector().source(script)
  analysed += source.length
  if (analysed > ANALYSED_MAX) {
    analyses.clear()
    analysed = source.length
  }
  const analysis = tryAnalyse(source, script.isModule)
  analyses.set(script.id, analysis)
  return analysis
}

/** Id of the entry file's script, while its text is that on the disk and not what V8 says. */
let readFromDisk: string | undefined

/**
 * Attach the inspector and read the entry file, where most functions that are sent are written.
 *
 * @param callers - of which one may be the entry file
 */
export function prepareEntry(callers: readonly CallSiteObject[]): void {
  const inspector = theInspector()
  const caller = callers.find(({ scriptName }) => isEntry(scriptName))
  const text = caller && entryText(caller.scriptName)
  const analysis = text === undefined ? undefined : tryAnalyse(text, true)
  if (caller && analysis && !(analysis instanceof SyntaxError)) {
    const { scriptId: id, scriptName: url } = caller
    inspector.know({ id, url, isModule: true, startLine: 0, startColumn: 0 })
    analyses.set(id, analysis)
    readFromDisk = id
  } else for (const script of inspector.find(isEntry)) analysisOf(script)
}

function tryAnalyse(source: string, isModule: boolean): ScriptAnalysis | SyntaxError {
  try {
    return analyseScript(source, isModule)
  } catch (error) {
    return error as SyntaxError
  }
}

/**
 * @param view - of `fn`; it must have a location
 * @returns the reason in words where the function's text cannot be found or read
 */
export function factsOf(fn: Function, view: FunctionView): FunctionFacts | string {
  const { location } = view
  if (!location) return 'has no source text'
  const { script } = location
  const analysis = analysisOf(script)
  if (analysis instanceof SyntaxError) return `is written in a script that cannot be read (${analysis.message})`
  const offset = offsetOf(analysis.source, script, location)
  const site = siteOf(analysis, Function.prototype.toString.call(fn), offset)
  if (script.id === readFromDisk && !(site && site.start <= offset && offset < site.end)) {
    readFromDisk = undefined
    analyses.delete(script.id)
    return factsOf(fn, view)
  }
  if (!site) return 'has a source text that cannot be found in its script'
  const specials = analysis.specials.filter(
    (s) => s.start >= site.bodyStart && s.start < site.end && (s.owner === undefined || encloses(s.owner, site.outerScope)),
  )
  const free = freeNames(analysis, site, script)
  return { script, analysis, site, specials, free, readings: readNames(free, view.scopes), exported: exportOf(fn, script, analysis, site, view) }
}

/** Only what is free: V8 lists all variables of each scope, and kept they would keep values alive that the function never uses. */
export function readNames(free: readonly FreeName[], scopes: readonly ScopeView[]): ReadonlyMap<string, Reading> {
  return new Map(free.map(({ name }) => [name, readName(name, scopes)]))
}

/** The value of a free name, from the inside out. */
function readName(name: string, scopes: readonly ScopeView[]): Reading {
  for (const { kind, variables } of scopes) {
    if (!(kind === 'with' ? name in variables : Object.hasOwn(variables, name))) continue
    if (kind === 'with') return 'in a with statement'
    try {
      return { value: (variables as Record<string, unknown>)[name] }
    } catch {
      return 'not initialised'
    }
  }
  return 'absent'
}

function offsetOf(source: string, script: ScriptInfo, at: { line: number; column: number }): number {
  let offset = 0
  for (let line = at.line - script.startLine; line > 0; line--) {
    const end = source.indexOf('\n', offset)
    if (end < 0) return -1
    offset = end + 1
  }
  return offset + (at.line === script.startLine ? at.column - script.startColumn : at.column)
}

/** By text; where several functions have the same text, the one at the offset. */
function siteOf(analysis: ScriptAnalysis, text: string, offset: number): FunctionSite | undefined {
  const same = analysis.functions.filter((site) => site.end - site.start === text.length && analysis.source.startsWith(text, site.start))
  return same.length === 1 ? same[0] : same.find((site) => site.start <= offset && offset < site.end)
}

function freeNames(analysis: ScriptAnalysis, site: FunctionSite, script: ScriptInfo): FreeName[] {
  const byName = new Map<string, Reference[]>()
  const { references } = analysis
  const heritage = computedHeritage(site)
  for (let i = firstAtOrAfter(references, site.bodyStart); i < references.length; i++) {
    const reference = references[i] as Reference
    if (reference.start >= site.end) break
    if (reference.binding && !encloses(reference.binding.scope, site.outerScope)) continue
    if (heritage && reference.start >= heritage.start && reference.end <= heritage.end) continue
    const list = byName.get(reference.name)
    if (list) list.push(reference)
    else byName.set(reference.name, [reference])
  }
  return [...byName].map(([name, list]) => {
    const binding = list[0]?.binding
    return { name, binding, references: list, isStable: binding ? isStable(binding, script) : isWrapperName(name, analysis, script) }
  })
}

/** `extends mixin(Base)`: the parent class is captured itself instead of being computed again. */
export function computedHeritage(site: FunctionSite): { readonly start: number; readonly end: number } | undefined {
  if (site.form !== 'class') return undefined
  const { superClass } = site.node as Class
  return superClass && superClass.type !== 'Identifier' && superClass.type !== 'Literal' ? superClass : undefined
}

function firstAtOrAfter(references: readonly Reference[], start: number): number {
  let low = 0
  let high = references.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((references[middle] as Reference).start < start) low = middle + 1
    else high = middle
  }
  return low
}

/** The parameters of the function around a CommonJS module, which the script itself does not show. */
function isWrapperName(name: string, analysis: ScriptAnalysis, script: ScriptInfo): boolean {
  if (script.isModule || !/^(require|module|exports|__filename|__dirname)$/.test(name)) return false
  return !analysis.references.some((reference) => reference.write && reference.name === name && !reference.binding)
}

function isStable(binding: Binding, script: ScriptInfo): boolean {
  if (binding.reassigned) return false
  // the entry file's exports are captured by value, and only it knows whether it assigns to them
  if (binding.imported && importsEntry(binding.imported.specifier, script.url)) return false
  for (let scope: Binding['scope'] | undefined = binding.scope; scope; scope = scope.parent) if (scope.dynamic) return false
  return true
}
