/**
 * The node daemon: links of attached processes at one side, the pure machine in the middle, worker processes and the object store at the other.
 * It turns messages into events and instructions into acts; it decides nothing. Garbage from a process never ends it.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { BeamlineError } from '../errors.ts'
import { debug } from '../debug.ts'
import type { Hello, NodeMessage, ProcessMessage } from '../net/gen/node.ts'
import { type Link, listen, type Server } from '../net/link.ts'
import type { EdgeInstruction, MessageBody } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import type { Launched } from './launch.ts'
import type { LogBatch } from './logs.ts'
import type { DaemonConfig, DaemonReady } from './options.ts'
import { SegmentStore } from './segment-store.ts'
import { Queries } from './queries.ts'
import { holdSession, removeSession, removeStaleSessions } from './session.ts'

export type NodeLink = Link<NodeMessage, ProcessMessage>

const TICK_MS = 250
/** A stop in order: what has not ended by itself is killed after so long. */
const STOP_GRACE_MS = 2_000
/** How long processes may take to read what was sent to them before the stop. */
const LAST_WORDS_MS = 300
/** The other end of the lifeline is gone: nobody waits for results. */
const ORPHANED_GRACE_MS = 500

const log = debug('daemon')

interface Attached {
  readonly link: NodeLink
  readonly hello: Hello
}

export class Daemon {
  readonly #config: DaemonConfig
  readonly #launched: Launched
  readonly #links: Map<string, Attached> = new Map()
  readonly #store: SegmentStore
  readonly #queries: Queries
  #server: Server | undefined
  #ticker: NodeJS.Timeout | undefined
  #stopping: Promise<void> | undefined

