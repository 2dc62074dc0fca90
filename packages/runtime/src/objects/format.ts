/**
 * The bytes of an encoded value: one tag per value, numbers little-endian, lengths as varints (7 bits per byte, low first).
 *
 * Form 1: [1] body                                    no binary data
 * Form 2: [2] body trailer                            binary data, all of it small and inside the trailer
 * Form 3: [3] 7 × [0], float64 length of everything before the buffers, body, trailer, then buffers, each 64-byte aligned
 *
 * The trailer: count of windows; per window its length and, up to {@link WINDOW_INLINE_MAX}, its bytes; count of views; per view its
 * window and offset in it; float64 length of the trailer. A window is a stretch of one ArrayBuffer that views of the value cover.
 * Both ends number objects (back references), shapes (key lists) and views in the order in which they meet them.
 */
export const FORM_BARE = 1
export const FORM_SMALL = 2
export const FORM_BUFFERS = 3
export const HEADER_BYTES = 16
export const ALIGNMENT = 64
export const WINDOW_INLINE_MAX = 4096
/** Key lists remembered per value, and how long one may be. */
export const SHAPES_MAX = 64
export const SHAPE_KEYS_MAX = 64
/** Nesting of containers; the stack of a fresh process takes three times that in both directions. */
export const DEPTH_MAX = 2_000
/** Arrays from this length on that hold only numbers are stored as packed int32 or float64. */
export const PACKED_MIN = 8

// 0x00–0x7f  the integers 0…127
export const FIX_STRING = 0x80 // … 0xbf: ASCII of 0…63 characters
export const FIX_ARRAY = 0xc0 // … 0xcf: 0…15 elements
export const FIX_OBJECT = 0xd0 // … 0xdf: plain object of 0…15 keys: keys, values; defines a shape
export const NULL = 0xe0
export const UNDEFINED = 0xe1
export const FALSE = 0xe2
export const TRUE = 0xe3
export const INT8 = 0xe4
export const INT16 = 0xe5
export const INT32 = 0xe6
export const FLOAT64 = 0xe7
export const BIGINT64 = 0xe8
export const BIGINT = 0xe9 // negative? hex digits as a string
export const STRING_ASCII = 0xea
export const STRING_UTF8 = 0xeb
export const STRING_UTF16 = 0xec // holds lone surrogates
export const REFERENCE = 0xed
export const ARRAY = 0xee
export const ARRAY_INT32 = 0xef
export const ARRAY_FLOAT64 = 0xf0
export const ARRAY_NAMED = 0xf1 // an array with named properties: array, count, (key, value)*
export const SPARSE_REST = 0xf2 // inside an array: from here on (index, value)*
export const OBJECT = 0xf3 // like FIX_OBJECT, any number of keys
export const OBJECT_SHAPE = 0xf4 // number of a shape, values
export const OBJECT_NULL = 0xf5 // null prototype: count, (key, value)*
export const EXTERNAL = 0xf6
export const VIEW = 0xf7 // kind, number of elements; the place is in the trailer
export const EXOTIC = 0xf8 // one of the kinds below
export const CLASS = 0xf9 // own data fields of a registered class: name, count, (key, value)*
export const CLASS_DATA = 0xfa // what a registered class or type gave for itself: name, value

export const EXOTIC_MAP = 0
export const EXOTIC_SET = 1
export const EXOTIC_DATE = 2
export const EXOTIC_REGEXP = 3
export const EXOTIC_ERROR = 4
export const EXOTIC_DOM_EXCEPTION = 5
export const EXOTIC_URL = 6
export const EXOTIC_BOXED = 7

export const VIEW_ARRAY_BUFFER = 0
export const VIEW_DATA_VIEW = 1
export const VIEW_BUFFER = 2
/** Typed arrays: VIEW_TYPED + index in {@link TYPED_ARRAYS}. */
export const VIEW_TYPED = 3

export type TypedArrayConstructor = {
  new (buffer: ArrayBuffer, byteOffset: number, length: number): ArrayBufferView
  readonly BYTES_PER_ELEMENT: number
  readonly prototype: object
}

/** The order is part of the format. */
export const TYPED_ARRAYS: readonly TypedArrayConstructor[] = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  Float16Array,
]

type ErrorConstructorLike = { new (message?: string): Error; readonly prototype: Error; readonly name: string }

/** The order is part of the format. */
export const ERROR_CLASSES: readonly ErrorConstructorLike[] = [
  Error,
  EvalError,
  RangeError,
  ReferenceError,
  SyntaxError,
  TypeError,
  URIError,
  AggregateError as unknown as ErrorConstructorLike,
  SuppressedError as unknown as ErrorConstructorLike,
]

/** Objects with this property (own or inherited) go through `externalize`: references, actor handles. */
export const EXTERNAL_BRAND: unique symbol = Symbol.for('beamline.external') as never

/**
 * Bytes of everything before the out-of-band buffers.
 *
 * @param header - the first {@link HEADER_BYTES} of an encoded value (fewer when it is shorter)
 * @param total - bytes of all of it
 */
export function headLength(header: Uint8Array, total: number): number {
  return header[0] === FORM_BUFFERS ? new DataView(header.buffer, header.byteOffset).getFloat64(8, true) : total
}
