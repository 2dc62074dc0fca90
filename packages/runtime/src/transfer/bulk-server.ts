/**
 * The sending side of the object plane: readers connect, prove that they know the token, and ask for chunks of objects, which are written to the
 * socket straight from mapped memory. What an object is and who may have it now is the {@link BulkSource}'s business.
 */
import { randomBytes } from 'node:crypto'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { debug } from '../debug.ts'
import type { Faults } from '../net/faults.ts'
import type { Tls } from '../net/tls.ts'
import {
  type BulkRequest,
  checkHello,
  decodeHello,
  decodeRequest,
  encodeGreeting,
  FRAME,
  type FrameKind,
  FrameSeal,
  HELLO_HEAD_BYTES,
  nonceOfHello,
  TEXT_BYTES_MAX,
} from './bulk-protocol.ts'
import { CHUNK_BYTES, chunkCount, type Chunks } from './chunks.ts'

/** A reader that knows the token says so within this time. */
const HELLO_MS = 5_000
/** A source that waits says so as often as this. */
const WAIT_MS = 1_000
/** A reader that takes nothing for so long is gone or stopped; it can ask again. */
const STUCK_MS = 15_000

const log = debug('transfer')
const NOTHING = new Uint8Array(0)

/** An object that is being sent to one reader. */
export interface Opened {
  readonly kind: 'object'
  readonly memory: Uint8Array
  /** Of an object that is still arriving; absent: it is whole. */
  readonly chunks: Chunks | undefined
  /** A chunk was handed to the network. */
  readonly sent: (bytes: number) => void
  readonly close: () => void
}

export type OpenAnswer = Opened | { readonly kind: 'gone'; readonly reason: string } | { readonly kind: 'busy'; readonly nodes: readonly string[] }

export interface BulkSource {
  open(request: BulkRequest, from: string): Promise<OpenAnswer>
}

export interface BulkServerOptions {
  readonly token: string
  readonly cluster: string
  readonly node: string
  readonly source: BulkSource
  /** Absent: no encryption. */
  readonly tls: Tls | undefined
  readonly faults: Faults | undefined
}

export class BulkServer {
  readonly #options: BulkServerOptions
  readonly #sessions = new Map<Socket, Session>()
  #server: Server | undefined

  constructor(options: BulkServerOptions) {
    this.#options = options
  }

