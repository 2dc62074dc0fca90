/**
 * Cuts some row groups and columns out of a Parquet file: a small file in memory that holds just their pages, with a footer whose offsets fit.
 *
 * The decoder takes a whole file synchronously, or byte ranges asynchronously; in the asynchronous way a damaged page is an uncaught exception and a
 * promise that never settles (parquet-wasm 0.8.0), which would cost the worker. An excerpt has both: few bytes read, and errors that can be caught.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { decodeThrift, encodeThrift, type ThriftList, type ThriftStruct, type ThriftValue } from './thrift.ts'

// Field numbers of parquet.thrift.
const FILE = { numRows: 3, rowGroups: 4 }
const GROUP = { columns: 1, numRows: 3, fileOffset: 5, ordinal: 7 }
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
 * @param columns - top-level columns whose pages are wanted; the others keep their place in the schema and have no pages
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

  const root = decodeThrift(footer)
  const groups = list(root, FILE.rowGroups)
  const chosen = rowGroups.map((index) => {
    const group = groups.items[index]
    if (group === undefined) throw new Error(`it has ${groups.items.length} row groups, no number ${index}`)
    return (group as ThriftStruct).filter(({ id }) => id !== GROUP.fileOffset && id !== GROUP.ordinal)
  })
  const pages: Uint8Array[] = [MAGIC]
  let at = MAGIC.length
  let rows = 0n
  for (const group of chosen) {
    rows += number(group, GROUP.numRows) ?? 0n
    const chunks = list(group, GROUP.columns)
    chunks.items = chunks.items.map(withoutIndexes)
    const wanted: { metadata: ThriftStruct; from: number; to: number }[] = []
    for (const chunk of chunks.items as ThriftStruct[]) {
      if (chunk.some(({ id }) => id === CHUNK.cryptoMetadata)) throw new Error('it is encrypted')
      if (chunk.some(({ id }) => id === CHUNK.filePath)) throw new Error('its pages are in other files')
      const metadata = chunk.find(({ id }) => id === CHUNK.metadata)?.value as ThriftStruct | undefined
      if (metadata === undefined) throw new Error('a column chunk has no metadata')
      const [top] = list(metadata, COLUMN.path).items
      if (columns !== undefined && !columns.includes(decoder.decode(top as Uint8Array))) continue
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

/** Page indexes and Bloom filters are not copied, so nothing may point to them. */
function withoutIndexes(chunk: ThriftValue): ThriftValue {
  const fields = (chunk as ThriftStruct).filter(({ id }) => id < CHUNK.offsetIndexOffset || id > CHUNK.columnIndexLength)
  for (const field of fields) {
    if (field.id === CHUNK.metadata) field.value = (field.value as ThriftStruct).filter(({ id }) => id !== COLUMN.bloomFilterOffset && id !== COLUMN.bloomFilterLength)
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
