/**
 * A bucket of S3, or of anything that speaks its protocol. Requests that fail are repeated as a whole; nothing here needs conditions, batches or the
 * newer checksums, which many servers do not know. The client loads with the first request.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { S3Client } from '@aws-sdk/client-s3'

export interface S3BucketOptions {
  readonly bucket: string
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

export class S3Bucket {
  readonly #options: S3BucketOptions
  #client: Promise<Connected> | undefined

  constructor(options: S3BucketOptions) {
    this.#options = options
  }

  /** @param chunks - of an object of so many bytes; called once for each attempt */
  async write(key: string, bytes: number, chunks: () => AsyncIterable<Buffer>): Promise<void> {
    const { s3, sdk } = await this.#connected()
    const { Readable } = await import('node:stream')
    await repeated(async () => {
      const body = Readable.from(chunks(), { objectMode: false })
      const unread = new AbortController()
      body.once('error', (error) => unread.abort(error)) // the client would wait for the rest
      try {
        await s3.send(new sdk.PutObjectCommand({ ...this.#name(key), Body: body, ContentLength: bytes }), { abortSignal: unread.signal })
      } catch (error) {
        throw unread.signal.aborted ? unread.signal.reason : error
      } finally {
        body.destroy()
      }
    })
  }

  /** @param use - takes what is there; called once for each attempt */
  async read<T>(key: string, from: number, bytes: number, use: (chunks: AsyncIterable<Uint8Array>) => Promise<T>): Promise<T> {
    const { s3, sdk } = await this.#connected()
    return repeated(async () => {
      const { Body } = await s3.send(new sdk.GetObjectCommand({ ...this.#name(key), Range: `bytes=${from}-${from + bytes - 1}` }))
      return use(Body as AsyncIterable<Uint8Array> & typeof Body)
    })
  }

  async remove(key: string): Promise<void> {
    const { s3, sdk } = await this.#connected()
    await repeated(() => s3.send(new sdk.DeleteObjectCommand(this.#name(key))))
  }

  /** Lets go of its connections. */
  async close(): Promise<void> {
    const connected = await this.#client
    connected?.s3.destroy()
  }

  #connected(): Promise<Connected> {
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

  #name(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: key }
  }
}

/** Of the first of these variables that is set. */
function variable(...names: string[]): string | undefined {
  return names.map((name) => process.env[name]).find((value) => value !== undefined && value !== '')
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
