/**
 * Addresses of processes: where those of the same machine reach one, and where those of others do. Opaque everywhere else.
 *
 * `unix:/path` in a cluster of one machine, `unix:/path@NODE,HOST:PORT` where there are others.
 */
import { BeamlineError } from '../errors.ts'

export interface Endpoint {
  /** `unix:/path` */
  readonly unix: string
  /** The node of the process; "" in a cluster of one. */
  readonly node: string
  /** `HOST:PORT`; "" when only its own machine can reach it. */
  readonly tcp: string
}

export function formatEndpoint({ unix, node, tcp }: Endpoint): string {
  return tcp === '' ? unix : `${unix}@${node},${tcp}`
}

/** What to dial from a process of node `ownNode`. */
export function reach(address: string, ownNode: string): string {
  const [, unix, node, tcp] = /^(unix:.*)@([^@,]*),([^@,]+)$/.exec(address) ?? []
  if (unix === undefined) return address
  return node === ownNode ? unix : (tcp as string)
}

/** The node of a process; "" when its address names none. */
export function nodeOf(address: string): string {
  return /@([^@,]*),[^@,]+$/.exec(address)?.[1] ?? ''
}

/**
 * Whether to listen at `HOST:PORT`: beyond loopback only encrypted, or when told that the network is private.
 *
 * @throws BeamlineError LISTEN_REFUSED
 */
export function checkListen(address: string, tls: boolean, insecure: boolean): void {
  const host = address.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
  const loopback = host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
  if (!loopback && !tls && !insecure) throw new BeamlineError('LISTEN_REFUSED', { address })
}
