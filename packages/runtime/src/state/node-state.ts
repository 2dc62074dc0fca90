/**
 * One machine: its processes, worker pool, resources, leases and bundles. Pure: events in, instructions out; time arrives as ticks.
 *
 * Worker life: starting → idle ⇄ leased ⇄ blocked, or idle → actor; from any of them → stopping; gone when its exit is seen. A process
 * demands leases per shape (level-triggered) and pushes tasks to the workers itself; this class never sees a task.
 * Not here: what an actor or a group is to the cluster (control-state.ts), and who gets what (node-scheduling.ts). Leases, actors and bundles have
 * files of their own (node-leases.ts, node-actors.ts, node-bundles.ts).
 */
import type { Job, NodeEvent, NodeInstruction, WorkerExit } from './events.ts'
import { dropPlacement, placeActor, releaseActor } from './node-actors.ts'
import { prepareBundles, returnBundles } from './node-bundles.ts'
import { demandLeases, leaseBlocked, refuseInfeasible, releaseLease } from './node-leases.ts'
import { sayGranted, schedule, spawnWorker } from './node-scheduling.ts'
import {
  askWorker,
  emptyRoot,
  isTaskWorker,
  jobAlive,
  reclaimLease,
  type NodeConfig,
  type NodeTables,
  allLabels,
  type Process,
  send,
  startFolder,
  startKeyOf,
  stopWorker,
  type Worker,
} from './node-tables.ts'
import { refuse } from './node-waiting.ts'
import { exitText, workerFailure } from './worker-failure.ts'

/** Ended jobs that are remembered. */
const JOBS_ENDED_MAX = 1_000
const START_TIMEOUT = 'it did not attach to the node in time'

export class NodeState {
  readonly tables: NodeTables

  constructor(config: NodeConfig) {
    this.tables = {
      config,
      labels: allLabels(config),
      number: undefined,
      draining: '',
      nowMs: 0,
      root: emptyRoot(config),
      groups: new Map(),
      processes: new Map(),
      workers: new Map(),
      leases: new Map(),
      placements: new Map(),
      jobsElsewhere: new Set(),
      jobsEnded: new Set(),
      queue: [],
      startFailures: new Map(),
      workersSpawned: 0,
      leasesGranted: 0,
      out: [],
    }
  }

  /** The first instructions: start the prestarted workers. */
  start(nowMs: number): NodeInstruction[] {
    this.tables.nowMs = nowMs
    this.#prestart(this.tables.config.prestartAtOnce)
    return this.#take()
  }

  /** The only mutator. Unknown ids are ignored: messages of processes may cross the news of a death. */
  handle(event: NodeEvent): NodeInstruction[] {
    this.#apply(event)
    schedule(this.tables)
    return this.#take()
  }

