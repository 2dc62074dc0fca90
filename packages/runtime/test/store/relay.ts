/** A TCP relay in front of a server that can lose answers and cut connections. */
import { connect, createServer, type Server, type Socket } from 'node:net'

export class Relay {
  readonly #server: Server
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  /** The next data of the server is not passed on; its connection is cut instead. Resolved then. */
  #lose: (() => void) | undefined

  static start(port: number): Promise<Relay> {
    const relay = new Relay(port)
    return new Promise((resolve) => relay.#server.listen(0, '127.0.0.1', () => resolve(relay)))
  }

  private constructor(port: number) {
    this.#server = createServer((client) => {
      const upstream = connect(port, '127.0.0.1')
      const pair = [client, upstream] as const
      this.#pairs.add(pair)
      const end = (): void => this.#cut(pair)
      client.on('data', (data) => upstream.write(data))
      upstream.on('data', (data) => {
        const lost = this.#lose
        this.#lose = undefined
        if (lost === undefined) return client.write(data)
        end()
        lost()
      })
      for (const socket of pair) socket.on('error', end).on('close', end)
    })
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  loseNextAnswer(): Promise<void> {
    return new Promise((resolve) => {
      this.#lose = resolve
    })
  }

  cutAll(): void {
    for (const pair of this.#pairs) this.#cut(pair)
  }

  async close(): Promise<void> {
    this.cutAll()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #cut(pair: readonly [Socket, Socket]): void {
    this.#pairs.delete(pair)
    for (const socket of pair) socket.destroy()
  }
}
