/**
 * Which process of the cluster is where, as far as this daemon was told, and who was told of the processes here.
 *
 * A process is known by its id everywhere. The first message that its daemon sends on its behalf to another daemon introduces it there; when it ends,
 * its daemon says so to every daemon that was introduced to it. A driver whose daemon was killed is introduced by its next one to every node, before
 * its former node is declared dead; what the former one still says of it is outdated, which the count of its attachments tells.
 */
import type { NodeInfo, ProcessGone, ProcessInfo } from '../net/gen/mesh.ts'
import type { Failure, ProcessMessage } from '../net/gen/node.ts'
import type { EdgeInstruction, MessageBody } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import type { KnownNodes } from './known-nodes.ts'
import type { MeshBody } from './mesh.ts'

type ProcessBody = NonNullable<ProcessMessage['body']>

/** What happens here to processes of other nodes, and to those here because of them. */
export interface ProcessPort {
  handle(event: MachineEvent): void
  /** @returns false when no such process is attached here */
  deliver(process: string, message: MessageBody): boolean
  /** Processes of this node. */
  local(): readonly ProcessInfo[]
  /** To how many daemons a process of any node has attached; undefined: it is not known. */
  attachOf(process: string): number | undefined
  /** A message of a process of another node. */
  fromRemote(process: string, body: ProcessBody): void
  /** A process of another node ended. */
  remoteGone(process: string): void
}

interface Remote {
  readonly node: string
  readonly attach: number
}

export interface ProcessDirectoryOptions {
  readonly nodes: KnownNodes
  /** Node of the head; undefined: this one. */
  readonly head: () => string | undefined
  readonly send: (node: string, body: MeshBody) => void
}

export class ProcessDirectory {
  readonly #options: ProcessDirectoryOptions
  #port: ProcessPort | undefined
  readonly #remote: Map<string, Remote> = new Map()
  /** Which daemons know of a process of this node. */
  readonly #introduced: Map<string, Set<string>> = new Map()
  /** Drivers that came here from another node, since that one is gone. */
  readonly #moved: Set<string> = new Set()
  /** What they say to nodes that this one has not heard of yet: its head, or itself, is new. */
  #unsent: { readonly node: string; readonly process: string; readonly body: ProcessBody }[] = []
  /** Who asked whether a process of another node lives. */
  readonly #suspects: Map<string, Set<string>> = new Map()

  constructor(options: ProcessDirectoryOptions) {
    this.#options = options
  }

  connect(port: ProcessPort): void {
    this.#port = port
  }

  /** The node of a process that is not attached here; undefined when it is not known. */
  nodeOf(process: string): string | undefined {
    return this.#remote.get(process)?.node
  }

  // ---------------------------------------------------------------- processes of this node

  /** A process attached to this daemon. The head hears of every driver: what works for it anywhere lives as long as it does. */
  attached(process: string, kind: string, attach: number): void {
    if (attach > 1) {
      this.#moved.add(process)
      this.#remote.delete(process)
      this.introduceMoved()
    }
    if (kind === 'driver') this.control(process, undefined)
  }