  #take(): NodeInstruction[] {
    const { out } = this.tables
    this.tables.out = []
    return out
  }

  #apply(event: NodeEvent): void {
    switch (event.kind) {
      case 'process-attached':
        return this.#attached(event)
      case 'process-lost':
        return this.#lost(event.process)
      case 'worker-answered':
        return this.#answered(event.worker, event.owns)
      case 'worker-exited':
        return this.#exited(event.worker, event.exit)
      case 'lease-demand':
        return demandLeases(this.tables, event)
      case 'lease-return': {
        const lease = this.tables.leases.get(event.lease)
        if (lease === undefined || lease.process !== event.process) return
        if (event.retire) lease.worker.retiring = true
        return releaseLease(this.tables, lease)
      }
      case 'lease-blocked':
        return leaseBlocked(this.tables, event.process, event.lease, event.blocked)
      case 'worker-kill': {
        const worker = this.tables.workers.get(event.worker)
        if (worker === undefined) return
        if (worker.stopReason === '') worker.memory = event.memory
        return stopWorker(this.tables, worker, true, event.reason)
      }
      case 'memory-short':
        for (const worker of this.tables.workers.values()) if (worker.state === 'idle' && worker.owns === 'unknown') askWorker(this.tables, worker)
        return
      case 'actor-place':
        return placeActor(this.tables, event)
      case 'actor-release':
        return releaseActor(this.tables, event)
      case 'bundles-prepare':
        return prepareBundles(this.tables, event)
      case 'bundles-commit':
        // Also one of an earlier attempt, that a head did not live to commit: what was given up is returned by now.
        for (const bundle of this.tables.groups.get(event.group)?.bundles.values() ?? [])
          if (bundle.state === 'prepared' && bundle.attempt <= event.attempt) bundle.state = 'committed'
        return
      case 'bundles-return':
        return returnBundles(this.tables, event.group, event.bundles, event.reason, event.bundles.length === 0)
      case 'actor-started': {
        const placement = this.tables.workers.get(event.process)?.placement
        if (placement?.actor === event.started.actor) placement.started = event.started.error.length === 0 && event.started.errorText === ''
        return
      }
      case 'registered':
        this.tables.number ??= event.number
        return
      case 'drain':
        return this.#drain(event.reason)
      case 'node-ends':
        for (const worker of this.tables.workers.values()) if (worker.stopReason === '') worker.stopReason = event.reason
        return
      case 'job-ended':
        return this.#jobEnded(event.job)
      case 'node-gone':
        for (const process of [...this.tables.processes.values()]) if (process.node === event.node) this.#lost(process.id)
        return
      case 'tick':
        return this.#tick(event.nowMs)
      default:
        event satisfies never
    }
  }

  // ---------------------------------------------------------------- processes

  #attached(event: Extract<NodeEvent, { kind: 'process-attached' }>): void {
    const { tables } = this
    const { process: id, processKind, pid, address, node = '', attach = 1 } = event
    let job: Job | undefined
    if (event.job !== undefined) {
      const jobId = processKind === 'driver' ? id : (event.jobId ?? '')
      if (jobId !== '') job = { id: jobId, config: event.job }
    }
    const known = tables.processes.get(id)
    if (known !== undefined) {
      // Introduced again: a worker that had no job before.
      if (known.node !== '') known.job ??= job
      known.attach = attach
      if (known.node !== node && known.kind === 'driver') this.#moved(known, node)
      return
    }
    if (node !== '') {
      if (job !== undefined && !tables.jobsEnded.has(job.id)) tables.jobsElsewhere.add(job.id)
    } else if (processKind === 'worker') {
      const worker = tables.workers.get(id)
      if (worker === undefined || worker.state === 'stopping') return
      worker.pid = pid
      worker.address = address
      worker.state = 'idle'
      worker.idleSinceMs = tables.nowMs
      tables.startFailures.delete(worker.startKey)
    }
    tables.processes.set(id, { id, node, attach, kind: processKind, pid, address, job, leases: new Set(), grants: new Map() })
  }

  /** Its daemon was killed, and it is attached to another one: what it holds here stays, what it waits for it asks for again. */
  #moved(process: Process, node: string): void {
    const { tables } = this
    process.node = node
    process.grants.clear()
    tables.queue = tables.queue.filter((entry) => entry.kind !== 'demand' || entry.process !== process)
    for (const lease of process.leases) sayGranted(tables, lease, true)
  }

  #lost(id: string, exited: boolean = false): void {
    const { tables } = this
    const process = tables.processes.get(id)
    const worker = tables.workers.get(id)
    if (worker !== undefined && !exited) stopWorker(tables, worker, true, '')
    if (process === undefined) return
    tables.processes.delete(id)
    tables.queue = tables.queue.filter((entry) => entry.kind !== 'demand' || entry.process !== process)
    for (const lease of process.leases) {
      const others = [...lease.worker.leases].some((other) => other.process !== id)
      releaseLease(this.tables, lease, !others)
      if (!others) stopWorker(tables, lease.worker, false, `the process ${id} that it worked for is gone`)
    }
    if (process.kind === 'driver') this.#stopWorkersOfDeadJobs()
  }

  // Also busy ones: a worker may hold a lease on itself, or two on each other.
  #stopWorkersOfDeadJobs(): void {
    for (const worker of this.tables.workers.values()) {
      const running = worker.state === 'idle' || worker.state === 'leased' || worker.state === 'blocked'
      if (running && worker.job !== undefined && !jobAlive(this.tables, worker.job.id)) stopWorker(this.tables, worker, false, 'its job has ended')
    }
  }

  #answered(id: string, owns: boolean): void {
    const { tables } = this
    const worker = tables.workers.get(id)
    if (worker?.owns !== 'asked') return
    worker.owns = owns ? 'objects' : 'nothing'
    // Another while until the next question; without objects it ends with the next tick, or makes room.
    if (owns) worker.idleSinceMs = tables.nowMs
  }

  #exited(id: string, exit: WorkerExit): void {
    const { tables } = this
    const worker = tables.workers.get(id)
    if (worker === undefined) return
    this.#lost(id, true)
    tables.workers.delete(id)
    const failure = workerFailure(worker, exit)
    const holders = new Map<string, number[]>()
    for (const lease of worker.leases) {
      const ids = holders.get(lease.process) ?? []
      ids.push(lease.id)
      holders.set(lease.process, ids)
      releaseLease(this.tables, lease, true)
    }
    for (const [process, leases] of holders) send(tables, process, { $case: 'workerLost', value: { worker: id, leases, cause: failure } })
    const { placement } = worker
    if (placement !== undefined) {
      dropPlacement(this.tables, placement)
      const { actor, attempt } = placement
      tables.out.push({ kind: 'actor-worker-lost', node: tables.config.node, actor, attempt, worker: id, failure })
    }
    if (worker.pid === 0 && (worker.stopReason === '' || worker.stopReason === START_TIMEOUT)) this.#startFailed(worker, exit)
    this.#prestart()
  }

  // A worker died before it attached. Several in a row: what waits for such a worker fails, instead of a start loop.
  #startFailed(worker: Worker, exit: WorkerExit): void {
    const { tables } = this
    const count = (tables.startFailures.get(worker.startKey)?.count ?? 0) + 1
    const reason = `${worker.stopReason || exitText(exit)}${exit.stderr === '' ? '' : `; its last lines on stderr:\n${exit.stderr}`}`
    tables.startFailures.set(worker.startKey, { count, reason })
    if (count < tables.config.startFailuresMax) return
    // One more try for whoever asks again.
    tables.startFailures.set(worker.startKey, { count: tables.config.startFailuresMax - 1, reason })
    const what = `a worker${worker.execArgv.length === 0 ? '' : ` with flags ${worker.execArgv.join(' ')}`} (${count} tries)`
    for (const entry of [...tables.queue]) {
      if (entry.kind !== 'bundles' && entry.shape.startKey === worker.startKey)
        refuse(this.tables, entry, 'START_FAILED', { what, reason }, `${what} did not start: ${reason}`)
    }
  }

  // ---------------------------------------------------------------- the cluster

  #drain(reason: string): void {
    const { tables } = this
    if (tables.draining !== '') return
    tables.draining = reason || 'it drains'
    for (const lease of tables.leases.values()) reclaimLease(tables, lease)
  }

  #jobEnded(job: string): void {
    const { tables } = this
    tables.jobsElsewhere.delete(job)
    tables.jobsEnded.add(job)
    for (const old of tables.jobsEnded) {
      if (tables.jobsEnded.size <= JOBS_ENDED_MAX) break
      tables.jobsEnded.delete(old)
    }
    if (tables.processes.get(job)?.node) this.#lost(job)
    this.#stopWorkersOfDeadJobs()
  }

  // ---------------------------------------------------------------- time

  #tick(nowMs: number): void {
    const { tables } = this
    const { config } = tables
    tables.nowMs = nowMs
    for (const worker of tables.workers.values()) {
      if (worker.state === 'starting' && nowMs - worker.spawnedMs > config.startTimeoutMs) stopWorker(tables, worker, true, START_TIMEOUT)
    }
    let tasks = 0
    const idle: Worker[] = []
    for (const worker of tables.workers.values()) {
      if (isTaskWorker(worker)) tasks++
      if (worker.state === 'idle') idle.push(worker)
    }
    idle.sort((a, b) => a.idleSinceMs - b.idleSinceMs)
    for (const worker of idle) {
      if (tasks <= config.prestart || nowMs - worker.idleSinceMs < config.idleTimeoutMs) break
      tasks--
      if (worker.owns === 'nothing') stopWorker(tables, worker, false, `idle for ${config.idleTimeoutMs} ms`)
      else askWorker(tables, worker)
    }
    this.#stopWorkersOfDeadJobs()
    for (const entry of [...tables.queue]) if (entry.kind !== 'bundles' && entry.shape.group !== '') refuseInfeasible(this.tables, entry)
    this.#prestart()
  }

  #prestart(most: number = this.tables.config.prestart): void {
    const { tables } = this
    if (tables.draining !== '') return
    const { config } = tables
    const wanted = Math.min(config.prestart, most)
    let tasks = 0
    let starting = 0
    for (const worker of tables.workers.values()) {
      if (isTaskWorker(worker)) tasks++
      if (worker.state === 'starting') starting++
    }
    // The last try of several is left to those who ask, and so is the error.
    const failures = tables.startFailures.get(startKeyOf(config.prestartExecArgv, {}, startFolder(config.prestartExecArgv, {}, config.prestartCwd)))?.count ?? 0
    while (tasks < wanted && starting < config.startingMax && failures < config.startFailuresMax - 1) {
      spawnWorker(tables, config.prestartExecArgv)
      tasks++
      starting++
    }
  }
}
