import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { totalmem, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { MemoryMonitor } from '../../src/daemon/memory-monitor.ts'
import { MemoryReader } from '../../src/daemon/memory-usage.ts'
import type { NodeTables } from '../../src/state/node-tables.ts'

const roots: string[] = []
afterAll(() => {
  for (const root of roots) rmSync(root, { recursive: true })
})

/** Files as the kernel would show them, and a reader of them. */
function filesOf(files: Readonly<Record<string, string>>): { readonly root: string; readonly reader: MemoryReader } {
  const root = mkdtempSync(join(tmpdir(), 'beamline-proc-'))
  roots.push(root)
  for (const [path, text] of Object.entries({ 'proc/meminfo': 'MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:   400 kB\n', ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  return { root, reader: new MemoryReader(root) }
}
const readerOf = (files: Readonly<Record<string, string>>): MemoryReader => filesOf(files).reader

const GROUP = 'sys/fs/cgroup/jobs/mine'
const group = (folder: string, max: string, current: number, inactive: number = 0): Record<string, string> => ({
  [`${folder}/memory.max`]: `${max}\n`,
  [`${folder}/memory.current`]: `${current}\n`,
  [`${folder}/memory.stat`]: `anon 5\ninactive_file ${inactive}\nactive_file 7\n`,
})
const SELF = { 'proc/self/cgroup': '0::/jobs/mine\n' }

test('of the machine: what is not available is in use', () => {
  expect(readerOf({}).usage()).toEqual({ usedBytes: 600 * 1024, limitBytes: 1000 * 1024, of: 'of the machine' })
  expect(readerOf({ ...SELF, ...group(GROUP, 'max', 999_999) }).usage()).toMatchObject({ of: 'of the machine' })
})

test('of the control group when that is nearer to its limit, without the file cache that can go', () => {
  expect(readerOf({ ...SELF, ...group(GROUP, '1000', 900, 100) }).usage()).toEqual({ usedBytes: 800, limitBytes: 1000, of: 'of the control group /jobs/mine' })
  expect(readerOf({ ...SELF, ...group(GROUP, '1000', 900, 400) }).usage()).toMatchObject({ of: 'of the machine' })
  const outer = readerOf({ ...SELF, ...group(GROUP, '1000', 700), ...group('sys/fs/cgroup/jobs', '2000', 1_900) })
  expect(outer.usage()).toEqual({ usedBytes: 1_900, limitBytes: 2_000, of: 'of the control group /jobs' })
})

test('a worker that ended when the kernel ended a process for want of memory is known as such, once', () => {
  const { root, reader } = filesOf({ 'proc/vmstat': 'pgfault 7\noom_kill 3\n' })
  const monitor = new MemoryMonitor({ tables: { workers: new Map() } as unknown as NodeTables, limitBytes: undefined, handle: () => undefined, reader })
  const killed = { code: null, signal: 'SIGKILL' }
  expect(monitor.endedByKernel(killed)).toBeUndefined()
  writeFileSync(join(root, 'proc/vmstat'), 'pgfault 7\noom_kill 4\n')
  monitor.look()
  expect(monitor.endedByKernel({ code: 1, signal: null })).toBeUndefined()
  expect(monitor.endedByKernel(killed)).toMatchObject({ usedBytes: 600 * 1024, limitBytes: 1000 * 1024, of: 'of the machine' })
  expect(monitor.endedByKernel(killed)).toBeUndefined()
})

test('where nothing is told, nothing is known', () => {
  expect(readerOf({ 'proc/meminfo': 'nothing of use' }).usage()).toBeUndefined()
  expect(readerOf({}).sizes(1)).toBeUndefined()
})

test.runIf(process.platform === 'linux')('this very machine and process', () => {
  const reader = new MemoryReader()
  const before = reader.sizes(process.pid)!
  const bytes = 64 * 1024 * 1024
  const block = Buffer.alloc(bytes, 1)
  const after = reader.sizes(process.pid)!
  expect(after.ownBytes - before.ownBytes).toBeGreaterThan(0.9 * bytes)
  expect(after.residentBytes).toBeGreaterThan(after.ownBytes)
  expect(block[bytes - 1]).toBe(1)
  const { usedBytes, limitBytes } = reader.usage()!
  expect(usedBytes).toBeGreaterThan(bytes)
  expect(limitBytes).toBeLessThanOrEqual(totalmem())
  const biggest = reader.biggest(1_000)
  expect(biggest.find(({ pid }) => pid === process.pid)?.bytes).toBeGreaterThan(bytes)
  expect(biggest.map((one) => one.bytes)).toEqual(biggest.map((one) => one.bytes).toSorted((a, b) => b - a))
})
