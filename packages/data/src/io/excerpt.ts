/**
 * Cuts some row groups and columns out of a Parquet file: a small file in memory that holds just their pages, with a footer whose offsets fit.
 *
 * The decoder takes a whole file synchronously, or byte ranges asynchronously; in the asynchronous way a damaged page is an uncaught exception and a
 * promise that never settles (parquet-wasm 0.8.0), which would cost the worker. An excerpt has both: few bytes read, and errors that can be caught.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { RecordBatchReader, Schema, Table, tableToIPC } from 'apache-arrow'
import { emptyBatch } from '../block.ts'
import { decodeThrift, encodeThrift, type ThriftList, type ThriftStruct, type ThriftValue } from './thrift.ts'

// Field numbers of parquet.thrift.
const FILE = { schema: 2, numRows: 3, rowGroups: 4, keyValues: 5, columnOrders: 7 }
const ELEMENT = { name: 4, children: 5 }
const KEY_VALUE = { key: 1, value: 2 }
const GROUP = { columns: 1, numRows: 3, sortingColumns: 4, fileOffset: 5, ordinal: 7 }
const CHUNK = { filePath: 1, fileOffset: 2, metadata: 3, offsetIndexOffset: 4, columnIndexLength: 7, cryptoMetadata: 8 }
const COLUMN = { path: 3, compressedSize: 7, dataPageOffset: 9, indexPageOffset: 10, dictionaryPageOffset: 11, bloomFilterOffset: 14, bloomFilterLength: 15 }

const MAGIC = new TextEncoder().encode('PAR1')
/** Read along with the footer's length in the hope that the footer fits. */
const TAIL_BYTES = 64 * 1024

export interface Excerpt {
  readonly bytes: Uint8Array
  /** Read from the file, the footer included. */
  readonly bytesRead: number
}

/**
 * @param columns - top-level columns that are wanted; undefined: all. They keep the order of the file
 * @throws an `Error` saying what is wrong with the file
 */
export async function excerpt(path: string, rowGroups: readonly number[], columns: readonly string[] | undefined): Promise<Excerpt> {
  await using file = await open(path)
  const { size } = await file.stat()
  const tail = await readRange(file, Math.max(0, size - TAIL_BYTES), size, size)
  if (tail.length < 12 || !MAGIC.every((byte, i) => tail[tail.length - 4 + i] === byte)) throw new Error('not a Parquet file: it does not end in PAR1')
  const footerBytes = new DataView(tail.buffer, tail.byteOffset).getUint32(tail.length - 8, true)
  if (footerBytes > size - 12) throw new Error(`its footer claims ${footerBytes} bytes of ${size}`)
  const inTail = footerBytes + 8 <= tail.length
  const footer = inTail ? tail.subarray(tail.length - 8 - footerBytes, tail.length - 8) : await readRange(file, size - 8 - footerBytes, size - 8, size)
  let bytesRead = tail.length + (inTail ? 0 : footer.length)

  const root = decodeThrift(footer).filter(({ id }) => id !== FILE.columnOrders)
  if (columns !== undefined) narrowSchema(root, columns)
  const groups = list(root, FILE.rowGroups)
  const chosen = rowGroups.map((index) => {
    const group = groups.items[index]
    if (group === undefined) throw new Error(`it has ${groups.items.length} row groups, no number ${index}`)
    return (group as ThriftStruct).filter(({ id }) => id !== GROUP.fileOffset && id !== GROUP.ordinal && id !== GROUP.sortingColumns)
  })
  const pages: Uint8Array[] = [MAGIC]
  let at = MAGIC.length
  let rows = 0n
  for (const group of chosen) {
    rows += number(group, GROUP.numRows) ?? 0n
    const chunks = list(group, GROUP.columns)
    chunks.items = chunks.items.map(withoutIndexes).filter((chunk) => columns === undefined || columns.includes(topColumn(chunk as ThriftStruct)))
    const wanted: { metadata: ThriftStruct; from: number; to: number }[] = []
    for (const chunk of chunks.items as ThriftStruct[]) {
      if (chunk.some(({ id }) => id === CHUNK.cryptoMetadata)) throw new Error('it is encrypted')
      if (chunk.some(({ id }) => id === CHUNK.filePath)) throw new Error('its pages are in other files')
      const metadata = metadataOf(chunk)
      const dictionary = number(metadata, COLUMN.dictionaryPageOffset)
      const data = number(metadata, COLUMN.dataPageOffset) ?? 0n
      const from = Number(dictionary !== undefined && dictionary > 0n && dictionary < data ? dictionary : data)
      wanted.push({ metadata, from, to: from + Number(number(metadata, COLUMN.compressedSize) ?? 0n) })
    }
    wanted.sort((a, b) => a.from - b.from)
    for (let i = 0; i < wanted.length; ) {
      // Neighbouring chunks are one read.
      let end = i + 1
      while (end < wanted.length && (wanted[end] as { from: number }).from === (wanted[end - 1] as { to: number }).to) end++
      const run = wanted.slice(i, end)
      const [first, last] = [run[0] as { from: number }, run.at(-1) as { to: number }]
      const bytes = await readRange(file, first.from, last.to, size)
      for (const { metadata } of run) shift(metadata, BigInt(at - first.from))
      pages.push(bytes)
      at += bytes.length
      bytesRead += bytes.length
      i = end
    }
    for (const chunk of chunks.items as ThriftStruct[]) for (const field of chunk) if (field.id === CHUNK.fileOffset) field.value = 0n
  }
  groups.items = chosen
  for (const field of root) if (field.id === FILE.numRows) field.value = rows
  const trailer = encodeThrift(root)
  const length = new Uint8Array(4)
  new DataView(length.buffer).setUint32(0, trailer.length, true)
  return { bytes: Buffer.concat([...pages, trailer, length, MAGIC]), bytesRead }
}

