/**
 * How packed code gets from a program to the nodes that run its tasks: the program gives it to its daemon, that one to the head, which keeps it in the
 * control store, or puts it into the place that the cluster has for packages. Nodes ask the head for it when the first worker there needs it: they get it
 * part by part, or read it from where the head says that it is.
 *
 * Every message may come twice: parts have their place, and asking again gives the same answer. A question that is not answered in time, because the
 * head changed, is asked again.
 */
import { createHash } from 'node:crypto'
import type { MeshMessage, PackageChunk, PackagePart } from '../net/gen/mesh.ts'
import type { Failure, PackagePut } from '../net/gen/node.ts'
import { LIMITS } from '../limits.ts'
import { type PackageBlobs, readPlace } from './package-blobs.ts'

type MeshBody = NonNullable<MeshMessage['body']>

/** An answer of the head takes no longer, or is asked for again. */
const ANSWER_MS = 5_000
const ANSWERS_MAX = 24
/** Heads may change while code is sent. */
const SENDS_MAX = 3

export interface PackageExchangeOptions {
  /** At the head: where packages are kept. */
  readonly blobs: PackageBlobs | undefined
  /** To the head, whoever that is now. */
  readonly toHead: (body: MeshBody) => void
  readonly toNode: (node: string, body: MeshBody) => void
}

interface Upload {
  parts: Buffer[]
  bytes: number
  /** All came: resolves when it is kept. */
  kept: Promise<void> | undefined
}

export class PackageExchange {
  readonly #options: PackageExchangeOptions
  /** By sender and digest: what came so far. */
  readonly #uploads: Map<string, Upload> = new Map()
  /** By digest: what is on its way to the head, once for all programs that gave it. */
  readonly #sending: Map<string, Promise<void>> = new Map()
  readonly #asked: Map<number, (answer: PackageChunk) => void> = new Map()
  #lastRequest = 0

  constructor(options: PackageExchangeOptions) {
    this.#options = options
  }

  /** A part from a process of this node. Answers when all are kept, or one cannot be; undefined: more must come. */
  async put(process: string, part: PackagePut): Promise<{ readonly failure: Failure | undefined } | undefined> {
    try {
      const kept = this.#collect(process, part)
      if (kept === undefined) return undefined
      await kept
      return { failure: undefined }
    } catch (error) {
      return { failure: { code: 'INTERNAL', detailsJson: JSON.stringify({ what: `packed code was not stored: ${(error as Error).message}` }) } }
    }
  }

  /** The archive of that name, from wherever it is. */
  async fetch(digest: string): Promise<Uint8Array> {
    const { blobs } = this.#options
    if (blobs) {
      const bytes = await blobs.get(digest)
      if (bytes === undefined) throw new Error(`the head has no packed code ${digest}`)
      return bytes
    }
    const parts: Uint8Array[] = []
    for (let offset = 0; ; ) {
      const { chunk, bytes, failure, place } = await this.#ask((request) => ({ $case: 'packageWanted', value: { request, digest, offset } }))
      if (failure !== '') throw new Error(failure)
      if (place !== '') return readPlace(place, digest, bytes)
      parts.push(chunk)
      offset += chunk.length
      if (offset >= bytes) return Buffer.concat(parts)
      if (chunk.length === 0) throw new Error(`the head sent ${offset} of ${bytes} bytes of packed code ${digest}`)
    }
  }

  /** A message of another daemon. @returns false: it is about something else */
  message(node: string, body: MeshBody): boolean {
    if (body.$case === 'packageChunk') this.#asked.get(body.value.request)?.(body.value)
    else if (body.$case === 'packageWanted') void this.#answer(node, body.value.request, () => this.#read(body.value.digest, body.value.offset))
    else if (body.$case === 'packagePart') void this.#answer(node, body.value.request, () => this.#store(node, body.value))
    else return false
    return true
  }

