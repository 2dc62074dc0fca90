/**
 * Thrift's compact protocol as an untyped tree: enough to read a Parquet footer, change a few numbers, and write it back byte for byte.
 * Not a Thrift library: fields are known by number only. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
 */

const STOP = 0
const TRUE = 1
const FALSE = 2
const BYTE = 3
const I64 = 6
const DOUBLE = 7
const BINARY = 8
const LIST = 9
const SET = 10
const MAP = 11
const STRUCT = 12

export interface ThriftField {
  readonly id: number
  readonly type: number
  value: ThriftValue
}
export type ThriftStruct = ThriftField[]
export interface ThriftList {
  readonly type: number
  items: ThriftValue[]
}
/** Integers are bigints; maps keep their raw entries. */
export type ThriftValue =
  | bigint
  | boolean
  | Uint8Array
  | ThriftStruct
  | ThriftList
  | { readonly types: number; readonly entries: readonly (readonly [ThriftValue, ThriftValue])[] }

/** @throws a `RangeError` when the bytes end too early or hold an unknown type */
export function decodeThrift(bytes: Uint8Array): ThriftStruct {
  let at = 0
  const byte = (): number => {
    if (at >= bytes.length) throw new RangeError('the footer ends too early')
    return bytes[at++] as number
  }
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const next = byte()
      value |= BigInt(next & 0x7f) << shift
      if (next < 0x80) return value
    }
    throw new RangeError('the footer holds a number that is too long')
  }
  const integer = (): bigint => {
    const value = varint()
    return (value >> 1n) ^ -(value & 1n)
  }
  const take = (count: number): Uint8Array => {
    if (count > bytes.length - at) throw new RangeError('the footer ends too early')
    at += count
    return bytes.subarray(at - count, at)
  }
  const struct = (depth: number): ThriftStruct => {
    if (depth > 64) throw new RangeError('the footer is nested too deeply')
    const fields: ThriftStruct = []
    let id = 0
    for (let head = byte(); head !== STOP; head = byte()) {
      const type = head & 0x0f
      id = head >> 4 === 0 ? Number(integer()) : id + (head >> 4)
      fields.push({ id, type, value: type === TRUE ? true : type === FALSE ? false : read(type, depth) })
    }
    return fields
  }
  const read = (type: number, depth: number): ThriftValue => {
    if (type === TRUE || type === FALSE) return byte() === TRUE
    if (type === BYTE) return BigInt(byte())
    if (type <= I64) return integer()
    if (type === DOUBLE) return take(8)
    if (type === BINARY) return take(Number(varint()))
    if (type === STRUCT) return struct(depth + 1)
    if (type === LIST || type === SET) {
      const head = byte()
      const count = head >> 4 === 15 ? Number(varint()) : head >> 4
      if (count > bytes.length) throw new RangeError('the footer ends too early')
      return { type: head & 0x0f, items: Array.from({ length: count }, () => read(head & 0x0f, depth)) }
    }
    if (type === MAP) {
      const count = Number(varint())
      if (count > bytes.length) throw new RangeError('the footer ends too early')
      const types = count === 0 ? 0 : byte()
      return { types, entries: Array.from({ length: count }, () => [read(types >> 4, depth), read(types & 0x0f, depth)] as const) }
    }
    throw new RangeError(`the footer holds the unknown type ${type}`)
  }
  return struct(0)
}

export function encodeThrift(root: ThriftStruct): Uint8Array {
  let out = new Uint8Array(1024)
  let at = 0
  const reserve = (count: number): void => {
    if (at + count <= out.length) return
    const larger = new Uint8Array(Math.max(out.length * 2, at + count))
    larger.set(out.subarray(0, at))
    out = larger
  }
  const byte = (value: number): void => {
    reserve(1)
    out[at++] = value
  }
  const varint = (value: bigint): void => {
    for (; value >= 0x80n; value >>= 7n) byte(Number(value & 0x7fn) | 0x80)
    byte(Number(value))
  }
  const integer = (value: bigint): void => varint(BigInt.asUintN(64, (value << 1n) ^ (value >> 63n)))
  const raw = (bytes: Uint8Array): void => {
    reserve(bytes.length)
    out.set(bytes, at)
    at += bytes.length
  }
  const struct = (fields: ThriftStruct): void => {
    let last = 0
    for (const { id, type, value } of fields) {
      const head = typeof value === 'boolean' ? (value ? TRUE : FALSE) : type
      if (id > last && id - last <= 15) byte(((id - last) << 4) | head)
      else {
        byte(head)
        integer(BigInt(id))
      }
      if (typeof value !== 'boolean') write(type, value)
      last = id
    }
    byte(STOP)
  }
  const write = (type: number, value: ThriftValue): void => {
    if (typeof value === 'boolean') byte(value ? TRUE : FALSE)
    else if (typeof value === 'bigint') type === BYTE ? byte(Number(value)) : integer(value)
    else if (value instanceof Uint8Array) {
      if (type === BINARY) varint(BigInt(value.length))
      raw(value)
    } else if (Array.isArray(value)) struct(value)
    else if ('items' in value) {
      byte((Math.min(value.items.length, 15) << 4) | value.type)
      if (value.items.length >= 15) varint(BigInt(value.items.length))
      for (const item of value.items) write(value.type, item)
    } else {
      varint(BigInt(value.entries.length))
      if (value.entries.length > 0) byte(value.types)
      for (const [key, item] of value.entries) {
        write(value.types >> 4, key)
        write(value.types & 0x0f, item)
      }
    }
  }
  struct(root)
  return out.subarray(0, at)
}
