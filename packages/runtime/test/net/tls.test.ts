/** Certificates, who gets a connection with them, and where one may listen without. */
import { webcrypto } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls'
import * as grpc from '@grpc/grpc-js'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { BeamlineError } from '../../src/errors.ts'
import type { PeerMessage } from '../../src/net/gen/peer.ts'
import { dial } from '../../src/net/dial.ts'
import { type Link, PEER_SERVICE } from '../../src/net/link.ts'
import { listen } from '../../src/net/listen.ts'
import { checkListen } from '../../src/net/endpoint.ts'
import { generateTls, loadTls, type Tls, tlsFilesIn } from '../../src/net/tls.ts'
import { relay } from './relay.ts'

const dir = mkdtempSync(join(tmpdir(), 'beamline-tls-'))
let tls: Tls
let stranger: Tls
beforeAll(async () => {
  tls = loadTls(await generateTls(join(dir, 'ours')))
  stranger = loadTls(await generateTls(join(dir, 'theirs')))
})
afterAll(() => rmSync(dir, { recursive: true }))

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

async function start(options: { tls: Tls | undefined }): Promise<{ address: string; got: number[] }> {
  const got: number[] = []
  const server = await listen(
    '127.0.0.1:0',
    'secret',
    { peer: (link) => link.onMessage(({ body }) => body?.$case === 'resultReceived' && got.push(body.value.task)) },
    options,
  )
  ends.push(() => server.close())
  return { address: server.addresses[0] as string, got }
}

function open(address: string, options: { tls?: Tls; token?: string }): Link<PeerMessage, PeerMessage> {
  const link = dial(PEER_SERVICE, address, options.token ?? 'secret', { tls: options.tls, connectMs: 500 })
  ends.push(() => link.abort(new Error('the test is over')))
  return link
}

const marked: PeerMessage = { body: { $case: 'introduce', value: { process: 'can be read', address: '', node: '' } } }
const message = (task: number): PeerMessage => ({ body: { $case: 'resultReceived', value: { task } } })

test('two processes with certificates of one cluster talk, and nothing of it can be read on the way', async () => {
  const { address, got } = await start({ tls })
  const between = await relay(address)
  ends.push(() => between.close())
  const link = open(between.address, { tls })
  link.send(marked)
  for (let i = 0; i < 1_000; i++) link.send(message(i))
  link.close()
  expect(await link.closed).toBeUndefined()
  expect(got).toEqual(Array.from({ length: 1_000 }, (_, i) => i))
  expect(between.seen('can be read')).toBe(false)
})

test('without TLS it can be read on the way, which the test above would notice', async () => {
  const { address } = await start({ tls: undefined })
  const between = await relay(address)
  ends.push(() => between.close())
  const link = open(between.address, {})
  link.send(marked)
  link.close()
  await link.closed
  expect(between.seen('can be read')).toBe(true)
})

test('a broken connection is resumed with TLS, too', async () => {
  const { address, got } = await start({ tls })
  const between = await relay(address)
  ends.push(() => between.close())
  const link = open(between.address, { tls })
  link.send(message(0))
  while (got.length < 1) await new Promise((resolve) => setTimeout(resolve, 5))
  between.cut()
  link.send(message(1))
  link.close()
  expect(await link.closed).toBeUndefined()
  expect(got).toEqual([0, 1])
})

test('a process without a certificate gets no connection', async () => {
  const { address, got } = await start({ tls })
  const link = open(address, { tls: { ...tls, channel: () => grpc.credentials.createSsl(readFileSync(tlsFilesIn(join(dir, 'ours')).ca)) } })
  link.send(message(0))
  expect(await link.closed).toMatchObject({ code: 'TLS_REFUSED' })
  expect(got).toEqual([])
})

test('a process that does not know that connections are encrypted is told so at once', async () => {
  const { address, got } = await start({ tls })
  const link = dial(PEER_SERVICE, address, 'secret')
  link.send(message(0))
  expect(await link.closed).toMatchObject({ code: 'TLS_REFUSED', details: { address, reason: expect.stringContaining('encrypted connections only') } })
  expect(got).toEqual([])
})

test('a process with a certificate of another cluster is refused, and refuses by itself', async () => {
  const { address, got } = await start({ tls })
  const link = open(address, { tls: stranger })
  link.send(message(0))
  expect(await link.closed).toMatchObject({ code: 'TLS_REFUSED' })
  expect(got).toEqual([])
})

