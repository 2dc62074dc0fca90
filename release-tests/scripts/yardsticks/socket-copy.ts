/**
 * Yardstick: bytes from the mapped memory of one process into that of another over a TCP connection, written and read by the kernel without a copy in
 * between, not checked and not framed. Nothing in Node moves bytes between machines faster. Both memories were written before. With TLS it is what node:tls
 * does on one connection, with the cipher that nodes of a cluster agree on; a shared key spares it the certificates.
 *
 * Started twice by {@link socketCopy}: one process sends, one receives.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { connect, createServer, type NetConnectOpts, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { connect as connectTls, createServer as createTlsServer, type TlsOptions } from 'node:tls'

const WRITE_BYTES = 5 * 1_048_576
const KEY = { identity: 'yardstick', psk: Buffer.alloc(32, 7) }
const CIPHER: TlsOptions = { ciphers: 'PSK-AES256-GCM-SHA384', maxVersion: 'TLSv1.2' }

export interface SocketCopy extends AsyncDisposable {
  /** Copies all bytes once. @returns seconds, from the request to the last byte */
  copy(): Promise<number>
}

export async function socketCopy(bytes: number, tls: boolean = false): Promise<SocketCopy> {
  const start = async (...args: string[]): Promise<[ChildProcess, unknown]> => {
    const child = fork(import.meta.filename, [tls ? 'tls' : 'plain', ...args, String(bytes)])
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

async function send(bytes: number, tls: boolean): Promise<void> {
  const memory = await mapped(bytes)
  const serve = (socket: Socket): void => {
    socket.setNoDelay(true)
    socket.on('data', () => {
      for (let at = 0; at < bytes; at += WRITE_BYTES) socket.write(memory.subarray(at, Math.min(at + WRITE_BYTES, bytes)))
    })
  }
  const server = tls ? createTlsServer({ ...CIPHER, pskCallback: () => KEY.psk }, serve) : createServer(serve)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.send!((server.address() as { port: number }).port)
}

async function receive(port: number, bytes: number, tls: boolean): Promise<void> {
  const memory = await mapped(bytes)
  const rest = new Uint8Array(1)
  let filled = 0
  let startMs = 0
  const options: NetConnectOpts = {
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
  }
  const socket = tls ? connectTls({ ...CIPHER, ...options, pskCallback: () => KEY, checkServerIdentity: () => undefined }) : connect(options)
  await once(socket, tls ? 'secureConnect' : 'connect')
  process.on('message', () => {
    filled = 0
    startMs = performance.now()
    socket.write('x')
  })
  process.send!('ready')
}

if (process.argv[1] === import.meta.filename) {
  process.on('disconnect', () => process.exit())
  const [kind, role, ...numbers] = process.argv.slice(2)
  if (role === 'send') await send(Number(numbers[0]), kind === 'tls')
  else await receive(Number(numbers[0]), Number(numbers[1]), kind === 'tls')
}
