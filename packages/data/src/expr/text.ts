/**
 * Functions of text columns. They work on the bytes where that is enough (search, prefixes, comparison, ASCII case); only patterns and slices of other
 * alphabets read strings. A dictionary is worked on once per entry, not once per row.
 */
import { isAscii } from 'node:buffer'
import { Bool, type Data, type DataType, Field, Int32, List, makeData, Type, Utf8 } from 'apache-arrow'
import { isSet, packBits } from '../bits.ts'
import type { FunctionName, Options } from './node.ts'

/** A text or binary column with access to each row. */
export class TextRows {
  readonly rows: number
  readonly bytes: Buffer
  readonly nullCount: number
  readonly #data: Data
  readonly #offsets: Int32Array | BigInt64Array
  readonly #width: number
  #ascii: { readonly text: string; readonly from: number } | undefined | null

  constructor(data: Data) {
    const { values } = data as Data & { values: Uint8Array }
    this.rows = data.length
    this.bytes = Buffer.from(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength)
    this.nullCount = data.nullCount
    this.#data = data
    this.#offsets = data.valueOffsets
    this.#width = data.type.typeId === Type.FixedSizeBinary ? (data.type as DataType & { byteWidth: number }).byteWidth : 0
  }

  start(row: number): number {
    return this.#width > 0 ? row * this.#width : Number(this.#offsets[row])
  }

  end(row: number): number {
    return this.#width > 0 ? (row + 1) * this.#width : Number(this.#offsets[row + 1])
  }

  /** Bytes of all rows. */
  get size(): number {
    return this.rows === 0 ? 0 : this.end(this.rows - 1) - this.start(0)
  }

  isNull(row: number): boolean {
    return this.nullCount > 0 && !isSet(this.#data.nullBitmap as Uint8Array, this.#data.offset + row)
  }

  /** Whether every character is one byte. */
  get ascii(): boolean {
    return this.#whole() !== undefined
  }

  text(row: number): string {
    const whole = this.#whole()
    if (whole !== undefined) return whole.text.slice(this.start(row) - whole.from, this.end(row) - whole.from)
    return this.bytes.toString('utf8', this.start(row), this.end(row))
  }

  /** One string for the whole column, of which rows are slices. */
  #whole(): { readonly text: string; readonly from: number } | undefined {
    if (this.#ascii === undefined) {
      const from = this.rows === 0 ? 0 : this.start(0)
      const end = this.rows === 0 ? 0 : this.end(this.rows - 1)
      this.#ascii = isAscii(this.bytes.subarray(from, end)) ? { from, text: this.bytes.toString('latin1', from, end) } : null
    }
    return this.#ascii ?? undefined
  }

  /** The null bitmap, from bit 0. */
  nulls(): { readonly nullCount: number; readonly nullBitmap?: Uint8Array } {
    if (this.nullCount === 0) return { nullCount: 0 }
    const bytes = new Uint8Array(this.rows)
    for (let row = 0; row < this.rows; row++) bytes[row] = this.isNull(row) ? 0 : 1
    return { nullCount: this.nullCount, nullBitmap: packBits(bytes) }
  }
}

