/**
 * A link: one bidirectional gRPC stream between two processes that carries typed messages in frames.
 *
 * Messages sent within one turn of the event loop travel in one frame: a stream of single messages costs
 * about 30 µs each in grpc-js, a frame of a hundred costs hardly more than one. There is no request/reply
 * here; both ends just send. Every link carries the cluster's token, checked before the first message.
 */
import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'
import type { MeshMessage } from './gen/mesh.ts'
import { NodeFrame, type NodeMessage, ProcessFrame, type ProcessMessage } from './gen/node.ts'
import { PeerFrame, type PeerMessage } from './gen/peer.ts'
import { frameArrived } from './polling.ts'

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
  /** Flush, then end the stream. */
  close(): void
}

/** How the two directions of one gRPC service are encoded. */
export interface Service<ToServer, ToClient> {
  readonly path: string
  readonly encodeToServer: (messages: ToServer[]) => Buffer
  readonly decodeToServer: (bytes: Buffer) => ToServer[]
  readonly encodeToClient: (messages: ToClient[]) => Buffer
  readonly decodeToClient: (bytes: Buffer) => ToClient[]
}

interface FrameCodec<M> {
  encode(frame: { messages: M[] }): { finish(): Uint8Array }
  decode(bytes: Uint8Array): { messages: M[] }
}

/** A gRPC service of one streaming method. */
export function service<A, B>(path: string, toServer: FrameCodec<A>, toClient: FrameCodec<B>): Service<A, B> {
  const encoder =
    <M>(codec: FrameCodec<M>) =>
    (messages: M[]): Buffer => {
      const bytes = codec.encode({ messages }).finish()
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    }
  const decoder =
    <M>(codec: FrameCodec<M>) =>
    (bytes: Buffer): M[] =>
      codec.decode(bytes).messages
  return { path, encodeToServer: encoder(toServer), decodeToServer: decoder(toServer), encodeToClient: encoder(toClient), decodeToClient: decoder(toClient) }
}

/** Process to node daemon. */
export const NODE_SERVICE: Service<ProcessMessage, NodeMessage> = service('/beamline.node.Node/Attach', ProcessFrame, NodeFrame)
/** Process to process. */
export const PEER_SERVICE: Service<PeerMessage, PeerMessage> = service('/beamline.peer.Peer/Connect', PeerFrame, PeerFrame)

/** The part of grpc-js's client and server streams that a link uses. */
interface FrameStream<Out, In> {
  write(messages: Out[]): boolean
  end(): void
  on(event: 'data', handler: (messages: In[]) => void): unknown
  on(event: 'drain' | 'end' | 'close' | 'cancelled', handler: () => void): unknown
  on(event: 'error', handler: (error: Error) => void): unknown
}

class StreamLink<Out, In> implements Link<Out, In> {
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

