/**
 * What a function object carries beyond its text: own properties, prototype, static state. Kept where evaluating the text again and
 * setting data properties gives the same, refused otherwise.
 */
import type { AnyNode, Class, MethodDefinition, PropertyDefinition, StaticBlock } from 'acorn'
import type { FunctionFacts } from './function-facts.ts'
import { theInspector } from './inspector.ts'
import { COMPLAINTS, type Complaint } from './refusals.ts'
import type { FunctionSite } from './scopes.ts'

export interface OwnProperties {
  /** null: it has none; undefined: something else than a string */
  readonly name: string | null | undefined
  readonly properties: readonly { readonly key: string; readonly descriptor: PropertyDescriptor }[]
  /** state that only the inspector sees is part of it */
  readonly isDynamic: boolean
}

const INTRINSIC_PROTOTYPES: ReadonlySet<unknown> = new Set(
  [function () {}, async () => {}, function* () {}, async function* () {}].map((fn) => Object.getPrototypeOf(fn) as unknown),
)

const AUGMENTED: Complaint = {
  reason: 'was added or replaced after the class was written',
  hint: 'write it in the class body, or export the class from a module of its own',
}
const ACCESSOR: Complaint = { reason: 'is an accessor that was defined from outside', hint: 'use a plain property, or write it in the class body' }
const PROTOTYPE: Complaint = { reason: 'has a prototype that was changed', hint: 'write it as a class, or export it from a module of its own' }
const PRIVATE_STATE: Complaint = {
  reason: 'is private static state that has changed since the class was written',
  hint: 'use a public static field, or pass the state as an argument',
}

export function ownProperties(fn: Function, facts: FunctionFacts, refusal: (complaint: Complaint, key?: string) => Error): OwnProperties {
  const { site } = facts
  const own = Object.getOwnPropertyDescriptor(fn, 'name')
  const properties: { key: string; descriptor: PropertyDescriptor }[] = []
  const members = site.form === 'class' ? classMembers(site.node as Class) : []
  const statics = members.filter((member) => member.static)
  for (const key of Reflect.ownKeys(fn)) {
    const descriptor = Object.getOwnPropertyDescriptor(fn, key) as PropertyDescriptor
    if (key === 'prototype' || (isMember(descriptor, key, statics, facts) && !isOverwritten(descriptor, key, statics))) continue
    if (key === 'name' && typeof descriptor.value === 'string' && !statics.some((member) => keyOf(member) === 'name')) continue
    if (key === 'length' && descriptor.value === expectedLength(site) && !statics.some((member) => keyOf(member) === 'length')) continue
    if ((key === 'arguments' || key === 'caller') && !site.strict) continue
    if (typeof key === 'symbol') throw refusal(COMPLAINTS.symbolKey, String(key))
    if (!('value' in descriptor)) throw refusal(ACCESSOR, key)
    properties.push({ key, descriptor })
  }
  if (site.form === 'class') checkClass(fn, facts, members, refusal)
  else checkFunction(fn, refusal)
  const name = own === undefined ? null : typeof own.value === 'string' ? own.value : undefined
  return { name, properties, isDynamic: checkPrivateStatics(fn, site, refusal) }
}

export interface CreationNeeds {
  /** ranges of the text that are evaluated while the class is created */
  readonly ranges: readonly { readonly start: number; readonly end: number }[]
  /** something is called there */
  readonly runsCode: boolean
  /** and it may use any captured name */
  readonly needsAll: boolean
}

/**
 * What a function or class needs while it is created: nothing, but for a class's heritage, computed keys and static parts.
 *
 * @param isNamer - whether a captured name is a bundler's helper that does nothing but set a class's name
 */
export function creationNeeds(site: FunctionSite, isNamer: (name: string) => boolean): CreationNeeds {
  if (site.form !== 'class') return { ranges: [], runsCode: false, needsAll: false }
  const node = site.node as Class
  const ranges: AnyNode[] = node.superClass ? [node.superClass] : []
  let runsCode = false
  let needsAll = false
  for (const member of node.body.body) {
    const evaluated: AnyNode[] = []
    if (member.type === 'StaticBlock') evaluated.push(member)
    else {
      if (member.computed) evaluated.push(member.key)
      if (member.type === 'PropertyDefinition' && member.static && member.value) evaluated.push(member.value)
    }
    ranges.push(...evaluated)
    runsCode ||= evaluated.some((part) => callsSomething(part, () => false))
    needsAll ||= evaluated.some((part) => callsSomething(part, isNamer))
  }
  return { ranges, runsCode, needsAll }
}

/** A call outside of nested functions, but for those of `isNamer`: `__name(this, "C")`. */
function callsSomething(node: AnyNode, isNamer: (name: string) => boolean): boolean {
  if (node.type === 'CallExpression' && node.callee.type === 'Identifier' && isNamer(node.callee.name)) return false
  if (/^(Call|New|TaggedTemplate)Expression$/.test(node.type)) return true
  if (/Function(Expression|Declaration)$/.test(node.type)) return false
  return Object.values(node).some((child: unknown) => (Array.isArray(child) ? child : [child]).some((item) => isNode(item) && callsSomething(item, isNamer)))
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
}

export function staticBlocks(site: FunctionSite): readonly StaticBlock[] {
  return site.form === 'class' ? (site.node as Class).body.body.filter((member) => member.type === 'StaticBlock') : []
}