/** The result of one of the `str` functions. */
export function textFunction(fn: FunctionName, args: readonly Data[], options: Options): Data {
  const rows = new TextRows(args[0] as Data)
  switch (fn) {
    case 'str.len':
      return ints(rows, rows.ascii ? (row) => rows.end(row) - rows.start(row) : (row) => charactersOf(rows.bytes, rows.start(row), rows.end(row)))
    case 'str.byteLen':
      return ints(rows, (row) => rows.end(row) - rows.start(row))
    case 'str.lower':
      return texts(rows, (text) => text.toLowerCase())
    case 'str.upper':
      return texts(rows, (text) => text.toUpperCase())
    case 'str.trim':
      return texts(rows, (text) => text.trim())
    case 'str.trimStart':
      return texts(rows, (text) => text.trimStart())
    case 'str.trimEnd':
      return texts(rows, (text) => text.trimEnd())
    case 'str.contains':
      return truths(rows, containing(rows, Buffer.from(options['part'] as string)))
    case 'str.startsWith':
    case 'str.endsWith': {
      const part = Buffer.from(options['part'] as string)
      const at = fn === 'str.startsWith' ? (row: number) => rows.start(row) : (row: number) => rows.end(row) - part.length
      return truths(
        rows,
        eachRow(rows, (row) => rows.end(row) - rows.start(row) >= part.length && hasBytes(rows.bytes, at(row), part)),
      )
    }
    case 'str.matches': {
      const pattern = new RegExp(options['pattern'] as RegExp)
      return truths(
        rows,
        eachRow(rows, (row) => fromStart(pattern).test(rows.text(row))),
      )
    }
    case 'str.extract': {
      const pattern = new RegExp(options['pattern'] as RegExp)
      return texts(rows, (text) => fromStart(pattern).exec(text)?.[options['group'] as number])
    }
    case 'str.replace': {
      const { what, by } = options as { what: string | RegExp; by: string }
      // An empty text is found between characters, not within them.
      if (typeof what === 'string') return texts(rows, (text) => text.replaceAll(what === '' ? /(?:)/gu : what, () => by))
      return texts(rows, (text) => text.replace(fromStart(what), by))
    }
    case 'str.slice': {
      const { start, end } = options as { start: number; end: number | undefined }
      return texts(rows, rows.ascii ? (text) => text.slice(start, end) : (text) => Array.from(text).slice(start, end).join(''))
    }
    case 'str.padStart':
    case 'str.padEnd': {
      const { length, fill } = options as { length: number; fill: string }
      const pad = (text: string): string => {
        const missing = length - Array.from(text).length
        return missing <= 0 || fill === ''
          ? ''
          : Array.from(fill.repeat(Math.ceil(missing / Array.from(fill).length)))
              .slice(0, missing)
              .join('')
      }
      return texts(rows, fn === 'str.padStart' ? (text) => pad(text) + text : (text) => text + pad(text))
    }
    case 'str.split': {
      const separator = options['separator'] as string
      return lists(rows, (text) => (separator === '' ? Array.from(text) : text.split(separator)))
    }
    case 'str.concat': {
      const other = new TextRows(args[1] as Data)
      return concatenated(rows, other)
    }
    default:
      throw new Error(`${fn} is no function of text`)
  }
}

/** Order of the bytes, which for UTF-8 is the order of code points: −1, 0 or 1 per row; where one side is null, anything. */
export function compareBytes(a: TextRows, b: TextRows): Int8Array {
  const order = new Int8Array(a.rows)
  for (let row = 0; row < a.rows; row++) {
    let x = a.start(row)
    let y = b.start(row)
    const endX = a.end(row)
    const endY = b.end(row)
    while (x < endX && y < endY && a.bytes[x] === b.bytes[y]) {
      x++
      y++
    }
    if (x === endX || y === endY) order[row] = Math.sign(endX - x - (endY - y))
    else order[row] = (a.bytes[x] as number) < (b.bytes[y] as number) ? -1 : 1
  }
  return order
}

/** As `compareBytes`, with the same value in every row. */
export function compareToBytes(a: TextRows, value: Uint8Array): Int8Array {
  const order = new Int8Array(a.rows)
  for (let row = 0; row < a.rows; row++) {
    const start = a.start(row)
    const length = a.end(row) - start
    const common = Math.min(length, value.length)
    let at = 0
    while (at < common && a.bytes[start + at] === value[at]) at++
    if (at === common) order[row] = Math.sign(length - value.length)
    else order[row] = (a.bytes[start + at] as number) < (value[at] as number) ? -1 : 1
  }
  return order
}

/** Whether each row is one of `values`, by bytes. */
export function amongBytes(rows: TextRows, values: readonly Uint8Array[]): Uint8Array {
  const keys = new Set(values.map((value) => Buffer.from(value).toString('latin1')))
  return eachRow(rows, (row) => keys.has(rows.bytes.toString('latin1', rows.start(row), rows.end(row))))
}

function eachRow(rows: TextRows, test: (row: number) => boolean): Uint8Array {
  const found = new Uint8Array(rows.rows)
  for (let row = 0; row < rows.rows; row++) if (!rows.isNull(row) && test(row)) found[row] = 1
  return found
}

/** One search through the bytes of all rows: a hit counts when it lies within one row. */
function containing(rows: TextRows, part: Buffer): Uint8Array {
  if (part.length === 0) return new Uint8Array(rows.rows).fill(1)
  const found = new Uint8Array(rows.rows)
  if (rows.rows === 0) return found
  // Of a slice, not the bytes after it.
  const bytes = rows.bytes.subarray(0, rows.end(rows.rows - 1))
  let row = 0
  for (let at = bytes.indexOf(part, rows.start(0)); at >= 0; ) {
    while (row < rows.rows && rows.end(row) <= at) row++
    if (row === rows.rows) break
    if (at + part.length <= rows.end(row)) {
      found[row] = 1
      at = bytes.indexOf(part, rows.end(row))
    } else at = bytes.indexOf(part, at + 1)
  }
  return found
}

