/**
 * TLS for every connection of a cluster: the same certificates serve links (gRPC) and the object plane (`node:tls`).
 *
 * Both ends show a certificate of the cluster's authority and check the other's: its issuer, and the one name that all certificates of a cluster
 * carry. Host names are not checked, so that machines may change their addresses; which process is meant is said by node and process ids, and the
 * cluster's token is checked as always. There is no way to switch a check off.
 *
 * A folder holds `ca.pem`, `cert.pem` and `key.pem`. `generateTls` makes one; it holds everything that a machine needs to join, so it is copied to
 * each of them, like a password.
 */
import { X509Certificate } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { checkServerIdentity, type ConnectionOptions, createSecureContext, type PeerCertificate, type TlsOptions } from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'

/** The name in generated certificates. */
export const TLS_NAME = 'cluster.beamline'

export interface TlsFiles {
  readonly ca: string
  readonly cert: string
  readonly key: string
  /** A DNS name that the certificates of all nodes have; default TLS_NAME. */
  readonly name?: string
}

export interface Tls {
  readonly name: string
  channel(): grpc.ChannelCredentials
  server(): grpc.ServerCredentials
  /** Says what is wrong with the certificate of a peer whose issuer was checked. */
  checkPeer(certificate: PeerCertificate): Error | undefined
  /** For `tls.connect`. */
  readonly connect: ConnectionOptions
  /** For `tls.createServer`; call `checkPeer` on each connection. */
  readonly listen: TlsOptions
}

/** The files in a folder made by `generateTls`, or by hand with the same names. */
export function tlsFilesIn(dir: string): TlsFiles {
  const files = { ca: join(dir, 'ca.pem'), cert: join(dir, 'cert.pem'), key: join(dir, 'key.pem') }
  for (const path of Object.values(files))
    if (!existsSync(path))
      throw new BeamlineError('FILES_NOT_FOUND', { what: '--tls-dir', paths: path, hint: 'copy the folder of the head: ca.pem, cert.pem, key.pem' })
  return files
}

/** @throws BeamlineError FILE_UNREADABLE when a file is missing, is no certificate, or the key does not belong to it */
export function loadTls(files: TlsFiles): Tls {
  const name = files.name ?? TLS_NAME
  const [ca, cert, key] = [files.ca, files.cert, files.key].map(readPem) as [Buffer, Buffer, Buffer]
  try {
    const own = new X509Certificate(cert)
    if (own.checkHost(name) === undefined) throw new Error(`it is not made out to ${name}`)
    createSecureContext({ ca, cert, key })
  } catch (error) {
    throw new BeamlineError('FILE_UNREADABLE', { path: files.cert, part: `with the key ${files.key}`, reason: (error as Error).message })
  }
  const both = { ca, cert, key, minVersion: 'TLSv1.3' as const }
  const context = createSecureContext(both)
  const checkPeer = (certificate: PeerCertificate): Error | undefined => checkServerIdentity(name, certificate)
  return {
    name,
    channel: () => grpc.credentials.createFromSecureContext(context),
    server: () => grpc.ServerCredentials.createSsl(ca, [{ private_key: key, cert_chain: cert }], true),
    checkPeer,
    connect: { secureContext: context, servername: name, checkServerIdentity: (_host, certificate) => checkPeer(certificate) },
    listen: { ...both, requestCert: true, rejectUnauthorized: true },
  }
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw new BeamlineError('FILE_UNREADABLE', { path, part: '', reason: (error as Error).message })
  }
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
