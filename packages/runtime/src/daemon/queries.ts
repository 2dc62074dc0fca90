/**
 * Answers about a cluster: each node from its own state, and for what only owners know (tasks that wait or run, small objects) by asking the attached
 * processes; actors and groups are known by the head. Whoever is asked asks the others and puts the parts together (query-merge.ts).
 * Answers are plain JSON; a process that does not answer in time is left out and counted, a node is named.
 *
 * `what`: status | nodes | jobs | workers | actors | groups | leases | drivers | waiting | objects | tasks | timeline | demand KEY
 * (the last one answers about the asking process only: what its demand with that key waits for).
 */
import type { QueryReply, TaskEvents } from '../net/gen/node.ts'
import type { RoutedDemand } from '../state/lease-router.ts'
import type { MachineState } from '../state/machine-state.ts'
import { type Entry, isTaskWorker, type Worker } from '../state/node-tables.ts'
import { hostname } from 'node:os'
import { TaskEventLog } from '../state/task-event-log.ts'
import type { ClusterEdge } from './cluster-edge.ts'
import type { DaemonConfig } from './options.ts'
import { IS_OF_HEAD, merge } from './query-merge.ts'
import type { SegmentStore } from './segment-store.ts'

const TASK_EVENTS_MAX = 100_000
const ASK_TIMEOUT_MS = 500
const ROWS_MAX = 1_000_000

export interface QueriesOptions {
  readonly config: DaemonConfig
  readonly machine: MachineState
  readonly store: SegmentStore
  /** Attached drivers and workers. */
  readonly processes: () => Iterable<string>
  readonly cluster: ClusterEdge | undefined
  readonly ask: (process: string, request: number, what: string, limit: number) => void
}

/** What a query that asked processes was answered: rows of all, and how many processes kept silent. */
export interface Rows {
  readonly rows: readonly unknown[]
  readonly silent: number
}

/** What a driver or worker answers. */
interface ProcessReport {
  readonly tasks: readonly unknown[]
  readonly ownedObjects: number
  readonly borrowedObjects: number
}

interface Asked {
  readonly what: string
  readonly waiting: Set<string>
  readonly rows: unknown[]
  readonly done: () => void
}

export class Queries {
  readonly #options: QueriesOptions
  readonly #events = new TaskEventLog(TASK_EVENTS_MAX)
  /** By process: its last task events. */
  readonly #told: Map<string, number> = new Map()
  readonly #asked: Map<number, Asked> = new Map()
  #nextRequest = 1
  readonly #startedMs = Date.now()

  constructor(options: QueriesOptions) {
    this.#options = options
  }

