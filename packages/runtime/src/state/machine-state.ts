/**
 * One machine of a cluster in one pure machine: the node, the router that splits what its processes demand over the nodes, and, where the head is,
 * the control of the cluster. It routes what one part tells the others until all are silent, and returns what is left to do outside.
 *
 * A cluster of one machine that cannot grow needs no router: its node gets the demands as they come.
 */
import type { Register } from '../net/gen/mesh.ts'
import { ClusterView, type LostNode } from './cluster-view.ts'
import { type ControlConfig, ControlState } from './control-state.ts'
import type { ControlEvent, ControlInstruction, EdgeInstruction, NodeEvent, NodeInstruction, View } from './events.ts'
import { checkControl, checkNode, checkRouter } from './invariants.ts'
import { LeaseRouter, type RouterInstruction } from './lease-router.ts'
import { offerOf } from './node-report.ts'
import { LEASES_PER_NODE } from './node-scheduling.ts'
import { NodeState } from './node-state.ts'
import { allLabels, type NodeConfig } from './node-tables.ts'

export interface MachineRole {
  /** The control is here. */
  readonly head: boolean
  /** Nodes may join, or this one has joined: demands are routed. */
  readonly growable: boolean
  /** The head begins with the records of an earlier one: it takes part once they came (`restore`), which may be none. */
  readonly restores: boolean
  readonly leaseMs: number
}

/** A cluster of one machine. */
export const ALONE: MachineRole = { head: true, growable: false, restores: false, leaseMs: 10_000 }

export type MachineEvent =
  | NodeEvent
  | ControlEvent
  /** What the head tells every node. */
  | { readonly kind: 'view'; readonly view: View }
  /** Another node granted a lease to a process of this one. */
  | { readonly kind: 'remote-granted'; readonly node: string; readonly process: string; readonly key: number; readonly lease: number }

export class MachineState {
  readonly node: NodeState
  readonly view: ClusterView = new ClusterView()
  /** Idle unless the cluster may have other nodes. */
  readonly router: LeaseRouter
  /** Of the whole cluster at the head; empty elsewhere. */
  readonly control: ControlState
  readonly role: MachineRole
  readonly #validate: boolean

  /** @param validate - check every invariant after each event; slow */
  constructor(config: NodeConfig, role: MachineRole = ALONE, validate: boolean = false) {
    const { node: self, total } = config
    this.role = role
    this.node = new NodeState(config)
    this.router = new LeaseRouter(self, this.view, role.growable)
    const control: ControlConfig = { self, growable: role.growable, leaseMs: role.leaseMs, persists: role.restores }
    this.control = new ControlState(control)
    this.#validate = validate
    if (role.head && !role.restores) this.#joinOwn(total, [])
  }

  start(nowMs: number): EdgeInstruction[] {
    const out: EdgeInstruction[] = []
    if (this.role.head) this.#toControl({ kind: 'tick', nowMs }, out)
    this.#route(this.router.tick(nowMs), out)
    this.#settle(this.node.start(nowMs), out)
    return out
  }

  handle(event: MachineEvent): EdgeInstruction[] {
    const out: EdgeInstruction[] = []
    this.#apply(event, out)
    if (this.#validate) {
      checkNode(this.node)
      checkControl(this.control)
      checkRouter(this.router)
    }
    return out
  }

