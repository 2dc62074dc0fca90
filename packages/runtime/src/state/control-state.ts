/**
 * What exists once per cluster: its nodes, actors (actor-table.ts) and placement groups (group-table.ts). Pure: events in, instructions out.
 * Orders to nodes come back as reports of those nodes. Workers and leases are not here: node-state.ts.
 */
import type { Resources } from '../net/gen/node.ts'
import { ActorTable } from './actor-table.ts'
import type { ControlEvent, ControlInstruction, Job } from './events.ts'
import { GroupTable } from './group-table.ts'
import type { NodeView } from './placement.ts'

export class ControlState {
  readonly nodes: Map<string, NodeView> = new Map()
  readonly actors: ActorTable
  readonly groups: GroupTable
  /** Job of each attached driver and of each worker that was given one. */
  readonly #jobs: Map<string, Job> = new Map()
  readonly #attached: Set<string> = new Set()
  #out: ControlInstruction[] = []

  constructor() {
    const out = (instruction: ControlInstruction): void => void this.#out.push(instruction)
    this.actors = new ActorTable(out)
    this.groups = new GroupTable(out, () => [...this.nodes.values()])
  }

  /** What is free on a node, for placement. Freshness is a hint only: nodes decide when they prepare. */
  view(node: string, available: Resources): void {
    const known = this.nodes.get(node)
    if (known !== undefined) this.nodes.set(node, { ...known, available })
  }

  /** Which job a worker works for from now on, so that what it creates belongs to that job. */
  bindWorker(worker: string, job: Job): void {
    this.#jobs.set(worker, job)
  }

  /** The only mutator besides the two hints above. Unknown ids are ignored or answered with a failure. */
  handle(event: ControlEvent): ControlInstruction[] {
    this.#apply(event)
    const out = this.#out
    this.#out = []
    return out
  }

  #apply(event: ControlEvent): void {
    // What a process asked for just before it was lost must not outlive it.
    if ('process' in event && event.kind !== 'process-attached' && !this.#attached.has(event.process)) return
    switch (event.kind) {
      case 'node-attached':
        this.nodes.set(event.node, { node: event.node, total: event.total, available: event.total })
        return
      case 'process-attached':
        this.#attached.add(event.process)
        if (event.processKind === 'driver' && event.job !== undefined) this.#jobs.set(event.process, { id: event.process, config: event.job })
        return
      case 'process-lost':
        this.#attached.delete(event.process)
        this.#jobs.delete(event.process)
        this.actors.processLost(event.process)
        this.groups.processLost(event.process)
        return
      case 'tick':
        this.actors.tick(event.nowMs)
        this.groups.tick(event.nowMs)
        return
      case 'actor-create': {
        const job = this.#jobs.get(event.process)
        const [node] = this.nodes.keys()
        if (job !== undefined && node !== undefined) this.actors.create(event.process, event.create, job, node)
        return
      }
      case 'actor-started':
        return this.actors.started(event.process, event.started)
      case 'actor-watch':
        return this.actors.watch(event.process, event.actor, event.creates ?? false)
      case 'actor-stop':
        return this.actors.stop(event.stop)
      case 'actor-lookup': {
        const job = this.#jobs.get(event.process)
        return this.actors.lookup(event.process, event.request, event.name, event.namespace || job?.config.namespace || job?.id || '')
      }
      case 'actor-placed':
        return this.actors.placed(event)
      case 'actor-unplaceable':
        return this.actors.unplaceable(event)
      case 'actor-worker-lost':
        return this.actors.workerLost(event)
      case 'group-create':
        return this.groups.create(event.process, event.create)
      case 'group-remove':
        return this.groups.remove(event.group)
      case 'bundles-prepared':
        return this.groups.prepared(event.node, event.group)
      case 'bundles-refused':
        return this.groups.refused(event.node, event.group, event.reason)
      default:
        event satisfies never
    }
  }
}
