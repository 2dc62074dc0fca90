/**
 * A link: typed messages in both directions between two processes, in frames on bidirectional gRPC streams.
 *
 * Messages sent within one turn of the event loop travel in one frame: a stream of single messages costs
 * about 30 µs each in grpc-js, a frame of a hundred costs hardly more than one. There is no request/reply
 * here; both ends just send. Every stream carries the cluster's token, checked before the first message.
 *
 * On a unix socket a link is one stream: its end is the end of the link. Over TCP it is a session that survives its streams (session-link.ts).
 */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'
import { faultsOfEnvironment } from './faults.ts'
import type { MeshMessage } from './gen/mesh.ts'
import { NodeFrame, type NodeMessage, ProcessFrame, type ProcessMessage } from './gen/node.ts'
import { PeerFrame, type PeerMessage } from './gen/peer.ts'
import { frameArrived } from './polling.ts'
import { type Connection, type ConnectionEvents, SessionLink } from './session-link.ts'
import type { Frame } from './session-state.ts'
import type { Tls } from './tls.ts'

/** A full frame is sent at once instead of at the end of the turn. */
const FRAME_MESSAGES_MAX = 256

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  'grpc.enable_channelz': 0,
  'grpc.enable_retries': 0,
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  'grpc.use_local_subchannel_pool': 1,
  'grpc-node.flow_control_window': 8 * 1024 * 1024,
  'grpc-node.max_session_memory': 1024,
}

export interface Link<Out, In> {
  /** What is at the other end, for messages. */
  readonly name: string
  /** Queue a message; it leaves with the next frame. After the link closed this does nothing. */
  send(message: Out): void
  /** Send what is queued now. */
  flush(): void
  /** The one receiver of messages, set in the turn in which the link was made. */
  onMessage(handler: (message: In) => void): void
  /** Called once with the reason, or with `undefined` when the other end closed in order. */
  onClose(handler: (error: Error | undefined) => void): void
  /** Resolves when `onClose` handlers run. */
  readonly closed: Promise<Error | undefined>
  /**
   * The connection broke, or an attempt to bring it back failed, with the reason; an `ECONNREFUSED` as its `code` says that nobody listens there.
   * What is sent meanwhile is kept, without a bound. Links on unix sockets end instead.
   */
  onInterrupted(handler: (error: Error & { code?: string | number }) => void): void
  /** The connection is back; nothing was lost or doubled. */
  onResumed(handler: () => void): void
  /** Send all, then end both ends in order. */
  close(): void
  /** End now, without sending what waits, and forget the other end; `onClose` gets the error. */
  abort(error: Error): void
}

/** How the two directions of one gRPC service are encoded. */
export interface Service<ToServer, ToClient> {
  readonly path: string
  /** node, peer or mesh. */
  readonly name: string
  readonly encodeToServer: (frame: Frame<ToServer>) => Buffer
  readonly decodeToServer: (bytes: Buffer) => Frame<ToServer>
  readonly encodeToClient: (frame: Frame<ToClient>) => Buffer
  readonly decodeToClient: (bytes: Buffer) => Frame<ToClient>
}

interface FrameCodec<M> {
  encode(frame: Frame<M>): { finish(): Uint8Array }
  decode(bytes: Uint8Array): Frame<M>
}

/** A gRPC service of one streaming method. */
export function service<A, B>(path: string, toServer: FrameCodec<A>, toClient: FrameCodec<B>): Service<A, B> {
  const encoder =
    <M>(codec: FrameCodec<M>) =>
    (frame: Frame<M>): Buffer => {
      const bytes = codec.encode(frame).finish()
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    }
  const decoder =
    <M>(codec: FrameCodec<M>) =>
    (bytes: Buffer): Frame<M> =>
      codec.decode(bytes)
  return {
    path,
    name: path.split('.')[1] as string,
    encodeToServer: encoder(toServer),
    decodeToServer: decoder(toServer),
    encodeToClient: encoder(toClient),
    decodeToClient: decoder(toClient),
  }
}

