/**
 * One connection of a reader to a source: it asks for chunks of one object at a time. The kernel reads payloads straight into the memory
 * where the object is going to be, with one small read more per frame for its head.
 */
import { randomBytes } from 'node:crypto'
import { connect as connectPlain, type NetConnectOpts, type Socket } from 'node:net'
import type { ConnectionOptions } from 'node:tls'
import type { Tls } from '../net/tls.ts'
import {
  type BulkRequest,
  decodeFrameHead,
  decodeGreeting,
  encodeHello,
  encodeText,
  FRAME,
  FRAME_HEAD_BYTES,
  type FrameHead,
  FrameSeal,
  GREETING_BYTES,
  TEXT_BYTES_MAX,
} from './bulk-protocol.ts'
import { CHUNK_BYTES, type Chunks } from './chunks.ts'
import type { FetchOutcome } from './pull-events.ts'

/** A connection on which nothing comes for so long ends: while there is a question, the other side says every second that it lives; else nobody needs it. */
const SILENT_MS = 5_000
/** A source that lives and sends no chunk for so long may wait for one that waits for us. */
const STALLED_MS = 60_000

/** `end`: all that was asked for was sent; what arrived damaged is still missing. */
export type Answer = { readonly kind: 'end' } | Exclude<FetchOutcome, { kind: 'whole' }>

export interface ConnectionConfig {
  readonly token: string
  readonly cluster: string
  /** This node. */
  readonly node: string
  /** Absent: no encryption. */
  readonly tls: Tls | undefined
}

interface Ask {
  readonly request: BulkRequest
  readonly memory: Uint8Array
  readonly chunks: Chunks
  readonly damaged: (index: number) => void
  readonly resolve: (answer: Answer) => void
  lastChunkMs: number
}

export class Connection {
  /** The source. */
  readonly node: string
  readonly address: string
  readonly closed: Promise<void>
  receivedBytes = 0
  readonly #config: ConnectionConfig
  readonly #socket: Socket
  readonly #silence: NodeJS.Timeout
  readonly #head: Buffer = Buffer.alloc(FRAME_HEAD_BYTES)
  /** What the next bytes are. */
  #expects: 'greeting' | 'head' | 'payload' = 'greeting'
  #target: Uint8Array = Buffer.alloc(GREETING_BYTES)
  #filled = 0
  #frame: FrameHead | undefined
  #frames: FrameSeal | undefined
  #ask: Ask | undefined
  #ended: string | undefined

