/**
 * Decodes and encodes Parquet through parquet-wasm. Runs in workers only: a decode blocks its thread, and the module's memory never shrinks.
 *
 * Only the pages that a task decodes are read from the file (`excerpt.ts`). Batches leave the module by one copy over its C data
 * interface (`ffi.ts`); 0.8.0 has no such way in, so writing hands over an IPC stream (250k rows × 6 columns: 6 ms of IPC beside 21 ms of encoding).
 */
import { open, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { BeamlineError } from '@beamline/runtime'
import { type RecordBatch, Table, tableToIPC } from 'apache-arrow'
import type * as ParquetWasm from 'parquet-wasm'
import { compact, emptyBatch, select } from '../block.ts'
import { excerpt } from './excerpt.ts'
import { readRecordBatch, readSchema } from './ffi.ts'

/** Which part of one file to decode. */
export interface ParquetPart {
  readonly path: string
  readonly rowGroups: readonly number[]
  /** Top-level columns in output order; undefined: all. */
  readonly columns?: readonly string[] | undefined
  /** Stop after this many rows. */
  readonly limit?: number | undefined
}

export const CODECS = ['uncompressed', 'snappy', 'gzip', 'brotli', 'zstd', 'lz4_raw'] as const
/** Compression of the pages of a Parquet file. */
export type Codec = (typeof CODECS)[number]

export interface ParquetWriteOptions {
  /** Default 'snappy'. */
  readonly compression?: Codec | undefined
  /** Default 1,048,576. */
  readonly rowGroupRows?: number | undefined
}

/** A file that was written: its path, rows and size. */
export interface WrittenFile {
  readonly path: string
  readonly rows: number
  readonly bytes: number
}

/** Distinct values per row below which a string column is worth a dictionary; looked up in a sample. */
const DICTIONARY_RATIO = 0.2
const DICTIONARY_SAMPLE_ROWS = 2_000

const require = createRequire(import.meta.url)
let loaded: typeof ParquetWasm | undefined

function parquetWasm(): typeof ParquetWasm {
  loaded ??= require('parquet-wasm') as typeof ParquetWasm
  return loaded
}

/** After a trap the module's heap is in an unknown state: the next call starts a fresh instance. */
function discardInstance(): void {
  delete require.cache[require.resolve('parquet-wasm')]
  loaded = undefined
}

/**
 * Decode the row groups of `part` into one batch, its buffers in memory of this process.
 *
 * @throws {@link BeamlineError} `FILE_UNREADABLE` naming the file and the row groups
 */
export async function readParquetPart(part: ParquetPart): Promise<RecordBatch> {
  try {
    const wasm = parquetWasm()
    const { bytes } = await excerpt(part.path, part.rowGroups, part.columns)
    const options: ParquetWasm.ReaderOptions = { batchSize: 0x7fff_ffff }
    if (part.limit !== undefined) options.limit = part.limit
    const table = wasm.readParquet(bytes, options)
    const schema = table.schema
    const stream = table.intoFFI()
    try {
      const batches = [...stream.arrayAddrs()].map((address) => readRecordBatch(wasm.wasmMemory().buffer, address, stream.schemaAddr()))
      const whole = batches.length === 1 ? (batches[0] as RecordBatch) : batches.length === 0 ? emptyOf(wasm, schema) : compact(batches)
      return part.columns === undefined ? whole : select(whole, part.columns)
    } finally {
      stream.drop()
    }
  } catch (cause) {
    if (isTrap(cause)) discardInstance()
    const groups = part.rowGroups.length === 1 ? `row group ${part.rowGroups[0]}` : `row groups ${part.rowGroups[0]}–${part.rowGroups.at(-1)}`
    throw new BeamlineError('FILE_UNREADABLE', { path: part.path, part: groups, reason: reasonOf(cause) }, { cause })
  }
}

function emptyOf(wasm: typeof ParquetWasm, schema: ParquetWasm.Schema): RecordBatch {
  const ffi = schema.intoFFI()
  try {
    return emptyBatch(readSchema(wasm.wasmMemory().buffer, ffi.addr()))
  } finally {
    ffi.free()
  }
}

/**
 * Encode `batch` as one Parquet file. The file appears under its name only when it is complete.
 *
 * Text columns with few distinct values get dictionaries, others none (a dictionary that does not pay costs three times the encoding).
 *
 * @throws {@link BeamlineError} `BATCH_INVALID` when Parquet has no type for a column
 */
export async function writeParquetFile(path: string, batch: RecordBatch, options: ParquetWriteOptions): Promise<WrittenFile> {
  const bytes = encode(batch, options, path)
  const temporary = `${path}.${process.pid}.tmp`
  try {
    await using file = await open(temporary, 'wx')
    await file.writeFile(bytes)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await rename(temporary, path)
  return { path, rows: batch.numRows, bytes: bytes.byteLength }
}

function encode(batch: RecordBatch, options: ParquetWriteOptions, path: string): Uint8Array {
  const wasm = parquetWasm()
  try {
    let builder = new wasm.WriterPropertiesBuilder()
      .setCreatedBy('beamline')
      .setWriterVersion(1)
      .setCompression(compressionOf(wasm, options.compression ?? 'snappy'))
      .setMaxRowGroupSize(options.rowGroupRows ?? 1_048_576)
      .setDictionaryEnabled(false)
    for (const name of repetitiveColumns(batch)) builder = builder.setColumnDictionaryEnabled(name, true)
    return wasm.writeParquet(wasm.Table.fromIPCStream(tableToIPC(new Table([batch]), 'stream')), builder.build())
  } catch (cause) {
    if (isTrap(cause)) discardInstance()
    throw new BeamlineError(
      'BATCH_INVALID',
      { what: path, reason: `Parquet cannot hold the block (${reasonOf(cause)})`, hint: `its columns are ${batch.schema}` },
      { cause },
    )
  }
}

function repetitiveColumns(batch: RecordBatch): string[] {
  const names: string[] = []
  for (const [index, { name, type }] of batch.schema.fields.entries()) {
    if (String(type) !== 'Utf8' && String(type) !== 'LargeUtf8') continue
    const column = batch.getChildAt(index)
    const step = Math.max(1, Math.floor(batch.numRows / DICTIONARY_SAMPLE_ROWS))
    const seen = new Set<unknown>()
    let sampled = 0
    for (let row = 0; row < batch.numRows; row += step, sampled++) seen.add(column?.get(row))
    if (seen.size <= Math.max(1, sampled * DICTIONARY_RATIO)) names.push(name)
  }
  return names
}

function compressionOf(wasm: typeof ParquetWasm, codec: Codec): ParquetWasm.Compression {
  return wasm.Compression[codec.toUpperCase() as keyof typeof ParquetWasm.Compression]
}

function reasonOf(cause: unknown): string {
  if (isTrap(cause)) return 'the decoder stopped on damaged or unsupported data'
  return cause instanceof Error ? cause.message : String(cause)
}

/** The module stopped in the middle of its own code: an `unreachable`, or memory out of bounds. */
function isTrap(cause: unknown): boolean {
  return cause instanceof Error && cause.name === 'RuntimeError'
}
