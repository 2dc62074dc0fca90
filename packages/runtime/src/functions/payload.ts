/**
 * What a shipped function is on the wire: a graph of nodes (functions by text, things to import or to look up) and, beside it,
 * the captured data in one codec message, so that shared references and cycles among captured values survive.
 *
 * Layout: u32 length of the head, the head, padding to 64 bytes, the data (absent when there is none).
 */
import { named, placed, relocate } from './code-root.ts'
import { decode, type Encoded, encode, encodeInline, write } from '../objects/codec.ts'

/** Where a captured name's value comes from. */
export type Ref =
  | { readonly value: unknown } // a primitive
  | { readonly symbol: string } // Symbol.for
  | { readonly node: number }
  | { readonly data: number }
  | { readonly external: number }

/** A module's export, imported as the module `parent` would import it. */
export interface ImportNode {
  readonly kind: 'import'
  readonly specifier: string
  readonly parent: string
  readonly attributes: Readonly<Record<string, string>>
  /** an export's name, or `*` */
  readonly name: string
  /** properties to follow from there */
  readonly path: readonly string[]
}

/** A CommonJS module's `module.exports`, and properties to follow from there. */
export interface CommonJsNode {
  readonly kind: 'commonjs'
  readonly file: string
  readonly path: readonly string[]
}

/** A property path from the global object. */
export interface GlobalNode {
  readonly kind: 'global'
  readonly path: readonly string[]
}

/** The `require` function of a file. */
export interface RequireNode {
  readonly kind: 'require'
  readonly parent: string
}

export interface FunctionNode {
  readonly kind: 'function'
  /** evaluates to a factory: parameters are the captured names; see emit.ts */
  readonly source: string
  /** gives relative dynamic imports and stack frames their place */
  readonly url: string
  readonly line: number
  readonly column: number
  /** a method or accessor comes wrapped in an object, under this key */
  readonly member: { readonly key: string; readonly slot: 'value' | 'get' | 'set' } | undefined
  /** own `name`, where the text alone would give another; null: it has none */
  readonly name: string | null | undefined
  readonly names: readonly string[]
  readonly refs: readonly Ref[]
  /** of `refs`: values that are needed while it is created (heritage, static initialisers) */
  readonly early: readonly number[]
  /** while it is created it calls what it got early, which must have its own captures by then */
  readonly runsCode: boolean
  /** of a class: equal in every payload that brings the same one */
  readonly identity: string | undefined
  readonly properties: readonly DataProperty[]
  readonly integrity: Integrity | undefined
}

/** What Object.freeze, seal and preventExtensions leave. */
export type Integrity = 'frozen' | 'sealed' | 'not extensible'

/** An object that is more than data: with accessors, such as a bundler makes of a module, or frozen. */
export interface ObjectNode {
  readonly kind: 'object'
  readonly isArray: boolean
  readonly isExtensible: boolean
  readonly prototype: Ref
  readonly properties: readonly (DataProperty | Accessor)[]
}

export interface Accessor {
  readonly key: string
  readonly get: Ref
  readonly set: Ref
  readonly enumerable: boolean
  readonly configurable: boolean
}

export interface DataProperty {
  readonly key: string
  readonly ref: Ref
  readonly writable: boolean
  readonly enumerable: boolean
  readonly configurable: boolean
}

/** What `remote()` made of a function or class. */
export interface RemoteNode {
  readonly kind: 'remote'
  readonly target: number
  readonly options: readonly { readonly name: string; readonly ref: Ref }[]
}

export type Node = ImportNode | CommonJsNode | GlobalNode | RequireNode | ObjectNode | FunctionNode | RemoteNode

/** Everything that an object leads to directly. */
export function refsOf(node: ObjectNode): Ref[] {
  return [node.prototype, ...node.properties.flatMap((property) => ('ref' in property ? [property.ref] : [property.get, property.set]))]
}

/** What an index that the codec asked for stands for. */
export type Slot = { readonly node: number } | { readonly external: number }

export interface PayloadHead {
  readonly root: number
  readonly nodes: readonly Node[]
  readonly slots: readonly Slot[]
}

const ALIGNMENT = 64
const PREFIX = 4

/**
 * @param data - captured values; functions that the codec meets inside may add to it
 * @param externalize - makes a slot of a function or branded object
 */
export function encodePayload(
  what: string,
  data: readonly unknown[],
  externalize: (value: object) => Slot,
  head: () => Omit<PayloadHead, 'slots'>,
): Uint8Array {
  let body: Encoded | undefined
  const slots: Slot[] = []
  let length = 0
  while (length < data.length) {
    length = data.length
    slots.length = 0
    body = encode(data.slice(), what, (value) => slots.push(externalize(value)) - 1)
  }
  return join({ ...head(), slots }, body, what)
}

/** The same graph without data, from another of its nodes. */
export function encodeFrom(root: number, head: PayloadHead): Uint8Array {
  return join({ ...head, root }, undefined, 'a function')
}

function join(head: PayloadHead, body: Encoded | undefined, what: string): Uint8Array {
  const start = encodeInline({ ...head, nodes: relocate(head.nodes, named) }, what)
  const bodyAt = body ? Math.ceil((PREFIX + start.length) / ALIGNMENT) * ALIGNMENT : PREFIX + start.length
  const bytes = new Uint8Array(bodyAt + (body?.byteLength ?? 0))
  new DataView(bytes.buffer).setUint32(0, start.length, true)
  bytes.set(start, PREFIX)
  if (body) write(body, bytes.subarray(bodyAt))
  return bytes
}

/** `data` is decoded when it is called, so that functions inside it can exist by then. */
export function decodePayload(bytes: Uint8Array): {
  head: PayloadHead
  hasData: boolean
  data: (internalize: (index: number) => unknown) => readonly unknown[]
} {
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true)
  const sent = decode(bytes.subarray(PREFIX, PREFIX + length)) as PayloadHead
  const head = { ...sent, nodes: relocate(sent.nodes, placed) }
  const bodyAt = Math.ceil((PREFIX + length) / ALIGNMENT) * ALIGNMENT
  return {
    head,
    hasData: bodyAt < bytes.length,
    data: (internalize) => (bodyAt < bytes.length ? (decode(bytes.subarray(bodyAt), internalize) as unknown[]) : []),
  }
}
