/**
 * The command line's connection to a cluster: a link that only asks.
 */
import { randomBytes } from 'node:crypto'
import { findDaemon } from '../daemon/session.ts'
import { BeamlineError, type ErrorCode } from '../errors.ts'
import type { NodeMessage, ProcessMessage, Welcome } from '../net/gen/node.ts'
import { dial } from '../net/dial.ts'
import { type Link, NODE_SERVICE } from '../net/link.ts'
import { CommandError, EXIT } from './exit.ts'

const ANSWER_MS = 10_000

type Answer = Extract<NonNullable<NodeMessage['body']>, { $case: 'queryReply' | 'drained' }>

export class ClusterClient {
  readonly address: string
  readonly welcome: Welcome
  readonly #link: Link<ProcessMessage, NodeMessage>
  readonly #answers: Map<number, (body: Answer) => void>
  readonly #silent: Set<string> = new Set()
  #nextRequest = 1

  private constructor(address: string, link: Link<ProcessMessage, NodeMessage>, welcome: Welcome, answers: Map<number, (body: Answer) => void>) {
    this.address = address
    this.#link = link
    this.welcome = welcome
    this.#answers = answers
  }

  /**
   * @param wanted - address; default BEAMLINE_ADDRESS, else a daemon of this user on this machine
   * @param token - default: BEAMLINE_TOKEN, else from the file beside the socket
   * @throws CommandError with status `noCluster` when none runs there
   */
  static async connect(wanted?: string, token?: string): Promise<ClusterClient> {
    const where = wanted ?? (process.env['BEAMLINE_ADDRESS'] || 'auto')
    const found = findDaemon(where, token)
    if (found === undefined)
      throw new CommandError(EXIT.noCluster, `no head runs on this machine${where === 'auto' ? '' : ` and no node of ${where}`}; \`beamline start\` starts one`)
    const link = dial(NODE_SERVICE, found.address, found.token)
    const answers = new Map<number, (body: Answer) => void>()
    const { promise, resolve, reject } = Promise.withResolvers<Welcome>()
    link.onMessage(({ body }) => {
      if (body?.$case === 'welcome') resolve(body.value)
      if (body?.$case === 'queryReply' || body?.$case === 'drained') answers.get(body.value.request)?.(body)
    })
    link.onClose((error) => {
      if (BeamlineError.is(error, 'UNAUTHENTICATED')) reject(error)
      else reject(new CommandError(EXIT.noCluster, `no cluster answers at ${found.address}${error === undefined ? '' : `: ${error.message}`}`))
    })
    link.send({
      body: { $case: 'hello', value: { process: randomBytes(8).toString('hex'), kind: 'cli', pid: process.pid, address: '', job: undefined, attach: 1 } },
    })
    return new ClusterClient(found.address, link, await promise, answers)
  }

  /** @throws CommandError when the node does not know the question or does not answer in time */
  async query<T>(what: string, limit: number): Promise<T> {
    const body = await this.#ask((request) => ({ $case: 'query', value: { request, what, limit } }), ANSWER_MS)
    if (body.$case !== 'queryReply') throw new CommandError(EXIT.failure, `${this.address} answered something else`)
    for (const node of body.value.silent) this.#silent.add(node)
    const answer = JSON.parse(body.value.json) as T & { error?: string }
    if (typeof answer === 'object' && answer !== null && typeof answer.error === 'string') throw new CommandError(EXIT.failure, answer.error)
    return answer
  }

  /** Nodes that did not answer a question in time: what they know is missing. */
  get silent(): ReadonlySet<string> {
    return this.#silent
  }

  /** Resolves when the node has left. */
  async drain(node: string, deadlineMs: number, reason: string): Promise<void> {
    const body = await this.#ask((request) => ({ $case: 'drain', value: { request, node, deadlineMs, reason } }), deadlineMs + ANSWER_MS)
    const failure = body.$case === 'drained' ? body.value.failure : undefined
    if (failure !== undefined) throw new BeamlineError(failure.code as ErrorCode, JSON.parse(failure.detailsJson) as never)
  }

  /** Ask the daemon to end; resolves when the connection is gone. With `forget` nothing is kept of its cluster. */
  async shutdown(reason: string, forget: boolean): Promise<void> {
    this.#link.send({ body: { $case: 'shutdown', value: { reason, cluster: forget } } })
    await this.#link.closed
  }

  /**
   * Ask the head to end all nodes but itself; resolves when they have left.
   *
   * @returns false when this is not the head
   */
  async shutdownOthers(reason: string): Promise<boolean> {
    const nodes = await this.query<{ node: string; state: string; head: boolean }[]>('nodes', 0)
    if (nodes.find(({ head }) => head)?.node !== this.welcome.node) return false
    await Promise.all(nodes.filter(({ state, head }) => state !== 'DEAD' && !head).map(({ node }) => this.drain(node, 0, reason)))
    return true
  }

  async #ask(message: (request: number) => NonNullable<ProcessMessage['body']>, timeoutMs: number): Promise<Answer> {
    const request = this.#nextRequest++
    const { promise, resolve, reject } = Promise.withResolvers<Answer>()
    const timer = setTimeout(() => reject(new CommandError(EXIT.failure, `${this.address} did not answer in ${timeoutMs} ms`)), timeoutMs)
    this.#answers.set(request, resolve)
    void this.#link.closed.then(() => reject(new CommandError(EXIT.failure, `${this.address} closed the connection`)))
    this.#link.send({ body: message(request) })
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#answers.delete(request)
    }
  }

  close(): void {
    this.#link.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#link.closed
  }
}
