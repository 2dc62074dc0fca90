/**
 * Things that another process has under the same name: exports of modules, CommonJS exports, properties of the global object and
 * of `node:` modules. Found by identity, so a name never stands for another value.
 */
import { existsSync, realpathSync } from 'node:fs'
import { builtinModules, createRequire, registerHooks } from 'node:module'
import { isAbsolute, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { globalOf } from './globals.ts'
import type { FunctionView, ScriptInfo } from './inspector.ts'
import type { CommonJsNode, ImportNode, RequireNode } from './payload.ts'
import { COMPLAINTS, fileOf, refuse } from './refusals.ts'
import type { Binding, FunctionSite, ScriptAnalysis } from './scopes.ts'

const NO_ATTRIBUTES = {}
const requireHere = createRequire(import.meta.url)

let entry: string | undefined

/** In a worker: the program's entry file, which is never imported. Default: the file that this process was started with. */
export function setEntry(path: string): void {
  entry = realPath(path)
  if (isGuarded) return
  isGuarded = true
  registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context)
      if (isPath(specifier) && isEntry(resolved.url)) {
        throw refuse('a function', `module ${fileOf(context.parentURL ?? '')}`, COMPLAINTS.importsEntry(fileOf(resolved.url)))
      }
      return resolved
    },
  })
}

let isGuarded = false

/** Bare specifiers and builtins never mean the entry file. */
const isPath = (specifier: string): boolean => /^(\.{0,2}\/|file:)/.test(specifier)

export function isEntry(url: string): boolean {
  entry ??= process.argv[1] ? realPath(process.argv[1]) : ''
  if (!url.startsWith('file:') || entry === '') return false
  const path = fileURLToPath(bare(url))
  return path === entry || realPath(path) === entry
}

function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

