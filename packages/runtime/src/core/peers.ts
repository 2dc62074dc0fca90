/**
 * Links to other processes with user code. One sender per process; a pair that dialled each other at the same moment
 * has two links, and each end keeps sending on the one that it saw first, so that its messages stay in order.
 */
import { dial, type Link, PEER_SERVICE } from '../net/link.ts'
import type { PeerMessage } from '../net/gen/peer.ts'
import type { Executable } from './executable.ts'
import type { CallTemplate } from './task-record.ts'

type PeerLinkMessage = Link<PeerMessage, PeerMessage>

export class Peer {
  readonly link: PeerLinkMessage
  /** Known once it introduced itself, or from the start when this process dialled. */
  process: string
  address: string
  /** Templates that the other end knows, by the id that this end gave them. */
  readonly #sent = new Map<CallTemplate, number>()
  readonly #functionsSent = new Set<string>()
  /** Templates that the other end sent, by its ids. */
  readonly received: Map<number, Executable> = new Map()

  constructor(link: PeerLinkMessage, process: string, address: string) {
    this.link = link
    this.process = process
    this.address = address
  }

  /** The id of a template at the other end; tells it first if need be. */
  templateId(template: CallTemplate): number {
    const known = this.#sent.get(template)
    if (known !== undefined) return known
    const id = this.#sent.size + 1
    this.#sent.set(template, id)
    const first = template.hash !== '' && !this.#functionsSent.has(template.hash)
    if (first) this.#functionsSent.add(template.hash)
    const { hash, name, returns, streaming, itemsMax, actor, method, concurrencyGroup, retryOn, maxCalls } = template
    this.link.send({
      body: {
        $case: 'template',
        value: {
          id,
          hash,
          function: first ? template.function : undefined,
          name,
          returns,
          streaming,
          itemsMax,
          actor,
          method,
          concurrencyGroup,
          retryOn,
          maxCalls,
        },
      },
    })
    return id
  }
}

export interface PeerPort {
  message(peer: Peer, message: PeerMessage): void
  linkLost(process: string): void
}

export class Peers {
  readonly #process: string
  readonly #address: string
  readonly #token: string
  readonly #port: PeerPort
  readonly #byProcess = new Map<string, Peer>()
  readonly #all = new Set<Peer>()
  #closing = false

  constructor(process: string, address: string, token: string, port: PeerPort) {
    this.#process = process
    this.#address = address
    this.#token = token
    this.#port = port
  }

  /** The peer to send to, dialled if there is no link yet. */
  get(process: string, address: string): Peer {
    const known = this.#byProcess.get(process)
    if (known) return known
    const peer = new Peer(dial(PEER_SERVICE, address, this.#token, true), process, address)
    this.#byProcess.set(process, peer)
    peer.link.send({ body: { $case: 'introduce', value: { process: this.#process, address: this.#address } } })
    this.#receive(peer)
    return peer
  }

  find(process: string): Peer | undefined {
    return this.#byProcess.get(process)
  }

  /** A link that somebody else opened. */
  accept(link: PeerLinkMessage): void {
    this.#receive(new Peer(link, '', ''))
  }

  #receive(peer: Peer): void {
    this.#all.add(peer)
    peer.link.onMessage((message) => {
      if (message.body?.$case === 'introduce') {
        peer.process = message.body.value.process
        peer.address = message.body.value.address
        if (!this.#byProcess.has(peer.process)) this.#byProcess.set(peer.process, peer)
      } else this.#port.message(peer, message)
    })
    peer.link.onClose(() => {
      this.#all.delete(peer)
      if (this.#byProcess.get(peer.process) === peer) this.#byProcess.delete(peer.process)
      if (!this.#closing && peer.process !== '') this.#port.linkLost(peer.process)
    })
  }

  close(): void {
    this.#closing = true
    for (const peer of this.#all) peer.link.close()
  }
}
