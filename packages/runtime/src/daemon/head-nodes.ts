/**
 * What the head tells the nodes of its cluster, and what it hears from them, at its edge: views, orders, answers to registrations and heartbeats, drains.
 */
import type { Drain, Failure } from '../net/gen/node.ts'
import { nodeLeaseMs } from '../state/fence.ts'
import type { HeadInstruction, MessageBody, View } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import type { HeadStore } from './head.ts'
import type { KnownNodes } from './known-nodes.ts'
import type { Mesh, MeshBody } from './mesh.ts'
import { decodeReport, encodeOrder, encodeView } from './mesh-codec.ts'
import type { ClusterConfig } from './options.ts'
import type { ProcessDirectory } from './process-directory.ts'
import { ViewNews } from './view-news.ts'

/** What is not urgent is told to the nodes so often. */
const NEWS_MS = 50

export interface HeadNodesOptions {
  /** Of the head. */
  readonly node: string
  readonly cluster: ClusterConfig
  /** Undefined: nothing is kept. */
  readonly store: HeadStore | undefined
  readonly mesh: Mesh
  readonly nodes: KnownNodes
  readonly processes: ProcessDirectory
  readonly handle: (event: MachineEvent) => void
  /** To a process of any node. */
  readonly tell: (process: string, message: MessageBody) => void
}

export class HeadNodes {
  readonly #options: HeadNodesOptions
  /** What the nodes are to be told. */
  readonly #news = new ViewNews()
  #newsTimer: NodeJS.Timeout | undefined
  /** Who waits for the end of a node. */
  readonly #drains: Map<string, { readonly process: string; readonly request: number }[]> = new Map()

  constructor(options: HeadNodesOptions) {
    this.#options = options
  }

  perform(instruction: Exclude<HeadInstruction, { readonly kind: 'persist' }>): void {
    const { mesh, cluster, store } = this.#options
    switch (instruction.kind) {
      case 'order':
        return mesh.send(instruction.node, { $case: 'order', value: encodeOrder(instruction.order) })
      case 'view':
        return this.#tell(instruction.view, instruction.to, instruction.urgent)
      case 'node-accepted': {
        const { number } = instruction
        const { heartbeatMs, nodeTimeoutMs } = cluster
        const value = { epoch: this.#epoch, number, leaseMs: nodeLeaseMs(nodeTimeoutMs), heartbeatMs, store: store?.shared === true ? cluster.store : '' }
        return mesh.send(instruction.node, { $case: 'registered', value })
      }
      case 'node-refused':
        return mesh.send(instruction.node, { $case: 'refused', value: { code: instruction.code, reason: instruction.reason } })
    }
  }

  /** @returns false for a message that is not for a head */
  message(from: string, body: MeshBody): boolean {
    const { handle, mesh, nodes, processes, store } = this.#options
    switch (body.$case) {
      case 'register':
        for (const info of body.value.processes) processes.isAt(from, info)
        if (body.value.node?.node === from) handle({ kind: 'node-registered', register: body.value })
        return true
      case 'heartbeat': {
        const { sequence, available, queued, storeUsedBytes } = body.value
        // It has not registered here, or is refused: its lease must not go on.
        if (!nodes.isKnown(from) || nodes.isDead(from) || available === undefined || store?.isHead === false) return true
        handle({ kind: 'node-heartbeat', node: from, available, queued, storeUsedBytes, nowMs: Date.now() })
        mesh.send(from, { $case: 'heartbeatSeen', value: { sequence, epoch: this.#epoch } })
        return true
      }
      case 'report': {
        const report = decodeReport(body.value, from)
        if (report !== undefined) handle(report)
        return true
      }
      case 'leave':
        handle({ kind: 'node-left', node: body.value.node, reason: body.value.reason, replaced: body.value.replaced })
        return true
      default:
        return false
    }
  }

  /** What is known of a group, before all nodes are told. */
  tellGroup(node: string, group: string): void {
    const view = this.#news.ofGroup(group)
    if (view !== undefined) this.#options.mesh.send(node, { $case: 'view', value: encodeView(view, this.#epoch) })
  }

  /** `beamline drain`, from wherever it was asked. */
  drain(process: string, { request, node, deadlineMs, reason }: Drain): void {
    const { handle, mesh, nodes, node: self } = this.#options
    const state = nodes.all.get(node)?.state
    const refuse = (got: string, expected: string): void =>
      this.#drained(process, request, { code: 'INVALID_ARGUMENT', detailsJson: JSON.stringify({ what: 'the node to drain', got, expected }) })
    if (node === self) return refuse(`${node}, the head`, 'another node: the cluster ends with its head; `beamline stop` ends it')
    if (state === undefined) return refuse(node, `one of ${[...nodes.all.keys()].join(', ')}`)
    if (state === 'DEAD') return this.#drained(process, request, undefined)
    this.#drains.set(node, [...(this.#drains.get(node) ?? []), { process, request }])
    handle({ kind: 'node-drain', node, reason })
    mesh.send(node, { $case: 'leave', value: { node, reason, deadlineMs, replaced: false } })
  }

  nodeLost(node: string): void {
    for (const { process, request } of this.#drains.get(node) ?? []) this.#drained(process, request, undefined)
    this.#drains.delete(node)
  }

  close(): void {
    clearTimeout(this.#newsTimer)
  }

  get #epoch(): number {
    return this.#options.store?.epoch ?? 1
  }

  /** @param to - undefined: all */
  #tell(view: View, to: string | undefined, urgent: boolean): void {
    const { mesh, nodes, processes } = this.#options
    nodes.see({ all: false, nodes: view.nodes })
    processes.introduceMoved()
    if (to === undefined) this.#news.add(view)
    if (to === undefined && !urgent) return void (this.#newsTimer ??= setTimeout(() => this.#tellNews(), NEWS_MS))
    this.#tellNews()
    if (to !== undefined) mesh.send(to, { $case: 'view', value: encodeView(view, this.#epoch) })
  }

  #tellNews(): void {
    clearTimeout(this.#newsTimer)
    this.#newsTimer = undefined
    const view = this.#news.take()
    if (view === undefined) return
    const { mesh, nodes } = this.#options
    const value = encodeView(view, this.#epoch)
    for (const { node } of nodes.others) mesh.send(node, { $case: 'view', value })
  }

  #drained(process: string, request: number, failure: Failure | undefined): void {
    this.#options.tell(process, { $case: 'drained', value: { request, failure } })
  }
}
