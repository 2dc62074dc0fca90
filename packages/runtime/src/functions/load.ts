/**
 * Shipped functions come to life: modules are imported first, then everything else is created in one synchronous pass.
 *
 * A function's factory runs with its captures absent and gets them afterwards, so functions may capture each other; a class whose
 * heritage or static parts need captures gets them ready, with all that they need, before it is created.
 */
import { createRequire } from 'node:module'
import { hostname } from 'node:os'
import { fileURLToPath } from 'node:url'
import { constants, Script } from 'node:vm'
import { BeamlineError } from '../errors.ts'
import { isEntry, rememberModule } from './module-reference.ts'
import { quietly } from './quietly.ts'
import { keep, shippedFrom } from './kept.ts'
import {
  decodePayload,
  encodeFrom,
  type FunctionNode,
  type ImportNode,
  type Integrity,
  type Node,
  type ObjectNode,
  type PayloadHead,
  type Ref,
  refsOf,
} from './payload.ts'
import { makeRemote } from './remote-handles.ts'

/**
 * The function that `ship` described, with everything that it captured.
 *
 * @param externals - what stands for the captured references and handles, in the order of `ShippedFunction.externals`
 * @throws whatever importing a module that it needs throws
 */
export async function load(bytes: Uint8Array, externals: readonly unknown[]): Promise<Function> {
  if (held) await held
  const { head, hasData, data } = decodePayload(bytes)
  const imported = new Map<number, unknown>()
  await Promise.all(
    head.nodes.map(async (node, index) => {
      if (node.kind === 'import') imported.set(index, await importModule(node))
    }),
  )
  const loading = new Loading(head, imported, externals)
  const root = loading.run(data)
  if (!hasData && head.nodes.every((node) => node.kind !== 'function' || node.properties.length === 0)) loading.keep(bytes)
  return root
}

let held: Promise<void> | undefined

/** Load nothing before the environment of the code is there; and nothing at all when that fails. */
export function holdLoading(until: Promise<void>): void {
  held = until
  until.then(
    () => {
      held = undefined
    },
    () => undefined,
  )
}

/** A module, as a file at `parent` would import it. */
export function importFrom(parent: string, specifier: string): Promise<Record<string, unknown>> {
  return importAs(parent, specifier, {})
}

async function importModule(node: ImportNode): Promise<unknown> {
  if (isEntry(node.specifier)) throw new BeamlineError('INTERNAL', { what: `a worker was asked to import the program's entry file ${node.specifier}` })
  const namespace = await importAs(node.parent, node.specifier, node.attributes).catch((error: unknown) => {
    throw missing(node, error)
  })
  rememberModule(namespace, { ...node, name: '*', path: [] })
  if (node.name === '*') return namespace
  if (!(node.name in namespace)) {
    throw new BeamlineError('INTERNAL', { what: `module "${node.specifier}" (imported by ${node.parent}) exports no "${node.name}" in this process` })
  }
  return follow(namespace[node.name], node.path)
}

/** What is absent on this machine is said as such, with the path: the task has not begun. Errors of the module itself stay as they are. */
function missing({ specifier, parent }: ImportNode, error: unknown): unknown {
  const { code, message, url } = error as { code?: string; message?: string; url?: string }
  if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND' && code !== 'ERR_UNSUPPORTED_DIR_IMPORT') return error
  const path = url ?? (specifier.startsWith('.') ? new URL(specifier, parent).href : specifier.startsWith('file:') ? specifier : parent)
  return new BeamlineError(
    'ENVIRONMENT_INVALID',
    {
      what: `module "${specifier}"`,
      path: path.startsWith('file:') ? fileURLToPath(path) : path,
      host: hostname(),
      reason: (message ?? '').split('\n')[0] ?? '',
      hint: 'it must be part of the code root of the program, or be installed on every machine',
    },
    { cause: error },
  )
}

