/**
 * The node daemon: links of attached processes at one side, the pure machine in the middle, worker processes and the object store at the other.
 * It turns messages into events and instructions into acts; it decides nothing. Garbage from a process never ends it.
 *
 * What concerns other machines goes through the ClusterEdge, which a cluster of one machine does not have.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import { BeamlineError } from '../errors.ts'
import { debug } from '../debug.ts'
import type { Assign, Hello, NodeMessage, ObjectPin, ObjectRecover, ProcessMessage, ProcessSuspect } from '../net/gen/node.ts'
import type { Link } from '../net/link.ts'
import { listen, type Server } from '../net/listen.ts'
import type { EdgeInstruction, MessageBody } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import { inventoryOf, isDrained, offerOf } from '../state/node-report.ts'
import type { ClusterEdge, ClusterPort } from './cluster-edge.ts'
import { CommitGate } from './commit-gate.ts'
import { removeUnusedCompileCache } from './compile-cache.ts'
import type { Launched } from './launch.ts'
import type { LogBatch } from './logs.ts'
import type { DaemonConfig, DaemonReady } from './options.ts'
import { MemoryMonitor } from './memory-monitor.ts'
import { SegmentStore } from './segment-store.ts'
import { openSpill } from './spill.ts'
import { Queries } from './queries.ts'
import { successor } from './successor.ts'
import { holdSession, removeSession, removeStaleSessions } from './session.ts'

export type NodeLink = Link<NodeMessage, ProcessMessage>

const TICK_MS = 250
/** A stop in order: what has not ended by itself is killed after so long. */
const STOP_GRACE_MS = 2_000
/** How long processes may take to read what was sent to them before the stop. */
const LAST_WORDS_MS = 300
/** The other end of the lifeline is gone: nobody waits for results. */
const ORPHANED_GRACE_MS = 500
/** How often a draining node looks whether it may leave. */
const DRAIN_LOOK_MS = 100

const log = debug('daemon')

interface Attached {
  readonly link: NodeLink
  readonly hello: Hello
  /** It said that it leaves. */
  leaves: boolean
}

export class Daemon {
  readonly #config: DaemonConfig
  readonly #launched: Launched
  readonly #cluster: ClusterEdge | undefined
  readonly #gate: CommitGate<EdgeInstruction>
  readonly #links: Map<string, Attached> = new Map()
  readonly #store: SegmentStore
  readonly #queries: Queries
  #server: Server | undefined
  #ticker: NodeJS.Timeout | undefined
  #stopping: Promise<void> | undefined
  #lastLogNumber = 0
  /** The cluster ends with this daemon, if it is the head: nothing of it is kept. */
  #forget = false
  /** Takes the place of this daemon when all of it is gone. */
  #next: (() => void) | undefined
  /** It was asked to end: nothing comes next, even if it was declared dead too. */
  #isLast = false