  constructor(config: DaemonConfig, launched: Launched) {
    this.#config = config
    this.#launched = launched
    const processes = (): string[] => [...this.#links].flatMap(([id, { hello }]) => (hello.kind === 'cli' ? [] : [id]))
    this.#store = new SegmentStore({
      storeDir: config.session.storeDir,
      capacityBytes: config.storeBytes,
      send: (process, message) => this.#send(process, message),
      processes,
      validate: process.env['BEAMLINE_VALIDATE'] === '1',
    })
    this.#queries = new Queries({
      config,
      machine: launched.machine,
      store: this.#store,
      processes,
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
    const { pool } = this.#launched
    pool.listening()
    this.#launched.connect(
      (worker, exit) => {
        this.#handle({ kind: 'worker-exited', worker, exit })
        this.#store.processGone(worker)
      },
      (batch) => this.#deliver(batch),
    )
    this.#run(this.#launched.pending)
    holdSession(session, {
      stays: !embedded,
      cluster: session.cluster,
      node: session.node,
      address: session.address,
      head: true,
      mesh: '',
      headAddress: '',
      host: '',
    })
    const ready: DaemonReady = {
      address: session.address,
      token: session.token,
      cluster: session.cluster,
      node: session.node,
      sessionDir: session.dir,
      storeDir: session.storeDir,
      pid: process.pid,
      mesh: '',
      host: '',
    }
    process.stdout.write(`${JSON.stringify(ready)}\n`)
    this.#ticker = setInterval(() => this.#handle({ kind: 'tick', nowMs: Date.now() }), TICK_MS)
    setImmediate(removeStaleSessions)
  }

  /** End everything that this daemon started, remove its files, and exit. */
  stop(reason: string, graceMs: number): Promise<void> {
    this.#stopping ??= this.#stop(reason, graceMs)
    return this.#stopping
  }

  async #stop(reason: string, graceMs: number): Promise<void> {
    const { session } = this.#config
    log(() => `stops: ${reason}`)
    clearInterval(this.#ticker)
    holdSession(session)
    this.#launched.logs.flush(true)
    for (const { link } of this.#links.values()) {
      link.send({ body: { $case: 'exit', value: { reason } } })
      link.flush()
    }
    this.#store.close()
    await this.#launched.pool.close(graceMs)
    this.#launched.logs.flush(true)
    // The last lines of workers are on their way to drivers.
    const ends = [...this.#links.values()].map(({ link }) => {
      link.close()
      return link.closed
    })
    await Promise.race([Promise.all(ends), delay(LAST_WORDS_MS)])
    await this.#server?.close()
    removeSession(session)
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
      this.#handle({ kind: 'process-lost', process: attached.hello.process })
      this.#queries.processLost(attached.hello.process)
      // Workers are waited for: a worker without a link may still be writing.
      if (attached.hello.kind !== 'worker') this.#store.processGone(attached.hello.process)
    })
  }

  #hello(link: NodeLink, hello: Hello): Attached | undefined {
    const { process: id, kind, pid, address, job } = hello
    const refuse = (reason: string): undefined => {
      link.send({ body: { $case: 'exit', value: { reason } } })
      link.close()
    }
    if (!/^[0-9a-f]{16}$/.test(id) || this.#links.has(id)) return refuse(`the process id ${JSON.stringify(id)} is not 16 hex digits or is in use`)
    if (kind !== 'driver' && kind !== 'worker' && kind !== 'cli') return refuse(`unknown kind of process ${JSON.stringify(kind)}`)
    if (this.#stopping !== undefined) return refuse('the node stops')
    if (kind === 'worker' && this.#launched.machine.node.tables.workers.get(id)?.state !== 'starting') return refuse('this node did not start that worker')
    if (kind === 'driver' && job === undefined) return refuse('a driver must describe its job')
    const attached = { link, hello }
    this.#links.set(id, attached)
    log(() => `${kind} ${id} (pid ${pid}) attached`)
    const { session, total, storeBytes } = this.#config
    this.#send(id, {
      $case: 'welcome',
      value: { cluster: session.cluster, node: session.node, total, storeBytes, sessionDir: session.dir, storeDir: session.storeDir, host: '' },
    })
    this.#handle({ kind: 'process-attached', process: id, processKind: kind, pid, address, job })
    return attached
  }

  #send(process: string, body: MessageBody): void {
    this.#links.get(process)?.link.send({ body })
  }

  // ---------------------------------------------------------------- events and instructions

  #message(from: Attached, body: NonNullable<ProcessMessage['body']>): void {
    const { process } = from.hello
    switch (body.$case) {
      case 'hello':
        return
      case 'leaseDemand':
        return this.#handle({ kind: 'lease-demand', process, ...body.value })
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
      case 'segmentRequest':
        return this.#store.request(process, body.value)
      case 'segmentReturn':
        return this.#store.giveBack(process, body.value.segment)
      case 'objectsAdded':
        return this.#store.added(process, body.value)
      case 'objectsFreed':
        return this.#store.freed(process, body.value)
      case 'objectPin':
        return this.#store.pin(process, body.value)
      case 'objectUnpin':
        return this.#store.unpin(process, body.value.pins)
      case 'taskEvents':
        return this.#queries.addTaskEvents(body.value)
      case 'query': {
        const { request, what, limit } = body.value
        void this.#queries
          .answer(process, what, limit)
          .then((answer) => from.link.send({ body: { $case: 'queryReply', value: { request, json: JSON.stringify(answer) } } }))
        return
      }
      case 'queryReply':
        return this.#queries.reply(process, body.value)
      case 'shutdown':
        // A driver that only attached must not end the cluster of others.
        if (from.hello.kind === 'cli' || (this.#config.embedded && from.hello.pid === this.#config.starterPid)) void this.stop(body.value.reason, STOP_GRACE_MS)
        return
      default:
        return
    }
  }

  #handle(event: MachineEvent): void {
    if (this.#stopping !== undefined && event.kind !== 'worker-exited') return
    try {
      this.#run(this.#launched.machine.handle(event))
    } catch (error) {
      // A defect. Going on with a state that may be wrong could grant a GPU twice: end everything, visibly.
      process.stderr.write(`${new BeamlineError('INTERNAL', { what: `event ${JSON.stringify(event)}: ${(error as Error).stack}` }).message}\n`)
      void this.stop(`a defect of the node daemon: ${(error as Error).message}`, 0)
    }
  }

  #run(instructions: readonly EdgeInstruction[]): void {
    const { pool } = this.#launched
    for (const instruction of instructions) {
      switch (instruction.kind) {
        case 'send':
          this.#send(instruction.process, instruction.message)
          break
        case 'worker-spawn':
          pool.spawn(instruction)
          break
        case 'worker-ask': {
          const { worker } = instruction
          void this.#queries.ownsObjects(worker).then((owns) => this.#handle({ kind: 'worker-answered', worker, owns }))
          break
        }
        case 'worker-stop': {
          const { worker, force, reason } = instruction
          log(() => `worker ${worker} is ${force ? 'killed' : 'stopped'}: ${reason}`)
          const told = !force && this.#links.has(worker)
          if (told) this.#send(worker, { $case: 'exit', value: { reason } })
          pool.stop(worker, force, told)
          break
        }
        default:
          instruction satisfies never
      }
    }
  }

  // ---------------------------------------------------------------- logs

  #deliver(batch: LogBatch): void {
    const { tables } = this.#launched.machine.node
    const worker = tables.workers.get(batch.worker)
    const driver = this.#links.get(worker?.job?.id ?? '')
    if (worker === undefined || driver?.hello.job?.logToDriver !== true) return
    const [lease] = worker.leases
    const source = worker.placement?.label ?? (batch.label || lease?.label || '')
    driver.link.send({ body: { $case: 'logLines', value: { worker: worker.id, source, pid: worker.pid, stream: batch.stream, lines: batch.lines } } })
  }
}
