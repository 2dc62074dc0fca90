/**
 * The graph of what a function needs elsewhere: itself, the functions and modules that it captures, and data.
 *
 * Each function goes one of three ways, in this order: something that every process has under a name (a global, a `node:` export),
 * an export of a module other than the entry file, or its text with the value of every free name. Whatever fits none is refused.
 */
import { types } from 'node:util'
import type { Class } from 'acorn'
import { BeamlineError } from '../errors.ts'
import { foundIn, integrityOf, kindOf, mayHaveName, pathTo } from './captured-values.ts'
import { emitFunction, type LiveImport, unusedName } from './emit.ts'
import { computedHeritage, type FreeName, type FunctionFacts, factsOf, type Reading, readNames } from './function-facts.ts'
import { globalOf, isStandardGlobal, replacedPart } from './globals.ts'
import { named, relocate } from './code-root.ts'
import { identityOf } from './identity.ts'
import { theInspector } from './inspector.ts'
import {
  builtinOf,
  commonJsModuleOf,
  importNode,
  importsEntry,
  isEntry,
  isRequire,
  moduleOf,
  requireNode,
  specifierOfBundledImport,
} from './module-reference.ts'
import { creationNeeds, ownProperties, staticBlocks } from './own-properties.ts'
import { type FunctionNode, type GlobalNode, type ImportNode, type Node, type PayloadHead, type Ref, refsOf, type Slot } from './payload.ts'
import type { Reference } from './scopes.ts'
import { COMPLAINTS, type Complaint, complaintAbout, fileOf, placeOf, refuse, SPECIAL_COMPLAINTS } from './refusals.ts'
import { type RemoteParts, remoteParts } from './remote-handles.ts'

const EXTERNAL = Symbol.for('beamline.external')

/** Facts of functions that were looked at; values of their bindings that can change are not kept. */
const known = new WeakMap<Function, FunctionFacts>()

export class Capture {
  readonly nodes: Node[] = []
  readonly externals: object[] = []
  readonly data: unknown[] = []
  /** functions whose own properties are part of the payload, as they were looked at */
  readonly functions: Function[] = []
  /** something in it may be different at the next call */
  isDynamic = false
  readonly #what: string
  readonly #byHand: Readonly<Record<string, unknown>> | undefined
  readonly #nodeOf = new Map<unknown, number>()
  readonly #dataOf = new Map<unknown, number>()
  readonly #dataPaths: string[] = []
  readonly #externalOf = new Map<object, number>()
  readonly #classes = new Set<number>()
  readonly #fromData = new Set<number>()
  /** values of other modules' variables, with the module that they belong to */
  readonly #moduleState: { readonly url: string; readonly path: string; readonly ref: Ref }[] = []
  #path: string
  #root = 0

  readonly #asData: ReadonlySet<object>
  readonly #objects = new Set<object>()

  /** @param asData - objects to leave to the codec, whatever their properties are like */
  constructor(what: string, byHand: Readonly<Record<string, unknown>> | undefined, asData: ReadonlySet<object> = new Set()) {
    this.#what = what
    this.#asData = asData
    this.#byHand = byHand
    this.#path = what
  }

  /** Capture the function (or what `remote` made of one) that is to be sent. @throws BeamlineError NOT_SERIALIZABLE */
  run(target: object): void {
    const parts = remoteParts(target)
    this.#root = parts ? this.#remote(target, parts, 'it') : this.#function(target as Function, 'it', this.#byHand)
  }

