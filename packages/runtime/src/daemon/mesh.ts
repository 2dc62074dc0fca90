/**
 * Links between the node daemons of a cluster, by node id: dialled when the first message is to be sent, one sender per pair, messages in order.
 *
 * Both ends say who they are first. Daemons of other clusters and nodes that were declared dead are refused, and an end that is refused hears why.
 * A pair that dialled each other at the same moment has two links, and each end keeps sending on the one that it had first.
 */
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import type { MeshHello, MeshMessage, Refused } from '../net/gen/mesh.ts'
import { dial, type DialOptions } from '../net/dial.ts'
import type { Link } from '../net/link.ts'
import { listen, type Server } from '../net/listen.ts'
import { MESH_SERVICE } from '../net/mesh-service.ts'
import type { Tls } from '../net/tls.ts'

export type MeshBody = NonNullable<MeshMessage['body']>
type MeshLink = Link<MeshMessage, MeshMessage>

/** How long a first answer may take. */
const MEET_MS = 3_000
const LAST_WORDS_MS = 300

const log = debug('mesh')

export interface MeshOptions {
  readonly node: string
  readonly token: string
  readonly tls: Tls | undefined
  /** Of the cluster; "" until this node knows it. */
  readonly cluster: () => string
  /** HOST:PORT of the head, as far as this node knows. */
  readonly headAddress: () => string
  /** HOST:PORT of a node; undefined when it is not known, or dead. */
  readonly locate: (node: string) => string | undefined
  readonly isDead: (node: string) => boolean
  readonly message: (node: string, body: MeshBody) => void
  /** The last link to a node ended. */
  readonly lost: (node: string, error: Error | undefined) => void
  /** The other end refused this node. */
  readonly refused: (node: string, refusal: Refused) => void
}

interface Neighbour {
  readonly link: MeshLink
  /** "" until it said so, when its address was dialled without knowing who is there. */
  node: string
}

export class Mesh {
  readonly #options: MeshOptions
  readonly #byNode: Map<string, Neighbour> = new Map()
  readonly #all: Set<Neighbour> = new Set()
  #server: Server | undefined
  #address = ''
  #closed = false

  constructor(options: MeshOptions) {
    this.#options = options
  }

  /** HOST:PORT at which others reach this daemon. */
  get address(): string {
    return this.#address
  }