  #apply(event: MachineEvent, out: EdgeInstruction[]): void {
    const { head, growable } = this.role
    switch (event.kind) {
      // Both halves care. The node comes first when a process comes, and last when it goes: actors are released before their workers are judged.
      case 'process-attached':
        if (this.#isOutdated(event.process, event.attach)) return
        this.#toNode(event, out)
        if (head) this.#toControl(event, out)
        return
      case 'actor-started':
        this.#toNode(event, out)
        if (head) this.#toControl(event, out)
        return
      case 'tick':
        this.#toNode(event, out)
        if (growable) this.#seeOwn()
        if (head) this.#toControl(event, out)
        if (growable) this.#route(this.router.tick(event.nowMs), out)
        return
      case 'process-lost':
        this.router.processLost(event.process)
        if (head) this.#toControl(event, out)
        return this.#toNode(event, out)
      // A dead worker was a process too: what it owned ends with it.
      case 'worker-exited':
        this.router.processLost(event.worker)
        if (head) this.#toControl({ kind: 'process-lost', process: event.worker }, out)
        return this.#toNode(event, out)
      case 'lease-demand':
        if (!growable || event.remote === true) return this.#toNode(event, out)
        this.#seeOwn()
        return this.#route(this.router.demand(event), out)
      case 'remote-granted':
        return this.#route(this.router.granted(event.process, event.key, event.node, event.lease), out)
      case 'lease-return':
      case 'lease-blocked':
      case 'worker-kill':
        return this.#aboutLease(event, out)
      case 'view':
        return this.#seen(event.view, out)
      case 'node-registered':
        if (head) this.#registered(event.register, out)
        return
      case 'restore':
        if (!head) return
        this.#toControl(event, out)
        return this.#joinOwn(this.node.tables.config.total, out)
      case 'actor-create':
      case 'actor-watch':
      case 'actor-stop':
      case 'actor-lookup':
      case 'group-create':
      case 'group-remove':
      case 'actor-placed':
      case 'actor-unplaceable':
      case 'actor-worker-lost':
      case 'bundles-prepared':
      case 'bundles-refused':
      case 'worker-bound':
      case 'node-heartbeat':
      case 'node-drain':
      case 'node-left':
        if (head) this.#toControl(event, out)
        return
      default:
        this.#toNode(event, out)
    }
  }

  // ---------------------------------------------------------------- the cluster

