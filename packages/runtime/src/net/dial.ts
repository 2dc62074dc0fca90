/** The end of a link that opens it. */
import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'
import { CHANNEL_OPTIONS, END_MS, ENDED, hostPort, inBackground, OPENED, RECEIVED, SESSION, TO } from './channel.ts'
import type { Body, Link, Service } from './link.ts'
import { type Connection, type ConnectionEvents, SessionLink } from './session-link.ts'
import type { Frame } from './session-state.ts'
import { type FrameStream, StreamLink } from './stream-link.ts'
import type { Tls } from './tls.ts'

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
