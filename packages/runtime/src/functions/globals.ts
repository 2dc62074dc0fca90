/**
 * The global object: what every process has of it, under which path, and what this program has put in its place.
 */
import { theInspector } from './inspector.ts'
import type { GlobalNode } from './payload.ts'

/** Names of the global object that every process has: the language's, then Node's. */
const STANDARD_GLOBALS: ReadonlySet<string> = new Set(
  `AggregateError Array ArrayBuffer AsyncDisposableStack Atomics BigInt BigInt64Array BigUint64Array Boolean DataView Date DisposableStack
Error EvalError FinalizationRegistry Float16Array Float32Array Float64Array Function Infinity Int8Array Int16Array Int32Array Intl Iterator
JSON Map Math NaN Number Object Promise Proxy RangeError ReferenceError Reflect RegExp Set SharedArrayBuffer String SuppressedError Symbol
SyntaxError Temporal TypeError URIError Uint8Array Uint8ClampedArray Uint16Array Uint32Array WeakMap WeakRef WeakSet decodeURI
decodeURIComponent encodeURI encodeURIComponent escape eval globalThis isFinite isNaN parseFloat parseInt undefined unescape
AbortController AbortSignal Blob BroadcastChannel Buffer ByteLengthQueuingStrategy CloseEvent CompressionStream
CountQueuingStrategy Crypto CryptoKey CustomEvent DOMException DecompressionStream ErrorEvent Event EventSource EventTarget File FormData
Headers MessageChannel MessageEvent MessagePort Navigator Performance PerformanceEntry PerformanceMark PerformanceMeasure
PerformanceObserver PerformanceObserverEntryList PerformanceResourceTiming QuotaExceededError ReadableByteStreamController ReadableStream
ReadableStreamBYOBReader ReadableStreamBYOBRequest ReadableStreamDefaultController ReadableStreamDefaultReader Request Response Storage
SubtleCrypto TextDecoder TextDecoderStream TextEncoder TextEncoderStream TransformStream TransformStreamDefaultController URL URLPattern
URLSearchParams WebAssembly WebSocket WritableStream WritableStreamDefaultController WritableStreamDefaultWriter atob btoa clearImmediate
clearInterval clearTimeout console crypto fetch global navigator performance process queueMicrotask setImmediate setInterval setTimeout
structuredClone`.split(/\s+/),
)

/** Whether a worker has this global too. */
export function isStandardGlobal(name: string): boolean {
  return STANDARD_GLOBALS.has(name)
}

let globals: Map<unknown, readonly string[]> | undefined

/** The property path at which every process has this value: `['Math', 'max']`. */
export function globalOf(value: unknown): GlobalNode | undefined {
  globals ??= listGlobals()
  const path = globals.get(value) ?? lazyGlobal(value)
  return path && { kind: 'global', path }
}

/** Many globals of Node load whole libraries when they are read: only the one that bears the value's name is looked at. */
function lazyGlobal(value: unknown): readonly string[] | undefined {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined
  const ownName = typeof value === 'function' ? value.name : ''
  const parent = (Object.getPrototypeOf(value) as object | null)?.constructor
  const className = typeof value === 'object' && typeof parent === 'function' ? parent.name : ''
  const name = [ownName, className.toLowerCase()].find((candidate) => STANDARD_GLOBALS.has(candidate))
  return name !== undefined && Reflect.get(globalThis, name) === value ? [name] : undefined
}

/** Every global that is there already, with its functions and symbols and those of its prototype. */
function listGlobals(): Map<unknown, readonly string[]> {
  const map = new Map<unknown, readonly string[]>([
    [globalThis, []],
    [process.env, ['process', 'env']],
  ])
  const add = (value: unknown, path: readonly string[]): boolean => {
    const isNew = ((typeof value === 'object' && value !== null) || typeof value === 'function' || typeof value === 'symbol') && !map.has(value)
    if (isNew) map.set(value, path)
    return isNew
  }
  const addMembers = (owner: object, path: readonly string[]): void => {
    for (const [key, { value }] of Object.entries(Object.getOwnPropertyDescriptors(owner))) {
      if (typeof value === 'function' || typeof value === 'symbol') add(value, [...path, key])
    }
  }
  for (const name of STANDARD_GLOBALS) {
    const value: unknown = name === 'process' ? process : Object.getOwnPropertyDescriptor(globalThis, name)?.value
    if (!add(value, [name]) || value === globalThis) continue
    addMembers(value as object, [name])
    const prototype: unknown = typeof value === 'function' ? value.prototype : undefined
    if (typeof prototype === 'object' && prototype !== null && add(prototype, [name, 'prototype'])) addMembers(prototype, [name, 'prototype'])
  }
  return map
}

/** Globals whose functions a program may replace to control time or chance, which a worker would not see. */
const CONTROLLED = new Set(['Math', 'Date', 'JSON', 'Object', 'Promise', 'Reflect'])

/** The standard global, or the function of one, that this program has replaced. */
export function replacedPart(name: string): string | undefined {
  const value: unknown = Object.getOwnPropertyDescriptor(globalThis, name)?.value
  if (typeof value === 'function' && isReplaced(value)) return name
  if (!CONTROLLED.has(name)) return undefined
  for (const [key, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(value))) {
    if (typeof descriptor.value === 'function' && isReplaced(descriptor.value as Function)) return `${name}.${key}`
  }
  return undefined
}

/** Neither native nor Node's own. */
function isReplaced(value: Function): boolean {
  let known = originals.get(value)
  if (known === undefined) {
    const isNative = /\{\s*\[native code\]\s*\}$/.test(Function.prototype.toString.call(value))
    const view = theInspector().view(value)
    known = isNative ? !view.isBound : (view.location?.script.url.startsWith('node:') ?? false)
    originals.set(value, known)
  }
  return !known
}

const originals = new WeakMap<Function, boolean>()
