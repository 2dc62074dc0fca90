/**
 * Links to other processes with user code. One sender per process; a pair that dialled each other at the same moment
 * has two links, and each end keeps sending on the one that it saw first, so that its messages stay in order.
 */
import { dial, type Link, PEER_SERVICE } from '../net/link.ts'
import type { PeerMessage } from '../net/gen/peer.ts'
import type { Executable } from './executable.ts'
import type { CallTemplate } from './task-record.ts'

/** Where a template was sent, for when nobody can call it any more. */
interface Sent {
  readonly hash: string
  readonly to: Set<{ readonly peer: WeakRef<Peer>; readonly id: number }>
  letGo: (() => void) | undefined
}

const sentOf = new WeakMap<CallTemplate, Sent>()

const collected = new FinalizationRegistry<Sent>(({ hash, to, letGo }) => {
  for (const { peer, id } of to) peer.deref()?.forget(id, hash)
  letGo?.()
})

function trace(template: CallTemplate): Sent {
  let sent = sentOf.get(template)
  if (!sent) {
    sent = { hash: template.hash, to: new Set(), letGo: undefined }
    sentOf.set(template, sent)
    collected.register(template, sent)
  }
  return sent
}

/** Calls `letGo` when neither a function handle nor an unfinished call has the template any more. */
export function whenCollected(template: CallTemplate, letGo: () => void): void {
  trace(template).letGo = letGo
}

type PeerLinkMessage = Link<PeerMessage, PeerMessage>

export class Peer {
  readonly link: PeerLinkMessage
  /** Known once it introduced itself, or from the start when this process dialled. */
  process: string
  address: string
  /** Templates that the other end knows, by the id that this end gave them. */
  readonly #sent = new WeakMap<CallTemplate, number>()
  #lastId = 0
  /** Functions that the other end has, with the number of templates that use them. */
  readonly #functions = new Map<string, number>()
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
    const id = ++this.#lastId
    this.#sent.set(template, id)
    const { to } = trace(template)
    for (const known of to) if (!known.peer.deref()) to.delete(known)
    to.add({ peer: new WeakRef(this), id })
    const users = this.#functions.get(template.hash) ?? 0
    const first = template.hash !== '' && users === 0
    if (template.hash !== '') this.#functions.set(template.hash, users + 1)
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

  /** No call of the template that the other end knows as `id` will come any more. */
  forget(id: number, hash: string): void {
    const users = (this.#functions.get(hash) ?? 0) - 1
    if (users > 0) this.#functions.set(hash, users)
    else this.#functions.delete(hash)
    this.link.send({ body: { $case: 'templateForget', value: { id } } })
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
    peer.link.send({ body: { $case: 'introduce', value: { process: this.#process, address: this.#address, node: '' } } })
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
      for (const executable of peer.received.values()) executable.release()
      if (this.#byProcess.get(peer.process) === peer) this.#byProcess.delete(peer.process)
      if (!this.#closing && peer.process !== '') this.#port.linkLost(peer.process)
    })
  }

  close(): void {
    this.#closing = true
    for (const peer of this.#all) peer.link.close()
  }
}
