/**
 * Yardstick: how fast two Node processes can exchange 64-byte frames over a unix socket, one at a time. No call through the runtime can be
 * faster than this as long as it crosses to another process and back through Node's sockets.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Bench } from '../../src/measure.ts'

const FRAME_BYTES = 64

export async function pingPong(): Promise<AsyncDisposable & { readonly bench: Bench }> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ping-pong-'))
  const address = path.join(folder, 'sock')
  const echo = fork(path.join(import.meta.dirname, 'echo.ts'), [address], { execArgv: [] })
  await once(echo, 'message')
  const socket = connect(address)
  await once(socket, 'connect')
  const frame = Buffer.alloc(FRAME_BYTES, 1)
  let pending = 0
  let answered: () => void = () => {}
  socket.on('data', (chunk: Buffer) => {
    pending -= chunk.byteLength
    if (pending === 0) answered()
  })
  return {
    bench: {
      name: 'yardstick_ping_pong',
      op: () =>
        new Promise<void>((resolve) => {
          answered = resolve
          pending = FRAME_BYTES
          socket.write(frame)
        }),
    },
    async [Symbol.asyncDispose]() {
      socket.destroy()
      echo.kill()
      await once(echo, 'exit')
      rmSync(folder, { recursive: true })
    },
  }
}