  addTaskEvents(process: string, { events, dropped, number }: TaskEvents): void {
    if (number <= (this.#told.get(process) ?? 0)) return
    this.#told.set(process, number)
    for (const event of events) this.#events.add(event)
    this.#events.dropped += dropped
  }

  reply(process: string, { request, json }: QueryReply): void {
    const asked = this.#asked.get(request)
    if (asked?.waiting.delete(process) !== true) return
    try {
      const report = JSON.parse(json) as Partial<ProcessReport>
      if (asked.what === 'tasks') asked.rows.push(...(Array.isArray(report.tasks) ? report.tasks : []))
      else asked.rows.push({ ...report, process, tasks: undefined })
    } catch {
      // An answer that is no JSON counts as none.
    }
    if (asked.waiting.size === 0) asked.done()
  }

  /** The process is gone: do not wait for it. */
  processLost(process: string): void {
    this.#told.delete(process)
    for (const asked of this.#asked.values()) if (asked.waiting.delete(process) && asked.waiting.size === 0) asked.done()
  }

  /** @returns what goes into QueryReply: JSON, `{ error }` for a `what` that does not exist; and nodes that did not answer */
  async answer(process: string, what: string, limitWanted: number): Promise<{ readonly answer: unknown; readonly silent: readonly string[] }> {
    const limit = limitWanted > 0 ? Math.min(limitWanted, ROWS_MAX) : ROWS_MAX
    const [topic = '', argument] = what.split(' ', 2)
    const { cluster, config, machine } = this.#options
    if (topic === 'demand') {
      const entry = machine.node.tables.queue.find((each) => each.kind === 'demand' && each.process.id === process && each.key === Number(argument))
      if (entry !== undefined) return { answer: this.#describe(entry), silent: [] }
      const routed = machine.router.explain(process, Number(argument))
      return { answer: routed === undefined ? null : this.#describeRouted(routed.demand, routed.where), silent: [] }
    }
    const here = await this.answerHere(what, limit)
    if (cluster === undefined || cluster.nodes.all.size < 2) return { answer: here, silent: [] }
    if (IS_OF_HEAD.has(topic)) {
      if (cluster.isHead) return { answer: here, silent: [] }
      const { answers, silent } = await cluster.questions.ask(topic, limit, cluster.head)
      return { answer: answers.get(cluster.head) ?? [], silent }
    }
    const { answers, silent } = await cluster.questions.ask(topic, limit)
    return { answer: merge(topic, limit, new Map([[config.session.node, here], ...answers]), cluster.nodes.all, cluster.head), silent }
  }

  /** What this node knows. */
  async answerHere(what: string, limit: number): Promise<unknown> {
    switch (what) {
      case 'status':
        return this.#status()
      case 'nodes':
        return [this.#node()]
      case 'workers':
        return this.#workers().slice(0, limit)
      case 'actors':
        return this.#actors().slice(0, limit)
      case 'groups':
        return this.#groups().slice(0, limit)
      case 'jobs':
        return this.#jobs().slice(-limit)
      case 'leases':
        return this.#leases().slice(0, limit)
      case 'drivers':
        return this.#drivers().slice(0, limit)
      case 'waiting':
        return this.#waiting().slice(0, limit)
      case 'objects': {
        const rows = this.#options.store.objects(limit).map((object) => ({ ...object, object: `${object.owner}:${object.object}` }))
        // Small objects are in the memory of their owners, which only count them.
        const { rows: processes, silent } = await this.#askAll('objects', 0)
        return { rows, processes, silent }
      }
      case 'tasks': {
        const { rows, silent } = await this.#askAll('tasks', limit)
        return { rows: [...rows, ...this.#events.latest(limit)].slice(0, limit), silent }
      }
      case 'timeline':
        return { events: this.#events.latest(limit), dropped: this.#events.dropped }
      default:
        return { error: `unknown query ${JSON.stringify(what)}` }
    }
  }

  /** Whether an idle worker owns objects, garbage apart; true when it does not answer. */
  async ownsObjects(worker: string): Promise<boolean> {
    const { rows } = await this.#ask([worker], 'owned', 0)
    const [report] = rows as ProcessReport[]
    return report === undefined || report.ownedObjects > 0
  }

  #askAll(what: string, limit: number): Promise<Rows> {
    return this.#ask([...this.#options.processes()], what, limit)
  }

  #ask(processes: readonly string[], what: string, limit: number): Promise<Rows> {
    if (processes.length === 0) return Promise.resolve({ rows: [], silent: 0 })
    const request = this.#nextRequest++
    const { promise, resolve } = Promise.withResolvers<Rows>()
    const done = (): void => {
      clearTimeout(timer)
      this.#asked.delete(request)
      resolve({ rows: asked.rows, silent: asked.waiting.size })
    }
    const timer = setTimeout(done, ASK_TIMEOUT_MS)
    const asked: Asked = { what, waiting: new Set(processes), rows: [], done }
    this.#asked.set(request, asked)
    for (const process of processes) this.#options.ask(process, request, what, limit)
    return promise
  }

  #node(): object {
    const { cluster, config, machine } = this.#options
    const { tables } = machine.node
    const { usage } = this.#options.store
    const workers: Record<string, number> = {}
    for (const worker of tables.workers.values()) workers[worker.state] = (workers[worker.state] ?? 0) + 1
    const { total, labels, session } = config
    return {
      node: session.node,
      pid: process.pid,
      host: hostname(),
      address: cluster?.mesh.address ?? session.address,
      state: tables.draining === '' ? 'ALIVE' : 'DRAINING',
      head: cluster?.isHead ?? true,
      total,
      available: tables.root.available(),
      labels,
      workers,
      queued: tables.queue.length,
      store: usage,
      transfers: cluster?.objects?.counts,
    }
  }

  #status(): object {
    const { config, machine } = this.#options
    const counts = (states: Iterable<{ state: string }>): Record<string, number> => {
      const by: Record<string, number> = {}
      for (const { state } of states) by[state] = (by[state] ?? 0) + 1
      return by
    }
    return {
      cluster: config.session.cluster,
      sessionDir: config.session.dir,
      uptimeMs: Date.now() - this.#startedMs,
      nodes: [this.#node()],
      drivers: this.#drivers(),
      leases: machine.node.tables.leases.size,
      waiting: this.#waiting(),
      actors: counts(machine.control?.actors.actors.values() ?? []),
      groups: counts(machine.control?.groups.groups.values() ?? []),
      tasks: Object.fromEntries(this.#events.totals),
      taskEventsDropped: this.#events.dropped,
    }
  }

  #workers(): object[] {
    const { tables } = this.#options.machine.node
    return [...tables.workers.values()].map((worker: Worker) => ({
      worker: worker.id,
      node: tables.config.node,
      pid: worker.pid,
      state: worker.state,
      job: worker.job?.id ?? '',
      doing: worker.placement?.label ?? [...worker.leases].map((lease) => lease.label).join(', '),
      leases: worker.leases.size,
      actor: worker.placement?.actor ?? '',
      idleMs: worker.state === 'idle' ? tables.nowMs - worker.idleSinceMs : 0,
      task: isTaskWorker(worker),
    }))
  }

  #actors(): object[] {
    const { tables } = this.#options.machine.node
    return [...(this.#options.machine.control?.actors.actors.values() ?? [])].map((actor) => {
      const waiting = tables.queue.find((entry) => entry.kind === 'actor' && entry.placement.actor === actor.id)
      return {
        actor: actor.id,
        name: actor.name,
        namespace: actor.namespace,
        className: actor.create.className,
        state: actor.state,
        worker: actor.worker,
        node: actor.node,
        restarts: actor.incarnation,
        detached: actor.create.detached,
        owner: actor.owner,
        cause: actor.cause?.code ?? '',
        waitsFor: waiting?.reason ?? actor.reason,
      }
    })
  }

  #groups(): object[] {
    const { queue } = this.#options.machine.node.tables
    return [...(this.#options.machine.control?.groups.groups.values() ?? [])].map((group) => ({
      group: group.id,
      name: group.name,
      strategy: group.strategy,
      state: group.state,
      bundles: group.bundles,
      nodes: group.nodes,
      owner: group.owner,
      detached: group.detached,
      cause: group.cause?.code ?? '',
      waitsFor: queue.find((entry) => entry.kind === 'bundles' && entry.group === group.id)?.reason ?? group.reason,
    }))
  }

  #jobs(): object[] {
    const { jobs } = this.#options.machine.control.jobs
    return [...jobs.values()].map(({ job, ...record }) => ({ job: job.id, name: job.config.name, namespace: job.config.namespace, ...record }))
  }

  #leases(): object[] {
    return [...this.#options.machine.node.tables.leases.values()].map((lease) => ({
      lease: lease.id,
      holder: lease.process,
      worker: lease.worker.id,
      label: lease.label,
      resources: lease.allocation.resources,
      gpuIndices: [...lease.allocation.gpus.keys()],
      blocked: lease.blocked,
      reclaiming: lease.reclaiming,
    }))
  }

  #drivers(): object[] {
    const { processes } = this.#options.machine.node.tables
    return [...processes.values()]
      .filter((process) => process.kind === 'driver' && process.node === '')
      .map(({ id, pid, job, leases }) => ({ driver: id, pid, name: job?.config.name ?? '', namespace: job?.config.namespace ?? '', leases: leases.size }))
  }

  #waiting(): object[] {
    const { node, router } = this.#options.machine
    return [...node.tables.queue.map((entry) => this.#describe(entry)), ...[...router.unplaced].map((demand) => this.#describeRouted(demand, demand.reason))]
  }

  /** A demand that waits elsewhere, or at no node. */
  #describeRouted(demand: RoutedDemand, reason: string): object {
    const { nowMs, root } = this.#options.machine.node.tables
    const { process, key, label, sinceMs, resources, shape, wanted, backlog, refused } = demand
    const common = { kind: 'demand', label, reason, waitedMs: nowMs - sinceMs, available: root.available(), total: root.total }
    return { ...common, process, key, resources, group: shape?.placementGroup ?? '', wanted, backlog, refused }
  }

  #describe(entry: Entry): object {
    const { nowMs, root } = this.#options.machine.node.tables
    const common = {
      kind: entry.kind,
      label: entry.label,
      reason: entry.reason,
      waitedMs: nowMs - entry.sinceMs,
      available: root.available(),
      total: root.total,
    }
    if (entry.kind === 'bundles') return { ...common, group: entry.group, wanted: 1 }
    if (entry.kind === 'actor') return { ...common, actor: entry.placement.actor, resources: entry.shape.resources, wanted: 1 }
    const { process, key, wanted, backlog, refused } = entry
    return { ...common, process: process.id, key, resources: entry.shape.resources, group: entry.shape.group, wanted, backlog, refused }
  }
}
