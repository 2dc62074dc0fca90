/** Worker output on its way to files and drivers, without processes. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type LogBatch, Logs } from '../../src/daemon/logs.ts'

let dir = ''
let got: string[] = []
let logs: Logs

beforeEach(() => {
  vi.useFakeTimers()
  dir = mkdtempSync(join(tmpdir(), 'beamline-logs-'))
  got = []
  logs = new Logs(dir, (batch: LogBatch) => got.push(...batch.lines.map((line) => `${batch.worker} ${batch.stream}: ${line}`)))
})

afterEach(() => {
  logs.flush(true)
  vi.useRealTimers()
  rmSync(dir, { recursive: true })
})

const bytes = (text: string): Buffer => Buffer.from(text)
const taken = (): string[] => got.splice(0)

test('lines arrive whole, in order, a moment later; characters may be cut anywhere', () => {
  const log = logs.open('w1', 'out')
  const text = bytes('grüße\r\n\nund tschüß\nrest')
  for (let i = 0; i < text.length; i++) log.write(text.subarray(i, i + 1))
  expect(taken()).toEqual([])
  vi.advanceTimersByTime(25)
  expect(taken()).toEqual(['w1 out: grüße', 'w1 out: ', 'w1 out: und tschüß'])
  log.close()
  logs.forget('w1')
  expect(taken()).toEqual(['w1 out: rest'])
  expect(readFileSync(join(dir, 'worker-w1.out')).equals(text)).toBe(true)
  expect(statSync(join(dir, 'worker-w1.out')).mode & 0o777).toBe(0o600)
})

test('what a worker repeats at once is counted, also over a long time', () => {
  const log = logs.open('w1', 'out')
  log.write(bytes('a\na\na\nb\na\n'))
  vi.advanceTimersByTime(25)
  expect(taken()).toEqual(['w1 out: a', 'w1 out: a [repeated 2×]', 'w1 out: b', 'w1 out: a'])
  log.write(bytes('a\n'))
  vi.advanceTimersByTime(1_100)
  // Once more is no repetition to speak of.
  expect(taken()).toEqual(['w1 out: a'])
})

test('what many workers print at a time is sent once and counted', () => {
  for (const worker of ['w1', 'w2', 'w3']) logs.open(worker, 'err').write(bytes(`warning\nI am ${worker}\n`))
  vi.advanceTimersByTime(25)
  expect(taken()).toEqual(['w1 err: warning', 'w1 err: I am w1', 'w2 err: I am w2', 'w3 err: I am w3'])
  vi.advanceTimersByTime(1_100)
  expect(taken()).toEqual(['w1 err: warning [repeated 2×]'])
  logs.open('w2', 'err').write(bytes('warning\n'))
  vi.advanceTimersByTime(25)
  expect(taken()).toEqual(['w2 err: warning'])
})

test('a flood is cut for the driver with a note, not in the file', () => {
  const log = logs.open('w1', 'out')
  log.write(bytes(Array.from({ length: 7_000 }, (_, i) => `${i}\n`).join('')))
  vi.advanceTimersByTime(1_200)
  const lines = taken()
  expect(lines).toHaveLength(5_001)
  expect(lines.at(-1)).toBe(`w1 err: [2000 more lines in one second are only in ${dir}/worker-w1.*]`)
  log.write(bytes('calm\n'))
  vi.advanceTimersByTime(25)
  expect(taken()).toEqual(['w1 out: calm'])
})

test('a line without end is cut into pieces', () => {
  const log = logs.open('w1', 'out')
  const text = Array.from({ length: 40_000 }, (_, i) => String(i)).join(' ')
  for (let at = 0; at < text.length; at += 10_000) log.write(bytes(text.slice(at, at + 10_000)))
  log.close()
  vi.advanceTimersByTime(25)
  const lines = taken().map((line) => line.slice('w1 out: '.length))
  expect(lines.map((line) => line.length)).toEqual([65_536, 65_536, 65_536, text.length - 3 * 65_536])
  expect(lines.join('')).toBe(text)
})

test('files are rotated and the oldest is dropped', () => {
  const log = new Logs(dir, () => {}, 1_000).open('w1', 'out')
  const chunk = Buffer.alloc(500, 'x')
  for (let i = 0; i < 13; i++) {
    chunk[0] = 65 + i
    log.write(chunk)
  }
  log.close()
  expect(readdirSync(dir).sort()).toEqual(['worker-w1.out', 'worker-w1.out.1', 'worker-w1.out.2', 'worker-w1.out.3', 'worker-w1.out.4'])
  const first = (name: string): string => readFileSync(join(dir, name)).subarray(0, 1).toString()
  expect(['worker-w1.out', 'worker-w1.out.1', 'worker-w1.out.4'].map(first)).toEqual(['M', 'K', 'E'])
})

test('the tail keeps what tells why a process died, and no native frames', () => {
  const log = logs.open('w1', 'err')
  log.write(bytes('<--- Last few GCs --->\n\n[32497:0x2d983000]     2488 ms: Mark-Compact 63.1 (71.1) -> 63.0 (70.3) MB\n'))
  log.write(bytes('FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n----- Native stack trace -----\n\n'))
  for (let i = 1; i < 40; i++) log.write(bytes(` ${i}: 0x${i.toString(16)}f node::Abort() [node]\n`))
  expect(log.tail()).toBe('FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory')
})
