/**
 * Links to other processes with user code. One sender per process; a pair that dialled each other at the same moment
 * has two links, and each end keeps sending on the one that it saw first, also answers to what came on the other, so that its messages stay in order.
 *
 * Between processes of one machine the end of a link is the end of the process. Over a network a broken link is a
 * suspicion: it waits, and the node is asked about the process, until it is back or the node says that the process is dead.
 */
import { nodeOf, reach } from '../net/endpoint.ts'
import { dial } from '../net/dial.ts'
import { type Link, PEER_SERVICE } from '../net/link.ts'
import type { PeerMessage } from '../net/gen/peer.ts'
import type { Tls } from '../net/tls.ts'
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
  /** The other end's; "" in a cluster of one. */
  node: string
  ended = false
  /** On its link this process sends to the other end: a pair may have two. */
  sender: Peer = this
  /** Runs while the link is interrupted. */
  suspicion: NodeJS.Timeout | undefined = undefined
  /** Templates that the other end knows, by the id that this end gave them. */
  readonly #sent = new WeakMap<CallTemplate, number>()
  #lastId = 0
  #lastNumber = 0
  #heardNumber = 0
  /** Functions that the other end has, with the number of templates that use them. */
  readonly #functions = new Map<string, number>()
  /** Templates that the other end sent, by its ids. */
  readonly received: Map<number, Executable> = new Map()

  constructor(link: PeerLinkMessage, process: string, address: string) {
    this.link = link
    this.process = process
    this.address = address
    this.node = nodeOf(address)
  }

  /** Of the next message that must not be done twice. */
  nextNumber(): number {
    return ++this.sender.#lastNumber
  }

  send(message: PeerMessage): void {
    this.sender.link.send(message)
  }

  /** False for a message that came before. */
  isNew({ number }: { readonly number: number }): boolean {
    if (number <= this.#heardNumber) return false
    this.#heardNumber = number
    return true
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
    const { hash, name, returns, streaming, itemsMax, actor, method, concurrencyGroup, retryOn, maxCalls, group } = template
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
          group,
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
  readonly process: string
  /** Where others reach this process. */
  readonly address: string
  /** Its node; "" in a cluster of one. */
  readonly node: string
  message(peer: Peer, message: PeerMessage): void
  /** The process is gone. `node`: where it ran; "" when that is not known here. */
  linkLost(process: string, node: string): void
  /** The link to the process is interrupted: is it dead? Asked again while it is. */
  suspect(process: string, node: string): void
  isDead(process: string, node: string): boolean
}

const SUSPECT_MS = 1_000
/** Processes that are remembered as dead. */
const DEAD_MAX = 10_000

export class Peers {
  readonly #token: string
  readonly #tls: Tls | undefined
  readonly #port: PeerPort
  readonly #byProcess = new Map<string, Peer>()
  readonly #all = new Set<Peer>()
  readonly #dead = new Set<string>()
  #closing = false

  constructor(token: string, tls: Tls | undefined, port: PeerPort) {
    this.#token = token
    this.#tls = tls
    this.#port = port
  }

  /** The peer to send to, dialled if there is no link yet. */
  get(process: string, address: string): Peer {
    const known = this.#byProcess.get(process)
    if (known) return known
    const { process: self, address: ownAddress, node } = this.#port
    const link = dial(PEER_SERVICE, reach(address, node), this.#token, { background: true, tls: this.#tls, to: process })
    const peer = new Peer(link, process, address)
    this.#byProcess.set(process, peer)
    peer.link.send({ body: { $case: 'introduce', value: { process: self, address: ownAddress, node } } })
    this.#receive(peer)
    if (this.#dead.has(process) || this.#port.isDead(process, peer.node)) queueMicrotask(() => link.abort(new Error(`process ${process} is dead`)))
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
    const { link } = peer
    this.#all.add(peer)
    link.onMessage((message) => {
      if (message.body?.$case === 'introduce') this.#introduced(peer, message.body.value)
      else if (peer.process !== '' && !peer.ended) this.#port.message(peer, message) // a refused or dead one is not heard
    })
    link.onInterrupted(() => {
      if (peer.suspicion !== undefined || peer.process === '') return
      const ask = (): void => this.#port.suspect(peer.process, peer.node)
      peer.suspicion = setInterval(ask, SUSPECT_MS).unref()
      ask()
    })
    link.onResumed(() => this.#trust(peer))
    link.onClose(() => {
      peer.ended = true
      this.#trust(peer)
      this.#all.delete(peer)
      for (const executable of peer.received.values()) executable.release()
      if (this.#byProcess.get(peer.process) === peer) this.#byProcess.delete(peer.process)
      if (!this.#closing && peer.process !== '') this.#port.linkLost(peer.process, peer.node)
    })
  }

  #introduced(peer: Peer, { process, address, node }: { process: string; address: string; node: string }): void {
    if (this.#dead.has(process) || this.#port.isDead(process, node)) return peer.link.abort(new Error(`process ${process} was declared dead`))
    peer.process = process
    peer.address = address
    peer.node = node
    const first = this.#byProcess.get(process)
    if (first) peer.sender = first
    else this.#byProcess.set(process, peer)
  }

  #trust(peer: Peer): void {
    clearInterval(peer.suspicion)
    peer.suspicion = undefined
  }

  /** The process is dead: its links end, and nothing is heard from it any more. */
  processDied(process: string, why: string): void {
    this.#dead.add(process)
    const [oldest] = this.#dead
    if (this.#dead.size > DEAD_MAX && oldest !== undefined) this.#dead.delete(oldest)
    const links = [...this.#all].filter((peer) => peer.process === process)
    for (const { link } of links) link.abort(new Error(why))
    if (links.length === 0) this.#port.linkLost(process, '')
  }

  /** Processes of that node to which there are links. */
  at(node: string): string[] {
    return [...this.#all].filter((peer) => peer.node === node).map(({ process }) => process)
  }

  close(): void {
    this.#closing = true
    for (const peer of this.#all) {
      this.#trust(peer)
      peer.link.close()
    }
  }
}
