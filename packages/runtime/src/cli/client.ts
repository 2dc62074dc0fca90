/**
 * The command line's connection to a cluster: a link that only asks.
 */
import { randomBytes } from 'node:crypto'
import { findDaemon } from '../daemon/session.ts'
import { BeamlineError } from '../errors.ts'
import type { NodeMessage, ProcessMessage, Welcome } from '../net/gen/node.ts'
import { dial, type Link, NODE_SERVICE } from '../net/link.ts'
import { CommandError, EXIT } from './exit.ts'

const ANSWER_MS = 10_000

export class ClusterClient {
  readonly address: string
  readonly welcome: Welcome
  readonly #link: Link<ProcessMessage, NodeMessage>
  readonly #answers: Map<number, (json: string) => void>
  #nextRequest = 1

  private constructor(address: string, link: Link<ProcessMessage, NodeMessage>, welcome: Welcome, answers: Map<number, (json: string) => void>) {
    this.address = address
    this.#link = link
    this.welcome = welcome
    this.#answers = answers
  }

  /**
   * @param wanted - address; default BEAMLINE_ADDRESS, else a daemon of this user on this machine
   * @throws CommandError with status `noCluster` when none runs there
   */
  static async connect(wanted?: string): Promise<ClusterClient> {
    const where = wanted ?? (process.env['BEAMLINE_ADDRESS'] || 'auto')
    const found = findDaemon(where)
    if (found === undefined) throw new CommandError(EXIT.noCluster, 'no head runs on this machine; `beamline start --head` starts one')
    const link = dial(NODE_SERVICE, found.address, found.token)
    const answers = new Map<number, (json: string) => void>()
    const { promise, resolve, reject } = Promise.withResolvers<Welcome>()
    link.onMessage(({ body }) => {
      if (body?.$case === 'welcome') resolve(body.value)
      if (body?.$case === 'queryReply') answers.get(body.value.request)?.(body.value.json)
    })
    link.onClose((error) => {
      if (BeamlineError.is(error, 'UNAUTHENTICATED')) reject(error)
      else reject(new CommandError(EXIT.noCluster, `no cluster answers at ${found.address}${error === undefined ? '' : `: ${error.message}`}`))
    })
    link.send({ body: { $case: 'hello', value: { process: randomBytes(8).toString('hex'), kind: 'cli', pid: process.pid, address: '', job: undefined } } })
    return new ClusterClient(found.address, link, await promise, answers)
  }

  /** @throws CommandError when the node does not know the question or does not answer in time */
  async query<T>(what: string, limit: number): Promise<T> {
    const request = this.#nextRequest++
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const timer = setTimeout(() => reject(new CommandError(EXIT.failure, `${this.address} did not answer in ${ANSWER_MS} ms`)), ANSWER_MS)
    this.#answers.set(request, resolve)
    void this.#link.closed.then(() => reject(new CommandError(EXIT.failure, `${this.address} closed the connection`)))
    this.#link.send({ body: { $case: 'query', value: { request, what, limit } } })
    try {
      const answer = JSON.parse(await promise) as T & { error?: string }
      if (typeof answer === 'object' && answer !== null && typeof answer.error === 'string') throw new CommandError(EXIT.failure, answer.error)
      return answer
    } finally {
      clearTimeout(timer)
      this.#answers.delete(request)
    }
  }

  /** Ask the cluster to end; resolves when the connection is gone. */
  async shutdown(reason: string): Promise<void> {
    this.#link.send({ body: { $case: 'shutdown', value: { reason } } })
    await this.#link.closed
  }

  close(): void {
    this.#link.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#link.closed
  }
}
