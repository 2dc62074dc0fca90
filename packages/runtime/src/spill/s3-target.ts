/**
 * Spill files in an S3 bucket, or in anything that speaks its protocol. Keys are never written twice, and files are removed one by one: both work
 * with servers that know neither conditions nor batches.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { S3Client } from '@aws-sdk/client-s3'
import { readParts, writePart } from './memory-parts.ts'
import type { MemoryPart, SpillTarget } from './target.ts'

/** A bucket for objects that a node has no room for. */
export interface S3Options {
  /** It must exist. What a daemon that was killed left in it stays: have the bucket expire objects after a day or so. */
  readonly bucket: string
  /** Before every key; default "beamline-spill". */
  readonly prefix?: string
  /** Default: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else that of AWS. */
  readonly endpoint?: string
  /** Default: AWS_REGION or AWS_DEFAULT_REGION, else "us-east-1". */
  readonly region?: string
  /** Default: what the AWS SDK finds, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string }
}

interface Connected {
  readonly s3: S3Client
  readonly sdk: typeof import('@aws-sdk/client-s3')
}

/** Failures reach the caller. */
const quiet = (): void => {}

const ATTEMPTS = 3
const RETRY_MS = 200

export class S3Target implements SpillTarget {
  readonly #options: S3Options
  readonly #prefix: string
  readonly #written = new Set<string>()
  #client: Promise<Connected> | undefined

  /** @param name - of this daemon, in every key */
  constructor(options: S3Options, name: string) {
    this.#options = options
    this.#prefix = `${options.prefix ?? 'beamline-spill'}/${name}`
  }

  #sdk(): Promise<Connected> {
    this.#client ??= this.#connect()
    return this.#client
  }

  async #connect(): Promise<Connected> {
    const sdk = await import('@aws-sdk/client-s3')
    const { endpoint = variable('AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'), region = variable('AWS_REGION', 'AWS_DEFAULT_REGION') ?? 'us-east-1' } =
      this.#options
    const { credentials } = this.#options
    const s3 = new sdk.S3Client({
      region,
      // Servers other than Amazon's have one address for all buckets, and do not know the newer checksums.
      ...(endpoint !== undefined && { endpoint, forcePathStyle: true }),
      ...(credentials && { credentials }),
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      maxAttempts: 1, // a stream cannot be sent twice: whole requests are repeated here
      logger: { debug: quiet, info: quiet, warn: quiet, error: quiet },
    })
    return { s3, sdk }
  }

  async write(file: string, parts: readonly MemoryPart[]): Promise<void> {
    const { s3, sdk } = await this.#sdk()
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0)
    const { Readable } = await import('node:stream')
    this.#written.add(file) // also what was sent in part is removed
    await repeated(async () => {
      const body = Readable.from(copies(readParts(parts)), { objectMode: false })
      const unread = new AbortController()
      body.once('error', (error) => unread.abort(error)) // the client would wait for the rest
      try {
        await s3.send(new sdk.PutObjectCommand({ ...this.#key(file), Body: body, ContentLength: bytes }), { abortSignal: unread.signal })
      } catch (error) {
        throw unread.signal.aborted ? unread.signal.reason : error
      } finally {
        body.destroy()
      }
    })
  }

  async read(file: string, from: number, memory: MemoryPart): Promise<void> {
    const { s3, sdk } = await this.#sdk()
    await repeated(async () => {
      const { Body } = await s3.send(new sdk.GetObjectCommand({ ...this.#key(file), Range: `bytes=${from}-${from + memory.bytes - 1}` }))
      await writePart(memory, Body as AsyncIterable<Uint8Array> & typeof Body)
    })
  }

  async remove(file: string): Promise<void> {
    const { s3, sdk } = await this.#sdk()
    this.#written.delete(file)
    await repeated(() => s3.send(new sdk.DeleteObjectCommand(this.#key(file))))
  }

  async close(): Promise<void> {
    if (!this.#client) return
    await Promise.allSettled([...this.#written].map((file) => this.remove(file)))
    const { s3 } = await this.#sdk()
    s3.destroy()
  }

  #key(file: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: `${this.#prefix}/${file}` }
  }
}

/** Of the first of these variables that is set. */
function variable(...names: string[]): string | undefined {
  return names.map((name) => process.env[name]).find((value) => value !== undefined && value !== '')
}

/** The chunks of {@link readParts} are used again, and a request keeps several. */
async function* copies(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  for await (const chunk of chunks) yield Buffer.from(chunk)
}

async function repeated<T>(request: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await request()
    } catch (error) {
      if (attempt >= ATTEMPTS) throw error
      await delay(RETRY_MS * attempt)
    }
  }
}
