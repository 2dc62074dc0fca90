/**
 * Yardstick: bytes from the mapped memory of one process into that of another over a TCP connection, written and read by the kernel without a copy in
 * between, not checked and not framed. Nothing in Node moves bytes between machines faster. Both memories were written before.
 *
 * Started twice by {@link socketCopy}: one process sends, one receives.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'

const WRITE_BYTES = 5 * 1_048_576

export interface SocketCopy extends AsyncDisposable {
  /** Copies all bytes once. @returns seconds, from the request to the last byte */
  copy(): Promise<number>
}

export async function socketCopy(bytes: number): Promise<SocketCopy> {
  const start = async (...args: string[]): Promise<[ChildProcess, unknown]> => {
    const child = fork(import.meta.filename, [...args, String(bytes)])
    return [child, (await once(child, 'message'))[0]]
  }
  const [sender, port] = await start('send')
  const [receiver] = await start('receive', String(port))
  return {
    copy: async () => {
      const answer = once(receiver, 'message')
      receiver.send('copy')
      return (await answer)[0] as number
    },
    [Symbol.asyncDispose]: async () => {
      for (const child of [receiver, sender]) {
        const exited = once(child, 'exit')
        child.disconnect()
        await exited
      }
    },
  }
}

async function mapped(bytes: number): Promise<Uint8Array> {
  const { default: koffi } = await import('koffi')
  const libc = koffi.load(process.platform === 'darwin' ? 'libSystem.B.dylib' : 'libc.so.6')
  const mmap = libc.func('void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)')
  const folder = mkdtempSync(path.join(process.platform === 'linux' ? '/dev/shm' : tmpdir(), 'release-socket-'))
  const fd = openSync(path.join(folder, 'block'), 'w+')
  try {
    ftruncateSync(fd, bytes)
    const memory = new Uint8Array(koffi.view(mmap(null, bytes, 3, 1, fd, 0) as never, bytes) as ArrayBuffer)
    memory.fill(1)
    return memory
  } finally {
    closeSync(fd)
    rmSync(folder, { recursive: true })
  }
}

async function send(bytes: number): Promise<void> {
  const memory = await mapped(bytes)
  const server = createServer((socket) => {
    socket.setNoDelay(true)
    socket.on('data', () => {
      for (let at = 0; at < bytes; at += WRITE_BYTES) socket.write(memory.subarray(at, Math.min(at + WRITE_BYTES, bytes)))
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.send!((server.address() as { port: number }).port)
}

async function receive(port: number, bytes: number): Promise<void> {
  const memory = await mapped(bytes)
  const rest = new Uint8Array(1)
  let filled = 0
  let startMs = 0
  const socket = connect({
    port,
    host: '127.0.0.1',
    onread: {
      buffer: () => (filled < bytes ? memory.subarray(filled) : rest),
      callback: (length) => {
        filled += length
        if (filled === bytes) process.send!((performance.now() - startMs) / 1000)
        return true
      },
    },
  })
  await once(socket, 'connect')
  process.on('message', () => {
    filled = 0
    startMs = performance.now()
    socket.write('x')
  })
  process.send!('ready')
}

if (process.argv[1] === import.meta.filename) {
  process.on('disconnect', () => process.exit())
  const [role, ...numbers] = process.argv.slice(2)
  if (role === 'send') await send(Number(numbers[0]))
  else await receive(Number(numbers[0]), Number(numbers[1]))
}