/** Process to node daemon. */
export const NODE_SERVICE: Service<ProcessMessage, NodeMessage> = service('/beamline.node.Node/Attach', ProcessFrame, NodeFrame)
/** Process to process. */
export const PEER_SERVICE: Service<PeerMessage, PeerMessage> = service('/beamline.peer.Peer/Connect', PeerFrame, PeerFrame)

/** The part of grpc-js's client and server streams that a link uses. */
interface FrameStream<Out, In> {
  write(frame: Frame<Out>): boolean
  end(): void
  on(event: 'data', handler: (frame: Frame<In>) => void): unknown
  on(event: 'drain' | 'end' | 'close' | 'cancelled', handler: () => void): unknown
  on(event: 'error', handler: (error: Error) => void): unknown
}

class StreamLink<Out extends Body, In extends Body> implements Link<Out, In> {
  readonly name: string
  readonly closed: Promise<Error | undefined>
  #stream: FrameStream<Out, In>
  #queue: Out[] = []
  #scheduled = false
  #congested = false
  #open = true
  #handler: ((message: In) => void) | undefined
  #closeHandlers: ((error: Error | undefined) => void)[] = []
  #reason: Error | undefined
  readonly #destroy: (error: Error) => void

  constructor(service: string, stream: FrameStream<Out, In>, name: string, describe: (error: Error) => Error, destroy: (error: Error) => void) {
    this.name = name
    const faults = faultsOfEnvironment()
    this.#stream = stream
    this.#destroy = destroy
    this.closed = new Promise((resolve) => this.onClose(resolve))
    stream.on('data', ({ messages }) => {
      frameArrived(messages.length)
      const handler = this.#handler
      if (handler && faults) faults.deliver(service, messages, handler)
      else if (handler) for (const message of messages) handler(message)
    })
    stream.on('drain', () => {
      this.#congested = false
      this.flush()
    })
    stream.on('error', (error) => this.#end(describe(error)))
    stream.on('cancelled', () => this.#end(new Error(`${name} went away`)))
    stream.on('end', () => {
      stream.end()
      this.#end(undefined)
    })
  }

  send(message: Out): void {
    if (!this.#open) return
    if (this.#queue.push(message) >= FRAME_MESSAGES_MAX && !this.#congested) this.flush()
    else if (!this.#scheduled) {
      this.#scheduled = true
      queueMicrotask(() => {
        this.#scheduled = false
        this.flush()
      })
    }
  }

  flush(): void {
    while (this.#queue.length > 0 && !this.#congested && this.#open) {
      const messages = this.#queue.length <= FRAME_MESSAGES_MAX ? this.#queue : this.#queue.splice(0, FRAME_MESSAGES_MAX)
      if (messages === this.#queue) this.#queue = []
      if (!this.#stream.write({ messages, seq: 0, ack: 0, end: 0 })) this.#congested = true
    }
  }

  onMessage(handler: (message: In) => void): void {
    this.#handler = handler
  }

  onClose(handler: (error: Error | undefined) => void): void {
    if (this.#open) this.#closeHandlers.push(handler)
    else queueMicrotask(() => handler(this.#reason))
  }

  onInterrupted(): void {}

  onResumed(): void {}

  close(): void {
    if (!this.#open) return
    this.flush()
    this.#stream.end()
  }

  abort(error: Error): void {
    if (!this.#open) return
    this.#end(error)
    this.#destroy(error)
  }

  #end(error: Error | undefined): void {
    if (!this.#open) return
    this.#open = false
    this.#reason = error
    this.#queue = []
    for (const handler of this.#closeHandlers) handler(error)
    this.#closeHandlers = []
  }
}

/** A socket that does not keep its process alive. gRPC refers to it again for every open stream, hence the stand-in. */
function inBackground(socket: Socket): Socket {
  socket.unref()
  return Object.assign(socket, { ref: () => socket })
}

type SecureConnector = ReturnType<grpc.ChannelCredentials['_createSecureConnector']>

/** Credentials whose sockets keep no process alive, when told so, and whose TLS errors reach the caller as they are. */
class LinkCredentials extends grpc.ChannelCredentials {
  readonly #inner: grpc.ChannelCredentials
  readonly #background: boolean
  readonly #onTls: (error?: Error) => void

  /** @param onTls - called when a handshake succeeded, or with the error */
  constructor(inner: grpc.ChannelCredentials, background: boolean, onTls: (error?: Error) => void) {
    super()
    this.#inner = inner
    this.#background = background
    this.#onTls = onTls
  }

  _isSecure(): boolean {
    return this.#inner._isSecure()
  }

  _equals(other: grpc.ChannelCredentials): boolean {
    return other === this
  }

  _createSecureConnector(...args: Parameters<grpc.ChannelCredentials['_createSecureConnector']>): SecureConnector {
    const connector = this.#inner._createSecureConnector(...args)
    const connect = connector.connect.bind(connector)
    const quiet = (socket: Socket): Socket => (this.#background ? inBackground(socket) : socket)
    const secure = async (socket: Socket): Promise<Awaited<ReturnType<SecureConnector['connect']>>> => {
      try {
        const result = await connect(quiet(socket))
        this.#onTls()
        result.socket.on('error', this.#onTls)
        return { ...result, socket: quiet(result.socket) }
      } catch (error) {
        this.#onTls(error as Error)
        throw error
      }
    }
    return Object.assign(connector, { connect: this._isSecure() ? secure : (socket: Socket) => connect(quiet(socket)) })
  }
}

/** What a TLS error says about the configuration, and not about the network. */
function tlsReason(error: Error & { code?: string }): string | undefined {
  const code = error.code ?? ''
  return /^ERR_(SSL|TLS)_|CERT|SIGNATURE|^HOSTNAME_MISMATCH$/.test(code) ? `${error.message} (${code})` : undefined
}

export interface DialOptions {
  /** True: the link does not keep this process alive. */
  readonly background?: boolean
  /** Encrypt connections to other addresses than unix sockets. */
  readonly tls?: Tls | undefined
  /** The `identity` that the other end must have: a port may belong to another process by now. */
  readonly to?: string
  /** Over TCP: end when there was no answer at all in this time; without it attempts go on until the link is ended. */
  readonly connectMs?: number
}

/** Metadata of streams that carry sessions. */
const SESSION = 'beamline-session'
const RECEIVED = 'beamline-received'
const OPENED = 'beamline-opened'
const ENDED = 'beamline-ended'
const TO = 'beamline-to'

/**
 * Open a link. It may be used at once: messages wait until the connection stands. A refused token arrives as the reason of `onClose`. An absent
 * server ends a link on a unix socket; over TCP it interrupts the link until one is there.
 *
 * @param address - `unix:/path` or `host:port`
 */
export function dial<A extends Body, B extends Body>(service: Service<A, B>, address: string, token: string, options: DialOptions = {}): Link<A, B> {
  const { background = false } = options
  if (address.startsWith('unix:')) {
    const { stream, client, describe } = openStream(service, address, token, { background })
    const link = new StreamLink<A, B>(service.name, stream as FrameStream<A, B>, address, describe, () => stream.cancel())
    link.onClose(() => client.close())
    return link
  }
  const session = randomBytes(12).toString('hex')
  return new SessionLink<A, B>(service.name, address, background, {
    connectMs: options.connectMs ?? Number.POSITIVE_INFINITY,
    probe: async (timeoutMs, failed) => {
      await probe(address, timeoutMs)
      if (failed && !options.tls && (await speaksTls(address, timeoutMs)))
        throw new BeamlineError('TLS_REFUSED', { address, reason: 'it takes encrypted connections only, and this process has no certificates' })
    },
    open: (received, opened) => {
      const headers = { [SESSION]: session, [RECEIVED]: String(received), ...(opened ? { [OPENED]: '1' } : {}), ...(options.to ? { [TO]: options.to } : {}) }
      return dialledConnection(openStream(service, address, token, options, headers), address)
    },
  })
}

interface Body {
  body?: { $case: string } | undefined
}

interface OpenStream<A, B> {
  readonly stream: grpc.ClientDuplexStream<Frame<A>, Frame<B>>
  readonly client: grpc.Client
  readonly describe: (error: Error) => Error
}

function openStream<A, B>(
  service: Service<A, B>,
  address: string,
  token: string,
  { background = false, tls }: DialOptions,
  headers: Record<string, string> = {},
): OpenStream<A, B> {
  let secured = false
  let tlsError: string | undefined
  const credentials = new LinkCredentials(tls?.channel() ?? grpc.credentials.createInsecure(), background, (error) => {
    if (error) tlsError ??= tlsReason(error)
    else secured = true
  })
  const client = new grpc.Client(address, credentials, tls ? { ...CHANNEL_OPTIONS, 'grpc.ssl_target_name_override': tls.name } : CHANNEL_OPTIONS)
  const metadata = new grpc.Metadata()
  metadata.set('authorization', `Bearer ${token}`)
  for (const [key, value] of Object.entries(headers)) metadata.set(key, value)
  const stream = client.makeBidiStreamRequest(service.path, service.encodeToServer, service.decodeToClient, metadata, {})
  const describe = (error: Error): Error => {
    const { code, details } = error as grpc.ServiceError
    if (tlsError !== undefined) return new BeamlineError('TLS_REFUSED', { address, reason: tlsError }, { cause: error })
    if (code === grpc.status.UNAUTHENTICATED) return new BeamlineError('UNAUTHENTICATED', { address }, { cause: error })
    if (code === grpc.status.PERMISSION_DENIED) return new BeamlineError('TLS_REFUSED', { address, reason: details }, { cause: error })
    if (code === grpc.status.NOT_FOUND) return new BeamlineError('SESSION_UNKNOWN', { address }, { cause: error })
    const hint = secured && code === grpc.status.UNAVAILABLE ? ', after the TLS handshake: the other end may refuse the certificate of this process' : ''
    return new Error(`${details || error.message}${hint}`, { cause: error })
  }
  return { stream, client, describe }
}

/** Resolves when somebody listens at a TCP address; rejects with the error of the system, such as ECONNREFUSED. */
function probe(address: string, timeoutMs: number): Promise<void> {
  const { host, port } = hostPort(address)
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port })
    const timer = setTimeout(() => {
      socket.destroy()
      reject(Object.assign(new Error(`connect ETIMEDOUT ${address}: no answer in ${timeoutMs} ms`), { code: 'ETIMEDOUT' }))
    }, timeoutMs)
    socket.unref()
    socket.once('connect', () => {
      clearTimeout(timer)
      socket.destroy()
      resolve()
    })
    socket.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
  })
}

/** Whether TLS is spoken there, with whatever certificate. */
async function speaksTls(address: string, timeoutMs: number): Promise<boolean> {
  const { connect: connectTls } = await import('node:tls')
  return new Promise((resolve) => {
    const socket = connectTls({ ...hostPort(address), rejectUnauthorized: false, timeout: timeoutMs })
    const end = (spoken: boolean): void => {
      socket.destroy()
      resolve(spoken)
    }
    socket.unref()
    socket.once('secureConnect', () => end(true))
    socket.once('timeout', () => end(false))
    socket.once('close', () => end(false))
    socket.on('error', () => end(false))
  })
}

function hostPort(address: string): { host: string; port: number } {
  const [, host, port] = /^\[?([^\]]*)\]?:(\d+)$/.exec(address) ?? []
  if (host === undefined) throw new BeamlineError('INVALID_ARGUMENT', { what: 'an address', got: address, expected: 'HOST:PORT or unix:/path' })
  return { host, port: Number(port) }
}

/** Streams that ended are cut off after so much time if the other end does not answer. */
const END_MS = 2_000

function dialledConnection<A, B>({ stream, client, describe }: OpenStream<A, B>, peer: string): Connection<A, B> {
  let events: ConnectionEvents<B> | undefined
  let failure: Error | undefined
  const gone = (error: Error): void => {
    failure ??= error
    client.close()
    events?.gone(failure)
  }
  stream.on('metadata', (metadata) => {
    const received = metadata.get(RECEIVED)[0]
    if (received !== undefined) events?.answer(Number(received), metadata.get(ENDED).length > 0)
  })
  stream.on('data', (frame: Frame<B>) => events?.frame(frame))
  stream.on('drain', () => events?.drain())
  stream.on('error', (error) => gone(describe(error)))
  stream.on('end', () => gone(new Error(`${peer} ended the connection`)))
  const destroy = (): void => {
    stream.cancel()
    client.close()
  }
  return {
    peer,
    receive: (receiver) => {
      events = receiver
    },
    write: (frame) => stream.write(frame),
    end: () => {
      stream.end()
      setTimeout(destroy, END_MS).unref()
    },
    destroy,
    answer: () => undefined,
  }
}

function acceptedConnection<A, B>(stream: grpc.ServerDuplexStream<Frame<A>, Frame<B>>): Connection<B, A> {
  let events: ConnectionEvents<A> | undefined
  const peer = stream.getPeer()
  let isGone = false
  const gone = (error: Error): void => {
    if (isGone) return
    isGone = true
    events?.gone(error)
  }
  stream.on('data', (frame: Frame<A>) => events?.frame(frame))
  stream.on('drain', () => events?.drain())
  stream.on('error', gone)
  stream.on('cancelled', () => gone(new Error(`the connection with ${peer} broke`)))
  stream.on('end', () => {
    stream.end()
    gone(new Error(`${peer} ended the connection`))
  })
  return {
    peer,
    receive: (receiver) => {
      events = receiver
    },
    write: (frame) => stream.write(frame),
    end: () => stream.end(),
    destroy: () => {
      if (isGone) return
      isGone = true
      refuse(stream, grpc.status.ABORTED, 'replaced by another connection')
    },
    answer: (received, ended) => {
      const metadata = new grpc.Metadata()
      metadata.set(RECEIVED, String(received))
      if (ended) metadata.set(ENDED, '1')
      stream.sendMetadata(metadata)
    },
  }
}

function refuse(stream: { emit(event: 'error', error: unknown): unknown }, code: grpc.status, details: string): void {
  stream.emit('error', { code, details })
}

export interface Server {
  /** As asked, with the ports that were given for port 0. */
  readonly addresses: readonly string[]
  /** Ends every link and stops listening. */
  close(): Promise<void>
}

/** Which services a server offers, with the receiver of new links. A handler must call `onMessage` before it returns. */
export interface Handlers {
  readonly node?: (link: Link<NodeMessage, ProcessMessage>) => void
  readonly peer?: (link: Link<PeerMessage, PeerMessage>) => void
  readonly mesh?: (link: Link<MeshMessage, MeshMessage>) => void
}

export interface ListenOptions {
  /** True: neither the server nor its links keep this process alive. */
  readonly background?: boolean
  /** Encrypt connections on other addresses than unix sockets, and take only those that show a certificate of the cluster. */
  readonly tls?: Tls | undefined
  /** Refuse dialled links that are meant for another process. */
  readonly identity?: string
}

/** The other end may come back for the end of a session that ended here. */
const ENDED_KEPT_MS = 10_000

/** Listen on unix sockets (mode 0600) and TCP addresses and hand each authenticated link to its handler. */
export async function listen(addresses: string | readonly string[], token: string, handlers: Handlers, options: ListenOptions = {}): Promise<Server> {
  const { background = false, tls, identity } = options
  const server = new grpc.Server(CHANNEL_OPTIONS)
  const expected = Buffer.from(`Bearer ${token}`)
  const authenticated = (metadata: grpc.Metadata): boolean => {
    const got = Buffer.from(header(metadata, 'authorization'))
    return got.length === expected.length && timingSafeEqual(got, expected)
  }
  const streams = new Set<grpc.ServerDuplexStream<unknown, unknown>>()
  const sessions = new Set<SessionLink<Body, Body>>()
  const offer = <A extends Body, B extends Body>(service: Service<A, B>, onLink: (link: Link<B, A>) => void): void => {
    const byId = new Map<string, SessionLink<B, A>>()
    const accept = (stream: grpc.ServerDuplexStream<Frame<A>, Frame<B>>, id: string): void => {
      const { metadata } = stream
      let link = byId.get(id)
      if (!link) {
        const to = header(metadata, TO)
        if (header(metadata, OPENED) !== '' || (to !== '' && identity !== undefined && to !== identity))
          return refuse(stream, grpc.status.NOT_FOUND, 'no such session')
        const created = new SessionLink<B, A>(service.name, stream.getPeer(), background, undefined)
        link = created
        byId.set(id, created)
        sessions.add(created as unknown as SessionLink<Body, Body>)
        created.onClose(() => {
          sessions.delete(created as unknown as SessionLink<Body, Body>)
          setTimeout(() => byId.delete(id), ENDED_KEPT_MS).unref()
        })
        onLink(created)
      }
      link.attach(acceptedConnection(stream), Number(header(metadata, RECEIVED)))
    }
    server.register(
      service.path,
      (stream: grpc.ServerDuplexStream<Frame<A>, Frame<B>>) => {
        if (!authenticated(stream.metadata)) return refuse(stream, grpc.status.UNAUTHENTICATED, 'wrong or missing token')
        const { sslPeerCertificate } = stream.getAuthContext()
        const stranger = sslPeerCertificate && tls?.checkPeer(sslPeerCertificate)
        if (stranger) return refuse(stream, grpc.status.PERMISSION_DENIED, stranger.message)
        const id = header(stream.metadata, SESSION)
        if (id === '') {
          const destroy = (error: Error): void => refuse(stream, grpc.status.ABORTED, error.message)
          return onLink(new StreamLink<B, A>(service.name, stream as unknown as FrameStream<B, A>, stream.getPeer(), (error) => error, destroy))
        }
        streams.add(stream)
        stream.on('close', () => streams.delete(stream))
        accept(stream, id)
      },
      service.encodeToClient,
      service.decodeToServer,
      'bidi',
    )
  }
  if (handlers.node) offer(NODE_SERVICE, handlers.node)
  if (handlers.peer) offer(PEER_SERVICE, handlers.peer)
  if (handlers.mesh) offer((await import('./mesh-service.ts')).MESH_SERVICE, handlers.mesh)
  const plain = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  const encrypted = tls && server.createConnectionInjector(tls.server())
  const listeners = new Map<string, ReturnType<typeof createServer>>()
  for (const address of typeof addresses === 'string' ? [addresses] : addresses) {
    const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined
    const injector = path === undefined && encrypted ? encrypted : plain
    const listener = createServer({ noDelay: true }, (socket) => injector.injectConnection(background ? inBackground(socket) : socket))
    if (background) listener.unref()
    listener.listen(path === undefined ? hostPort(address) : { path })
    await once(listener, 'listening')
    if (path !== undefined) chmodSync(path, 0o600)
    listeners.set(path === undefined ? address.replace(/\d+$/, String((listener.address() as AddressInfo).port)) : address, listener)
  }
  return {
    addresses: [...listeners.keys()],
    close: async () => {
      for (const listener of listeners.values()) listener.close()
      for (const session of sessions) session.abort(new Error('this process stopped listening'))
      // What the sessions have said leaves before their connections are cut.
      for (const until = performance.now() + END_MS; streams.size > 0 && performance.now() < until; ) await new Promise((resolve) => setTimeout(resolve, 5))
      server.forceShutdown()
    },
  }
}

function header(metadata: grpc.Metadata, name: string): string {
  return String(metadata.get(name)[0] ?? '')
}