function hasBytes(bytes: Buffer, at: number, part: Buffer): boolean {
  for (let i = 0; i < part.length; i++) if (bytes[at + i] !== part[i]) return false
  return true
}

function charactersOf(bytes: Buffer, start: number, end: number): number {
  let count = 0
  // Bytes that go on with a character start with the bits 10.
  for (let at = start; at < end; at++) if (((bytes[at] as number) & 0xc0) !== 0x80) count++
  return count
}

/** Patterns with the flags `g` and `y` would go on where they found the text before. */
function fromStart(pattern: RegExp): RegExp {
  pattern.lastIndex = 0
  return pattern
}

function ints(rows: TextRows, of: (row: number) => number): Data {
  const data = new Int32Array(rows.rows)
  for (let row = 0; row < rows.rows; row++) data[row] = of(row)
  return makeData({ type: new Int32(), length: rows.rows, ...rows.nulls(), data })
}

function truths(rows: TextRows, found: Uint8Array): Data {
  return truthColumn(found, rows.nulls())
}

/** Bytes of 0 and 1 as a column. */
export function truthColumn(found: Uint8Array, nulls: ReturnType<TextRows['nulls']>): Data {
  return makeData({ type: new Bool(), length: found.length, ...nulls, data: packBits(found) })
}

function texts(rows: TextRows, of: (text: string) => string | undefined): Data {
  const writer = new TextWriter(rows.rows, rows.size)
  for (let row = 0; row < rows.rows; row++) {
    const text = rows.isNull(row) ? undefined : of(rows.text(row))
    writer.push(text)
  }
  return writer.finish()
}

function lists(rows: TextRows, of: (text: string) => readonly string[]): Data {
  const valueOffsets = new Int32Array(rows.rows + 1)
  const parts: string[] = []
  for (let row = 0; row < rows.rows; row++) {
    if (!rows.isNull(row)) for (const part of of(rows.text(row))) parts.push(part)
    valueOffsets[row + 1] = parts.length
  }
  const writer = new TextWriter(parts.length, rows.size)
  for (const part of parts) writer.push(part)
  return makeData({ type: new List(new Field('item', new Utf8(), true)), length: rows.rows, ...rows.nulls(), valueOffsets, child: writer.finish() } as never)
}

function concatenated(a: TextRows, b: TextRows): Data {
  const writer = new TextWriter(a.rows, a.size + b.size)
  for (let row = 0; row < a.rows; row++) {
    writer.push(a.isNull(row) || b.isNull(row) ? undefined : a.text(row) + b.text(row))
  }
  return writer.finish()
}

/** Builds a text column from strings, one after the other. */
export class TextWriter {
  readonly #offsets: Int32Array
  readonly #validity: Uint8Array
  #bytes: Buffer
  #at = 0
  #row = 0
  #nulls = 0

  /** @param bytes - about how many there will be */
  constructor(rows: number, bytes: number) {
    this.#offsets = new Int32Array(rows + 1)
    this.#validity = new Uint8Array(rows).fill(1)
    this.#bytes = Buffer.allocUnsafeSlow(Math.max(64, bytes))
  }

  /** undefined: null. */
  push(text: string | undefined): void {
    if (text === undefined) {
      this.#validity[this.#row] = 0
      this.#nulls++
    } else {
      if (this.#at + 3 * text.length > this.#bytes.length) this.#grow(this.#at + 3 * text.length)
      this.#at += this.#bytes.write(text, this.#at, 'utf8')
    }
    if (this.#at > 0x7fff_ffff) throw new RangeError('a text column would exceed 2 GiB; use smaller blocks')
    this.#offsets[++this.#row] = this.#at
  }

  #grow(needed: number): void {
    const bytes = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#bytes.length))
    this.#bytes.copy(bytes, 0, 0, this.#at)
    this.#bytes = bytes
  }

  finish(): Data {
    const nulls = this.#nulls === 0 ? { nullCount: 0 } : { nullCount: this.#nulls, nullBitmap: packBits(this.#validity) }
    const data = new Uint8Array(this.#bytes.buffer as ArrayBuffer, this.#bytes.byteOffset, this.#at)
    return makeData({ type: new Utf8(), length: this.#row, ...nulls, valueOffsets: this.#offsets, data })
  }
}
