/**
 * Why a value cannot leave its process, in words: the sentences of NOT_SERIALIZABLE for functions and what they capture.
 * Pure except for reading the value's own brands.
 */
import { findSourceMap } from 'node:module'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { types } from 'node:util'
import { BeamlineError } from '../errors.ts'

export interface Complaint {
  readonly reason: string
  readonly hint: string
}

/** @param what - the shipped function; @param path - the variable, with its place */
export function refuse(what: string, path: string, complaint: Complaint, cause?: unknown): BeamlineError<'NOT_SERIALIZABLE'> {
  return new BeamlineError('NOT_SERIALIZABLE', { what, path, ...complaint }, cause === undefined ? undefined : { cause })
}

/** `src/train.ts:12:7` of an offset in a script, as it was written where a source map says so. */
export function placeOf(url: string, source: string, offset: number): string {
  const before = source.slice(0, offset)
  const line = before.split('\n').length - 1
  const column = offset - before.lastIndexOf('\n') - 1
  const origin = findSourceMap(url)?.findOrigin(line + 1, column + 1)
  if (origin && 'lineNumber' in origin) return `${fileOf(origin.fileName)}:${origin.lineNumber}:${origin.columnNumber}`
  return `${fileOf(url)}:${line + 1}:${column + 1}`
}

export function fileOf(url: string): string {
  if (!url.startsWith('file:')) return url || 'evaluated code'
  const path = fileURLToPath(url.replace(/[?#].*$/, ''))
  const near = relative(process.cwd(), path)
  return near.startsWith('..') ? path : near
}

const INSIDE = 'create it inside the function, or keep it in an actor'

const HINTS: Readonly<Record<string, string>> = {
  AbortSignal: 'pass its reason or use the timeoutMs option; cancel() stops a running task',
  AbortController: 'create it inside the function; cancel() stops a running task',
  Promise: 'await it first and capture its value',
  WeakMap: 'its entries cannot be listed: use a Map, or create it inside the function',
  WeakSet: 'its entries cannot be listed: use a Set, or create it inside the function',
  WeakRef: 'capture the object itself',
  FinalizationRegistry: INSIDE,
  SharedArrayBuffer: 'it is memory of this process: capture a copy, or put() the data and capture the reference',
}

/** What is wrong with a captured object, where something is that the codec does not say better. */
export function complaintAbout(value: object): Complaint | undefined {
  if (types.isProxy(value)) return { reason: 'is a Proxy, whose handler cannot be sent', hint: 'capture the object behind it, or what you need from it' }
  if (types.isPromise(value)) return { reason: 'is a Promise', hint: HINTS['Promise'] as string }
  if (types.isModuleNamespaceObject(value) || Object.prototype.toString.call(value) === '[object Module]') {
    return { reason: 'is a module that was loaded dynamically', hint: 'import it statically (`import * as name from …`), or import it inside the function' }
  }
  const prototype = Object.getPrototypeOf(value) as { constructor?: unknown } | null
  const name = typeof prototype?.constructor === 'function' ? prototype.constructor.name : ''
  const live = liveHandle(value)
  if (live) return { reason: `is a ${name || 'handle'}, ${live} of this process`, hint: HINTS[name] ?? INSIDE }
  if (name in HINTS) return { reason: `is a ${name}`, hint: HINTS[name] as string }
  return undefined
}

function liveHandle(value: object): string | undefined {
  const has = (...keys: string[]): boolean => keys.every((key) => key in value)
  if (value instanceof AbortSignal || value instanceof AbortController) return 'a live signal'
  if (has('hasRef', 'ref', 'unref') && (has('_idleTimeout') || has('_onImmediate'))) return 'a running timer'
  if (has('pid', 'kill', 'stdio')) return 'a child process'
  if (has('threadId', 'postMessage') || has('postMessage', 'ref', 'start')) return 'a thread or port'
  if (has('listening', 'close', 'on')) return 'a listening server'
  if (has('remoteAddress', 'destroy')) return 'a socket'
  if (has('pipe', 'on') || has('getReader', 'locked') || has('getWriter', 'locked')) return 'a stream'
  if (has('fd', 'close', 'stat')) return 'an open file'
  if (has('run', 'inputNames', 'outputNames')) return 'a model session'
  return undefined
}

export const COMPLAINTS = {
  assigned: (name: string): Complaint => ({
    reason: 'is assigned to inside the function; the caller would never see it',
    hint: `return the new value of ${name}, or keep it in an actor`,
  }),
  notInitialised: { reason: 'is not initialised yet', hint: 'call .remote() after its declaration has run' },
  unreadable: {
    reason: 'cannot be read any more: only the definition of the class uses it',
    hint: 'write the key itself, or export the class from a module of its own',
  },
  importsEntry: (entry: string): Complaint => ({
    reason: `imports ${entry}, the entry file, which would run the whole program again in a worker`,
    hint: 'move what it needs from there to a module of its own',
  }),
  selfName: {
    reason: 'is the name of a function expression around it, which nothing can read from outside',
    hint: 'write that function as a declaration, or give it a constant and use the constant',
  },
  moduleState: (file: string): Complaint => ({
    reason: `belongs to ${file}, which the function imports as well, so that it would exist twice`,
    hint: 'import the function that uses it by its own name, or export it',
  }),
  programGlobal: (name: string): Complaint => ({
    reason: 'is a global that this program set; a worker does not have it',
    hint: `copy it into a constant outside the function (const my${name[0]?.toUpperCase()}${name.slice(1)} = ${name}), or import it`,
  }),
  replacedGlobal: {
    reason: 'is a standard global that this program replaced; a worker has the original',
    hint: 'capture the replacement under a name of its own',
  },
  symbol: { reason: 'is a unique symbol, which has no equal in another process', hint: 'use Symbol.for(key)' },
  symbolKey: { reason: 'is keyed by a symbol, which has no equal in another process', hint: 'use a string key' },
  bound: { reason: 'is a bound function', hint: 'write an arrow function that makes the call instead' },
  native: { reason: 'is a native function that no global and no node: module exports', hint: 'call it from an ordinary function that gets it inside' },
  noSource: (reason: string): Complaint => ({ reason, hint: 'move it to a module of its own and export it' }),
  staticBlock: {
    reason: 'is used by a static block, which would run again on a copy of it',
    hint: 'move the static block to a function, or export the class from a module of its own',
  },
  byHand: (names: readonly string[]): Complaint => ({
    reason: `${names.length === 1 ? 'is' : 'are'} used by the function and not among its captures`,
    hint: `add ${names.join(', ')} to { captures }, or leave captures out to have them found`,
  }),
} as const

/** What the specials of scope-analysis mean for a function that is to be sent. */
export const SPECIAL_COMPLAINTS: Readonly<Record<string, Complaint>> = {
  this: { reason: 'belongs to the code around the arrow function', hint: 'copy what you need from `this` into a constant and use that' },
  super: { reason: 'is used outside its class', hint: 'send the class instead of the method' },
  'new.target': { reason: 'belongs to the function around it', hint: 'copy it into a constant and use that' },
  arguments: { reason: 'belongs to the function around it', hint: 'use a rest parameter (...args) outside and capture that' },
  'import.meta': {
    reason: 'belongs to the module that it is written in',
    hint: 'copy what you need (const url = import.meta.url) into a constant outside the function',
  },
  'private name': { reason: 'is private to a class that is not part of the function', hint: 'send the class instead of the method' },
  eval: { reason: 'is called directly, so that the names it uses cannot be known', hint: 'use new Function(…) or an ordinary function' },
  with: { reason: 'makes names unpredictable', hint: 'read the properties explicitly' },
}
