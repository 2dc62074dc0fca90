/** One contract for all places that spill files go to, then what each of them does besides. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DirectoryTarget, type DirectoryTargetOptions } from '../../src/spill/directory-target.ts'
import { S3Target } from '../../src/spill/s3-target.ts'
import type { MemoryPart, SpillTarget } from '../../src/spill/target.ts'
import { startS3 } from './s3-stand-in.ts'

const MiB = 1_048_576

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'spill-targets-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** A file in the place of a segment, whose bytes tell where they are. */
function memory(name: string, bytes: number): string {
  const path = join(folder, name)
  const data = Buffer.alloc(bytes)
  for (let at = 0; at + 4 <= bytes; at += 4) data.writeUInt32LE((at * 2_654_435_761 + name.length) % 2 ** 32, at)
  writeFileSync(path, data)
  return path
}

const bytesOf = ({ path, offset, bytes }: MemoryPart): Buffer => readFileSync(path).subarray(offset, offset + bytes)

function directories(options: Partial<DirectoryTargetOptions> = {}): DirectoryTarget {
  const own = join(folder, 'disk')
  mkdirSync(own, { recursive: true })
  return new DirectoryTarget({ directories: [own], quotaBytes: undefined, name: 'node', holder: { pid: 1, started: '' }, isAlive: () => true, ...options })
}

interface Opened extends AsyncDisposable {
  readonly target: SpillTarget
  /** Names of the files that are there. */
  files(): string[]
}

const TARGETS: Readonly<Record<string, () => Promise<Opened>>> = {
  'a folder': async () => ({
    target: directories(),
    files: () => readdirSync(join(folder, 'disk')).flatMap((name) => readdirSync(join(folder, 'disk', name)).filter((file) => file !== 'holder.json')),
    [Symbol.asyncDispose]: async () => {},
  }),
  'a bucket': async () => {
    const s3 = await startS3()
    const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' }
    return {
      target: new S3Target({ bucket: 'bucket', prefix: 'spilled', endpoint: s3.endpoint, credentials }, 'node'),
      files: () => [...s3.objects.keys()].map((key) => key.replace('/bucket/spilled/node/', '')),
      [Symbol.asyncDispose]: () => s3[Symbol.asyncDispose](),
    }
  },
}

describe.each(Object.entries(TARGETS))('%s', (_, open) => {
  test('parts of several segments come back one by one, byte for byte', async () => {
    await using opened = await open()
    const { target } = opened
    const a = memory('a', 9 * MiB)
    const b = memory('bb', 1 * MiB)
    const parts = [
      { path: a, offset: 4096, bytes: 8 * MiB + 77 },
      { path: b, offset: 0, bytes: 5 },
      { path: a, offset: 0, bytes: 4096 },
      { path: b, offset: 8192, bytes: 300_000 },
    ]
    await target.write('1', parts)
    await target.write('2', parts.slice(1, 2))
    expect(opened.files().sort()).toEqual(['1', '2'])
    const back = memory('back', 10 * MiB)
    let from = 0
    for (const part of parts) {
      const into = { path: back, offset: 12_288, bytes: part.bytes }
      await target.read('1', from, into)
      expect(bytesOf(into).equals(bytesOf(part))).toBe(true)
      from += part.bytes
    }
    await target.remove('1')
    expect(opened.files()).toEqual(['2'])
    await expect(target.read('1', 0, { path: back, offset: 0, bytes: 5 })).rejects.toThrow()
    await target.close()
    expect(opened.files()).toEqual([])
  })

  test('a write that fails leaves no file', async () => {
    await using opened = await open()
    const part = { path: memory('short', 4096), offset: 0, bytes: 8192 }
    await expect(opened.target.write('1', [part])).rejects.toThrow()
    expect(opened.files()).toEqual([])
    await opened.target.close()
  })
})

describe('folders', () => {
  const parts = (bytes: number): MemoryPart[] => [{ path: memory('segment', bytes), offset: 0, bytes }]

  test('take turns, and one that has its quota is passed over', async () => {
    const disks = ['one', 'two'].map((name) => join(folder, name))
    for (const disk of disks) mkdirSync(disk)
    const target = directories({ directories: disks, quotaBytes: 2 * MiB })
    const filesOf = (disk: string): string[] => readdirSync(join(disk, 'beamline-spill-node')).filter((file) => file !== 'holder.json')
    for (const file of ['1', '2', '3', '4']) await target.write(file, parts(MiB))
    expect(disks.map(filesOf)).toEqual([
      ['1', '3'],
      ['2', '4'],
    ])
    await expect(target.write('5', parts(MiB))).rejects.toThrow(/one.* may hold 2\.0 MiB and has 2\.0 MiB already; .*two.* may hold/)
    await target.remove('2')
    await target.write('6', parts(MiB))
    expect(filesOf(disks[1]!)).toEqual(['4', '6'])
    await target.close()
  })

  test('lose what a dead daemon left there, and keep what a living one has', async () => {
    const disk = join(folder, 'disk')
    const living = directories({ name: 'living', holder: { pid: 10, started: '' } })
    directories({ name: 'dead', holder: { pid: 11, started: '' } })
    directories({ name: 'next', isAlive: ({ pid }) => pid !== 11 })
    expect(readdirSync(disk).sort()).toEqual(['beamline-spill-living', 'beamline-spill-next'])
    await living.close()
  })

  test('that do not exist are refused by name', () => {
    expect(() => directories({ directories: ['/proc/nowhere'] })).toThrow(/object store cannot use \/proc\/nowhere: ENOENT/)
  })

  test.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)('on a disk that is nearly full get nothing more', async () => {
    const disk = join(folder, 'small')
    mkdirSync(disk)
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', disk])
    expect(mounted.status, mounted.stderr.toString()).toBe(0)
    try {
      const target = directories({ directories: [disk], quotaBytes: 100 * MiB })
      await target.write('1', parts(10 * MiB))
      await expect(target.write('2', parts(5.5 * MiB))).rejects.toThrow(/would be 9\d\.\d % full, and 95 % is the limit/)
      await target.remove('1')
      await target.write('3', parts(5.5 * MiB))
      await target.close()
    } finally {
      spawnSync('umount', [disk])
    }
  })
})

test('a request to a bucket that fails is repeated a few times', async () => {
  await using s3 = await startS3()
  const target = new S3Target({ bucket: 'bucket', endpoint: s3.endpoint, credentials: { accessKeyId: 'key', secretAccessKey: 'secret' } }, 'node')
  const part = { path: memory('segment', MiB), offset: 0, bytes: MiB }
  s3.fail('PUT', 2)
  await target.write('1', [part])
  expect(s3.objects.get('/bucket/beamline-spill/node/1')?.equals(bytesOf(part))).toBe(true)
  s3.fail('GET', 2)
  const into = { path: memory('back', MiB), offset: 0, bytes: MiB }
  await target.read('1', 0, into)
  s3.fail('PUT', 9)
  await expect(target.write('2', [part])).rejects.toThrow()
  await target.close()
})