  /** The head's own node takes part like any other; where it listens is said later. */
  #joinOwn(total: NodeConfig['total'], out: EdgeInstruction[]): void {
    const { config } = this.node.tables
    const info = { node: config.node, number: 0, address: '', bulkAddress: '', host: '', total, available: total, labels: { ...allLabels(config) } }
    const node = { ...info, state: 'ALIVE', cause: undefined, queued: 0, storeBytes: 0, storeUsedBytes: 0, pid: 0, head: true }
    this.#toControl({ kind: 'node-registered', register: { node, processes: [], actors: [], groups: [] } }, out)
    this.#toNode({ kind: 'registered', number: this.control.nodes.members.get(config.node)?.number ?? 0 }, out)
  }

  /** Its processes are known from then on, here as at control. */
  #registered(register: Register, out: EdgeInstruction[]): void {
    const node = register.node?.node ?? ''
    const processes = register.processes.filter(({ process, attach }) => !this.#isOutdated(process, attach))
    if (node !== this.node.tables.config.node && !this.control.nodes.tombstones.has(node)) {
      for (const { process, kind, pid, address, job, jobId, attach } of processes) {
        const processKind = kind === 'driver' || kind === 'worker' ? kind : 'cli'
        this.#toNode({ kind: 'process-attached', process, node, processKind, pid, address, job, jobId, attach }, out)
      }
    }
    this.#toControl({ kind: 'node-registered', register: { ...register, processes } }, out)
  }

  /** It is attached to another daemon since: what its former one said of it comes too late. */
  #isOutdated(process: string, attach: number = 1): boolean {
    return attach < (this.node.tables.processes.get(process)?.attach ?? 0)
  }

  #seen(view: View, out: EdgeInstruction[]): void {
    const self = this.node.tables.config.node
    const lost: LostNode[] = this.view.apply(view)
    for (const each of lost) {
      if (each.node === self) continue
      // At the head, control has said so.
      if (!this.role.head) out.push({ kind: 'node-lost', ...each })
      this.#toNode({ kind: 'node-gone', node: each.node }, out)
    }
    this.#seeOwn()
    this.#route(this.router.viewed(lost), out)
    for (const job of view.jobsEnded) this.#toNode({ kind: 'job-ended', job }, out)
  }

  /** Of itself, a node need not ask the head. */
  #seeOwn(): void {
    const { tables } = this.node
    const { available, queued } = offerOf(tables)
    this.view.own(tables.config.node, available, queued)
    if (this.role.head) this.control.view(tables.config.node, available, queued)
  }

  #aboutLease(event: Extract<NodeEvent, { kind: 'lease-return' | 'lease-blocked' | 'worker-kill' }>, out: EdgeInstruction[]): void {
    const { kind, process } = event
    const { number } = this.node.tables
    const at = kind === 'worker-kill' ? this.view.ofWorker(event.worker) : this.view.byNumber(Math.floor(event.lease / LEASES_PER_NODE))
    // Lease 0: what an actor of this node holds.
    const here = at === undefined || at.number === number || (kind !== 'worker-kill' && event.lease === 0) || this.node.tables.workers.has(worker(event))
    if (here) return this.#toNode(event, out)
    if (kind === 'worker-kill') {
      out.push({ kind: 'to-node', node: at.node, process, message: { $case: 'workerKill', value: { worker: event.worker, reason: event.reason } } })
    } else if (kind === 'lease-return') {
      out.push({ kind: 'to-node', node: at.node, process, message: { $case: 'leaseReturn', value: { lease: event.lease, retire: event.retire } } })
    } else {
      out.push({ kind: 'to-node', node: at.node, process, message: { $case: 'leaseBlocked', value: { lease: event.lease, blocked: event.blocked } } })
    }
  }

  // ---------------------------------------------------------------- routing

  #toNode(event: NodeEvent, out: EdgeInstruction[]): void {
    this.#settle(this.node.handle(event), out)
  }

  #toControl(event: ControlEvent, out: EdgeInstruction[]): void {
    if (event.kind === 'group-create' || event.kind === 'actor-create') {
      const { tables } = this.node
      if (this.role.growable) this.#seeOwn()
      else this.control.view(tables.config.node, tables.root.available(), 0)
    }
    for (const instruction of this.control.handle(event)) this.#fromControl(instruction, out)
  }

  #fromControl(instruction: ControlInstruction, out: EdgeInstruction[]): void {
    const self = this.node.tables.config.node
    switch (instruction.kind) {
      case 'order':
        if (instruction.node === self) this.#toNode(instruction.order, out)
        else out.push(instruction)
        return
      case 'view':
        if (instruction.to === undefined) this.#seen(instruction.view, out)
        if (instruction.to !== undefined || this.control.nodes.members.size > 1) out.push(instruction)
        return
      default:
        out.push(instruction)
    }
  }

  #route(instructions: readonly RouterInstruction[], out: EdgeInstruction[]): void {
    for (const instruction of instructions) {
      if (instruction.kind === 'lease-demand') this.#toNode(instruction, out)
      else out.push(instruction)
    }
  }

  #settle(instructions: readonly NodeInstruction[], out: EdgeInstruction[]): void {
    for (const instruction of instructions) {
      switch (instruction.kind) {
        case 'send': {
          out.push(instruction)
          const { process, node, message } = instruction
          if (this.role.growable && node === undefined && message.$case === 'leaseGranted' && !message.value.again)
            this.#route(this.router.granted(process, message.value.key, this.node.tables.config.node, message.value.lease), out)
          break
        }
        case 'worker-spawn':
        case 'worker-ask':
        case 'worker-stop':
          out.push(instruction)
          break
        case 'worker-bound':
          if (this.role.head) this.#toControl(instruction, out)
          break
        default:
          if (this.role.head) this.#toControl(instruction, out)
          else out.push({ kind: 'report', report: instruction })
      }
    }
  }
}

const worker = (event: { readonly kind: string; readonly worker?: string }): string => event.worker ?? ''