/** `import(specifier)` as the file `parent` would do it: its folder, its package, its conditions. */
function importAs(parent: string, specifier: string, attributes: Readonly<Record<string, string>>): Promise<Record<string, unknown>> {
  const importer = compile('(specifier, options) => import(specifier, options)', { filename: parent })
  return (importer.runInThisContext() as (specifier: string, options: { with: object }) => Promise<Record<string, unknown>>)(specifier, { with: attributes })
}

/** A script whose dynamic imports are resolved from its file name, like those of the file itself. */
function compile(source: string, options: { filename: string; lineOffset?: number; columnOffset?: number }): Script {
  if (!isQuiet) warnNow()
  return new Script(source, { ...options, importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER })
}

let isQuiet = false

/** Node warns at the first import through this loader: have that one now. */
function warnNow(): void {
  isQuiet = true
  quietly(() => void compile('import("node:process")', { filename: import.meta.filename }).runInThisContext())
}

function follow(start: unknown, path: readonly string[]): unknown {
  let value = start
  for (const key of path) value = (value as Record<string, unknown>)[key]
  return value
}

interface Created {
  readonly value: unknown
  readonly setCaptures: ((values: readonly unknown[]) => void) | undefined
  /** it is complete already */
  readonly isShared?: boolean
}

/** Classes of earlier payloads by identity. */
const classes = new Map<string, WeakRef<Function>>()
const collected = new FinalizationRegistry<string>((identity) => {
  if (!classes.get(identity)?.deref()) classes.delete(identity)
})

const PROTECT: Readonly<Record<Integrity, (value: object) => object>> = {
  frozen: Object.freeze,
  sealed: Object.seal,
  'not extensible': Object.preventExtensions,
}

class Loading {
  readonly #head: PayloadHead
  readonly #imported: ReadonlyMap<number, unknown>
  readonly #externals: readonly unknown[]
  readonly #created = new Map<number, Created>()
  readonly #creating = new Set<number>()
  #data: readonly unknown[] | undefined

  constructor(head: PayloadHead, imported: ReadonlyMap<number, unknown>, externals: readonly unknown[]) {
    this.#head = head
    this.#imported = imported
    this.#externals = externals
  }