  constructor(config: DaemonConfig, launched: Launched, cluster: ClusterEdge | undefined) {
    this.#config = config
    this.#launched = launched
    this.#cluster = cluster
    this.#gate = new CommitGate<EdgeInstruction>({
      write: cluster?.write,
      perform: (instruction) => this.#perform(instruction),
      failed: (error) => void this.stop(`the control store failed: ${error.message}`, 0),
    })
    const processes = (): string[] => [...this.#links].flatMap(([id, { hello }]) => (hello.kind === 'cli' ? [] : [id]))
    this.#store = new SegmentStore({
      node: config.session.node,
      storeDir: config.session.storeDir,
      capacityBytes: config.storeBytes,
      send: (process, message) => this.#send(process, message),
      processes,
      validate: process.env['BEAMLINE_VALIDATE'] === '1',
      spill: openSpill(config),
    })
    this.#queries = new Queries({
      config,
      machine: launched.machine,
      store: this.#store,
      processes,
      cluster,
      ask: (process, request, what, limit) => this.#send(process, { $case: 'query', value: { request, what, limit } }),
    })
  }

  /** Take over the workers, open the socket, and say so on stdout. */
  async listen(): Promise<void> {
    const { session, embedded } = this.#config
    process.on('SIGTERM', () => void this.stop('SIGTERM', STOP_GRACE_MS))
    process.on('SIGINT', () => void this.stop('SIGINT', STOP_GRACE_MS))
    process.on('SIGHUP', () => {})
    process.stdout.on('error', () => {})
    if (embedded) {
      process.stdin.on('error', () => {})
      process.stdin.on('close', () => void this.stop('the program that started it is gone', ORPHANED_GRACE_MS))
      process.stdin.resume()
    }
    holdSession(session)
    this.#server = await listen(session.address, session.token, { node: (link) => this.#accept(link) })
    const { machine, pool } = this.#launched
    const memory = new MemoryMonitor({ tables: machine.node.tables, limitBytes: this.#config.memoryLimitBytes, handle: (event) => this.#handle(event) })
    pool.listening()
    this.#launched.connect(
      (worker, exit) => {
        const killed = memory.endedByKernel(exit)
        this.#handle({ kind: 'worker-exited', worker, exit: { ...exit, ...(killed && { memory: killed }) } })
        this.#store.processGone(worker)
      },
      (batch) => this.#deliver(batch),
    )
    this.#run(this.#launched.pending)
    await this.#cluster?.connect(this.#clusterPort(this.#cluster))
    const { address, token, cluster, node } = session
    const tlsDir = this.#config.cluster?.tlsDir ?? ''
    const [mesh, host] = [this.#cluster?.mesh.address ?? '', this.#cluster?.host ?? '']
    holdSession(session, {
      stays: !embedded,
      cluster,
      node,
      address,
      head: this.#cluster?.isHead ?? true,
      mesh,
      headAddress: this.#cluster?.headAddress ?? '',
      host,
      tlsDir,
    })
    const ready: DaemonReady = { address, token, cluster, node, sessionDir: session.dir, storeDir: session.storeDir, pid: process.pid, mesh, host, tlsDir }
    process.stdout.write(`${JSON.stringify(ready)}\n`)
    this.#ticker = setInterval(() => {
      this.#handle({ kind: 'tick', nowMs: Date.now() })
      memory.look()
    }, TICK_MS)
    setImmediate(() => {
      removeUnusedCompileCache()
      const gone = removeStaleSessions()
      this.#cluster?.gone(gone)
    })
  }

  /** End everything that this daemon started, remove its files, and exit. */
  stop(reason: string, graceMs: number): Promise<void> {
    this.#isLast = true
    this.#stopping ??= this.#stop(reason, graceMs)
    return this.#stopping
  }

  async #stop(reason: string, graceMs: number): Promise<void> {
    const { session } = this.#config
    log(() => `stops: ${reason}`)
    clearInterval(this.#ticker)
    try {
      holdSession(session)
    } catch {
      // A full disk: who comes now is refused.
    }
    this.#launched.logs.flush(true)
    for (const { link } of this.#links.values()) {
      link.send({ body: { $case: 'exit', value: { reason } } })
      link.flush()
    }
    // A file that cannot be removed now is removed by the next daemon.
    const spilled = this.#store.close().catch((error: Error) => log(() => `spill files stay: ${error.message}`))
    await this.#launched.pool.close(graceMs)
    this.#launched.logs.flush(true)
    // The last lines of workers are on their way to drivers.
    const ends = [...this.#links.values()].map(({ link }) => {
      link.close()
      return link.closed
    })
    await Promise.race([Promise.all(ends), delay(LAST_WORDS_MS)])
    await Promise.race([spilled, delay(LAST_WORDS_MS)])
    await this.#server?.close()
    await this.#cluster?.close(reason, this.#forget)
    removeSession(session)
    // A signal that arrived is heard at the end of this turn of the event loop: the next node would never hear it.
    await turn()
    if (!this.#isLast) this.#next?.()
    process.exit(0)
  }

  // ---------------------------------------------------------------- processes

  #accept(link: NodeLink): void {
    let attached: Attached | undefined
    link.onMessage((message) => {
      const { body } = message
      if (body === undefined) return
      if (attached !== undefined) return this.#message(attached, body)
      if (body.$case !== 'hello') return link.close()
      attached = this.#hello(link, body.value)
    })
    link.onClose(() => {
      if (attached === undefined || this.#links.get(attached.hello.process) !== attached) return
      this.#links.delete(attached.hello.process)
      log(() => `${attached?.hello.kind} ${attached?.hello.process} detached`)
      this.#handle({ kind: 'process-lost', process: attached.hello.process, clean: attached.leaves })
      this.#cluster?.detached(attached.hello.process, attached.leaves)
      this.#queries.processLost(attached.hello.process)
      // One that was killed could not.
      rmSync(join(this.#config.session.dir, `${attached.hello.process}.sock`), { force: true })
      // Workers are waited for: a worker without a link may still be writing.
      if (attached.hello.kind !== 'worker') this.#store.processGone(attached.hello.process)
    })
  }

  #hello(link: NodeLink, hello: Hello): Attached | undefined {
    const { process: id, kind, pid, address, job, attach } = hello
    const refuse = (reason: string): undefined => {
      link.send({ body: { $case: 'exit', value: { reason } } })
      link.close()
    }
    if (!/^[0-9a-f]{16}$/.test(id) || this.#links.has(id)) return refuse(`the process id ${JSON.stringify(id)} is not 16 hex digits or is in use`)
    if (kind !== 'driver' && kind !== 'worker' && kind !== 'cli') return refuse(`unknown kind of process ${JSON.stringify(kind)}`)
    if (this.#stopping !== undefined) return refuse('the node stops')
    if (kind === 'worker' && this.#launched.machine.node.tables.workers.get(id)?.state !== 'starting') return refuse('this node did not start that worker')
    if (kind === 'driver' && job === undefined) return refuse('a driver must describe its job')
    const attached = { link, hello, leaves: false }
    this.#links.set(id, attached)
    log(() => `${kind} ${id} (pid ${pid}) attached`)
    const { session, total, storeBytes } = this.#config
    this.#send(id, {
      $case: 'welcome',
      value: {
        cluster: session.cluster,
        node: session.node,
        total,
        storeBytes,
        sessionDir: session.dir,
        storeDir: session.storeDir,
        host: this.#cluster?.host ?? '',
      },
    })
    this.#handle({ kind: 'process-attached', process: id, processKind: kind, pid, address, job, attach })
    this.#cluster?.processes.attached(id, kind, attach)
    return attached
  }

  /** To a process of this node, or of another one. */
  #send(process: string, body: MessageBody): void {
    if (!this.#deliverTo(process, body)) this.#cluster?.sendToProcess(process, undefined, body)
  }

  #deliverTo(process: string, body: MessageBody): boolean {
    const attached = this.#links.get(process)
    attached?.link.send({ body })
    return attached !== undefined
  }

  // ---------------------------------------------------------------- events and instructions

  #message(from: Attached, body: NonNullable<ProcessMessage['body']>): void {
    const { process, kind, pid } = from.hello
    switch (body.$case) {
      case 'hello':
        return
      case 'query': {
        const { request, what, limit } = body.value
        void this.#queries
          .answer(process, what, limit)
          .then(({ answer, silent }) =>
            from.link.send({ body: { $case: 'queryReply', value: { request, json: JSON.stringify(answer), silent: [...silent] } } }),
          )
        return
      }
      case 'queryReply':
        return this.#queries.reply(process, body.value)
      case 'taskEvents':
        return this.#queries.addTaskEvents(process, body.value)
      case 'objectPin':
        return this.#pin(process, body.value)
      case 'objectUnpin':
        this.#store.unpin(process, body.value.pins)
        return this.#cluster?.objects?.unpin(process, body.value.pins)
      case 'objectRecover':
        return this.#recover(process, body.value)
      case 'segmentRequest':
        return this.#store.request(process, body.value)
      case 'segmentReturn':
        return this.#store.giveBack(process, body.value.segment)
      case 'objectsAdded':
        return this.#byNode(
          body.value.objects,
          (objects) => this.#store.added(process, { objects }),
          (cluster, node, objects) => cluster.processes.send(node, process, { $case: 'objectsAdded', value: { objects } }),
        )
      case 'objectsFreed':
        return this.#byNode(
          body.value.places,
          (places) => this.#store.freed(process, { places }),
          (cluster, node, places) => cluster.freed(process, node, places),
        )
      case 'processSuspect':
        return this.#suspect(process, body.value)
      case 'packagePut': {
        const { request } = body.value
        void this.#cluster?.packages.put(process, body.value).then((answer) => {
          if (answer) this.#deliverTo(process, { $case: 'packageStored', value: { request, ...answer } })
        })
        return
      }
      case 'shutdown':
        from.leaves = true
        // A driver that only attached must not end the cluster of others.
        if (kind === 'cli' || (this.#config.embedded && pid === this.#config.starterPid)) {
          this.#forget = body.value.cluster
          // The program ended in order, whatever becomes of its links.
          if (kind === 'driver') this.#cluster?.detached(process, true)
          void this.stop(body.value.reason, STOP_GRACE_MS)
        }
        return
      case 'actorStarted':
        // For the node, which knows the worker, and for the control.
        this.#machine(process, body)
        if (this.#cluster?.isHead === false) this.#cluster.processes.control(process, body)
        return
      case 'actorCreate':
      case 'actorWatch':
      case 'actorStop':
      case 'actorLookup':
      case 'groupCreate':
      case 'groupRemove':
      case 'drain':
        if (this.#cluster?.isHead === false) return this.#cluster.processes.control(process, body)
        return this.#machine(process, body)
      default:
        return this.#machine(process, body)
    }
  }

  /** Of a process here or on another node: what the machine and the store answer. */
  #machine(process: string, body: NonNullable<ProcessMessage['body']>, remote: boolean = false): void {
    switch (body.$case) {
      case 'leaseDemand':
        return this.#handle({ kind: 'lease-demand', process, ...body.value, ...(remote && { remote }) })
      case 'leaseReturn':
        return this.#handle({ kind: 'lease-return', process, lease: body.value.lease, retire: body.value.retire })
      case 'leaseBlocked':
        return this.#handle({ kind: 'lease-blocked', process, lease: body.value.lease, blocked: body.value.blocked })
      case 'workerKill':
        return this.#handle({ kind: 'worker-kill', process, worker: body.value.worker, reason: body.value.reason })
      case 'actorCreate':
        return this.#handle({ kind: 'actor-create', process, create: body.value })
      case 'actorStarted':
        return this.#handle({ kind: 'actor-started', process, started: body.value })
      case 'actorWatch':
        return this.#handle({ kind: 'actor-watch', process, ...body.value })
      case 'actorStop':
        return this.#handle({ kind: 'actor-stop', process, stop: body.value })
      case 'actorLookup':
        return this.#handle({ kind: 'actor-lookup', process, ...body.value })
      case 'groupCreate':
        return this.#handle({ kind: 'group-create', process, create: body.value })
      case 'groupRemove':
        return this.#handle({ kind: 'group-remove', process, group: body.value.group })
      case 'objectsAdded':
        return this.#store.added(process, body.value)
      case 'objectsFreed':
        return this.#store.freed(process, body.value)
      case 'drain':
        return this.#cluster === undefined ? this.#refuseDrain(process, body.value.request) : this.#cluster.headNodes?.drain(process, body.value)
      default:
        return
    }
  }

  /** What concerns objects of this node stays here, the rest goes to the daemons of those nodes. */
  #byNode<T extends { readonly node: string }>(
    items: readonly T[],
    local: (items: T[]) => void,
    elsewhere: (cluster: ClusterEdge, node: string, items: T[]) => void,
  ): void {
    const own = this.#config.session.node
    const here = items.filter(({ node }) => node === '' || node === own)
    if (here.length > 0) local(here)
    if (here.length === items.length || this.#cluster === undefined) return
    for (const [node, there] of Map.groupBy(items, (item) => item.node)) if (node !== '' && node !== own) elsewhere(this.#cluster, node, there)
  }

  #pin(process: string, pin: ObjectPin): void {
    if (this.#cluster === undefined || pin.node === '' || pin.node === this.#config.session.node) this.#store.pin(process, pin)
    else this.#cluster.objects?.pin(process, pin)
  }

  #recover(process: string, recover: ObjectRecover): void {
    if (this.#cluster !== undefined) return this.#cluster.objects?.recover(process, recover)
    // There is no other node that could have a copy.
    this.#deliverTo(process, { $case: 'objectRecovered', value: { request: recover.request, node: '', segment: '', offset: 0, failure: undefined } })
  }

  #suspect(asker: string, { process, node }: ProcessSuspect): void {
    if (this.#links.has(process)) return
    if (this.#cluster !== undefined && node !== '' && node !== this.#config.session.node) return this.#cluster.processes.suspect(asker, process, node)
    this.#deliverTo(asker, { $case: 'processLost', value: { process, cause: undefined } })
  }

  #refuseDrain(process: string, request: number): void {
    const details = { what: 'the node to drain', got: this.#config.session.node, expected: 'a node of a cluster of several machines' }
    this.#deliverTo(process, { $case: 'drained', value: { request, failure: { code: 'INVALID_ARGUMENT', detailsJson: JSON.stringify(details) } } })
  }

  #handle(event: MachineEvent): void {
    if ((this.#stopping !== undefined && event.kind !== 'worker-exited') || this.#cluster?.mayAct === false) return
    try {
      this.#run(this.#launched.machine.handle(event))
    } catch (error) {
      // A defect. Going on with a state that may be wrong could grant a GPU twice: end everything, visibly.
      process.stderr.write(`${new BeamlineError('INTERNAL', { what: `event ${JSON.stringify(event)}: ${(error as Error).stack}` }).message}\n`)
      void this.stop(`a defect of the node daemon: ${(error as Error).message}`, 0)
    }
  }

  #run(instructions: readonly EdgeInstruction[]): void {
    this.#gate.run(instructions)
  }

  #perform(instruction: Exclude<EdgeInstruction, { readonly kind: 'persist' }>): void {
    const { pool } = this.#launched
    switch (instruction.kind) {
      case 'send':
        if (instruction.message.$case === 'assign') return this.#assign(instruction.process, instruction.message.value)
        if (!this.#deliverTo(instruction.process, instruction.message)) this.#cluster?.perform(instruction)
        return
      case 'worker-spawn':
        return pool.spawn(instruction)
      case 'worker-ask': {
        const { worker } = instruction
        void this.#queries.ownsObjects(worker).then((owns) => this.#handle({ kind: 'worker-answered', worker, owns }))
        return
      }
      case 'worker-stop': {
        const { worker, force, reason } = instruction
        log(() => `worker ${worker} is ${force ? 'killed' : 'stopped'}: ${reason}`)
        const told = !force && this.#links.has(worker)
        if (told) this.#deliverTo(worker, { $case: 'exit', value: { reason } })
        return pool.stop(worker, force, told)
      }
      default:
        this.#cluster?.perform(instruction)
    }
  }

  /** Where its program runs, a worker finds the code as it is; elsewhere it waits for the package. */
  #assign(worker: string, assign: Assign): void {
    const cluster = this.#cluster
    if (cluster === undefined || assign.package === '' || this.#links.has(assign.job)) this.#deliverTo(worker, { $case: 'assign', value: assign })
    else void cluster.packages.place(assign).then((value) => this.#deliverTo(worker, { $case: 'assign', value }))
  }

  // ---------------------------------------------------------------- other machines

  #clusterPort(cluster: ClusterEdge): ClusterPort {
    const { machine } = this.#launched
    return {
      store: this.#store,
      handle: (event) => this.#handle(event),
      deliver: (process, message) => this.#deliverTo(process, message),
      held: () => inventoryOf(machine.node.tables),
      load: () => ({ ...offerOf(machine.node.tables), storeUsedBytes: this.#store.usage.liveBytes }),
      fromRemote: (process, body) => this.#machine(process, body, true),
      remoteGone: (process) => this.#store.processGone(process),
      attachOf: (process) => machine.node.tables.processes.get(process)?.attach,
      answer: (what, limit) => this.#queries.answerHere(what, limit),
      drain: (reason, deadlineMs) => void this.#drain(cluster, reason, deadlineMs),
      end: (reason) => void this.#beginAnew(cluster, reason),
    }
  }

  /** What runs may finish, objects move, and the node leaves. */
  async #drain(cluster: ClusterEdge, reason: string, deadlineMs: number): Promise<void> {
    const { machine } = this.#launched
    this.#handle({ kind: 'drain', reason })
    const until = performance.now() + deadlineMs
    while (performance.now() < until && !isDrained(machine.node.tables)) await delay(DRAIN_LOOK_MS)
    const leftMs = until - performance.now()
    if (leftMs > 0) await cluster.objects?.drain(leftMs)
    const drained = `node ${this.#config.session.node} was drained: ${reason}`
    this.#handle({ kind: 'node-ends', reason: drained })
    await this.stop(drained, STOP_GRACE_MS)
  }

  /** This node was declared dead, or may have been: nothing of it may go on. What comes next is a new node. */
  async #beginAnew(cluster: ClusterEdge, reason: string): Promise<void> {
    process.stderr.write(`node ${this.#config.session.node} ends its work: ${reason}\n`)
    const { mesh, headAddress, isHead, lookIn } = cluster
    const port = Number(mesh.address.split(':').at(-1))
    this.#next = this.#config.embedded ? undefined : successor(this.#config, { headAddress: isHead ? '' : headAddress, port, lookIn })
    await (this.#stopping ??= this.#stop(reason, 0))
  }

  // ---------------------------------------------------------------- logs

  #deliver(batch: LogBatch): void {
    const { tables } = this.#launched.machine.node
    const worker = tables.workers.get(batch.worker)
    if (worker?.job?.config.logToDriver !== true) return
    const [lease] = worker.leases
    const source = worker.placement?.label ?? (batch.label || lease?.label || '')
    this.#send(worker.job.id, {
      $case: 'logLines',
      value: { worker: worker.id, source, pid: worker.pid, stream: batch.stream, lines: batch.lines, number: ++this.#lastLogNumber },
    })
  }
}