type Member = MethodDefinition | PropertyDefinition

function classMembers(node: Class): Member[] {
  return node.body.body
    .filter((member) => member.type === 'MethodDefinition' || member.type === 'PropertyDefinition')
    .filter((m) => m.key.type !== 'PrivateIdentifier')
}

function keyOf(member: Member): string | undefined {
  if (member.computed) return undefined
  return member.key.type === 'Identifier' ? member.key.name : member.key.type === 'Literal' ? String(member.key.value) : undefined
}

/** Evaluating the class again gives this property: a method or accessor of the class body, or a function of a static initialiser. */
function isMember(descriptor: PropertyDescriptor, key: string | symbol, members: readonly Member[], facts: FunctionFacts): boolean {
  const { source } = facts.analysis
  const functions = [descriptor.value as unknown, descriptor.get, descriptor.set].filter((value) => typeof value === 'function')
  if (functions.length === 0) return false
  return functions.every((value) => {
    const text = Function.prototype.toString.call(value)
    return members.some((member) => {
      const memberKey = keyOf(member)
      if (member.computed ? typeof key === 'string' && memberKey !== undefined : memberKey !== key) return false
      return member.type === 'MethodDefinition' ? source.startsWith(text, member.end - text.length) : source.slice(member.start, member.end).includes(text)
    })
  })
}

function isOverwritten(descriptor: PropertyDescriptor, key: string | symbol, members: readonly Member[]): boolean {
  return (
    typeof descriptor.value === 'function' &&
    members.some((member) => member.type === 'MethodDefinition' && keyOf(member) === key && descriptor.enumerable === true)
  )
}

function expectedLength(site: FunctionSite): number {
  if (site.form === 'class') {
    const constructor = (site.node as Class).body.body.find((member) => member.type === 'MethodDefinition' && member.kind === 'constructor')
    return constructor?.type === 'MethodDefinition' ? countParameters(constructor.value.params) : 0
  }
  return 'params' in site.node ? countParameters(site.node.params) : 0
}

function countParameters(params: readonly { type: string }[]): number {
  const end = params.findIndex((p) => p.type === 'AssignmentPattern' || p.type === 'RestElement')
  return end < 0 ? params.length : end
}

function checkFunction(fn: Function, refusal: (complaint: Complaint) => Error): void {
  if (!INTRINSIC_PROTOTYPES.has(Object.getPrototypeOf(fn))) throw refusal(PROTOTYPE)
  const own = Object.getOwnPropertyDescriptor(fn, 'prototype')?.value as object | undefined
  if (typeof own !== 'object') return
  const keys = Reflect.ownKeys(own)
  if (keys.length > 1 || (keys.length === 1 && (own as { constructor: unknown }).constructor !== fn)) throw refusal(PROTOTYPE)
}

function checkClass(fn: Function, facts: FunctionFacts, members: readonly Member[], refusal: (complaint: Complaint, key?: string) => Error): void {
  const prototype = fn.prototype as object
  const methods = members.filter((member) => !member.static && member.type === 'MethodDefinition' && member.kind !== 'constructor')
  const keys = Reflect.ownKeys(prototype)
  for (const key of keys) {
    const descriptor = Object.getOwnPropertyDescriptor(prototype, key) as PropertyDescriptor
    if (key === 'constructor' ? descriptor.value !== fn : !isMember(descriptor, key, methods, facts) || descriptor.enumerable)
      throw refusal(AUGMENTED, `prototype.${String(key)}`)
  }
  for (const method of methods) {
    const key = keyOf(method)
    if (key !== undefined && !keys.includes(key)) throw refusal(AUGMENTED, `prototype.${key}`)
  }
  const { superClass } = facts.site.node as Class
  const parent: unknown = Object.getPrototypeOf(fn)
  if (!superClass) {
    if (parent !== Function.prototype || Object.getPrototypeOf(prototype) !== Object.prototype) throw refusal(PROTOTYPE)
    return
  }
  const isNull = superClass.type === 'Literal' && superClass.value === null
  if (Object.getPrototypeOf(prototype) !== (isNull ? null : (parent as { prototype: unknown }).prototype)) throw refusal(PROTOTYPE)
  if (superClass.type !== 'Identifier') return
  const reading = facts.readings.get(superClass.name)
  if (typeof reading === 'object' && reading.value !== parent) throw refusal(PROTOTYPE)
}

/** The text gives a private static field its first value; nothing can set another from outside. */
function checkPrivateStatics(fn: Function, site: FunctionSite, refusal: (complaint: Complaint, key?: string) => Error): boolean {
  if (site.form !== 'class') return false
  const fields = (site.node as Class).body.body.filter(
    (m) => m.type === 'PropertyDefinition' && m.static && m.key.type === 'PrivateIdentifier',
  ) as PropertyDefinition[]
  if (fields.length === 0) return false
  const values = new Map(
    theInspector()
      .view(fn)
      .privateNames.map((p) => [p.name, p]),
  )
  for (const { key, value: init } of fields) {
    const name = `#${key.type === 'PrivateIdentifier' ? key.name : ''}`
    const now = values.get(name)
    const same = now?.primitive && (init ? init.type === 'Literal' && Object.is(init.value, now.value) : now.value === undefined)
    if (!same) throw refusal(PRIVATE_STATE, name)
  }
  return true
}
