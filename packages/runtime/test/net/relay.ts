/** A TCP relay between the two ends of a link, which tests can break. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Relay {
  readonly address: string
  /** Connections that came so far. */
  readonly connections: number
  /** Reset every connection. */
  cut(): void
  /** Swallow everything, as a network does that forwards nothing, and take no new connection: what was open then stays dead. */
  blackhole(): void
  heal(): void
  /** Whether a text went through, as it is. */
  seen(text: string): boolean
  close(): void
}

export async function relay(target: string): Promise<Relay> {
  const port = Number(target.split(':').at(-1))
  const pairs = new Set<[Socket, Socket]>()
  const swallowed = new Set<[Socket, Socket]>()
  let dark = false
  let connections = 0
  const carried: Buffer[] = []
  const server = createServer({ noDelay: true }, (inner) => {
    connections++
    if (dark) return void inner.destroy()
    const outer = connect({ host: '127.0.0.1', port, noDelay: true })
    const pair: [Socket, Socket] = [inner, outer]
    pairs.add(pair)
    for (const [from, to] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      from.on('data', (bytes: Buffer) => {
        carried.push(bytes)
        if (!swallowed.has(pair)) to.write(bytes)
      })
      from.on('error', () => undefined)
      from.on('close', () => {
        if (!swallowed.has(pair)) to.destroy()
        pairs.delete(pair)
      })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get connections() {
      return connections
    },
    cut: () => {
      for (const pair of pairs) for (const socket of pair) socket.resetAndDestroy()
    },
    blackhole: () => {
      dark = true
      for (const pair of pairs) swallowed.add(pair)
    },
    heal: () => {
      dark = false
    },
    seen: (text) => Buffer.concat(carried).includes(text),
    close: () => {
      server.close()
      for (const pair of pairs) for (const socket of pair) socket.destroy()
    },
  }
}
