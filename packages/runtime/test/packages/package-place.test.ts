/** Packed code outside of the control store: in a folder that all machines see, and in a bucket (a stand-in for S3). */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { blobsInMemory, type BlobStore, PackageBlobs } from '../../src/packages/package-blobs.ts'
import { openPlace, placeProblem, placeWithin } from '../../src/packages/package-place.ts'
import { type S3StandIn, startS3 } from '../spill/s3-stand-in.ts'
import { folder } from './folder.ts'

const bytes = randomBytes(2_500_000)
const digest = createHash('sha256').update(bytes).digest('hex')

let s3: S3StandIn
beforeEach(async () => {
  s3 = await startS3()
  vi.stubEnv('AWS_ACCESS_KEY_ID', 'key')
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'secret')
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await s3[Symbol.asyncDispose]()
})

interface Place {
  readonly url: string
  files(): string[]
  lose(): void
}

const PLACES: Readonly<Record<string, () => Place>> = {
  'a folder': () => {
    const path = folder({ 'other/kept.tgz': 'of another cluster' })
    const own = join(path, 'c1')
    return { url: placeWithin(pathToFileURL(path).href, 'c1'), files: () => readdirSync(own), lose: () => rmSync(own, { recursive: true }) }
  },
  'a bucket': () => ({
    url: placeWithin(`s3://bucket/our/code/?endpoint=${encodeURIComponent(s3.endpoint)}`, 'c1'),
    files: () => [...s3.objects.keys()].map((key) => key.replace('/bucket/our/code/c1/', '')),
    lose: () => s3.objects.clear(),
  }),
}

describe.each(Object.entries(PLACES))('in %s', (_, open) => {
  const blobsAt = (place: string, store: BlobStore = blobsInMemory()): PackageBlobs => new PackageBlobs({ store, place })

  test('packed code is one file; the store has only its name, and comes back byte for byte', async () => {
    const { url, files } = open()
    const store = blobsInMemory()
    const blobs = blobsAt(url, store)
    await blobs.put(digest, bytes)
    expect(files()).toEqual([`${digest}.tgz`])
    expect((await store.scan('')).map(({ key }) => key)).toEqual([`packages/${digest}`])
    expect(await blobs.part(digest, 0)).toEqual({ chunk: new Uint8Array(), bytes: bytes.length, place: url })
    expect(bytes.equals((await blobs.get(digest)) as Uint8Array)).toBe(true)
    await blobs.clear()
    expect(files()).toEqual([])
    expect(await store.scan('')).toEqual([])
  })

  test('what somebody removed there is stored again with the next program', async () => {
    const { url, files, lose } = open()
    const blobs = blobsAt(url)
    await blobs.put(digest, bytes)
    lose()
    expect(await blobs.has(digest)).toBe(false)
    await blobs.put(digest, bytes)
    expect(files()).toEqual([`${digest}.tgz`])
  })

  test('a head that has another place, or none, finds what the one before stored, and stores anew what programs give', async () => {
    const { url } = open()
    const store = blobsInMemory()
    await blobsAt(url, store).put(digest, bytes)
    const next = blobsAt('', store)
    expect(bytes.equals((await next.get(digest)) as Uint8Array)).toBe(true)
    await next.put(digest, bytes)
    expect((await next.part(digest, 0))?.place).toBe('')
    expect(bytes.equals((await next.get(digest)) as Uint8Array)).toBe(true)
  })
})

test('a bucket that does not answer keeps no code, and says so to the program', async () => {
  const { url } = PLACES['a bucket']!()
  s3.fail('PUT', 9)
  const store = blobsInMemory()
  await expect(new PackageBlobs({ store, place: url }).put(digest, bytes)).rejects.toThrow()
  expect(await store.scan('')).toEqual([])
})

test('a file in a folder that cannot be made whole leaves nothing', async () => {
  const path = folder()
  const place = openPlace(pathToFileURL(path).href)
  mkdirSync(join(path, 'taken'))
  await expect(place.write('taken', bytes)).rejects.toThrow(/EISDIR|ENOTEMPTY/)
  expect(readdirSync(path)).toEqual(['taken'])
  await place.write('free', bytes)
  expect(readFileSync(join(path, 'free')).equals(bytes)).toBe(true)
})

test('two programs may put the same file into a folder at once', async () => {
  const path = folder()
  const place = openPlace(pathToFileURL(path).href)
  await Promise.all([1, 2, 3, 4].map(() => place.write('same', bytes)))
  expect(readdirSync(path)).toEqual(['same'])
  expect(readFileSync(join(path, 'same')).equals(bytes)).toBe(true)
})

test('URLs of places say what is wrong with them', () => {
  const here = folder()
  writeFileSync(join(here, 'file'), '')
  for (const good of [`file://${here}`, 's3://bucket', 's3://bucket/a/b', 's3://bucket/a?endpoint=http://127.0.0.1:9000'])
    expect(placeProblem(good)).toBeUndefined()
  for (const [bad, why] of [
    ['packages', 'it is neither of S3 nor of a folder'],
    ['https://bucket/a', 'it is neither of S3 nor of a folder'],
    ['s3:///a', '"" is no name of a bucket'],
    ['s3://Bucket/a', '"Bucket" is no name of a bucket'],
    ['s3://key:secret@bucket/a', 'keys do not belong there'],
    ['s3://bucket/a?endpiont=http://x', '"endpiont" means nothing there'],
    ['s3://bucket/a?endpoint=minio:9000', 'the endpoint "minio:9000" is no URL of http or https'],
    ['s3://bucket/100%', '"/100%" has a "%" that should be "%25"'],
    ['file://shared/packages', '"shared" is another machine; a folder has three slashes'],
    [`file://${here}/file`, 'file is no folder'],
    [`file://${here}/nowhere`, 'ENOENT'],
  ] as const)
    expect(placeProblem(bad), bad).toContain(why)
})