  private constructor(node: string, address: string, config: ConnectionConfig, connect: (options: NetConnectOpts) => Socket) {
    this.node = node
    this.address = address
    this.#config = config
    const colon = address.lastIndexOf(':')
    const host = address.slice(0, colon).replace(/^\[|\]$/g, '')
    this.#socket = connect({
      host,
      port: Number(address.slice(colon + 1)),
      noDelay: true,
      onread: { buffer: () => this.#buffer(), callback: (length) => this.#read(length) },
    })
    this.#silence = setTimeout(() => this.end('nothing came for too long'), SILENT_MS)
    this.#socket.on('error', (error) => this.end(error.message))
    this.closed = new Promise((resolve) => {
      this.#socket.on('close', () => {
        this.end('the other side closed the connection')
        resolve()
      })
    })
  }

  static async open(node: string, address: string, config: ConnectionConfig): Promise<Connection> {
    const { tls } = config
    if (!tls) return new Connection(node, address, config, (options) => connectPlain(options))
    const { connect } = await import('node:tls')
    return new Connection(node, address, config, (options) => connect({ ...tls.connect, ...options } as ConnectionOptions))
  }

  get usable(): boolean {
    return this.#ended === undefined && this.#ask === undefined
  }

  /**
   * Asks for chunks. Those that arrive intact are added to `chunks`; nothing is written to `memory` after the answer or after {@link end}.
   *
   * @param damaged - a chunk arrived with a wrong checksum
   */
  ask(request: BulkRequest, memory: Uint8Array, chunks: Chunks, damaged: (index: number) => void): Promise<Answer> {
    if (this.#ended !== undefined) return Promise.resolve({ kind: 'cut', reason: this.#ended })
    return new Promise((resolve) => {
      this.#ask = { request, memory, chunks, damaged, resolve, lastChunkMs: performance.now() }
      this.#silence.refresh()
      if (this.#frames) this.#socket.write(encodeText(request))
    })
  }

  end(reason: string): void {
    if (this.#ended !== undefined) return
    this.#ended = reason
    clearTimeout(this.#silence)
    this.#socket.destroy()
    this.#settle({ kind: 'cut', reason })
  }

  #settle(answer: Answer): void {
    const ask = this.#ask
    this.#ask = undefined
    ask?.resolve(answer)
  }

  /** Where the next bytes go. Never empty: a read into nothing is an error. */
  #buffer(): Uint8Array {
    return this.#ended === undefined ? this.#target.subarray(this.#filled) : this.#head
  }

  #read(length: number): boolean {
    if (this.#ended !== undefined) return false
    this.#silence.refresh()
    this.receivedBytes += length
    this.#filled += length
    if (this.#filled < this.#target.length) return true
    const problem = this.#expects === 'greeting' ? this.#greeted() : this.#expects === 'head' ? this.#headRead() : this.#payloadRead(this.#target)
    if (problem !== undefined) this.end(problem)
    return problem === undefined
  }

  #expect(expects: 'head' | 'payload', target: Uint8Array): undefined {
    this.#expects = expects
    this.#target = target
    this.#filled = 0
  }

  #greeted(): string | undefined {
    const { token, cluster, node } = this.#config
    const theirs = decodeGreeting(this.#target as Buffer)
    if (!theirs) return `what answers at ${this.address} is no node of this version`
    const own = randomBytes(16)
    this.#frames = new FrameSeal(token, theirs, own)
    this.#socket.write(encodeHello(token, theirs, own, { cluster, from: node, to: this.node }))
    if (this.#ask) this.#socket.write(encodeText(this.#ask.request))
    return this.#expect('head', this.#head)
  }

  /** @returns what is wrong, and the connection with it */
  #headRead(): string | undefined {
    const ask = this.#ask
    if (!ask) return 'it sent something that nobody asked for'
    const frame = decodeFrameHead(this.#head)
    this.#frame = frame
    const { kind, index, length } = frame
    if (kind !== FRAME.chunk) {
      if (length > TEXT_BYTES_MAX) return `it sent ${length} bytes of text`
      if (length === 0) return this.#payloadRead(this.#head.subarray(0, 0))
      return this.#expect('payload', Buffer.alloc(length))
    }
    const start = index * CHUNK_BYTES
    const end = Math.min(start + CHUNK_BYTES, ask.memory.length)
    // What is there already may be in use.
    if (length === 0 || end - start !== length || ask.chunks.has(index)) return `it sent chunk ${index} of ${length} bytes, which nobody asked for`
    return this.#expect('payload', ask.memory.subarray(start, end))
  }

  #payloadRead(payload: Uint8Array): string | undefined {
    const ask = this.#ask!
    const frame = this.#frame!
    const intact = this.#frames!.verify(frame, payload)
    this.#expect('head', this.#head)
    if (frame.kind === FRAME.chunk) {
      ask.lastChunkMs = performance.now()
      if (intact) ask.chunks.add(frame.index)
      else ask.damaged(frame.index)
      return undefined
    }
    if (!intact) return 'a message arrived damaged'
    switch (frame.kind) {
      case FRAME.wait:
        return performance.now() - ask.lastChunkMs > STALLED_MS ? `no chunk came for ${STALLED_MS / 1_000} s` : undefined
      case FRAME.end:
        this.#settle({ kind: 'end' })
        return undefined
      case FRAME.gone:
        this.#settle({ kind: 'gone', reason: Buffer.from(payload).toString() })
        return undefined
      case FRAME.busy: {
        const nodes = JSON.parse(Buffer.from(payload).toString()) as string[]
        this.#settle({ kind: 'busy', nodes })
        return undefined
      }
      default:
        return `it sent a message of the unknown kind ${frame.kind}`
    }
  }
}
