/** The end of links that others open: who may, and to whom they go. */
import { timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import * as grpc from '@grpc/grpc-js'
import { CHANNEL_OPTIONS, END_MS, ENDED, hostPort, inBackground, OPENED, RECEIVED, SESSION, TO } from './channel.ts'
import type { MeshMessage } from './gen/mesh.ts'
import type { NodeMessage, ProcessMessage } from './gen/node.ts'
import type { PeerMessage } from './gen/peer.ts'
import { type Body, type Link, NODE_SERVICE, PEER_SERVICE, type Service } from './link.ts'
import { type Connection, type ConnectionEvents, SessionLink } from './session-link.ts'
import type { Frame } from './session-state.ts'
import { type FrameStream, StreamLink } from './stream-link.ts'
import type { Tls } from './tls.ts'

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