const bare = (url: string): string => url.replace(/[?#].*$/, '')

/** Whether `import specifier` written in `parent` means the entry file. Bare specifiers never do. */
export function importsEntry(specifier: string, parent: string): boolean {
  return isPath(specifier) && URL.canParse(specifier, parent) && isEntry(new URL(specifier, parent).href)
}

export function importNode(specifier: string, parent: string, name = '*', attributes: Readonly<Record<string, string>> = NO_ATTRIBUTES): ImportNode {
  return { kind: 'import', specifier, parent, attributes, name, path: [] }
}

/**
 * The export that a function is, of the module that it is written in; undefined when it is none. Only where the module, imported
 * anew, must give the same function: the export is never assigned to and the function is its initial value.
 */
export function exportOf(
  fn: Function,
  script: ScriptInfo,
  analysis: ScriptAnalysis,
  site: FunctionSite,
  view: FunctionView,
): ImportNode | CommonJsNode | undefined {
  if (!script.url.startsWith('file:') || isEntry(script.url)) return undefined
  if (!script.isModule) return commonJsExport(fn, script.url)
  if (site.isDefaultExport) return importNode(script.url, script.url, 'default')
  const variables = view.scopes.find((scope) => scope.kind === 'module')?.variables as Record<string, unknown> | undefined
  if (!variables) return undefined
  for (const [name, local] of analysis.exports) {
    const binding = analysis.top.bindings.get(local)
    if (!binding || binding.reassigned || !isInitialValue(binding, site)) continue
    if (Object.hasOwn(variables, local) && readOrUndefined(variables, local) === fn) return importNode(script.url, script.url, name)
  }
  return undefined
}

/** `function f`, `class C`, `const f = () => …`, or that inside a call: `const f = __name(() => …, "f")`. */
function isInitialValue({ start, init }: Binding, site: FunctionSite): boolean {
  if (site.isDeclaration) return site.node.id?.start === start
  const value = init?.type === 'CallExpression' ? init.arguments[0] : init
  return value?.start === site.start && value.end === site.end
}

/** Reading a variable that is not initialised throws. */
function readOrUndefined(variables: Record<string, unknown>, name: string): unknown {
  try {
    return variables[name]
  } catch {
    return undefined
  }
}

function commonJsExport(fn: Function, url: string): CommonJsNode | undefined {
  const file = fileURLToPath(bare(url))
  const exported: unknown = requireHere.cache[file]?.exports
  if (exported === fn) return { kind: 'commonjs', file, path: [] }
  if (typeof exported !== 'object' || exported === null) return undefined
  for (const [key, { value }] of Object.entries(Object.getOwnPropertyDescriptors(exported))) if (value === fn) return { kind: 'commonjs', file, path: [key] }
  return undefined
}

let commonJsModules = new Map<unknown, string>()
let commonJsSize = -1

/** The CommonJS module whose exports an object is. */
export function commonJsModuleOf(value: object): CommonJsNode | undefined {
  const files = Object.keys(requireHere.cache)
  if (files.length !== commonJsSize || !commonJsModules.has(value)) {
    commonJsModules = new Map(files.map((file) => [requireHere.cache[file]?.exports as unknown, file]))
    commonJsSize = files.length
  }
  const file = commonJsModules.get(value)
  return file !== undefined && !isEntry(pathToFileURL(file).href) ? { kind: 'commonjs', file, path: [] } : undefined
}

export function isRequire(value: unknown): boolean {
  return typeof value === 'function' && 'resolve' in value && 'cache' in value && value.cache === requireHere.cache
}

export function requireNode(parent: string): RequireNode {
  return { kind: 'require', parent }
}

const PUBLIC_BUILTINS = builtinModules.filter((name) => !name.startsWith('_') && name !== 'sys' && name !== 'punycode')
let builtins: Map<unknown, { specifier: string; path: string[] }> | undefined
let builtinsLoaded = 0

/** The `node:` module, or the export of one, that a value is. Only modules that are loaded already are looked through. */
export function builtinOf(value: unknown): ImportNode | undefined {
  const loaded = (process as { moduleLoadList?: string[] }).moduleLoadList ?? []
  if (!builtins || builtinsLoaded !== loaded.length) {
    builtinsLoaded = loaded.length
    builtins = new Map()
    const names = new Set(loaded.map((line) => line.replace(/^NativeModule /, '')))
    for (const name of PUBLIC_BUILTINS) {
      if (!names.has(name.replace(/^node:/, '')) && !names.has(name)) continue
      const specifier = name.startsWith('node:') ? name : `node:${name}`
      addBuiltin(builtins, specifier, [], process.getBuiltinModule(specifier), 2)
    }
  }
  const found = builtins.get(value)
  return found && { ...importNode(found.specifier, import.meta.url, 'default'), path: found.path }
}

function addBuiltin(map: NonNullable<typeof builtins>, specifier: string, path: string[], value: unknown, depth: number): void {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null || map.has(value) || globalOf(value)) return
  // only functions and the modules themselves are recognised: plain values of a module are data like any other
  if (typeof value === 'function' || path.length === 0 || depth > 0) map.set(value, { specifier, path })
  if (depth === 0) return
  for (const [key, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(value))) {
    if (typeof descriptor.value === 'function')
      map.has(descriptor.value) || globalOf(descriptor.value) || map.set(descriptor.value, { specifier, path: [...path, key] })
    else if (path.length === 0 && descriptor.enumerable) addBuiltin(map, specifier, [key], descriptor.value ?? readGetter(value, key, descriptor), depth - 1)
  }
}

/** `fs.promises` and its like are getters. */
function readGetter(owner: object, key: string, descriptor: PropertyDescriptor): unknown {
  return key === 'promises' || key === 'posix' || key === 'win32' ? descriptor.get?.call(owner) : undefined
}

const loadedModules = new WeakMap<object, ImportNode>()

/** In a worker: the namespace came from this import, in case a function that captures it is sent on. */
export function rememberModule(namespace: object, node: ImportNode): void {
  loadedModules.set(namespace, node)
}

export function moduleOf(namespace: object): ImportNode | undefined {
  return loadedModules.get(namespace)
}

/**
 * vite and vitest replace `import` by constants like `__vi_import_0__`, loaded by a specifier that is a path of their own server;
 * as a file or package name that plain Node can import. undefined: not found on disk.
 */
export function specifierOfBundledImport(specifier: string, parent: string): string | undefined {
  if (specifier.startsWith('node:') || builtinModules.includes(specifier)) return specifier
  const path = bare(specifier.startsWith('/@fs/') ? specifier.slice('/@fs'.length) : specifier)
  if (path.startsWith('file:')) return path
  if (path.startsWith('.')) return new URL(path, parent).href
  if (!isAbsolute(path)) return path.startsWith('/') ? undefined : path
  const file = [path, join(process.cwd(), path)].find((candidate) => existsSync(candidate))
  return file && pathToFileURL(file).href
}
