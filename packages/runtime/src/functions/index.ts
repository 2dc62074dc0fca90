/**
 * Functions and classes on their way to other processes: `ship` here, `load` there.
 *
 * Synchronous, exact or refused. What a call captures is what it captures now: the result is kept only while nothing that went into
 * it can have changed.
 */
import { Capture } from './capture.ts'
import { keep, keptFor, shippedFrom } from './kept.ts'
import { encodePayload } from './payload.ts'

export { holdLoading, importFrom, load } from './load.ts'
export { placed, setCodeRoot } from './code-root.ts'
export { setEntry } from './module-reference.ts'

export interface ShippedFunction {
  /** of the bytes: equal hashes load as equal functions */
  readonly hash: string
  readonly bytes: Uint8Array
  /** captured references and handles, in index order */
  readonly externals: readonly unknown[]
}

/**
 * A function or class (or what `remote` made of one) with everything that it needs elsewhere, as its captured variables are now.
 *
 * A function that only uses imports, globals, constants of primitive value and functions of that kind is captured once; after that a
 * call costs less than a microsecond. Others are read again at each call: about 0.3 ms and the encoding of what they capture.
 *
 * @param captures - the captured variables by hand; others than these, imports and globals are refused
 * @throws BeamlineError `NOT_SERIALIZABLE` naming the variable, its place, and what to do
 */
export function ship(fn: object, captures?: Readonly<Record<string, unknown>>): ShippedFunction {
  const known = captures === undefined ? keptFor(fn) : undefined
  if (known) return known
  const { capture, bytes } = captureNow(fn, captures, new Set())
  const shipped = shippedFrom(bytes, capture.externals)
  if (captures === undefined && !capture.isDynamic) keep(fn, shipped, capture.functions)
  return shipped
}

/** Once more where an object that was captured by itself turns out to be part of the data as well. */
function captureNow(fn: object, captures: Readonly<Record<string, unknown>> | undefined, asData: ReadonlySet<object>): { capture: Capture; bytes: Uint8Array } {
  const what = describe(fn)
  const capture = new Capture(what, captures, asData)
  try {
    capture.run(fn)
    const bytes = encodePayload(what, capture.data, capture.externalize, () => capture.head())
    const twice = capture.objectsInData()
    return twice.size > 0 ? captureNow(fn, captures, asData.union(twice)) : { capture, bytes }
  } catch (error) {
    throw capture.explain(error)
  }
}

/** A function's name for messages; `anonymous` where it has none. */
export function functionName(fn: Function): string {
  const name: unknown = Object.getOwnPropertyDescriptor(fn, 'name')?.value
  return typeof name === 'string' && name !== '' ? name : 'anonymous'
}

function describe(fn: object): string {
  if (typeof fn !== 'function') return 'a remote function'
  const kind = /^class\b/.test(Function.prototype.toString.call(fn)) ? 'class' : 'function'
  return `${kind} "${functionName(fn)}"`
}