const decoder = new TextDecoder()

function metadataOf(chunk: ThriftStruct): ThriftStruct {
  const metadata = chunk.find(({ id }) => id === CHUNK.metadata)?.value as ThriftStruct | undefined
  if (metadata === undefined) throw new Error('a column chunk has no metadata')
  return metadata
}

function topColumn(chunk: ThriftStruct): string {
  return decoder.decode(list(metadataOf(chunk), COLUMN.path).items[0] as Uint8Array)
}

/** The schema tree, flat in depth-first order, without the other top-level columns; and the same for the Arrow schema that writers embed. */
function narrowSchema(root: ThriftStruct, columns: readonly string[]): void {
  const elements = list(root, FILE.schema)
  const [head, ...rest] = elements.items as ThriftStruct[]
  if (head === undefined) throw new Error('its footer is damaged')
  const kept: ThriftStruct[] = []
  let count = 0n
  for (let at = 0; at < rest.length; ) {
    const end = subtreeEnd(rest, at)
    if (columns.includes(decoder.decode((rest[at] as ThriftStruct).find(({ id }) => id === ELEMENT.name)?.value as Uint8Array))) {
      kept.push(...rest.slice(at, end))
      count++
    }
    at = end
  }
  for (const field of head) if (field.id === ELEMENT.children) field.value = count
  elements.items = [head, ...kept]
  const pairs = root.find(({ id }) => id === FILE.keyValues)?.value as ThriftList | undefined
  for (const pair of (pairs?.items ?? []) as ThriftStruct[]) {
    const [key, value] = [pair.find(({ id }) => id === KEY_VALUE.key), pair.find(({ id }) => id === KEY_VALUE.value)]
    if (value !== undefined && decoder.decode(key?.value as Uint8Array) === 'ARROW:schema') value.value = narrowArrowSchema(value.value as Uint8Array, columns)
  }
}

function subtreeEnd(elements: readonly ThriftStruct[], at: number): number {
  const element = elements[at]
  if (element === undefined) throw new Error('its footer is damaged')
  let end = at + 1
  for (let left = number(element, ELEMENT.children) ?? 0n; left > 0n; left--) end = subtreeEnd(elements, end)
  return end
}

/** Base64 of one IPC schema message, in and out. */
function narrowArrowSchema(base64: Uint8Array, columns: readonly string[]): Uint8Array {
  const { fields, metadata } = RecordBatchReader.from(Buffer.from(decoder.decode(base64), 'base64')).open().schema
  const narrow = new Schema(
    fields.filter(({ name }) => columns.includes(name)),
    metadata,
  )
  const stream = tableToIPC(new Table([emptyBatch(narrow)]), 'stream')
  const length = new DataView(stream.buffer, stream.byteOffset).getInt32(4, true)
  return new TextEncoder().encode(Buffer.from(stream.subarray(0, 8 + length)).toString('base64'))
}

/** Page indexes and Bloom filters are not copied, so nothing may point to them. */
function withoutIndexes(chunk: ThriftValue): ThriftValue {
  const fields = (chunk as ThriftStruct).filter(({ id }) => id < CHUNK.offsetIndexOffset || id > CHUNK.columnIndexLength)
  for (const field of fields) {
    if (field.id === CHUNK.metadata)
      field.value = (field.value as ThriftStruct).filter(({ id }) => id !== COLUMN.bloomFilterOffset && id !== COLUMN.bloomFilterLength)
  }
  return fields
}

function shift(metadata: ThriftStruct, by: bigint): void {
  for (const field of metadata) {
    const offset = field.id === COLUMN.dataPageOffset || field.id === COLUMN.indexPageOffset || field.id === COLUMN.dictionaryPageOffset
    // A dictionary at offset 0 means that there is none.
    if (offset && (field.value as bigint) > 0n) field.value = (field.value as bigint) + by
  }
}

function list(fields: ThriftStruct, id: number): ThriftList {
  const value = fields.find((field) => field.id === id)?.value
  if (value === undefined || typeof value !== 'object' || !('items' in value)) throw new Error('its footer is damaged')
  return value
}

function number(fields: ThriftStruct, id: number): bigint | undefined {
  return fields.find((field) => field.id === id)?.value as bigint | undefined
}

async function readRange(file: FileHandle, from: number, to: number, size: number): Promise<Uint8Array> {
  if (from < 0 || to < from || to > size) throw new Error(`its footer points to bytes ${from}–${to} of ${size}`)
  const bytes = new Uint8Array(to - from)
  let filled = 0
  while (filled < bytes.length) {
    const { bytesRead } = await file.read(bytes, filled, bytes.length - filled, from + filled)
    if (bytesRead === 0) throw new Error('it was cut off while it was read')
    filled += bytesRead
  }
  return bytes
}
