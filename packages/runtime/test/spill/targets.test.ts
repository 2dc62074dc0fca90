/** One contract for all places that spill files go to, then what each of them does besides. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DirectoryTarget, type DirectoryTargetOptions } from '../../src/spill/directory-target.ts'
import { S3Target } from '../../src/spill/s3-target.ts'
import type { MemoryPart } from '../../src/spill/target.ts'
import { bytesOf, memoryIn, MiB, type Opened, spillContract } from './contract.ts'
import { startS3 } from './s3-stand-in.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'spill-targets-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

const memory = (name: string, bytes: number): string => memoryIn(folder, name, bytes)

function directories(options: Partial<DirectoryTargetOptions> = {}): DirectoryTarget {
  const own = join(folder, 'disk')
  mkdirSync(own, { recursive: true })
  return new DirectoryTarget({ directories: [own], quotaBytes: undefined, name: 'node', holder: { pid: 1, started: '' }, isAlive: () => true, ...options })
}

const TARGETS: Readonly<Record<string, () => Promise<Opened>>> = {
  'a folder': async () => ({
    target: directories(),
    files: async () => readdirSync(join(folder, 'disk')).flatMap((name) => readdirSync(join(folder, 'disk', name)).filter((file) => file !== 'holder.json')),
    [Symbol.asyncDispose]: async () => {},
  }),
  'a bucket': async () => {
    const s3 = await startS3()
    const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' }
    return {
      target: new S3Target({ bucket: 'bucket', prefix: 'spilled', endpoint: s3.endpoint, credentials }, 'node'),
      files: async () => [...s3.objects.keys()].map((key) => key.replace('/bucket/spilled/node/', '')),
      [Symbol.asyncDispose]: () => s3[Symbol.asyncDispose](),
    }
  },
}

describe.each(Object.entries(TARGETS))('%s', (_, open) => {
  spillContract(() => folder, open)
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

  test('of a daemon that has just made its own and not said whose it is are kept; old ones like that go', () => {
    const disk = join(folder, 'disk')
    for (const name of ['starting', 'old']) mkdirSync(join(disk, `beamline-spill-${name}`), { recursive: true })
    utimesSync(join(disk, 'beamline-spill-old'), 0, 0)
    directories()
    expect(readdirSync(disk).sort()).toEqual(['beamline-spill-node', 'beamline-spill-starting'])
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