test('a client that trusts this cluster but is not of it is refused by the server', async () => {
  const { address, got } = await start({ tls })
  const files = tlsFilesIn(join(dir, 'theirs'))
  const mixed = loadTls({ ...files, ca: tlsFilesIn(join(dir, 'ours')).ca })
  const link = open(address, { tls: mixed })
  link.send(message(0))
  expect((await link.closed)?.message).toContain('may refuse the certificate of this process')
  expect(got).toEqual([])
})

test('the token is checked with TLS, too', async () => {
  const { address } = await start({ tls })
  expect(await open(address, { tls, token: 'guess' }).closed).toMatchObject({ code: 'UNAUTHENTICATED' })
})

test('plain TLS sockets use the same certificates', async () => {
  const server = createTlsServer(tls.listen, (socket) => {
    socket.end(tls.checkPeer(socket.getPeerCertificate())?.message ?? 'welcome')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  ends.push(() => server.close())
  const { port } = server.address() as { port: number }
  const answer = (own: Tls): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket: TLSSocket = connectTls({ ...own.connect, host: '127.0.0.1', port })
      let text = ''
      socket.setEncoding('utf8')
      socket.on('data', (part) => (text += part))
      socket.on('end', () => resolve(text))
      socket.on('error', reject)
    })
  expect(await answer(tls)).toBe('welcome')
  await expect(answer(stranger)).rejects.toThrow()
})

test('folders that are made for it are of the user alone, whatever the umask is', async () => {
  const above = join(dir, 'sessions')
  const before = process.umask(0o002)
  try {
    await generateTls(join(above, 'tls'))
  } finally {
    process.umask(before)
  }
  expect(statSync(above).mode & 0o777).toBe(0o700)
})

test('a folder that holds something else stays as it is, and no key is left beside it', async () => {
  const other = join(dir, 'other')
  mkdirSync(other)
  writeFileSync(join(other, 'notes.txt'), '')
  await expect(generateTls(other)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(/new or empty.*ENOTEMPTY/) })
  expect(readdirSync(other)).toEqual(['notes.txt'])
  expect(readdirSync(dir).filter((name) => name.startsWith('other'))).toEqual(['other'])
})

test('only the user can read the files; a second start finds them', async () => {
  const files = await generateTls(join(dir, 'ours'))
  for (const path of [files.ca, files.cert, files.key]) expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(statSync(join(dir, 'ours')).mode & 0o777).toBe(0o700)
  expect(loadTls(files).connect.servername).toBe('cluster.beamline')
})

/** Files of a certificate with a name of its own, as an operator might bring. */
async function certificateFor(name: string): Promise<{ cert: string; key: string }> {
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair
  const extensions = [new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }])]
  const made = await x509.X509CertificateGenerator.createSelfSigned({ name: `CN=${name}`, signingAlgorithm: algorithm, keys, extensions })
  const [cert, key] = [join(dir, `${name}.cert.pem`), join(dir, `${name}.key.pem`)]
  writeFileSync(cert, made.toString('pem'))
  writeFileSync(key, x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY'))
  return { cert, key }
}

test('own certificates must carry the name of the cluster, and what is missing or no certificate is named', async () => {
  const files = tlsFilesIn(join(dir, 'ours'))
  const { cert, key } = await certificateFor('other.example')
  expect(() => loadTls({ ...files, cert, key })).toThrow(/not made out to cluster\.beamline/)
  expect(() => loadTls({ ...files, key: tlsFilesIn(join(dir, 'theirs')).key })).toThrow(/key/)
  const text = join(dir, 'text.pem')
  writeFileSync(text, 'no certificate')
  expect(() => loadTls({ ...files, cert: text })).toThrow(text)
  expect(() => tlsFilesIn(join(dir, 'nowhere'))).toThrow(/ca\.pem/)
})

test.each(['127.0.0.1:0', '127.1.2.3:7000', '[::1]:7000', 'localhost:7000'])('%s needs neither TLS nor a word', (address) => {
  checkListen(address, false, false)
})

test.each(['0.0.0.0:7000', '10.0.0.1:7000', '[::]:7000', 'head.example:7000', '127.0.0.1.example:7000'])('%s needs TLS or --insecure', (address) => {
  checkListen(address, true, false)
  checkListen(address, false, true)
  const refused = (() => {
    try {
      checkListen(address, false, false)
    } catch (error) {
      return error
    }
    return undefined
  })()
  expect(BeamlineError.is(refused, 'LISTEN_REFUSED')).toBe(true)
  expect((refused as Error).message).toMatch(/--tls .*--insecure/)
})
