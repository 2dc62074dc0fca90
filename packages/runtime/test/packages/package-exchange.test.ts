/** Packed code on its way from a process over its daemon to the head and to another node. */
import { createHash, randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import type { MeshMessage } from '../../src/net/gen/mesh.ts'
import { LIMITS } from '../../src/limits.ts'
import { blobsInMemory, PackageBlobs } from '../../src/packages/package-blobs.ts'
import { PackageExchange } from '../../src/packages/package-exchange.ts'
import { folder } from './folder.ts'

type Body = NonNullable<MeshMessage['body']>

/** A head and a node; `carry` sees every message between them and says how often it arrives. */
function pair(
  carry: (to: string, body: Body) => number = () => 1,
  place: string = '',
): { head: PackageExchange; node: PackageExchange; blobs: PackageBlobs; newHead: () => void } {
  const blobs = new PackageBlobs({ store: blobsInMemory(), place })
  const deliver = (to: string, from: string, body: Body): void => {
    const times = carry(to, body)
    for (let i = 0; i < times; i++) queueMicrotask(() => (to === 'head' ? head : node).message(from, body))
  }
  const lead = (): PackageExchange => new PackageExchange({ blobs, toHead: () => undefined, toNode: (to, body) => deliver(to, 'head', body) })
  let head = lead()
  const node = new PackageExchange({ blobs: undefined, toHead: (body) => deliver('head', 'node', body), toNode: () => undefined })
  const newHead = (): void => {
    head = lead()
  }
  return { head, node, blobs, newHead }
}

const bytes = randomBytes(2.5 * LIMITS.packageChunkBytes)
const digest = createHash('sha256').update(bytes).digest('hex')

async function upload(to: PackageExchange, driver: string = 'driver'): Promise<unknown> {
  let answer: unknown
  for (let offset = 0; offset < bytes.length; offset += LIMITS.packageChunkBytes) {
    const chunk = bytes.subarray(offset, offset + LIMITS.packageChunkBytes)
    answer = await to.put(driver, { request: 1, digest, chunk, offset, bytes: bytes.length })
  }
  return answer
}

test('a program at one node gives its code, and the other node gets it, through the head', async () => {
  const { head, node, blobs } = pair()
  expect(await upload(node)).toEqual({ failure: undefined })
  expect(Buffer.from((await blobs.get(digest)) as Uint8Array).equals(bytes)).toBe(true)
  expect(Buffer.from(await node.fetch(digest)).equals(bytes)).toBe(true)
  expect(Buffer.from(await head.fetch(digest)).equals(bytes)).toBe(true)
})

test('with a place for packages the head tells the node where the code is, and the node reads it there in one go', async () => {
  const path = folder()
  const bodies: Body[] = []
  const carry = (_to: string, body: Body): number => {
    bodies.push(body)
    return 1
  }
  const { head, node } = pair(carry, pathToFileURL(path).href)
  expect(await upload(head)).toEqual({ failure: undefined })
  expect(Buffer.from(await node.fetch(digest)).equals(bytes)).toBe(true)
  expect(bodies.map(({ $case }) => $case)).toEqual(['packageWanted', 'packageChunk'])
  rmSync(join(path, `${digest}.tgz`))
  await expect(node.fetch(digest)).rejects.toThrow(/ENOENT/)
})

test('every message may arrive twice', async () => {
  const { node } = pair(() => 2)
  expect(await upload(node)).toEqual({ failure: undefined })
  expect(Buffer.from(await node.fetch(digest)).equals(bytes)).toBe(true)
})

test('a question that got lost, because the head changed, is asked again', async () => {
  let lost = 0
  const { node, head } = pair((_to, body) => (body.$case === 'packageWanted' && lost++ === 1 ? 0 : 1))
  expect(await upload(head)).toEqual({ failure: undefined })
  expect(Buffer.from(await node.fetch(digest)).equals(bytes)).toBe(true)
  expect(lost).toBe(4)
})

test('code that was half sent when the head changed is sent to the new one from its beginning', async () => {
  let parts = 0
  const { node, blobs, newHead } = pair((_to, body) => {
    if (body.$case === 'packagePart' && ++parts === 2) newHead()
    return 1
  })
  expect(await upload(node)).toEqual({ failure: undefined })
  expect(Buffer.from((await blobs.get(digest)) as Uint8Array).equals(bytes)).toBe(true)
  expect(parts).toBe(5)
})

test('programs of one node that give the same code at the same time send it to the head once', async () => {
  let parts = 0
  const { node } = pair((_to, body) => {
    if (body.$case === 'packagePart') parts++
    return 1
  })
  const stored = { failure: undefined }
  expect(await Promise.all(['first', 'second', 'third'].map((driver) => upload(node, driver)))).toEqual([stored, stored, stored])
  expect(parts).toBe(3)
})

test('code for which the head had no room any more is kept again when another program of that node gives it', async () => {
  const { node, blobs } = pair()
  expect(await upload(node, 'first')).toEqual({ failure: undefined })
  await blobs.clear()
  expect(await upload(node, 'second')).toEqual({ failure: undefined })
  expect(Buffer.from(await node.fetch(digest)).equals(bytes)).toBe(true)
})

test('code that nobody gave is missing with its name, and damaged code is not stored', async () => {
  const { node } = pair()
  await expect(node.fetch('ab'.repeat(32))).rejects.toThrow(`the head has no packed code ${'ab'.repeat(32)}`)
  const put = async (offset: number, of: number): Promise<string | undefined> =>
    (await node.put('driver', { request: 1, digest, chunk: Buffer.from('x'), offset, bytes: of }))?.failure?.detailsJson
  expect(await put(5, 9)).toContain('missing before byte 5')
  expect(await put(0, 1)).toContain('damaged')
})

test('beyond its quota the head lets go of what was stored longest ago, and of all of it when the cluster ends', async () => {
  const store = { ...blobsInMemory(), quotaBytes: 2_500 }
  const blobs = new PackageBlobs({ store, partBytes: 300 })
  for (const name of ['a', 'b', 'c']) {
    await blobs.put(name, Buffer.alloc(1_000, name))
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
  expect(await blobs.get('a')).toBeUndefined()
  expect(Buffer.from((await blobs.get('c')) as Uint8Array).toString()).toBe('c'.repeat(1_000))
  expect((await store.scan('package')).map(({ key }) => key.split('/')[1])).not.toContain('a')
  await blobs.clear()
  expect(await store.scan('')).toEqual([])
})