  async #send(digest: string, bytes: Uint8Array): Promise<void> {
    let again = SENDS_MAX
    for (let offset = 0; offset < bytes.length; offset += LIMITS.packageChunkBytes) {
      const chunk = Buffer.from(bytes.subarray(offset, offset + LIMITS.packageChunkBytes))
      const { failure } = await this.#ask((request) => ({ $case: 'packagePart', value: { request, digest, chunk, offset, bytes: bytes.length } }))
      if (failure === '') continue
      // A head that is new has none of the parts before.
      if (offset === 0 || --again === 0) throw new Error(failure)
      offset = -LIMITS.packageChunkBytes
    }
  }

  async #ask(question: (request: number) => MeshBody): Promise<PackageChunk> {
    for (let tries = 0; tries < ANSWERS_MAX; tries++) {
      const request = ++this.#lastRequest
      const { promise, resolve } = Promise.withResolvers<PackageChunk | undefined>()
      this.#asked.set(request, resolve)
      const timer = setTimeout(() => resolve(undefined), ANSWER_MS)
      this.#options.toHead(question(request))
      const answer = await promise
      clearTimeout(timer)
      this.#asked.delete(request)
      if (answer) return answer
    }
    throw new Error(`the head did not answer in ${(ANSWERS_MAX * ANSWER_MS) / 1_000} s`)
  }

  async #answer(node: string, request: number, work: () => Promise<Omit<PackageChunk, 'request' | 'failure'>>): Promise<void> {
    let value: PackageChunk
    try {
      value = { request, failure: '', ...(await work()) }
    } catch (error) {
      value = { request, failure: (error as Error).message, chunk: Buffer.alloc(0), offset: 0, bytes: 0, place: '' }
    }
    this.#options.toNode(node, { $case: 'packageChunk', value })
  }

  async #read(digest: string, offset: number): Promise<Omit<PackageChunk, 'request' | 'failure'>> {
    const part = await this.#options.blobs?.part(digest, offset)
    if (!part) throw new Error(`the head has no packed code ${digest}`)
    return { chunk: Buffer.from(part.chunk), offset, bytes: part.bytes, place: part.place }
  }

  async #store(node: string, part: PackagePart): Promise<Omit<PackageChunk, 'request' | 'failure'>> {
    const { blobs } = this.#options
    if (!blobs) throw new Error('this node is not the head')
    if (part.offset === 0) await this.#forgetIfGone(`${node} ${part.digest}`, part.digest, blobs)
    await this.#collect(node, part)
    return { chunk: Buffer.alloc(0), offset: part.offset, bytes: part.bytes, place: '' }
  }

  /** What was kept may have made room for other code since: then it comes anew. */
  async #forgetIfGone(key: string, digest: string, blobs: PackageBlobs): Promise<void> {
    const upload = this.#uploads.get(key)
    if (upload?.kept === undefined) return
    await upload.kept.catch(() => undefined)
    if (!(await blobs.has(digest)) && this.#uploads.get(key) === upload) this.#uploads.delete(key)
  }

  /** Resolves when all is kept; undefined while parts are missing. A part that came before changes nothing: equal names are equal bytes. */
  #collect(sender: string, { digest, chunk, offset, bytes }: { digest: string; chunk: Uint8Array; offset: number; bytes: number }): Promise<void> | undefined {
    const key = `${sender} ${digest}`
    const upload = this.#uploads.get(key) ?? { parts: [], bytes: 0, kept: undefined }
    if (offset > upload.bytes) throw new Error(`a part of packed code ${digest} is missing before byte ${offset}`)
    this.#uploads.set(key, upload)
    if (offset === upload.bytes) {
      upload.parts.push(Buffer.from(chunk))
      upload.bytes += chunk.length
    }
    if (upload.bytes < bytes) return undefined
    upload.kept ??= this.#keep(digest, Buffer.concat(upload.parts)).catch((error: unknown) => {
      this.#uploads.delete(key)
      throw error
    })
    upload.parts = []
    return upload.kept
  }

  async #keep(digest: string, bytes: Buffer): Promise<void> {
    if (createHash('sha256').update(bytes).digest('hex') !== digest) throw new Error(`packed code ${digest} arrived damaged`)
    const { blobs } = this.#options
    if (blobs) return blobs.put(digest, bytes)
    const sending = this.#sending.get(digest) ?? this.#send(digest, bytes).finally(() => this.#sending.delete(digest))
    this.#sending.set(digest, sending)
    await sending
  }

  /** A process of this node, or another node, is gone. */
  forget(sender: string): void {
    for (const key of this.#uploads.keys()) if (key.startsWith(`${sender} `)) this.#uploads.delete(key)
  }
}
