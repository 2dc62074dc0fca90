/**
 * Values to bytes and back, exactly or refused. The bytes of typed arrays stay outside the structure until they are written to their
 * place, so a large array is copied once, into shared memory, and never in the reader.
 */
import { BeamlineError, type ErrorCode } from '../errors.ts'
import { Decoder, type Internalize } from './decoder.ts'
import { Encoder } from './encoder.ts'
import * as f from './format.ts'
import { registerClass } from './registry.ts'

/** A value whose structure is encoded and whose binary data is still where the user has it: write it before they change it. */
export interface Encoded {
  readonly structure: Uint8Array
  readonly buffers: readonly Uint8Array[]
  /** Bytes that {@link write} needs. */
  readonly byteLength: number
}

/** Asked for every function and every object branded `Symbol.for('beamline.external')`: its index in the caller's table. May throw. */
export type Externalize = (value: object) => number

/** Results up to this size come out of slabs of {@link SLAB_BYTES}; so a small value that is kept long keeps 4 KiB at most. */
const POOLED_MAX = 512
const SLAB_BYTES = 4096

const HANDED_OVER_MIN = 1_048_576

const idle: Encoder[] = []
let slab = new ArrayBuffer(SLAB_BYTES)
let slabUsed = 0

/**
 * Encodes the structure of `value`; its binary data is only referred to.
 *
 * @param what - names the value in refusals: `argument 1 of "train"`
 * @throws {@link BeamlineError} `NOT_SERIALIZABLE` with the path of what cannot travel
 */
export function encode(value: unknown, what: string, externalize?: Externalize): Encoded {
  const encoder = idle.pop() ?? new Encoder()
  try {
    const buffers = run(encoder, value, what, externalize)
    const structure = take(encoder, encoder.finish(buffers.length > 0 ? f.FORM_BUFFERS : encoder.form))
    let byteLength = structure.length
    for (const buffer of buffers) byteLength = align(byteLength) + buffer.length
    return { structure, buffers, byteLength }
  } finally {
    release(encoder)
  }
}

/** The same value with binary data of its own, for when it cannot be written before the user may change theirs. */
export function snapshot({ structure, buffers, byteLength }: Encoded): Encoded {
  return { structure, buffers: buffers.map((buffer) => buffer.slice()), byteLength }
}

/** Writes an encoded value to the start of `target`, which must have `byteLength` bytes and begin at a multiple of 64 in its file. */
export function write(encoded: Encoded, target: Uint8Array): void {
  target.set(encoded.structure)
  let at = encoded.structure.length
  for (const buffer of encoded.buffers) {
    const start = align(at)
    target.fill(0, at, start)
    target.set(buffer, start)
    at = start + buffer.length
  }
}

/**
 * {@link encode} and {@link write} into bytes of their own; for values that travel inside a message.
 *
 * @throws {@link BeamlineError} `NOT_SERIALIZABLE`
 */
export function encodeInline(value: unknown, what: string, externalize?: Externalize): Uint8Array {
  const encoder = idle.pop() ?? new Encoder()
  try {
    const buffers = run(encoder, value, what, externalize)
    if (buffers.length === 0) return copy(encoder.finish(encoder.form))
    const structure = encoder.finish(f.FORM_BUFFERS)
    let byteLength = structure.length
    for (const buffer of buffers) byteLength = align(byteLength) + buffer.length
    const target = new Uint8Array(byteLength)
    write({ structure, buffers, byteLength }, target)
    return target
  } finally {
    release(encoder)
  }
}

/**
 * The value that was encoded. Binary data over mapped memory is not copied and keeps the mapping alive; otherwise it is copied, so that
 * `bytes` can be reused.
 *
 * @param internalize - gives what `externalize` numbered
 * @throws {@link BeamlineError} `CLASS_NOT_REGISTERED` when this process lacks a class that the sender had registered
 */
export function decode(bytes: Uint8Array, internalize?: Internalize): unknown {
  return new Decoder(bytes, internalize).readValue()
}

interface ErrorData {
  readonly code: ErrorCode
  readonly details: never
  readonly stack: string | undefined
  readonly options: ErrorOptions | undefined
}

// Inside values, for example among the results of Promise.allSettled; made anew from the table of errors.
registerClass(BeamlineError, {
  name: 'BeamlineError',
  encode: (error): ErrorData => ({
    code: error.code,
    details: error.details as never,
    stack: error.stack,
    options: 'cause' in error ? { cause: error.cause } : undefined,
  }),
  decode: ({ code, details, stack, options }: ErrorData) => {
    const error = new BeamlineError(code, details, options)
    if (stack !== undefined) error.stack = stack
    return error
  },
})

function run(encoder: Encoder, value: unknown, what: string, externalize: Externalize | undefined): readonly Uint8Array[] {
  encoder.what = what
  encoder.externalize = externalize
  encoder.writeValue(value)
  return encoder.writeTrailer()
}

function release(encoder: Encoder): void {
  encoder.reset()
  if (idle.length < 4) idle.push(encoder)
}

/** A large structure is handed over with the encoder's buffer instead of being copied. */
function take(encoder: Encoder, bytes: Uint8Array): Uint8Array {
  if (bytes.length < HANDED_OVER_MIN) return copy(bytes)
  encoder.replaceBytes()
  return bytes
}

function align(position: number): number {
  return Math.ceil(position / f.ALIGNMENT) * f.ALIGNMENT
}

function copy(bytes: Uint8Array): Uint8Array {
  const n = bytes.length
  if (n > POOLED_MAX) return new Uint8Array(bytes)
  if (slabUsed + n > SLAB_BYTES) {
    slab = new ArrayBuffer(SLAB_BYTES)
    slabUsed = 0
  }
  const target = new Uint8Array(slab, slabUsed, n)
  slabUsed += n
  if (n <= 64) for (let i = 0; i < n; i++) target[i] = bytes[i]!
  else target.set(bytes)
  return target
}
