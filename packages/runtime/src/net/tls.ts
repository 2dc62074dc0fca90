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
import { randomBytes, webcrypto, X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { checkServerIdentity, type ConnectionOptions, createSecureContext, type PeerCertificate, type TlsOptions } from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { BeamlineError } from '../errors.ts'

/** The DNS name that every certificate of a cluster is made out to, generated or own. */
const TLS_NAME = 'cluster.beamline'

export interface TlsFiles {
  readonly ca: string
  readonly cert: string
  readonly key: string
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

/** Certificates of a cluster live so long. */
const VALID_DAYS = 3_650

/**
 * A new authority and one certificate for all machines, in a folder that only this user can read. The authority's key is thrown away: it cannot
 * make certificates for others. A folder that has certificates stays as it is, so that a head that starts again keeps its cluster.
 */
export async function generateTls(dir: string): Promise<TlsFiles> {
  if (existsSync(join(dir, 'ca.pem'))) return tlsFilesIn(dir)
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  const crypto = webcrypto as Crypto
  x509.cryptoProvider.set(crypto)
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const [authority, machine] = await Promise.all(
    [0, 1].map(() => crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']) as Promise<webcrypto.CryptoKeyPair>),
  )
  if (!authority || !machine) throw new BeamlineError('INTERNAL', { what: 'no keys were made' })
  const notBefore = new Date(Date.now() - 3_600_000)
  const notAfter = new Date(Date.now() + VALID_DAYS * 86_400_000)
  // Positive, as certificates demand.
  const serialNumber = (): string => `01${randomBytes(15).toString('hex')}`
  const issuer = `CN=Beamline cluster ${randomBytes(4).toString('hex')}`
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: issuer,
    notBefore,
    notAfter,
    signingAlgorithm: algorithm,
    keys: authority,
    extensions: [new x509.BasicConstraintsExtension(true, 0, true), new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true)],
  })
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: `CN=${TLS_NAME}`,
    issuer,
    notBefore,
    notAfter,
    signingAlgorithm: algorithm,
    publicKey: machine.publicKey,
    signingKey: authority.privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: TLS_NAME }]),
    ],
  })
  const key = x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', machine.privateKey), 'PRIVATE KEY')
  // It may be the folder of all sessions, which only this user may write to.
  mkdirSync(dirname(resolve(dir)), { recursive: true, mode: 0o700 })
  const made = mkdtempSync(`${resolve(dir)}.new-`)
  for (const [file, text] of Object.entries({ 'ca.pem': ca.toString('pem'), 'cert.pem': cert.toString('pem'), 'key.pem': key }))
    writeFileSync(join(made, file), `${text}\n`, { mode: 0o600 })
  try {
    renameSync(made, dir)
  } catch (error) {
    rmSync(made, { recursive: true })
    // Another head may have been faster.
    if (existsSync(join(dir, 'ca.pem'))) return tlsFilesIn(dir)
    const expected = `a folder that is new or empty, or that has ca.pem, cert.pem and key.pem (${(error as Error).message})`
    throw new BeamlineError('INVALID_ARGUMENT', { what: 'the folder for certificates', got: dir, expected }, { cause: error })
  }
  return tlsFilesIn(dir)
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
  const [ca, cert, key] = [files.ca, files.cert, files.key].map(readPem) as [Buffer, Buffer, Buffer]
  try {
    const own = new X509Certificate(cert)
    if (own.checkHost(TLS_NAME) === undefined) throw new Error(`it is not made out to ${TLS_NAME}, the name that all machines of a cluster have`)
    createSecureContext({ ca, cert, key })
  } catch (error) {
    throw new BeamlineError('FILE_UNREADABLE', { path: files.cert, part: `with the key ${files.key}`, reason: (error as Error).message })
  }
  const both = { ca, cert, key, minVersion: 'TLSv1.3' as const }
  const context = createSecureContext(both)
  const checkPeer = (certificate: PeerCertificate): Error | undefined => checkServerIdentity(TLS_NAME, certificate)
  return {
    name: TLS_NAME,
    channel: () => grpc.credentials.createFromSecureContext(context),
    server: () => grpc.ServerCredentials.createSsl(ca, [{ private_key: key, cert_chain: cert }], true),
    checkPeer,
    connect: { secureContext: context, servername: TLS_NAME, checkServerIdentity: (_host, certificate) => checkPeer(certificate) },
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
