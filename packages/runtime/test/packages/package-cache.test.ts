/** Packed code on a node: one fetch, whole folders only, and a quota. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type CodePackage, packCode } from '../../src/packages/pack.ts'
import { PackageCache } from '../../src/packages/package-cache.ts'
import { folder } from './folder.ts'

const code = (text: string, bytes: number = 0): CodePackage => packCode({ root: folder({ 'main.ts': text, 'data.bin': Buffer.alloc(bytes) }), isLoose: false })

function cacheOf(packages: readonly CodePackage[], quotaBytes?: number): { cache: PackageCache; dir: string; fetched: string[] } {
  const dir = join(folder(), 'packages')
  const fetched: string[] = []
  const cache = new PackageCache({
    dirs: [dir],
    ...(quotaBytes !== undefined && { quotaBytes }),
    fetch: async (digest) => {
      fetched.push(digest)
      return (packages.find((each) => each.digest === digest) as CodePackage).bytes
    },
  })
  return { cache, dir, fetched }
}

test('all who need a package at the same time wait for one fetch', async () => {
  const a = code('a')
  const { cache, dir, fetched } = cacheOf([a])
  const folders = await Promise.all([1, 2, 3].map((job) => cache.folder(a.digest, `job ${job}`)))
  expect(new Set(folders)).toEqual(new Set([join(dir, a.digest)]))
  await cache.folder(a.digest, 'job 4')
  expect(fetched).toEqual([a.digest])
})

test('a package that arrives damaged is refused and leaves nothing; asking again fetches again', async () => {
  const a = code('a')
  const broken: CodePackage = { digest: a.digest, bytes: Buffer.concat([a.bytes, Buffer.from('x')]) }
  const packages = [broken]
  const { cache, dir, fetched } = cacheOf(packages)
  await expect(cache.folder(a.digest, 'job')).rejects.toThrow(/arrived as/)
  expect(existsSync(dir)).toBe(false)
  packages[0] = a
  await cache.folder(a.digest, 'job')
  expect(fetched).toHaveLength(2)
  expect(readdirSync(dir)).toEqual([a.digest])
})

test('an archive that is none leaves no half of it', async () => {
  const { createHash } = await import('node:crypto')
  const bytes = Buffer.from('no archive')
  const digest = createHash('sha256').update(bytes).digest('hex')
  const { cache, dir } = cacheOf([{ digest, bytes }])
  await expect(cache.folder(digest, 'job')).rejects.toThrow()
  expect(readdirSync(dir)).toEqual([])
  await expect(cache.folder('../../etc', 'job')).rejects.toThrow(/no name of packed code/)
})

test('code that cannot be unpacked in one folder goes to the next; what was in the way in each is said', async () => {
  const a = code('a')
  const blocked = join(folder({ packages: 'a file' }), 'packages')
  const free = join(folder(), 'packages')
  const cache = new PackageCache({ dirs: [blocked, free], fetch: async () => a.bytes })
  expect(await cache.folder(a.digest, 'job')).toBe(join(free, a.digest))
  const none = new PackageCache({ dirs: [blocked, join(blocked, 'below')], fetch: async () => a.bytes })
  await expect(none.folder(a.digest, 'job')).rejects.toThrow(new RegExp(`${blocked}: EEXIST.*nor in ${blocked}/below: ENOTDIR`))
})

test('beyond the quota the package that was used longest ago goes, but none that a job uses', async () => {
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((text) => code(text, 100_000)) as [CodePackage, CodePackage, CodePackage, CodePackage]
  const { cache, dir, fetched } = cacheOf([a, b, c, d], 250_000)
  await cache.folder(a.digest, 'job a')
  await cache.folder(b.digest, 'job b')
  cache.jobEnded('job b')
  await cache.folder(c.digest, 'job c')
  expect(readdirSync(dir).sort()).toEqual([a.digest, c.digest].sort())
  await cache.folder(d.digest, 'job d')
  expect(readdirSync(dir).sort()).toEqual([a.digest, c.digest, d.digest].sort())
  for (const job of ['job a', 'job c', 'job d']) cache.jobEnded(job)
  writeFileSync(join(dir, d.digest, 'touched'), '')
  await cache.folder(b.digest, 'job b again')
  expect(readdirSync(dir).sort()).toEqual([b.digest, d.digest].sort())
  expect(fetched).toHaveLength(5)
})

test('a job that comes for a package while another one is removed finds it', async () => {
  const files = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`${i}.ts`, 'x'.repeat(1_000)]))
  const a = packCode({ root: folder({ ...files, 'data.bin': Buffer.alloc(100_000) }), isLoose: false })
  const [b, c] = ['b', 'c'].map((text) => code(text, 100_000)) as [CodePackage, CodePackage]
  const { cache, dir } = cacheOf([a, b, c], 150_000)
  for (const { digest } of [a, b]) await cache.folder(digest, 'job')
  cache.jobEnded('job')
  const made = cache.folder(c.digest, 'job c')
  while (existsSync(join(dir, a.digest))) await new Promise((resolve) => setImmediate(resolve))
  const used = await cache.folder(b.digest, 'job b')
  await made
  expect(existsSync(join(used, 'main.ts'))).toBe(true)
})
