/**
 * Questions of this daemon to others, each answered by the daemon of one node.
 */
import type { NodeQuery } from '../net/gen/mesh.ts'
import type { KnownNodes } from './known-nodes.ts'

/** Nodes that do not answer in this time are named as silent. */
const ANSWER_MS = 2_000

export interface NodeAnswers {
  /** By node. */
  readonly answers: ReadonlyMap<string, unknown>
  readonly silent: readonly string[]
}

export class NodeQuestions {
  readonly #nodes: KnownNodes
  readonly #send: (node: string, query: NodeQuery) => void
  readonly #asked: Map<number, (json: string) => void> = new Map()
  #last = 0

  constructor(nodes: KnownNodes, send: (node: string, query: NodeQuery) => void) {
    this.#nodes = nodes
    this.#send = send
  }

  /** Answers of all other nodes that live, or of one. */
  async ask(what: string, limit: number, only?: string): Promise<NodeAnswers> {
    const answers = new Map<string, unknown>()
    const silent: string[] = []
    const ask = async (node: string): Promise<void> => {
      const request = ++this.#last
      const { promise, resolve } = Promise.withResolvers<string | undefined>()
      const timer = setTimeout(() => resolve(undefined), ANSWER_MS)
      this.#asked.set(request, resolve)
      this.#send(node, { request, what, limit })
      const json = await promise
      clearTimeout(timer)
      this.#asked.delete(request)
      if (json === undefined) silent.push(node)
      else answers.set(node, JSON.parse(json))
    }
    const nodes = this.#nodes.others.map(({ node }) => node)
    await Promise.all(nodes.filter((node) => node === (only ?? node)).map(ask))
    return { answers, silent }
  }

  answered(request: number, json: string): void {
    this.#asked.get(request)?.(json)
  }
}
