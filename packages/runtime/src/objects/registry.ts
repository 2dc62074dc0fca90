/**
 * Classes and types that users (and the libraries above) teach the codec. Both ends must make the same registrations.
 *
 * Not a place for built-in types: those are in the encoder and decoder.
 */
import { createRequire } from 'node:module'
import { BeamlineError } from '../errors.ts'

export type AnyClass = abstract new (...args: any[]) => object

/** How {@link registerClass} sends the instances of a class. */
export interface ClassCodec<T> {
  /** Name on the wire; default: the name of the class. Give one when two classes share a name or a bundler renames them. */
  readonly name?: string
  /** What travels in place of an instance: any value that travels itself. Default: the own enumerable data fields. */
  readonly encode?: (instance: T) => unknown
  /** Makes an instance of what `encode` gave. Default: an object of the class with these fields; the constructor does not run. */
  readonly decode?: (data: never) => T
}

/** How {@link registerType} recognizes and sends values that no class tells apart. */
export interface TypeCodec<T extends object> {
  readonly name: string
  /** Whether a value is of this type; asked only for objects that no other rule takes. */
  readonly matches: (value: object) => boolean
  /** What travels in its place: any value that travels itself. */
  readonly encode: (value: T) => unknown
  /** Makes the value of what `encode` gave. */
  readonly decode: (data: never) => T
}

export interface RegisteredClass {
  readonly name: string
  readonly prototype: object
  readonly encode: ((instance: object) => unknown) | undefined
  readonly decode: ((data: unknown) => object) | undefined
}

interface RegisteredType extends RegisteredClass {
  readonly matches: (value: object) => boolean
}

const byPrototype = new Map<object, RegisteredClass>()
const byName = new Map<string, RegisteredClass>()
const types: RegisteredType[] = []

/**
 * Let instances of `Class` travel between processes and come back as instances of `Class`.
 *
 * Call it at the top level of the module that defines the class, so that every process that imports the module knows it.
 * Subclasses are classes of their own: register them too. Without `encode` and `decode` the own enumerable data fields travel.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT` when the class has `#private` members or extends a built-in other than Error and no
 * `encode`/`decode` are given, when only one of the two is given, or when the name is taken by another class
 * @example
 * registerClass(Point)
 * registerClass(Secret, { encode: (s) => s.reveal(), decode: (text: string) => new Secret(text) })
 */
export function registerClass<T extends object>(Class: abstract new (...args: never[]) => T, codec: ClassCodec<T> = {}): void {
  const name = codec.name ?? Class.name
  const bad = (got: string, expected: string): BeamlineError =>
    new BeamlineError('INVALID_ARGUMENT', { what: `registerClass(${Class.name || 'class'})`, got, expected })
  if (!name) throw bad('a class without a name', 'registerClass(Class, { name })')
  if ((codec.encode === undefined) !== (codec.decode === undefined)) throw bad('only one of encode and decode', 'both or none')
  if (!codec.encode) {
    const obstacle = hiddenState(Class as unknown as AnyClass)
    if (obstacle) throw bad(`a class that ${obstacle}`, 'encode and decode functions, since its fields are not all of its state')
  }
  add({
    name,
    prototype: Class.prototype as object,
    encode: codec.encode as RegisteredClass['encode'],
    decode: codec.decode as RegisteredClass['decode'],
  })
}

/**
 * Let values that a library recognises by its own means travel: a brand, several copies of a package, a family of classes.
 * Asked only for objects that nothing else accepts. A type of the same name is replaced: a module may be loaded twice.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT` when a class has the name
 */
export function registerType<T extends object>(codec: TypeCodec<T>): void {
  const type: RegisteredType = {
    name: codec.name,
    prototype: {},
    matches: codec.matches,
    encode: codec.encode as (value: object) => unknown,
    decode: codec.decode as unknown as (data: unknown) => object,
  }
  add(type)
  const previous = types.findIndex(({ name }) => name === type.name)
  if (previous >= 0) types.splice(previous, 1)
  types.push(type)
}

export function registrationOf(prototype: object, value: object): RegisteredClass | undefined {
  return byPrototype.get(prototype) ?? types.find((type) => type.matches(value))
}

export function registeredClass(prototype: object): RegisteredClass | undefined {
  return byPrototype.get(prototype)
}

/** @throws {@link BeamlineError} `CLASS_NOT_REGISTERED` */
export function registrationNamed(name: string): RegisteredClass {
  const found = byName.get(name)
  if (!found) throw new BeamlineError('CLASS_NOT_REGISTERED', { className: name })
  return found
}

export function findRegistration(name: string): RegisteredClass | undefined {
  return byName.get(name)
}

function add(registration: RegisteredClass): void {
  const previous = byName.get(registration.name)
  // The same module loaded twice (a shipped class, a second copy of a package) registers an equal class again: the last one wins.
  if (previous && String(previous.prototype.constructor) !== String(registration.prototype.constructor)) {
    const got = 'a name that another class or type has'
    throw new BeamlineError('INVALID_ARGUMENT', { what: `the registration of "${registration.name}"`, got, expected: 'another name' })
  }
  byName.set(registration.name, registration)
  byPrototype.set(registration.prototype, registration)
}

/** Why the own fields of an instance are not all of its state, if so. */
function hiddenState(Class: AnyClass): string | undefined {
  for (let at: unknown = Class; typeof at === 'function' && at !== Function.prototype; at = Object.getPrototypeOf(at)) {
    const source = Function.prototype.toString.call(at)
    if (source.endsWith('{ [native code] }')) return isErrorClass(at) ? undefined : `extends the built-in ${(at as AnyClass).name}`
    const member = privateMember(source)
    if (member) return `has the private member ${member}`
  }
  return undefined
}

function isErrorClass(Class: object): boolean {
  return Class === Error || Object.prototype.isPrototypeOf.call(Error, Class)
}

function privateMember(source: string): string | undefined {
  if (!/#[\p{ID_Start}_$\\]/u.test(source)) return undefined // no parser needed for most classes
  const { parse } = createRequire(import.meta.url)('acorn') as typeof import('acorn')
  const program = parse(`(${source})`, { ecmaVersion: 'latest' })
  const statement = program.body[0]
  const Class = statement?.type === 'ExpressionStatement' && statement.expression.type === 'ClassExpression' ? statement.expression : undefined
  for (const member of Class?.body.body ?? []) {
    if (member.type !== 'StaticBlock' && member.key.type === 'PrivateIdentifier' && !member.static) return `#${member.key.name}`
  }
  return undefined
}
