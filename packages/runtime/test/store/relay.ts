/** A TCP relay in front of a server that can lose answers, cut connections, and swallow everything. */
import { connect, createServer, type Server, type Socket } from 'node:net'

export class Relay {
  readonly #server: Server
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  /** The next answer to a request with such words is not passed on; its connection is cut instead. */
  #lose: { readonly to: RegExp; readonly lost: () => void; asked: boolean } | undefined

  #silent = false
  #refusing = false

  static start(port: number): Promise<Relay> {
    const relay = new Relay(port)
    return new Promise((resolve) => relay.#server.listen(0, '127.0.0.1', () => resolve(relay)))
  }

  private constructor(port: number) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      if (this.#refusing) return client.destroy()
      const upstream = connect(port, '127.0.0.1')
      const pair = [client, upstream] as const
      this.#pairs.add(pair)
      const end = (): void => this.#cut(pair)
      client.on('data', (data) => {
        if (this.#silent) return
        if (this.#lose?.to.test(data.toString('latin1')) === true) this.#lose.asked = true
        upstream.write(data)
      })
      upstream.on('data', (data) => {
        const lose = this.#lose
        if (this.#silent) return
        if (lose?.asked !== true) return client.write(data)
        this.#lose = undefined
        end()
        lose.lost()
      })
      client.on('end', () => {
        if (!this.#silent) client.end()
      })
      for (const socket of pair) socket.on('error', end).on('close', end)
    })
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  /** Resolves when an answer was lost. */
  loseAnswerTo(to: RegExp): Promise<void> {
    return new Promise((resolve) => {
      this.#lose = { to, lost: resolve, asked: false }
    })
  }

  /** As if the cable were pulled: nothing arrives any more, not even the end of a connection. */
  swallowAll(): void {
    this.#silent = true
  }

  /** Cuts what there is and takes no more, until it may. */
  refuse(refusing: boolean): void {
    this.#refusing = refusing
    if (refusing) this.cutAll()
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
