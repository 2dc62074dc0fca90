/**
 * Stands in for an S3 server: keeps what is put in memory, serves ranges, and refuses requests that are not signed. It checks that there is a
 * signature, not that it is right, and knows nothing of conditions, batches or the newer checksums, as many servers do not.
 */
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'

export interface S3StandIn extends AsyncDisposable {
  readonly endpoint: string
  readonly objects: Map<string, Buffer>
  /** The next requests with this method fail so often. */
  fail(method: string, times: number): void
}

export async function startS3(): Promise<S3StandIn> {
  const objects = new Map<string, Buffer>()
  const failures = new Map<string, number>()
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const { method = '', headers } = request
      const key = decodeURIComponent(new URL(request.url ?? '', 'http://s3').pathname)
      const answer = (status: number, body: Uint8Array | string = '', more: Record<string, string> = {}): void => {
        response.writeHead(status, { 'content-length': String(Buffer.byteLength(body)), ...more }).end(body)
      }
      const left = failures.get(method) ?? 0
      if (left > 0) {
        failures.set(method, left - 1)
        return answer(503)
      }
      if (!/^AWS4-HMAC-SHA256 Credential=key\/.*Signature=[0-9a-f]{64}$/.test(headers.authorization ?? '')) return answer(403)
      if (Object.keys(headers).some((name) => name.startsWith('x-amz-checksum') || name === 'x-amz-trailer')) return answer(501)
      const object = objects.get(key)
      if (method === 'PUT') {
        objects.set(key, Buffer.concat(chunks))
        return answer(200, '', { etag: '"1"' })
      }
      if (method === 'DELETE') {
        objects.delete(key)
        return answer(204)
      }
      if (!object) return answer(404, '<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>', { 'content-type': 'application/xml' })
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? []
      const part = object.subarray(Number(from), Number(to) + 1)
      return answer(206, part, { 'content-range': `bytes ${from}-${to}/${object.length}` })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    objects,
    fail: (method, times) => void failures.set(method, times),
    [Symbol.asyncDispose]: async () => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}