  /**
   * Settles the address. Until {@link listen}, connections to it are refused.
   *
   * @param port - 0: any
   */
  async reserve(host: string, port: number): Promise<void> {
    const server = createServer()
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, host.replace(/^\[|\]$/g, ''), resolve)
    })
    this.#address = `${host}:${(server.address() as AddressInfo).port}`
    await new Promise((resolve) => server.close(resolve))
  }

  /** At the address that is settled. */
  async listen(): Promise<void> {
    this.#server = await listen(
      this.#address,
      this.#options.token,
      { mesh: (link) => this.#receive({ link, node: '' }, false) },
      { tls: this.#options.tls, identity: this.#options.node },
    )
  }

  /**
   * The daemon at an address, whoever that is.
   *
   * @throws the reason when it does not answer, BeamlineError `UNAUTHENTICATED`, or `CLUSTER_REFUSED` with what it said
   */
  async meet(address: string): Promise<MeshHello> {
    const neighbour = this.#dial(address, '', { connectMs: MEET_MS })
    return await new Promise<MeshHello>((resolve, reject) => {
      this.#receive(neighbour, true, resolve, reject)
      neighbour.link.onClose((error) => reject(error ?? new Error(`${address} closed the connection`)))
    })
  }

  /** To a node that the view does not know, or that is dead, nothing is sent. */
  send(node: string, body: MeshBody): void {
    this.#neighbour(node)?.link.send({ body })
  }

  flush(): void {
    for (const { link } of this.#all) link.flush()
  }

  /** The node is dead, or this node leaves it: nothing more is sent to it or heard from it. */
  drop(node: string, reason: string): void {
    for (const neighbour of this.#all) {
      if (neighbour.node !== node) continue
      this.#forget(neighbour)
      neighbour.link.abort(new Error(reason))
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    const ends = [...this.#all].map(({ link }) => {
      link.close()
      return link.closed
    })
    // What was said last is on its way; an end that does not answer is not waited for.
    await Promise.race([Promise.all(ends), delay(LAST_WORDS_MS)])
    await this.#server?.close()
  }

  #neighbour(node: string): Neighbour | undefined {
    const known = this.#byNode.get(node)
    if (known !== undefined || this.#closed) return known
    const address = this.#options.locate(node)
    if (address === undefined) return undefined
    // A port may belong to another daemon by now.
    const neighbour = this.#dial(address, node, { to: node })
    this.#byNode.set(node, neighbour)
    this.#receive(neighbour, true)
    return neighbour
  }

  #dial(address: string, node: string, options: DialOptions): Neighbour {
    const { token, tls } = this.#options
    return { link: dial(MESH_SERVICE, address, token, { ...options, tls }), node }
  }

  #receive(neighbour: Neighbour, dialled: boolean, met?: (hello: MeshHello) => void, unmet?: (error: Error) => void): void {
    const { link } = neighbour
    const { cluster, node: self, isDead, headAddress } = this.#options
    this.#all.add(neighbour)
    let known = false
    const hello = (): void =>
      link.send({ body: { $case: 'hello', value: { cluster: cluster(), node: self, address: this.#address, epoch: 0, head: headAddress() } } })
    const refuse = (code: string, reason: string): void => {
      log(() => `refused ${neighbour.node}: ${reason}`)
      link.send({ body: { $case: 'refused', value: { code, reason } } })
      link.close()
      this.#forget(neighbour)
    }
    if (dialled) hello()
    link.onMessage(({ body }) => {
      if (body === undefined || !this.#all.has(neighbour)) return
      if (body.$case === 'refused') {
        const { node } = neighbour
        this.#forget(neighbour)
        link.close()
        unmet?.(new BeamlineError('CLUSTER_REFUSED', { address: link.name, reason: body.value.reason }))
        if (known || met === undefined) this.#options.refused(node, body.value)
        return
      }
      if (body.$case !== 'hello') {
        if (known) this.#options.message(neighbour.node, body)
        return
      }
      const { cluster: theirs, node, address } = body.value
      if (cluster() !== '' && theirs !== '' && theirs !== cluster()) return refuse('OTHER_CLUSTER', `this is cluster ${cluster()}, not ${theirs}`)
      if (neighbour.node !== '' && neighbour.node !== node) return refuse('OTHER_NODE', `${address} is node ${node}, not ${neighbour.node}`)
      if (isDead(node)) return refuse('NODE_DEAD', `node ${node} was declared dead`)
      if (node === self) return refuse('SAME_NODE', 'a node cannot join itself')
      known = true
      neighbour.node = node
      if (!this.#byNode.has(node)) this.#byNode.set(node, neighbour)
      if (!dialled) hello()
      met?.(body.value)
    })
    link.onClose((error) => {
      const { node } = neighbour
      if (!this.#forget(neighbour) || this.#closed || node === '') return
      log(() => `link to ${node} ended: ${error?.message ?? 'closed'}`)
      // Another process listens there: a link that the former one dialled would wait for it for long.
      if (BeamlineError.is(error, 'SESSION_UNKNOWN')) this.drop(node, `the daemon of node ${node} is gone`)
      if (!this.#byNode.has(node)) this.#options.lost(node, error)
    })
  }

  /** @returns false when it was forgotten before */
  #forget(neighbour: Neighbour): boolean {
    if (!this.#all.delete(neighbour)) return false
    if (this.#byNode.get(neighbour.node) !== neighbour) return true
    this.#byNode.delete(neighbour.node)
    for (const other of this.#all) if (other.node === neighbour.node && other.node !== '') this.#byNode.set(other.node, other)
    return true
  }
}