  constructor(stream: FrameStream<Out, In>, name: string, describe: (error: Error) => Error) {
    this.name = name
    this.#stream = stream
    this.closed = new Promise((resolve) => this.onClose(resolve))
    stream.on('data', (messages) => {
      frameArrived(messages.length)
      const handler = this.#handler
      if (handler) for (const message of messages) handler(message)
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
      const frame = this.#queue.length <= FRAME_MESSAGES_MAX ? this.#queue : this.#queue.splice(0, FRAME_MESSAGES_MAX)
      if (frame === this.#queue) this.#queue = []
      if (!this.#stream.write(frame)) this.#congested = true
    }
  }

  onMessage(handler: (message: In) => void): void {
    this.#handler = handler
  }

  onClose(handler: (error: Error | undefined) => void): void {
    if (this.#open) this.#closeHandlers.push(handler)
    else queueMicrotask(() => handler(this.#reason))
  }

  close(): void {
    if (!this.#open) return
    this.flush()
    this.#stream.end()
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

class BackgroundCredentials extends grpc.ChannelCredentials {
  readonly #insecure = grpc.credentials.createInsecure()

  _isSecure(): boolean {
    return false
  }

  _equals(other: grpc.ChannelCredentials): boolean {
    return other instanceof BackgroundCredentials
  }

  _createSecureConnector(
    ...args: Parameters<grpc.ChannelCredentials['_createSecureConnector']>
  ): ReturnType<grpc.ChannelCredentials['_createSecureConnector']> {
    const connector = this.#insecure._createSecureConnector(...args)
    const connect = connector.connect.bind(connector)
    return Object.assign(connector, { connect: (socket: Socket) => connect(inBackground(socket)) })
  }
}

/**
 * Open a link. It may be used at once: messages wait until the connection stands. A refused token or an absent
 * server arrives as the reason of `onClose`.
 *
 * @param address - `unix:/path` or `host:port`
 * @param background - true: the link does not keep this process alive
 */
export function dial<A, B>(service: Service<A, B>, address: string, token: string, background: boolean = false): Link<A, B> {
  const credentials = background ? new BackgroundCredentials() : grpc.credentials.createInsecure()
  const client = new grpc.Client(address, credentials, CHANNEL_OPTIONS)
  const metadata = new grpc.Metadata()
  metadata.set('authorization', `Bearer ${token}`)
  const stream = client.makeBidiStreamRequest(service.path, service.encodeToServer, service.decodeToClient, metadata, {})
  const link = new StreamLink<A, B>(stream as FrameStream<A, B>, address, (error) => {
    const { code, details } = error as grpc.ServiceError
    if (code === grpc.status.UNAUTHENTICATED) return new BeamlineError('UNAUTHENTICATED', { address }, { cause: error })
    return new Error(details || error.message, { cause: error })
  })
  link.onClose(() => client.close())
  return link
}

export interface Server {
  readonly address: string
  /** Ends every link and stops listening. */
  close(): Promise<void>
}

/** Which services a server offers, with the receiver of new links. A handler must call `onMessage` before it returns. */
export interface Handlers {
  readonly node?: (link: Link<NodeMessage, ProcessMessage>) => void
  readonly peer?: (link: Link<PeerMessage, PeerMessage>) => void
  readonly mesh?: (link: Link<MeshMessage, MeshMessage>) => void
}

/**
 * Listen on a unix socket (mode 0600) or a loopback port and hand each authenticated stream to its handler.
 *
 * @param background - true: neither the server nor its links keep this process alive
 */
export async function listen(address: string, token: string, handlers: Handlers, background: boolean = false): Promise<Server> {
  const server = new grpc.Server(CHANNEL_OPTIONS)
  const expected = Buffer.from(`Bearer ${token}`)
  const authenticated = (metadata: grpc.Metadata): boolean => {
    const got = Buffer.from(String(metadata.get('authorization')[0] ?? ''))
    return got.length === expected.length && timingSafeEqual(got, expected)
  }
  const offer = <A, B>(service: Service<A, B>, onLink: (link: Link<B, A>) => void): void => {
    server.register(
      service.path,
      (stream: grpc.ServerDuplexStream<A[], B[]>) => {
        if (!authenticated(stream.metadata)) {
          stream.emit('error', { code: grpc.status.UNAUTHENTICATED, details: 'wrong or missing token' })
          return
        }
        onLink(new StreamLink<B, A>(stream as unknown as FrameStream<B, A>, stream.getPeer(), (error) => error))
      },
      service.encodeToClient,
      service.decodeToServer,
      'bidi',
    )
  }
  if (handlers.node) offer(NODE_SERVICE, handlers.node)
  if (handlers.peer) offer(PEER_SERVICE, handlers.peer)
  if (handlers.mesh) offer((await import('./mesh-service.ts')).MESH_SERVICE, handlers.mesh)
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  const listener = createServer({ noDelay: true }, (socket) => injector.injectConnection(background ? inBackground(socket) : socket))
  if (background) listener.unref()
  const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined
  const [host, port] = address.split(/:(?=\d+$)/)
  listener.listen(path === undefined ? { host, port: Number(port) } : { path })
  await once(listener, 'listening')
  if (path !== undefined) chmodSync(path, 0o600)
  return {
    address,
    close: async () => {
      listener.close()
      server.forceShutdown()
    },
  }
}