  run(data: (internalize: (index: number) => unknown) => readonly unknown[]): Function {
    this.#data = data((index) => {
      const slot = this.#head.slots[index]
      return slot && 'node' in slot ? this.#create(slot.node) : this.#externals[slot?.external ?? -1]
    })
    this.#head.nodes.forEach((_, index) => {
      this.#create(index)
    })
    this.#head.nodes.forEach((node, index) => {
      if (node.kind === 'function') this.#finish(node, this.#created.get(index) as Created)
    })
    return this.#created.get(this.#head.root)?.value as Function
  }

  /** Nothing in it can change: what it is made of may be sent on as it came. */
  keep(bytes: Uint8Array): void {
    const functions = this.#head.nodes.flatMap((node, index) => (node.kind === 'function' ? [this.#created.get(index)?.value as Function] : []))
    const again = (index: number): void => {
      const target = this.#created.get(index)?.value
      if (typeof target !== 'function') return
      keep(target, shippedFrom(index === this.#head.root ? bytes.slice() : encodeFrom(index, this.#head), this.#externals), functions)
    }
    again(this.#head.root)
    for (const node of this.#head.nodes) if (node.kind === 'remote' && node.target !== this.#head.root) again(node.target)
  }

  #create(index: number): unknown {
    const done = this.#created.get(index)
    if (done) return done.value
    // a cycle through a class's heritage or static parts: absent now, filled in at the end
    if (this.#creating.has(index)) return undefined
    this.#creating.add(index)
    const node = this.#head.nodes[index] as Node
    if (node.kind === 'object') return this.#object(node, index)
    const created = node.kind === 'function' ? this.#function(node) : { value: this.#named(node, index), setCaptures: undefined }
    this.#created.set(index, created)
    return created.value
  }

  /** It exists before its properties, which may lead back to it. */
  #object(node: ObjectNode, index: number): object {
    const object: object = node.isArray ? [] : Object.create(this.#value(node.prototype) as object | null)
    this.#created.set(index, { value: object, setCaptures: undefined })
    for (const property of node.properties) {
      const { key, enumerable, configurable } = property
      if ('ref' in property) Object.defineProperty(object, key, { value: this.#value(property.ref), writable: property.writable, enumerable, configurable })
      else {
        const accessors = { get: this.#value(property.get) as () => unknown, set: this.#value(property.set) as (value: unknown) => void }
        Object.defineProperty(object, key, { ...accessors, enumerable, configurable })
      }
    }
    return node.isExtensible ? object : Object.preventExtensions(object)
  }

  #named(node: Exclude<Node, FunctionNode | ObjectNode>, index: number): unknown {
    switch (node.kind) {
      case 'remote':
        return makeRemote(this.#create(node.target) as Function, Object.fromEntries(node.options.map(({ name, ref }) => [name, this.#value(ref)])))
      case 'import':
        return this.#imported.get(index)
      case 'commonjs':
        return follow(createRequire(node.file)(node.file), node.path)
      case 'global':
        return follow(globalThis, node.path)
      case 'require':
        return createRequire(node.parent)
    }
  }

  #function(node: FunctionNode): Created {
    const known = node.identity === undefined ? undefined : classes.get(node.identity)?.deref()
    if (known) return { value: known, setCaptures: undefined, isShared: true }
    const script = compile(node.source, { filename: node.url || 'beamline:function', lineOffset: node.line, columnOffset: node.column })
    const factory = script.runInThisContext() as (...captures: unknown[]) => [unknown, Created['setCaptures']]
    if (node.runsCode) {
      this.#ready(
        node.early.map((at) => node.refs[at] as Ref),
        new Set(),
      )
    }
    const [made, setCaptures] = factory.apply(
      undefined,
      node.refs.map((ref, at) => (node.early.includes(at) ? this.#value(ref) : undefined)),
    )
    const value = node.member ? Object.getOwnPropertyDescriptor(made, node.member.key)?.[node.member.slot] : made
    return { value, setCaptures }
  }

  /** Everything that these lead to exists and has its captures, as far as there is no way round in a circle. */
  #ready(refs: readonly Ref[], seen: Set<number>): void {
    for (const ref of refs) {
      if (!('node' in ref) || seen.has(ref.node)) continue
      seen.add(ref.node)
      this.#create(ref.node)
      const node = this.#head.nodes[ref.node] as Node
      if (node.kind === 'object') this.#ready(refsOf(node), seen)
      if (node.kind !== 'function') continue
      this.#ready(node.refs, seen)
      this.#created.get(ref.node)?.setCaptures?.(this.#values(node.refs))
    }
  }

  #values(refs: readonly Ref[]): unknown[] {
    return refs.map((ref) => this.#value(ref))
  }

  #value(ref: Ref): unknown {
    if ('node' in ref) return this.#create(ref.node)
    if ('data' in ref) return this.#data?.[ref.data]
    if ('external' in ref) return this.#externals[ref.external]
    return 'symbol' in ref ? Symbol.for(ref.symbol) : ref.value
  }

  #finish(node: FunctionNode, { value, setCaptures, isShared }: Created): void {
    if (isShared) return
    setCaptures?.(this.#values(node.refs))
    const fn = value as Function
    if (node.name === null) Reflect.deleteProperty(fn, 'name')
    else if (node.name !== undefined && fn.name !== node.name) Object.defineProperty(fn, 'name', { value: node.name, configurable: true })
    for (const { key, ref, writable, enumerable, configurable } of node.properties) {
      Object.defineProperty(fn, key, { value: this.#value(ref), writable, enumerable, configurable })
    }
    if (node.integrity) PROTECT[node.integrity](fn)
    if (node.identity === undefined) return
    classes.set(node.identity, new WeakRef(fn))
    collected.register(fn, node.identity)
  }
}
