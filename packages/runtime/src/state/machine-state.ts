/**
 * A cluster of one: a node and the control of the cluster in one pure machine. It routes what one half tells the other
 * until both are silent, and returns what is left to do outside.
 */
import { checkControl, checkNode } from './invariants.ts'
import { ControlState } from './control-state.ts'
import type { ControlEvent, EdgeInstruction, NodeEvent, NodeInstruction } from './events.ts'
import { NodeState } from './node-state.ts'
import type { NodeConfig } from './node-tables.ts'

export type MachineEvent = NodeEvent | Exclude<ControlEvent, { kind: 'node-attached' }>

export class MachineState {
  readonly node: NodeState
  readonly control: ControlState = new ControlState()
  readonly #validate: boolean

  /** @param validate - check every invariant after each event; slow */
  constructor(config: NodeConfig, validate: boolean = false) {
    this.node = new NodeState(config)
    this.control.handle({ kind: 'node-attached', node: config.node, total: config.total })
    this.#validate = validate
  }

  start(nowMs: number): EdgeInstruction[] {
    this.control.handle({ kind: 'tick', nowMs })
    return this.#settle(this.node.start(nowMs))
  }

  handle(event: MachineEvent): EdgeInstruction[] {
    const out: EdgeInstruction[] = []
    switch (event.kind) {
      // Both halves care. The node comes first when a process comes, and last when it goes: actors are released before their workers are judged.
      case 'process-attached':
      case 'tick':
        this.#settle(this.node.handle(event), out)
        this.#toControl(event, out)
        break
      case 'process-lost':
        this.#toControl(event, out)
        this.#settle(this.node.handle(event), out)
        break
      case 'actor-create':
      case 'actor-started':
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
        this.#toControl(event, out)
        break
      // A dead worker was a process too: what it owned ends with it.
      case 'worker-exited':
        this.#toControl({ kind: 'process-lost', process: event.worker }, out)
        this.#settle(this.node.handle(event), out)
        break
      default:
        this.#settle(this.node.handle(event), out)
    }
    if (this.#validate) {
      checkNode(this.node)
      checkControl(this.control)
    }
    return out
  }

  #toControl(event: ControlEvent, out: EdgeInstruction[]): void {
    const { tables } = this.node
    if (event.kind === 'group-create') this.control.view(tables.config.node, tables.root.available())
    if (event.kind === 'actor-create' || event.kind === 'actor-lookup') {
      const job = tables.workers.get(event.process)?.job
      if (job !== undefined) this.control.bindWorker(event.process, job)
    }
    for (const instruction of this.control.handle(event)) {
      if (instruction.kind === 'send') out.push(instruction)
      else this.#settle(this.node.handle(instruction.order), out)
    }
  }

  #settle(instructions: readonly NodeInstruction[], out: EdgeInstruction[] = []): EdgeInstruction[] {
    for (const instruction of instructions) {
      switch (instruction.kind) {
        case 'send':
        case 'worker-spawn':
        case 'worker-ask':
        case 'worker-stop':
          out.push(instruction)
          break
        default:
          this.#toControl(instruction, out)
      }
    }
    return out
  }
}