  /** @returns HOST:PORT */
  async listen(host: string, port = 0): Promise<string> {
    const { tls } = this.#options
    const accept = (socket: Socket): void => {
      socket.on('error', (error) => log(() => `a reader's connection broke: ${error.message}`))
      const stranger = tls?.checkPeer((socket as TLSSocket).getPeerCertificate())
      if (stranger) return void socket.destroy(stranger)
      socket.setNoDelay(true)
      socket.setTimeout(STUCK_MS, () => socket.destroy(new Error('the reader takes nothing')))
      socket.on('close', () => this.#sessions.delete(socket))
      const session = new Session(socket, this.#options)
      this.#sessions.set(socket, session)
      void session.run().finally(() => socket.destroy())
    }
    const server = tls ? (await import('node:tls')).createServer(tls.listen, accept) : createServer(accept)
    server.on('tlsClientError', (error) => log(() => `a reader's handshake failed: ${error.message}`))
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, host, resolve)
    })
    server.removeAllListeners('error')
    server.on('error', (error) => log(() => `cannot accept: ${error.message}`))
    const { address, port: chosen, family } = server.address() as AddressInfo
    return family === 'IPv6' ? `[${address}]:${chosen}` : `${address}:${chosen}`
  }

  /** Ends the connections of a node that is dead. */
  drop(node: string): void {
    for (const [socket, { from }] of this.#sessions) if (from === node) socket.destroy()
  }

  /** Every connection ends at once. */
  async close(): Promise<void> {
    const server = this.#server
    for (const socket of this.#sessions.keys()) socket.destroy()
    if (server) await new Promise<void>((resolve) => server.close(() => resolve()))
  }
}

class Session {
  /** The reader's node, once it proved that it knows the token. */
  from: string | undefined
  readonly #socket: Socket
  readonly #options: BulkServerOptions
  readonly #input: Input
  #frames: FrameSeal | undefined
  #written: Promise<void> = Promise.resolve()

  constructor(socket: Socket, options: BulkServerOptions) {
    this.#socket = socket
    this.#options = options
    this.#input = new Input(socket)
  }

  async run(): Promise<void> {
    const timer = setTimeout(() => this.#socket.destroy(), HELLO_MS)
    try {
      this.from = await this.#hello()
      clearTimeout(timer)
      if (this.from === undefined) return
      for (;;) await this.#answer(decodeRequest(await this.#input.text()), this.from)
    } catch (error) {
      log(() => `a reader's connection ended: ${(error as Error).message}`)
    } finally {
      clearTimeout(timer)
    }
  }

  async #hello(): Promise<string | undefined> {
    const { token, cluster, node } = this.#options
    const nonce = randomBytes(16)
    this.#socket.write(encodeGreeting(nonce))
    const head = await this.#input.read(HELLO_HEAD_BYTES)
    const length = checkHello(token, nonce, head)
    if (length === undefined) return this.#refuse('wrong token')
    const hello = decodeHello(await this.#input.read(length))
    if (hello.cluster !== cluster) return this.#refuse(`this is cluster ${cluster}, not ${hello.cluster}`)
    if (hello.to !== node) return this.#refuse(`this is node ${node}, not ${hello.to}`)
    this.#frames = new FrameSeal(token, nonce, nonceOfHello(head))
    return hello.from
  }

  /** Nobody who does not know the token learns more than that. */
  #refuse(reason: string): undefined {
    log(() => `refused a reader from ${this.#socket.remoteAddress}: ${reason}`)
  }

  async #answer(request: BulkRequest, from: string): Promise<void> {
    const opening = this.#options.source.open(request, from)
    const opened = await this.#waitFor(opening).catch((error: unknown) => {
      void opening.then((late) => late.kind === 'object' && late.close())
      throw error
    })
    if (opened.kind === 'gone') return this.#write(FRAME.gone, 0, Buffer.from(opened.reason))
    if (opened.kind === 'busy') return this.#write(FRAME.busy, 0, Buffer.from(JSON.stringify(opened.nodes)))
    try {
      await this.#send(request, opened)
    } finally {
      opened.close()
    }
  }

  async #send(request: BulkRequest, { memory, chunks, sent }: Opened): Promise<void> {
    if (memory.length !== request.bytes) return this.#write(FRAME.gone, 0, Buffer.from(`it has ${memory.length} bytes there, not ${request.bytes}`))
    let wanted: number[] = []
    const last = chunkCount(memory.length)
    if (request.wanted.some(([first, count]) => first + count > last)) throw new Error('it asks for chunks that there are not')
    for (const [first, count] of request.wanted) for (let index = first; index < first + count; index++) wanted.push(index)
    while (wanted.length > 0) {
      const later: number[] = []
      for (const index of wanted) {
        if (chunks?.ended && !chunks.whole) return this.#write(FRAME.gone, 0, Buffer.from('it was getting it from others and gave up'))
        if (chunks && !chunks.has(index)) {
          later.push(index)
          continue
        }
        const payload = memory.subarray(index * CHUNK_BYTES, Math.min((index + 1) * CHUNK_BYTES, memory.length))
        if (this.#options.faults?.loses('bulk', 'chunk')) throw new Error('cut on purpose')
        await this.#write(FRAME.chunk, index, payload)
        sent(payload.length)
      }
      wanted = later
      if (wanted.length > 0 && !wanted.some((index) => chunks!.has(index))) await this.#waitFor(chunks!.changed())
    }
    await this.#write(FRAME.end, 0, NOTHING)
  }

  /** Tells the reader every second that this side lives; rejects when the connection ends. */
  async #waitFor<T>(something: Promise<T>): Promise<T> {
    const timer = setInterval(() => void this.#write(FRAME.wait, 0, NOTHING).catch(() => {}), WAIT_MS)
    try {
      return await this.#input.unlessClosed(something)
    } finally {
      clearInterval(timer)
    }
  }

  /** Resolves when the frame before this one is with the kernel: so one is being sent while the next is tagged. */
  async #write(kind: FrameKind, index: number, payload: Uint8Array): Promise<void> {
    const socket = this.#socket
    if (socket.destroyed) throw new Error('closed')
    const before = this.#written
    socket.cork()
    const head = this.#frames!.encode(kind, index, payload)
    const done = Promise.withResolvers<void>()
    const written = (error?: Error | null): void => (error ? done.reject(error) : done.resolve())
    if (payload.length === 0) socket.write(head, written)
    else {
      socket.write(head)
      socket.write(kind === FRAME.chunk && this.#options.faults?.damages('bulk', 'chunk') ? damaged(payload) : payload, written)
    }
    socket.uncork()
    this.#written = done.promise
    done.promise.catch(() => {})
    await before
  }
}

function damaged(payload: Uint8Array): Uint8Array {
  const other = payload.slice()
  other[0] = ~(other[0] as number)
  return other
}

/** What a reader sends, as it is asked for. One wait at a time. */
class Input {
  readonly #socket: Socket
  #bytes: Buffer = Buffer.alloc(0)
  #arrived: () => void = () => {}
  #closed: () => void = () => {}

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (bytes: Buffer) => {
      this.#bytes = this.#bytes.length === 0 ? bytes : Buffer.concat([this.#bytes, bytes])
      if (this.#bytes.length > 2 * TEXT_BYTES_MAX) socket.destroy()
      this.#arrived()
    })
    socket.on('close', () => this.#closed())
  }

  unlessClosed<T>(something: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#closed = () => reject(new Error('the reader closed the connection'))
      if (this.#socket.destroyed) this.#closed()
      something.then(resolve, reject)
    })
  }

  async read(length: number): Promise<Buffer> {
    if (length > TEXT_BYTES_MAX) throw new Error(`${length} bytes are too many`)
    while (this.#bytes.length < length) {
      const arrived = new Promise<void>((resolve) => {
        this.#arrived = resolve
      })
      await this.unlessClosed(arrived)
    }
    const bytes = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return bytes
  }

  async text(): Promise<Buffer> {
    return this.read((await this.read(4)).readUInt32BE(0))
  }
}
