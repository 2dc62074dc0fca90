/**
 * 256 MiB from the mapped memory of one process into that of another over loopback: the object plane beside a bare socket that reads into the same
 * memory, in turns, and with TLS. Sketch: the bare copy costs either side about 40 ms of CPU (7 GiB/s of memcpy in the kernel); the tags of the plane
 * read the bytes once more at 15 GiB/s, so it should reach 0.7 of the bare copy. All memory was written before. Processor time is that of this side.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { generateTls, loadTls, type Tls } from '../src/net/tls.ts'
import { createSegmentFile, removeStoreDirectory } from '../src/objects/segment-files.ts'
import { BulkClient } from '../src/transfer/bulk-client.ts'
import { BulkServer } from '../src/transfer/bulk-server.ts'
import { Chunks } from '../src/transfer/chunks.ts'
import { SegmentMaps } from '../src/transfer/segment-maps.ts'

const BYTES = 256 * 1_048_576
const ROUNDS = 15
const CHUNK = 5 * 1_048_576
const common = { token: 'token', cluster: 'cluster' }

async function memoryIn(directory: string, value: number): Promise<Uint8Array> {
  const path = `${directory}/segment`
  await createSegmentFile(path, BYTES)
  const memory = await new SegmentMaps().map({ segment: 'segment', path, segmentBytes: BYTES, offset: 0, bytes: BYTES })
  return memory.fill(value)
}

async function source(directory: string, tls: Tls): Promise<void> {
  const memory = await memoryIn(directory, 7)
  const opened = { kind: 'object', memory, chunks: undefined, sent: () => {}, close: () => {} } as const
  const options = { ...common, node: 'source', source: { open: () => Promise.resolve(opened) }, faults: undefined }
  const plain = await new BulkServer({ ...options, tls: undefined }).listen('127.0.0.1')
  const encrypted = await new BulkServer({ ...options, tls }).listen('127.0.0.1')
  const bare = createServer((socket) => {
    socket.setNoDelay(true)
    socket.on('data', () => {
      for (let at = 0; at < BYTES; at += CHUNK) socket.write(memory.subarray(at, Math.min(at + CHUNK, BYTES)))
    })
  })
  bare.listen(0, '127.0.0.1')
  await once(bare, 'listening')
  process.send!({ plain, encrypted, bare: (bare.address() as AddressInfo).port })
}

async function reader(directory: string, tls: Tls, child: ChildProcess): Promise<void> {
  const [addresses] = (await once(child, 'message')) as [{ plain: string; encrypted: string; bare: number }]
  const memory = await memoryIn(directory, 1)
  let filled = 0
  let whole = (): void => {}
  const rest = new Uint8Array(1)
  const socket = connect({
    host: '127.0.0.1',
    port: addresses.bare,
    onread: {
      buffer: () => (filled < BYTES ? memory.subarray(filled) : rest),
      callback: (length) => {
        filled += length
        if (filled === BYTES) whole()
        return true
      },
    },
  })
  const bare = (): Promise<void> =>
    new Promise((resolve) => {
      filled = 0
      whole = resolve
      socket.write('x')
    })
  const clients = { plain: new BulkClient({ ...common, node: 'reader', tls: undefined }), encrypted: new BulkClient({ ...common, node: 'reader', tls }) }
  const fetch = async (kind: 'plain' | 'encrypted'): Promise<void> => {
    const request = { owner: 'owner', object: 1, bytes: BYTES, segment: 'segment', offset: 0, feeds: 0 }
    const { signal } = new AbortController()
    const outcome = await clients[kind].fetch({ node: 'source', address: addresses[kind], request, memory, chunks: new Chunks(BYTES), signal })
    assert.equal(outcome.kind, 'whole')
  }
  const samples = new Map<string, { gibPerSecond: number; cpuMs: number }[]>()
  for (let round = -1; round < ROUNDS; round++) {
    for (const [name, copy] of [
      ['bare socket', bare],
      ['object plane', () => fetch('plain')],
      ['object plane, TLS', () => fetch('encrypted')],
    ] as const) {
      memory.fill(0, BYTES - CHUNK)
      const cpu = process.cpuUsage()
      const startMs = performance.now()
      await copy()
      const ms = performance.now() - startMs
      const { user, system } = process.cpuUsage(cpu)
      assert.equal(memory[BYTES - 1], 7)
      if (round < 0) samples.set(name, [])
      else samples.get(name)!.push({ gibPerSecond: (BYTES / 2 ** 30 / ms) * 1e3, cpuMs: (user + system) / 1e3 })
    }
  }
  const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!
  for (const [name, all] of samples) {
    const gibPerSecond = median(all.map((sample) => sample.gibPerSecond))
    console.log(`${name.padEnd(20)} ${gibPerSecond.toFixed(2)} GiB/s  ${median(all.map(({ cpuMs }) => cpuMs)).toFixed(0)} ms of CPU for 256 MiB`)
  }
  socket.destroy()
  await Promise.all(Object.values(clients).map((client) => client.close()))
}

if (process.send) {
  const [directory = '', tlsDirectory = ''] = process.argv.slice(2)
  process.on('disconnect', () => process.exit())
  await source(directory, loadTls(await generateTls(tlsDirectory)))
} else {
  const parent = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
  const directories = [mkdtempSync(`${parent}/beamline-bench-`), mkdtempSync(`${parent}/beamline-bench-`), mkdtempSync(`${tmpdir()}/beamline-bench-`)] as const
  try {
    const tls = loadTls(await generateTls(directories[2]))
    const child = fork(import.meta.filename, [directories[1], directories[2]])
    await reader(directories[0], tls, child)
    child.disconnect()
    await once(child, 'exit')
  } finally {
    for (const directory of directories) removeStoreDirectory(directory)
  }
}
