/**
 * How a process takes part in a cluster of several machines: where it listens, and with which certificates.
 */
import type { Tls } from './tls.ts'

export interface Network {
  readonly node: string
  /** Address to listen on. */
  readonly host: string
  readonly tls: Tls | undefined
}

/** @returns undefined in a cluster of one machine */
export async function networkOf({ node, host, tlsDir }: { node: string; host: string; tlsDir: string }): Promise<Network | undefined> {
  if (host === '') return undefined
  if (tlsDir === '') return { node, host, tls: undefined }
  const { loadTls, tlsFilesIn } = await import('./tls.ts')
  return { node, host, tls: loadTls(tlsFilesIn(tlsDir)) }
}
