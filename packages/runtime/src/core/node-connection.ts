/**
 * The connection of a process to the daemon of its node.
 *
 * A driver of a cluster that goes on without its daemon may outlive it: when that one was killed (it did not say that it stops), the driver looks for
 * another daemon of the cluster on its machine and attaches there as the same process. Until then nothing fails and what it says is dropped: what
 * counts is said again afterwards, except the few messages that are kept.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { BeamlineError } from '../errors.ts'
import { dial } from '../net/dial.ts'
import { type Link, NODE_SERVICE } from '../net/link.ts'
import type { Hello, NodeMessage, ProcessMessage, Welcome } from '../net/gen/node.ts'

type NodeLink = Link<ProcessMessage, NodeMessage>

/** Where a driver goes that lost its daemon. */
export interface Successor {
  /** How long it looks. */
  readonly withinMs: number
  readonly find: (cluster: string, gone: string) => { readonly address: string; readonly token: string } | undefined
}

export interface NodePort {
  message(message: NodeMessage): void
  /** The daemon was killed; another one is looked for. */
  detached(welcome: Welcome, withinMs: number): void
  /** `again`: to another daemon, which knows nothing of this process. */
  attached(welcome: Welcome, again: boolean): void
  /** The connection is over; undefined: this process ended it. */
  lost(error: Error | undefined): void
}

/** What is kept for the next daemon. */
const KEPT: ReadonlySet<string | undefined> = new Set(['objectsFreed', 'workerKill'])
const LOOK_MS = 100

export class NodeConnection {
  /** Facts of the cluster; known once it is attached. */
  welcome: Welcome | undefined
  /** Why the node ends this process, once it said so. */
  stopReason: string | undefined
  readonly #port: NodePort
  /** Set for a driver that does not end with its daemon. */
  successor: Successor | undefined
  #link: NodeLink
  #greeted: Promise<Welcome>
  #hello: Hello | undefined
  /** What is kept, while there is no daemon. */
  #kept: ProcessMessage[] | undefined
  #closed = false

  constructor(address: string, token: string, port: NodePort) {
    this.#port = port
    const { link, greeted } = this.#dial(address, token)
    this.#link = link
    this.#greeted = greeted
  }

  /** Says who this process is. */
  async attach(hello: Hello): Promise<Welcome> {
    this.#hello = hello
    this.#link.send({ body: { $case: 'hello', value: hello } })
    return await this.#greeted
  }

  send(message: ProcessMessage): void {
    if (this.#kept === undefined) this.#link.send(message)
    else if (KEPT.has(message.body?.$case)) this.#kept.push(message)
  }

  close(): void {
    this.#closed = true
    if (this.#kept === undefined) this.#link.close()
    else this.#port.lost(undefined)
  }

  #dial(address: string, token: string): { readonly link: NodeLink; readonly greeted: Promise<Welcome> } {
    const link: NodeLink = dial(NODE_SERVICE, address, token, { background: true })
    const { promise: greeted, resolve, reject } = Promise.withResolvers<Welcome>()
    greeted.catch(() => undefined) // awaited later
    link.onMessage((message) => {
      const { body } = message
      if (body?.$case === 'welcome') {
        this.#welcomed(link, body.value)
        return resolve(body.value)
      }
      if (body?.$case === 'exit' && link === this.#link) this.stopReason = body.value.reason
      this.#port.message(message)
    })
    link.onClose((error) => {
      reject(error ?? new BeamlineError('NODE_DIED', { reason: 'it closed the connection' }))
      if (link !== this.#link) return
      if (this.successor && this.welcome && this.stopReason === undefined && !this.#closed) void this.#look(this.successor, this.welcome)
      else this.#port.lost(error)
    })
    return { link, greeted }
  }

  #welcomed(link: NodeLink, welcome: Welcome): void {
    const kept = this.#kept
    this.welcome = welcome
    if (this.#closed) return link.close()
    this.#link = link
    this.#kept = undefined
    this.#port.attached(welcome, kept !== undefined)
    for (const message of kept ?? []) this.send(message)
  }

  async #look({ withinMs, find }: Successor, before: Welcome): Promise<void> {
    this.#kept = []
    this.#port.detached(before, withinMs)
    const until = performance.now() + withinMs
    for (;;) {
      const found = find(before.cluster, before.node)
      if (found) {
        const { link, greeted } = this.#dial(found.address, found.token)
        const hello = this.#hello as Hello
        this.#hello = { ...hello, attach: hello.attach + 1 }
        link.send({ body: { $case: 'hello', value: this.#hello } })
        if (
          await greeted.then(
            () => true,
            () => false,
          )
        )
          return // prettier-ignore
      }
      if (this.#closed) return
      if (performance.now() >= until) break
      await delay(LOOK_MS, undefined, { ref: false })
    }
    const reason = `it was killed, and there was no other one of cluster ${before.cluster} on this machine within ${withinMs} ms`
    this.#port.lost(new BeamlineError('NODE_DIED', { reason }))
  }
}
