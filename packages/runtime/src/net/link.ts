/**
 * A link: typed messages in both directions between two processes, in frames on bidirectional gRPC streams.
 *
 * Messages sent within one turn of the event loop travel in one frame: a stream of single messages costs
 * about 30 µs each in grpc-js, a frame of a hundred costs hardly more than one. There is no request/reply
 * here; both ends just send. Every stream carries the cluster's token, checked before the first message.
 *
 * On a unix socket a link is one stream (stream-link.ts). Over TCP it is a session that survives its streams (session-link.ts). One end opens it
 * (dial.ts), the other takes it (listen.ts).
 */
import { NodeFrame, type NodeMessage, ProcessFrame, type ProcessMessage } from './gen/node.ts'
import { PeerFrame, type PeerMessage } from './gen/peer.ts'
import type { Frame } from './session-state.ts'

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

/** A message: one of several kinds. */
export interface Body {
  body?: { $case: string } | undefined
}