  /** Once everything is captured. */
  head(): Omit<PayloadHead, 'slots'> {
    this.#checkOrder()
    this.#checkModules()
    this.#identify()
    return { root: this.#root, nodes: this.nodes }
  }

  /** Objects that were captured by themselves and are part of the data as well: they would arrive twice. */
  objectsInData(): ReadonlySet<object> {
    return this.#objects.size > 0 ? foundIn(this.data, this.#objects) : this.#objects
  }

  /** For the codec: functions and branded objects inside the data. */
  readonly externalize = (value: object): Slot => {
    const parts = typeof value === 'function' ? undefined : remoteParts(value)
    if (typeof value !== 'function' && !parts) return { external: this.#external(value) }
    const path = pathTo(value, this.data, this.#dataPaths)
    const node = this.#nodeOf.get(value) ?? (parts ? this.#remote(value, parts, path) : this.#function(value as Function, path))
    this.#fromData.add(node)
    return { node }
  }

  /** The codec names a place as `$[3].x`: in words, the captured variable that item 3 is. */
  explain(error: unknown): unknown {
    if (!BeamlineError.is(error, 'NOT_SERIALIZABLE')) return error
    const at = /^\$\[(\d+)\](.*)$/s.exec(error.details.path)
    const path = at && this.#dataPaths[Number(at[1])]
    if (!path) return error
    const { reason, hint } = error.details
    return refuse(this.#what, at[2] ? `${at[2].replace(/^\./, '')} of ${path}` : path, { reason, hint }, error)
  }

  /** Classes inside the data are created while it is decoded: their static parts cannot use it yet. */
  #checkOrder(): void {
    const seen = new Set<number>()
    const need = (ref: Ref, name: string, needsAll: boolean): void => {
      if ('data' in ref) {
        throw refuse(this.#what, `variable "${name}"`, {
          reason: 'is needed to create a class that is itself inside captured data',
          hint: 'move the class to a module of its own and export it',
        })
      }
      if ('node' in ref) visit(ref.node, name, needsAll)
    }
    const visit = (index: number, name: string, needsAll: boolean): void => {
      const node = this.nodes[index]
      if (seen.has(index)) return
      seen.add(index)
      if (node?.kind === 'object') for (const ref of refsOf(node)) need(ref, name, needsAll)
      if (node?.kind !== 'function') return
      for (const [at, ref] of node.refs.entries()) {
        if (needsAll || node.early.includes(at)) need(ref, node.names[at] ?? name, needsAll || node.runsCode)
      }
    }
    for (const node of this.#fromData) visit(node, '', false)
  }

  /** A module that is imported and whose variables are captured as well would exist twice, each half with its own state and classes. */
  #checkModules(): void {
    const imported = new Set(
      this.nodes.map((node) => (node.kind === 'import' && URL.canParse(node.specifier, node.parent) ? new URL(node.specifier, node.parent).href : '')),
    )
    for (const { url, path, ref } of this.#moduleState) {
      if (!imported.has(url)) continue
      const node = 'node' in ref ? this.nodes[ref.node] : undefined
      const isState = 'data' in ref || node?.kind === 'object' || ('node' in ref && this.#classes.has(ref.node))
      if (isState) throw refuse(this.#what, path, COMPLAINTS.moduleState(fileOf(url)))
    }
  }

  #identify(): void {
    for (const [index, node] of this.nodes.entries()) {
      if (this.#classes.has(index)) this.nodes[index] = { ...(node as FunctionNode), identity: identityOf(relocate(this.nodes, named), index) }
    }
  }

  #external(value: object): number {
    let index = this.#externalOf.get(value)
    if (index === undefined) {
      index = this.externals.push(value) - 1
      this.#externalOf.set(value, index)
    }
    return index
  }

  #node(identity: unknown, node: Node): number {
    const index = this.nodes.push(node) - 1
    this.#nodeOf.set(identity, index)
    return index
  }

  /** @param path - how the function is reached, for messages */
  #function(fn: Function, path: string, byHand?: Readonly<Record<string, unknown>>): number {
    const seen = this.#nodeOf.get(fn)
    if (seen !== undefined) return seen
    const facts = this.#facts(fn, path)
    if ('kind' in facts) return this.#node(fn, facts)
    if (facts.exported && !byHand) return this.#node(fn, facts.exported)
    return this.#captured(fn, facts, path, byHand)
  }

  /** What is known of a function, or the name under which every process has it. */
  #facts(fn: Function, path: string): FunctionFacts | GlobalNode | ImportNode {
    const seen = known.get(fn)
    if (seen) return seen.free.every((name) => name.isStable) ? seen : { ...seen, readings: readNames(seen.free, theInspector().view(fn).scopes) }
    const complaint = complaintAbout(fn)
    if (complaint) throw refuse(this.#what, path, complaint)
    const view = theInspector().view(fn)
    if (!view.location || view.location.script.url.startsWith('node:')) {
      const named = globalOf(fn) ?? builtinOf(fn)
      if (named) return named
      throw refuse(this.#what, path, view.isBound ? COMPLAINTS.bound : COMPLAINTS.native)
    }
    const facts = factsOf(fn, view)
    if (typeof facts === 'string') throw refuse(this.#what, path, COMPLAINTS.noSource(facts))
    known.set(fn, facts)
    return facts
  }

  #remote(handle: object, { target, options }: RemoteParts, path: string): number {
    const index = this.#node(handle, { kind: 'global', path: [] })
    const captures = options['captures'] as Readonly<Record<string, unknown>> | undefined
    if (captures) {
      throw refuse(this.#what, path, {
        reason: 'is a remote function with captures by hand',
        hint: 'call remote() inside the function that uses it, or let it capture by itself',
      })
    }
    this.nodes[index] = {
      kind: 'remote',
      target: this.#function(target, `the function of ${path}`),
      options: Object.entries(options).map(([name, value]) => ({ name, ref: this.#value(value, `option "${name}" of ${path}`) })),
    }
    return index
  }

  #captured(fn: Function, facts: FunctionFacts, path: string, byHand: Readonly<Record<string, unknown>> | undefined): number {
    const { analysis, site, script } = facts
    const place = (offset: number): string => placeOf(script.url, analysis.source, offset)
    for (const special of facts.specials) {
      // at a module's top level `this` is undefined, as it is in the factory
      if (special.kind === 'this' && special.owner === undefined && analysis.isModule) continue
      throw refuse(this.#what, `\`${special.text}\` (${place(special.start)})`, SPECIAL_COMPLAINTS[special.kind] as Complaint)
    }
    if (site.key?.isPrivate) throw refuse(this.#what, path, SPECIAL_COMPLAINTS['private name'] as Complaint)
    // the node gets its index before its captures are looked at, so that functions may capture each other
    const index = this.#node(fn, { kind: 'global', path: [] })
    this.functions.push(fn)
    const outer = this.#path
    this.#path = path
    const captures = new Map<string, Ref>()
    const liveImports: LiveImport[] = []
    const missing: string[] = []
    for (const name of facts.free) {
      if (byHand && Object.hasOwn(byHand, name.name)) captures.set(name.name, this.#value(byHand[name.name], `captures.${name.name}`))
      else this.#name(fn, name, facts, { captures, liveImports, missing: byHand ? missing : undefined, place })
    }
    if (missing.length > 0)
      throw refuse(this.#what, `${missing.length === 1 ? 'variable' : 'variables'} ${missing.map((n) => `"${n}"`).join(', ')}`, COMPLAINTS.byHand(missing))
    this.#path = outer
    const { name, properties, isDynamic } = ownProperties(fn, facts, (complaint, key) =>
      refuse(this.#what, key ? `property "${key}" of ${path}` : path, complaint),
    )
    const ownName = site.isDeclaration ? captures.get(site.node.id?.name ?? '') : undefined
    const ownNameIsCaptured = site.form !== 'class' && ownName !== undefined && !('node' in ownName && ownName.node === index)
    if (!ownNameIsCaptured && ownName && site.node.id) captures.delete(site.node.id.name)
    const heritage = computedHeritage(site)
    const parent = heritage && { start: heritage.start, end: heritage.end, text: unusedName('$beamlineParent', analysis.source, site) }
    if (parent) captures.set(parent.text, this.#value(Object.getPrototypeOf(fn), `the parent of ${path}`))
    const names = [...captures.keys()]
    const { ranges, runsCode, needsAll } = creationNeeds(site, (n) => isNamer(facts.readings.get(n)))
    const isEarly = (reference: Reference): boolean => ranges.some((range) => reference.start >= range.start && reference.end <= range.end)
    const needed = new Set([
      ...facts.free.filter((free) => free.references.some(isEarly)).map((free) => free.name),
      ...liveImports.filter(({ reference }) => isEarly(reference)).map(({ namespace }) => namespace),
    ])
    const emission = emitFunction(analysis.source, site, name ?? '', names, liveImports, ownNameIsCaptured, parent)
    const start = lineAndColumn(analysis.source, site.start)
    if (properties.length > 0 || isDynamic) this.isDynamic = true
    for (const block of staticBlocks(site)) {
      const touched = facts.free.find((free) => {
        const ref = captures.get(free.name)
        return ref && 'data' in ref && free.references.some((reference) => reference.start >= block.start && reference.end <= block.end)
      })
      if (touched) throw refuse(this.#what, `variable "${touched.name}" (${place(block.start)})`, COMPLAINTS.staticBlock)
    }
    const node: FunctionNode = {
      kind: 'function',
      source: emission.source,
      url: script.url,
      line: start.line + script.startLine,
      column: start.column - emission.textAt,
      member: emission.member,
      name,
      names,
      refs: names.map((n) => captures.get(n) as Ref),
      early: names.flatMap((n, at) => (needsAll || n === parent?.text || needed.has(n) ? [at] : [])),
      runsCode,
      integrity: integrityOf(fn),
      identity: undefined,
      properties: properties.map(({ key, descriptor }) => ({
        key,
        ref: this.#value(descriptor.value, `property "${key}" of ${path}`),
        writable: descriptor.writable === true,
        enumerable: descriptor.enumerable === true,
        configurable: descriptor.configurable === true,
      })),
    }
    if (site.form === 'class') this.#classes.add(index)
    this.nodes[index] = node
    return index
  }

  #name(
    fn: Function,
    free: FreeName,
    facts: FunctionFacts,
    into: { captures: Map<string, Ref>; liveImports: LiveImport[]; missing: string[] | undefined; place: (offset: number) => string },
  ): void {
    const { name, binding, references } = free
    const { script, analysis } = facts
    const first = references[0]
    const path = `variable "${name}" (${into.place(binding?.start ?? first?.start ?? 0)})${this.#path === 'it' ? '' : ` used by ${this.#path}`}`
    const write = references.find((reference) => reference.write)
    if (write) throw refuse(this.#what, `variable "${name}" (${into.place(write.start)})`, COMPLAINTS.assigned(name))
    if (binding?.imported && !importsEntry(binding.imported.specifier, script.url)) return this.#importedName(free, facts, into)
    const reading = readOutside(fn, free, facts)
    if (reading === 'in a with statement') throw refuse(this.#what, path, SPECIAL_COMPLAINTS['with'] as Complaint)
    // a stable name is not read again, unless it has no value yet
    if (reading === 'not initialised' || (typeof reading === 'object' && reading.value === undefined)) known.delete(fn)
    if (reading === 'not initialised') throw refuse(this.#what, path, COMPLAINTS.notInitialised)
    if (reading === 'absent') return this.#globalName(free, path)
    const { value } = reading
    if (into.missing && !binding?.imported && value !== fn) {
      into.missing.push(name)
      return
    }
    if (!free.isStable || (binding?.kind === 'var' && value === undefined)) this.isDynamic = true
    if (value === fn) into.captures.set(name, { node: this.#nodeOf.get(fn) as number })
    else if (isRequire(value)) into.captures.set(name, { node: this.#require(free, script.url, path) })
    else into.captures.set(name, this.#moduleConstant(free, value, script.url) ?? this.#value(value, path))
    const ref = into.captures.get(name)
    if (ref && script.isModule && binding?.scope === analysis.top && !isEntry(script.url)) this.#moduleState.push({ url: script.url, path, ref })
  }

  #importedName(free: FreeName, facts: FunctionFacts, into: { captures: Map<string, Ref>; liveImports: LiveImport[] }): void {
    const { specifier, name, attributes } = free.binding?.imported as NonNullable<NonNullable<FreeName['binding']>['imported']>
    const parent = facts.script.url
    const isBuiltin = specifier.startsWith('node:')
    if (name === '*' || isBuiltin) {
      into.captures.set(free.name, { node: this.#import(specifier, parent, isBuiltin ? name : '*', attributes) })
      return
    }
    const namespace = unusedName(`$beamline${into.captures.size}`, facts.analysis.source, facts.site)
    into.captures.set(namespace, { node: this.#import(specifier, parent, '*', attributes) })
    for (const reference of free.references) into.liveImports.push({ reference, namespace, exported: name })
  }

  #import(specifier: string, parent: string, name: string, attributes: Readonly<Record<string, string>>): number {
    const key = JSON.stringify([specifier, parent, name, attributes])
    return this.#nodeOf.get(key) ?? this.#node(key, importNode(specifier, parent, name, attributes))
  }

  #globalName({ name, binding }: FreeName, path: string): void {
    if (binding) throw refuse(this.#what, path, binding.kind === 'self' ? COMPLAINTS.selfName : COMPLAINTS.unreadable)
    if (isStandardGlobal(name)) {
      const replaced = replacedPart(name)
      if (replaced !== undefined) throw refuse(this.#what, path.replace(`"${name}"`, `"${replaced}"`), COMPLAINTS.replacedGlobal)
      return
    }
    if (name in globalThis) throw refuse(this.#what, path, COMPLAINTS.programGlobal(name))
    // absent everywhere: the name throws, or is only asked for with typeof, here and there alike, until someone sets it
    this.isDynamic = true
  }

  #require(free: FreeName, parent: string, path: string): number {
    const init = free.binding?.init
    const fromHere =
      !free.binding || (init?.type === 'CallExpression' && init.arguments[0]?.type === 'MemberExpression' && init.arguments[0].object.type === 'MetaProperty')
    if (!fromHere)
      throw refuse(this.#what, path, { reason: 'is a require function of another file', hint: 'import the module, or use createRequire inside the function' })
    return this.#nodeOf.get(`require ${parent}`) ?? this.#node(`require ${parent}`, requireNode(parent))
  }

  /** `const x = await import('…')`, `const __vi_import_0__ = await __vite_ssr_import__('…')`: modules, though the value alone does not say which. */
  #moduleConstant(free: FreeName, value: unknown, parent: string): Ref | undefined {
    const { binding } = free
    const init = binding?.init
    if (typeof value !== 'object' || value === null || !init || !free.isStable) return undefined
    const call = init.type === 'AwaitExpression' ? init.argument : init
    const argument = call.type === 'ImportExpression' ? call.source : call.type === 'CallExpression' ? call.arguments[0] : undefined
    if (argument?.type !== 'Literal' || typeof argument.value !== 'string') return undefined
    const bundled = /^__(vi|vite_ssr)_import_\d+__$/.test(binding.name)
    if (!bundled && !(types.isModuleNamespaceObject(value) && call.type === 'ImportExpression')) return undefined
    const specifier = bundled ? specifierOfBundledImport(argument.value, parent) : argument.value
    if (specifier === undefined || importsEntry(specifier, parent)) return undefined
    return { node: this.#import(specifier, parent, '*', specifier.endsWith('.json') ? { type: 'json' } : {}) }
  }

  /** Property by property, with all its flags. */
  #object(value: object, path: string): number {
    const index = this.#node(value, { kind: 'global', path: [] })
    this.#objects.add(value)
    const properties = Reflect.ownKeys(value).map((key) => {
      const { value: item, get, set, ...flags } = Object.getOwnPropertyDescriptor(value, key) as PropertyDescriptor
      const at = `property "${String(key)}" of ${path}`
      if (typeof key === 'symbol') throw refuse(this.#what, at, COMPLAINTS.symbolKey)
      const common = { key, enumerable: flags.enumerable === true, configurable: flags.configurable === true }
      if (!('writable' in flags)) return { ...common, get: this.#value(get, at), set: this.#value(set, at) }
      return { ...common, ref: this.#value(item, at), writable: flags.writable === true }
    })
    this.nodes[index] = {
      kind: 'object',
      isArray: Array.isArray(value),
      isExtensible: Object.isExtensible(value),
      prototype: Array.isArray(value) ? { value: null } : this.#value(Object.getPrototypeOf(value), path),
      properties,
    }
    return index
  }

  #value(value: unknown, path: string): Ref {
    if (typeof value === 'symbol') {
      const key = Symbol.keyFor(value)
      if (key !== undefined) return { symbol: key }
      const named = globalOf(value)
      if (!named) throw refuse(this.#what, path, COMPLAINTS.symbol)
      return { node: this.#nodeOf.get(value) ?? this.#node(value, named) }
    }
    if (typeof value === 'function') return { node: this.#function(value, path) }
    if (typeof value !== 'object' || value === null) return { value }
    const seen = this.#nodeOf.get(value)
    if (seen !== undefined) return { node: seen }
    const parts = types.isProxy(value) ? undefined : remoteParts(value)
    if (parts) return { node: this.#remote(value, parts, path) }
    if (EXTERNAL in value) return { external: this.#external(value) }
    const named = mayHaveName(value) ? (globalOf(value) ?? moduleOf(value) ?? builtinOf(value) ?? commonJsModuleOf(value)) : undefined
    if (named) return { node: this.#node(value, named) }
    const complaint = complaintAbout(value)
    if (complaint) throw refuse(this.#what, path, complaint)
    const kind = this.#asData.has(value) ? 'data' : kindOf(value)
    if (kind !== 'frozen') this.isDynamic = true
    if (kind !== 'data') return { node: this.#object(value, path) }
    let index = this.#dataOf.get(value)
    if (index === undefined) {
      index = this.data.push(value) - 1
      this.#dataOf.set(value, index)
      this.#dataPaths.push(path)
    }
    return { data: index }
  }
}

/** A free name's value: in the scopes, or where V8 keeps those that no scope holds. */
function readOutside(fn: Function, { name, binding }: FreeName, { site, readings, analysis }: FunctionFacts): Reading {
  const reading = readings.get(name) ?? 'absent'
  if (reading !== 'absent' || !binding) return reading
  // a class's parent is known by the class, though no function may use its name
  const heritage = site.form === 'class' ? (site.node as Class).superClass : undefined
  if (heritage?.type === 'Identifier' && heritage.name === name) return { value: Object.getPrototypeOf(fn) as unknown }
  // top-level `var` and functions of a classic script are properties of the global object
  if (binding.scope === analysis.top && !analysis.isModule && Object.hasOwn(globalThis, name)) return { value: Reflect.get(globalThis, name) as unknown }
  return reading
}

/** `__name` of esbuild, which `keepNames` puts everywhere. */
function isNamer(reading: Reading | undefined): boolean {
  const value = typeof reading === 'object' ? reading.value : undefined
  return typeof value === 'function' && /^\(?\w+, ?\w+\)? ?=> ?\w+\(\w+, ?"name", ?\{ ?value(: ?\w+)?, ?configurable: ?(true|!0) ?\}\)$/.test(String(value))
}

function lineAndColumn(source: string, offset: number): { line: number; column: number } {
  let line = 0
  let start = 0
  for (let end = source.indexOf('\n'); end >= 0 && end < offset; end = source.indexOf('\n', end + 1)) {
    line++
    start = end + 1
  }
  return { line, column: offset - start }
}