  detached(process: string, inOrder: boolean): void {
    this.#moved.delete(process)
    this.#unsent = this.#unsent.filter((message) => message.process !== process)
    for (const node of this.#introduced.get(process) ?? []) this.#options.send(node, { $case: 'processGone', value: { process, inOrder } })
    this.#introduced.delete(process)
  }

  /** A message of a process of this node, as if it were attached to the other one. */
  send(node: string, process: string, body: ProcessBody | undefined): void {
    const { send, nodes } = this.#options
    if (this.#introduced.get(process)?.has(node) === true) {
      return send(node, { $case: 'fromProcess', value: { id: process, process: undefined, message: { body } } })
    }
    const info = this.#local().find((each) => each.process === process)
    if (info === undefined) return
    if (info.attach > 1 && body !== undefined && !nodes.isKnown(node)) return void this.#unsent.push({ node, process, body })
    this.introduced(process, node)
    send(node, { $case: 'fromProcess', value: { id: process, process: info, message: body === undefined ? undefined : { body } } })
  }

  /** A message that only the head can answer. */
  control(process: string, body: ProcessBody | undefined): void {
    const head = this.#options.head()
    if (head !== undefined) this.send(head, process, body)
  }

  /** A node is told of it in another way. */
  introduced(process: string, node: string): void {
    const introduced = this.#introduced.get(process)
    if (introduced === undefined) this.#introduced.set(process, new Set([node]))
    else introduced.add(node)
  }

  /** Every node that may know a driver that came here must know where it is before its old node is declared dead. */
  introduceMoved(): void {
    if (this.#moved.size === 0) return
    const unsent = this.#unsent
    this.#unsent = []
    for (const { node, process, body } of unsent) this.send(node, process, body)
    for (const process of this.#moved) {
      for (const { node } of this.#options.nodes.others) if (this.#introduced.get(process)?.has(node) !== true) this.send(node, process, undefined)
    }
  }

  tellAll(message: MessageBody): void {
    for (const { process } of this.#local()) this.#port?.deliver(process, message)
  }

  // ---------------------------------------------------------------- processes of other nodes

  /** A node said that this process is there. @returns false when it has gone to another one since */
  isAt(node: string, { process, attach }: ProcessInfo): boolean {
    if ((this.#port?.attachOf(process) ?? 0) > attach) return false
    this.#remote.set(process, { node, attach })
    return true
  }

  /** A message of a process, and with the first one what it is. */
  came(node: string, process: string, info: ProcessInfo | undefined, body: ProcessBody | undefined): void {
    const port = this.#port as ProcessPort
    if (info !== undefined && this.nodeOf(process) !== node && this.isAt(node, info)) {
      const { kind, pid, address, job, jobId, attach } = info
      if (kind === 'driver' || kind === 'worker' || kind === 'cli')
        port.handle({ kind: 'process-attached', process, node, processKind: kind, pid, address, job, jobId, attach })
    }
    if (body !== undefined && this.nodeOf(process) === node) port.fromRemote(process, body)
  }

  /** A message for a process of this node. @returns false when it is not here */
  deliver(node: string, process: string, body: MessageBody): boolean {
    const port = this.#port as ProcessPort
    if (!port.deliver(process, body)) return false
    if (body.$case === 'leaseGranted' && !body.value.again) port.handle({ kind: 'remote-granted', node, process, key: body.value.key, lease: body.value.lease })
    return true
  }

  gone(node: string, { process, inOrder }: ProcessGone): void {
    const port = this.#port as ProcessPort
    for (const asker of this.#suspects.get(process) ?? []) port.deliver(asker, { $case: 'processLost', value: { process, cause: undefined } })
    this.#suspects.delete(process)
    if (this.nodeOf(process) !== node) return
    this.#remote.delete(process)
    port.handle({ kind: 'process-lost', process, clean: inOrder })
    port.remoteGone(process)
  }

  /** A process of this node lost its link to another one. */
  suspect(asker: string, process: string, known: string): void {
    const node = this.nodeOf(process) ?? known
    const { nodes, send } = this.#options
    if (nodes.isDead(node)) return void this.#port?.deliver(asker, { $case: 'processLost', value: { process, cause: nodeDied(node, nodes.all.get(node)) } })
    const askers = this.#suspects.get(process) ?? new Set()
    this.#suspects.set(process, askers.add(asker))
    send(node, { $case: 'processQuestion', value: { process } })
  }

  /** Another node asks whether a process of this one lives. Answered if not. */
  asked(node: string, process: string): void {
    if (this.#local().some((info) => info.process === process)) return
    this.#options.send(node, { $case: 'processGone', value: { process, inOrder: false } })
  }

  nodeLost({ node, number, cause }: Extract<EdgeInstruction, { kind: 'node-lost' }>): void {
    const port = this.#port as ProcessPort
    const elsewhere = [...this.#remote].flatMap(([process, remote]) => (remote.attach > 1 && remote.node !== node ? [process] : []))
    this.tellAll({ $case: 'nodeLost', value: { node, number, cause, survivors: [...this.#moved, ...elsewhere] } })
    for (const [process, remote] of this.#remote) {
      if (remote.node !== node) continue
      this.#remote.delete(process)
      this.#suspects.delete(process)
      port.remoteGone(process)
    }
    for (const introduced of this.#introduced.values()) introduced.delete(node)
  }

  // ---------------------------------------------------------------- helpers

  #local(): readonly ProcessInfo[] {
    return this.#port?.local() ?? []
  }
}

function nodeDied(node: string, info: NodeInfo | undefined): Failure {
  return info?.cause ?? { code: 'NODE_DIED', detailsJson: JSON.stringify({ reason: `node ${node} is gone` }) }
}
