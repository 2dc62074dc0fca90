/** What both ends of a gRPC connection have in common: its options, its sockets, and the metadata of streams that carry sessions. */
import type { Socket } from 'node:net'
import type * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'

export const CHANNEL_OPTIONS: grpc.ChannelOptions = {
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

/** Metadata of streams that carry sessions. */
export const SESSION = 'beamline-session'
export const RECEIVED = 'beamline-received'
export const OPENED = 'beamline-opened'
export const ENDED = 'beamline-ended'
export const TO = 'beamline-to'

/** Streams that ended are cut off after so much time if the other end does not answer. */
export const END_MS = 2_000

/** A socket that does not keep its process alive. gRPC refers to it again for every open stream, hence the stand-in. */
export function inBackground(socket: Socket): Socket {
  socket.unref()
  return Object.assign(socket, { ref: () => socket })
}

export function hostPort(address: string): { host: string; port: number } {
  const [, host, port] = /^\[?([^\]]*)\]?:(\d+)$/.exec(address) ?? []
  if (host === undefined) throw new BeamlineError('INVALID_ARGUMENT', { what: 'an address', got: address, expected: 'HOST:PORT or unix:/path' })
  return { host, port: Number(port) }
}
