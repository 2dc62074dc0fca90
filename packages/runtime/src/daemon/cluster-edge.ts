/**
 * What a daemon has beside its own machine when other machines belong to the cluster: the mesh, the head's store or the membership, the view of
 * all nodes, and the processes of other nodes that deal with this one. Turns messages of other daemons into events and instructions into messages;
 * it decides nothing.
 *
 * A process is known by its id everywhere. The first message that its daemon sends on its behalf to another daemon introduces it there; when
 * it ends, its daemon says so to every daemon that was introduced to it.
 */
import { hostname } from 'node:os'
import { join } from 'node:path'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import type { ClusterView, Heartbeat, NodeInfo, ProcessGone, ProcessInfo, Register } from '../net/gen/mesh.ts'
import type { Drain, Failure, ObjectPin, ObjectRecover, ProcessMessage, StoredPlace } from '../net/gen/node.ts'
import { checkListen } from '../net/endpoint.ts'
import { faultsOfEnvironment } from '../net/faults.ts'
import type { Tls } from '../net/tls.ts'
import { nodeLeaseMs } from '../state/fence.ts'
import type { EdgeInstruction, MessageBody } from '../state/events.ts'
import type { MachineEvent } from '../state/machine-state.ts'
import type { Inventory } from '../state/node-report.ts'
import type { CopyStore, CopyStoreListener } from '../transfer/copy-store.ts'
import { ObjectPlane, type PlaneCounts, type PlaneNode } from '../transfer/object-plane.ts'
import { HeadStore } from './head.ts'
import { localAddressTo, Membership } from './membership.ts'
import { Mesh, type MeshBody } from './mesh.ts'
import { decodeOrder, decodeReport, encodeOrder, encodeReport, encodeView } from './mesh-codec.ts'
import { type ClusterConfig, type DaemonConfig, MEMORY_STORE } from './options.ts'
import { blobsInMemory } from '../packages/package-blobs.ts'
import { NodePackages } from '../packages/node-packages.ts'
import { adoptSession, removeSession, type Session } from './session.ts'
import { ViewNews } from './view-news.ts'

const log = debug('cluster')

/**
 * Listen for other daemons and find the cluster, or found it. A daemon that was the head and lost its lease leads again, or joins whoever leads now.
 *
 * @throws BeamlineError that says what is in the way; nothing is left then
 */
export async function openCluster(config: DaemonConfig): Promise<ClusterEdge> {
  try {
    return await ClusterEdge.open(config)
  } catch (error) {
    const { cluster } = config
    if (cluster?.again === true && cluster.head && BeamlineError.is(error, 'HEAD_EXISTS')) {
      return await openCluster({ ...config, cluster: { ...cluster, head: false, headAddress: error.details.address, store: MEMORY_STORE } })
    }
    process.stderr.write(`${BeamlineError.is(error) ? error.message : (error as Error).stack}\n`)
    // Whoever starts a daemon reads its last lines and removes its files; one that begins again has nobody.
    if (cluster?.again === true) removeSession(config.session)
    process.exit(1)
  }
}

/** Nodes that do not answer a question in this time are named as silent. */
const ANSWER_MS = 2_000
/** What is not urgent is told to the nodes so often. */
const NEWS_MS = 50

/** What the daemon does for other nodes. */
export interface ClusterPort {
  handle(event: MachineEvent): void
  /** @returns false when no such process is attached here */
  deliver(process: string, message: MessageBody): boolean
  /** What is on this node: processes, actors and bundles. */
  held(): Inventory
  /** The objects of this node. */
  readonly store: CopyStore & { tell(listener: CopyStoreListener): void }
  load(): Omit<Heartbeat, 'sequence' | 'processesGone'>
  /** A message of a process of another node. */
  fromRemote(process: string, body: NonNullable<ProcessMessage['body']>): void
  /** A process of another node ended. */
  remoteGone(process: string): void
  answer(what: string, limit: number): Promise<unknown>
  /** No new work; leave when what runs is done, or after so long. */
  drain(reason: string, deadlineMs: number): void
  /** This node may not act any more: end all at once, and take part again as a new one. */
  end(reason: string): void
}

interface Remote {
  readonly node: string
  readonly info: ProcessInfo
}

export class ClusterEdge {
  readonly config: DaemonConfig
  readonly #cluster: ClusterConfig
  readonly tls: Tls | undefined
  readonly mesh: Mesh
  readonly packages: NodePackages
  readonly #head: HeadStore | undefined
  readonly #membership: Membership | undefined
  /** Address on which processes of this node listen for those of others. */
  readonly host: string
  #port: ClusterPort | undefined
  /** What came before the daemon was ready. */
  #early: [string, MeshBody][] = []
  readonly #nodes: Map<string, NodeInfo> = new Map()
  readonly #remote: Map<string, Remote> = new Map()
  /** Which daemons know of a process of this node. */
  readonly #introduced: Map<string, Set<string>> = new Map()
  /** Drivers that are attached to another node than before, since that one is gone. */
  readonly #moved: Set<string> = new Set()
  /** What they say to nodes that this one has not heard of yet: its head, or itself, is new. */
  #unsent: { readonly node: string; readonly process: string; readonly body: NonNullable<ProcessMessage['body']> }[] = []
  /** Who asked whether a process of another node lives. */
  readonly #suspects: Map<string, Set<string>> = new Map()
  readonly #questions: Map<number, (json: string) => void> = new Map()
  readonly #drains: Map<string, { readonly process: string; readonly request: number }[]> = new Map()
  #lastQuestion = 0
  /** What the nodes are to be told, at the head. */
  readonly #news = new ViewNews()
  #newsTimer: NodeJS.Timeout | undefined
  /** That the first head gave: a later one may not know it, and lease ids begin with it. */
  #number = 0
  #plane: ObjectPlane | undefined
  #bulkAddress = ''
  #registered: (() => void) | undefined

  private constructor(config: DaemonConfig, host: string, tls: Tls | undefined, parts: (edge: ClusterEdge) => { head?: HeadStore | undefined; mesh: Mesh }) {
    this.config = config
    this.#cluster = config.cluster as ClusterConfig
    this.host = host
    this.tls = tls
    const { head, mesh } = parts(this)
    this.#head = head
    this.mesh = mesh
    this.packages = new NodePackages({
      // The folder of the store is in memory, as a rule: work goes on when the disk is full.
      dirs: [config.session.dir, config.session.storeDir].map((dir) => join(dir, 'packages')),
      store: this.#cluster.head ? (head?.blobs ?? blobsInMemory()) : undefined,
      toHead: (body) => this.#toHead(body),
      toNode: (node, body) => mesh.send(node, body),
    })
    if (this.#cluster.head) return
    this.#membership = new Membership({
      config: this.#cluster,
      mesh,
      register: () => this.#register(),
      heartbeat: () => ({ ...(this.#port as ClusterPort).load(), processesGone: [] }),
      registered: ({ number }, again) => {
        this.#number ||= number
        this.#port?.handle({ kind: 'registered', number })
        // A head that came back does not know who is attached here, nor what it was asked.
        if (again) for (const { process } of this.#local()) this.#port?.deliver(process, { $case: 'controlLost', value: { lost: false, reason: '' } })
        this.#registered?.()
      },
      headLost: (reason) => {
        for (const { process } of this.#local()) this.#port?.deliver(process, { $case: 'controlLost', value: { lost: true, reason } })
      },
      fenced: (reason) => this.#port?.end(reason),
    })
  }

  /**
   * Listen for other daemons and find the cluster, or found it: settles its id and token.
   *
   * @throws BeamlineError that says what is in the way
   */
  static async open(config: DaemonConfig): Promise<ClusterEdge> {
    const cluster = config.cluster as ClusterConfig
    const warn = (text: string): void => void process.stderr.write(`${text}\n`)
    const tls = cluster.tlsDir === '' ? undefined : await import('../net/tls.ts').then(({ loadTls, tlsFilesIn }) => loadTls(tlsFilesIn(cluster.tlsDir)))
    const host = cluster.host || (await localAddressTo(cluster.headAddress)) || '127.0.0.1'
    checkListen(`${host}:${cluster.port}`, tls !== undefined, cluster.insecure)
    faultsOfEnvironment() // refuses what it cannot read now, not at the first message
    let head: HeadStore | undefined
    let session: Session = config.session
    if (cluster.head && cluster.store !== MEMORY_STORE) {
      const { cluster: id, token } = config.session
      head = await HeadStore.open({ url: cluster.store, nodeTimeoutMs: cluster.nodeTimeoutMs, warn, fresh: { cluster: id, token } })
      session = adoptSession(session, head.identity)
    }
    const edge = new ClusterEdge({ ...config, session }, host, tls, (self) => ({
      head,
      mesh: new Mesh({
        node: session.node,
        token: session.token,
        tls,
        cluster: () => self.#clusterId(),
        headAddress: () => self.headAddress,
        locate: (node) => self.#locate(node),
        isDead: (node) => self.#nodes.get(node)?.state === 'DEAD',
        message: (node, body) => self.#message(node, body),
        lost: (node) => self.#membership?.lost(node),
        refused: (node, { code, reason }) => {
          if (code === 'NODE_DEAD' || node === self.#membership?.head) self.#membership?.refused(reason)
        },
      }),
    }))
    try {
      await edge.#open()
    } catch (error) {
      await Promise.all([edge.mesh.close(), head?.close(false)])
      throw error
    }
    if (cluster.head) return edge
    return Object.assign(edge, { config: { ...config, session: adoptSession(session, { cluster: edge.#clusterId(), token: session.token }) } })
  }

  async #open(): Promise<void> {
    const { port, portWished } = this.#cluster
    try {
      await this.mesh.reserve(this.host, portWished || port)
    } catch (error) {
      if (portWished === 0 || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
        throw new BeamlineError('START_FAILED', { what: `the daemon at ${this.host}:${port}`, reason: (error as Error).message }, { cause: error })
      }
      await this.mesh.reserve(this.host, 0)
    }
    // A head that does not listen is none: nodes wait for it. One that listens and is silent may have declared them dead: it listens when it can answer.
    if (!this.isHead) await this.mesh.listen()
    const { node } = this.config.session
    await this.#head?.lead(node, this.mesh.address, (reason) => this.#port?.end(`this head must not decide any more: ${reason}`))
    await this.#membership?.find()
  }

  /** Asked before each act: this process may have been stopped for so long that others decide by now. */
  get mayAct(): boolean {
    return this.#membership?.check() ?? this.#head?.isHead ?? true
  }

  get isHead(): boolean {
    return this.#cluster.head
  }

  /** Node of the head. */
  get head(): string {
    return this.#membership?.head ?? this.config.session.node
  }

  /** URL of the store in which this node can look for the head; "": there is none. */
  get lookIn(): string {
    return this.#membership?.lookIn ?? ''
  }

  get headAddress(): string {
    return this.#membership?.headAddress ?? this.mesh.address
  }

  /** Nodes as the head describes them. */
  get nodes(): ReadonlyMap<string, NodeInfo> {
    return this.#nodes
  }

  /** The node of a process that is not attached here; undefined when it is not known. */
  nodeOf(process: string): string | undefined {
    return this.#remote.get(process)?.node
  }

  /** Take part. Resolves when this node may have work. */
  async connect(port: ClusterPort): Promise<void> {
    const { session } = this.config
    this.#plane = new ObjectPlane({
      node: session.node,
      cluster: session.cluster,
      token: session.token,
      tls: this.tls,
      faults: faultsOfEnvironment(),
      store: port.store,
      nodes: () => this.#others(),
      sendToNode: (node, body) => this.mesh.send(node, body),
      sendToProcess: (process, message) => {
        if (!port.deliver(process, message)) this.sendToProcess(process, undefined, message)
      },
      validate: process.env['BEAMLINE_VALIDATE'] === '1',
    })
    port.store.tell(this.#plane)
    this.#bulkAddress = await this.#plane.listen(this.host)
    this.#port = port
    const registered = new Promise<void>((resolve) => {
      this.#registered = resolve
    })
    if (this.isHead) {
      const records = await this.#head?.records()
      if (records !== undefined) port.handle({ kind: 'restore', records })
      port.handle({ kind: 'node-registered', register: this.#register() })
      await this.mesh.listen()
    } else this.#membership?.start()
    for (const [node, body] of this.#early.splice(0)) this.#message(node, body)
    if (!this.isHead) await registered
  }

  /** Durable writes of the head; undefined: it keeps nothing. */
  get write(): HeadStore['write'] | undefined {
    const head = this.#head
    return head === undefined ? undefined : (batch) => head.write(batch)
  }

  /** @param forget - the cluster ends with this node */
  async close(reason: string, forget: boolean): Promise<void> {
    clearTimeout(this.#newsTimer)
    this.#membership?.stop()
    if (this.#membership !== undefined)
      this.mesh.send(this.#membership.head, { $case: 'leave', value: { node: this.config.session.node, reason, deadlineMs: 0, replaced: false } })
    await Promise.all([this.mesh.close(), this.#plane?.close()])
    await this.#head?.close(forget)
  }

  // ---------------------------------------------------------------- instructions

  /** What concerns other nodes. */
  perform(instruction: Exclude<EdgeInstruction, { readonly kind: 'persist' | 'worker-spawn' | 'worker-ask' | 'worker-stop' }>): void {
    switch (instruction.kind) {
      case 'send':
        return this.sendToProcess(instruction.process, instruction.node, instruction.message)
      case 'to-node':
        return this.fromProcess(instruction.node, instruction.process, instruction.message)
      case 'report':
        return this.#toHead({ $case: 'report', value: encodeReport(instruction.report) })
      case 'order':
        return this.mesh.send(instruction.node, { $case: 'order', value: encodeOrder(instruction.order) })
      case 'view': {
        const { view, to, urgent } = instruction
        for (const node of view.nodes) this.#nodes.set(node.node, node)
        this.#introduceMoved()
        if (to === undefined) this.#news.add(view)
        if (to === undefined && !urgent) return void (this.#newsTimer ??= setTimeout(() => this.#tellNews(), NEWS_MS))
        this.#tellNews()
        if (to !== undefined) this.mesh.send(to, { $case: 'view', value: encodeView(view, this.#epoch) })
        return
      }
      case 'node-accepted': {
        const { heartbeatMs, nodeTimeoutMs, store } = this.#cluster
        return this.mesh.send(instruction.node, {
          $case: 'registered',
          value: {
            epoch: this.#epoch,
            number: instruction.number,
            leaseMs: nodeLeaseMs(nodeTimeoutMs),
            heartbeatMs,
            store: this.#head?.shared === true ? store : '',
          },
        })
      }
      case 'node-refused':
        return this.mesh.send(instruction.node, { $case: 'refused', value: { code: instruction.code, reason: instruction.reason } })
      case 'node-lost':
        return this.#nodeLost(instruction)
    }
  }

  /** A message for a process that is attached to another daemon. */
  sendToProcess(process: string, known: string | undefined, message: MessageBody): void {
    const node = known ?? this.#remote.get(process)?.node ?? this.#membership?.head
    // What it names in its next task, its node must know.
    if (node !== undefined && message.$case === 'groupState') {
      const view = this.#news.ofGroup(message.value.group)
      if (view !== undefined) this.mesh.send(node, { $case: 'view', value: encodeView(view, this.#epoch) })
    }
    // The head knows all processes; what it does not know either is gone.
    if (node !== undefined && node !== this.config.session.node)
      this.mesh.send(node, { $case: 'toProcess', value: { id: process, message: { body: message } } })
  }

  #tellNews(): void {
    clearTimeout(this.#newsTimer)
    this.#newsTimer = undefined
    const view = this.#news.take()
    if (view === undefined) return
    const value = encodeView(view, this.#epoch)
    for (const { node, state } of this.#nodes.values()) if (state !== 'DEAD') this.mesh.send(node, { $case: 'view', value })
  }

  /** A message of a process of this node, as if it were attached to the other one. */
  fromProcess(node: string, process: string, body: NonNullable<ProcessMessage['body']> | undefined): void {
    const introduced = this.#introduced.get(process)
    if (introduced?.has(node) === true) return this.mesh.send(node, { $case: 'fromProcess', value: { id: process, process: undefined, message: { body } } })
    const info = this.#local().find((each) => each.process === process)
    if (info === undefined) return
    if (info.again && body !== undefined && !this.#nodes.has(node)) return void this.#unsent.push({ node, process, body })
    this.#introduce(process, node)
    this.mesh.send(node, { $case: 'fromProcess', value: { id: process, process: info, message: body === undefined ? undefined : { body } } })
  }

  /** A message that only the head can answer. */
  control(process: string, body: NonNullable<ProcessMessage['body']> | undefined): void {
    if (this.#membership !== undefined) this.fromProcess(this.#membership.head, process, body)
  }

  // ---------------------------------------------------------------- objects

  /** A process of this node reads an object that is on another one. */
  pin(process: string, pin: ObjectPin): void {
    this.#plane?.pin(process, pin)
  }

  /** Of pins that may still wait. */
  unpin(process: string, pins: readonly number[]): void {
    this.#plane?.unpin(process, pins)
  }

  /** A process of this node looks for another copy of an object that it owns. */
  recover(process: string, recover: ObjectRecover): void {
    this.#plane?.recover(process, recover)
  }

  /** The owner of objects on another node lets them go. */
  freed(process: string, node: string, places: StoredPlace[]): void {
    if (this.#nodes.get(node)?.state === 'DEAD') this.#plane?.freedOnLostNode(places)
    else this.fromProcess(node, process, { $case: 'objectsFreed', value: { places } })
  }

  /** What the object plane has moved, and is moving. */
  get transfers(): PlaneCounts | undefined {
    return this.#plane?.counts
  }

  /** Moves the objects of this node to others, as far as they take them. */
  async moveObjects(deadlineMs: number): Promise<void> {
    await this.#plane?.drain(deadlineMs)
  }

  // ---------------------------------------------------------------- processes

  /** A process attached to this daemon. The head hears of every driver: what works for it anywhere lives as long as it does. */
  attached(process: string, kind: string, again: boolean): void {
    if (again) {
      this.#moved.add(process)
      this.#remote.delete(process)
      this.#introduceMoved()
    }
    if (kind === 'driver') this.control(process, undefined)
  }

  /** Every node that may know such a driver must know where it is before its old node is declared dead. */
  #introduceMoved(): void {
    if (this.#moved.size === 0) return
    const unsent = this.#unsent
    this.#unsent = []
    for (const { node, process, body } of unsent) this.fromProcess(node, process, body)
    for (const { process } of this.#local()) {
      if (!this.#moved.has(process)) continue
      for (const { node } of this.#others()) if (this.#introduced.get(process)?.has(node) !== true) this.fromProcess(node, process, undefined)
    }
  }

  /** Nodes whose daemons were killed on this machine, of whatever cluster. */
  gone(nodes: readonly string[]): void {
    const reason = 'its daemon ended, and its machine has another one'
    for (const node of nodes) {
      if (this.isHead) this.#port?.handle({ kind: 'node-left', node, reason, replaced: true })
      else this.#toHead({ $case: 'leave', value: { node, reason, deadlineMs: 0, replaced: true } })
    }
  }

  /** A process of this node ended. */
  detached(process: string, inOrder: boolean): void {
    this.#moved.delete(process)
    this.#unsent = this.#unsent.filter((message) => message.process !== process)
    this.packages.gone(process)
    for (const node of this.#introduced.get(process) ?? []) this.mesh.send(node, { $case: 'processGone', value: { process, inOrder } })
    this.#introduced.delete(process)
    this.#plane?.processGone(process)
  }

  /** A process of this node lost its link to another one. */
  suspect(asker: string, process: string, known: string): void {
    const node = this.#remote.get(process)?.node ?? known
    const state = this.#nodes.get(node)?.state
    if (state === 'DEAD') return void this.#port?.deliver(asker, { $case: 'processLost', value: { process, cause: nodeDied(this.#nodes.get(node)) } })
    const askers = this.#suspects.get(process) ?? new Set()
    this.#suspects.set(process, askers.add(asker))
    this.mesh.send(node, { $case: 'processQuestion', value: { process } })
  }

  // ---------------------------------------------------------------- questions

  /** Answers of all other nodes that live, or of one; those that do not answer in time are named. */
  async ask(what: string, limit: number, only?: string): Promise<{ readonly answers: ReadonlyMap<string, unknown>; readonly silent: readonly string[] }> {
    const answers = new Map<string, unknown>()
    const silent: string[] = []
    const ask = async (node: string): Promise<void> => {
      const request = ++this.#lastQuestion
      const { promise, resolve } = Promise.withResolvers<string | undefined>()
      const timer = setTimeout(() => resolve(undefined), ANSWER_MS)
      this.#questions.set(request, resolve)
      this.mesh.send(node, { $case: 'nodeQuery', value: { request, what, limit } })
      const json = await promise
      clearTimeout(timer)
      this.#questions.delete(request)
      if (json === undefined) silent.push(node)
      else answers.set(node, JSON.parse(json))
    }
    const others = [...this.#nodes.values()].filter(({ node, state }) => state !== 'DEAD' && node !== this.config.session.node && node === (only ?? node))
    await Promise.all(others.map(({ node }) => ask(node)))
    return { answers, silent }
  }

  /** `beamline drain`: at the head, from wherever it was asked. */
  drain(process: string, { request, node, deadlineMs, reason }: Drain): void {
    const fail = (failure: Failure | undefined): void => {
      const message: MessageBody = { $case: 'drained', value: { request, failure } }
      if (this.#port?.deliver(process, message) !== true) this.sendToProcess(process, undefined, message)
    }
    const state = this.#nodes.get(node)?.state
    const refuse = (got: string, expected: string): void =>
      fail({ code: 'INVALID_ARGUMENT', detailsJson: JSON.stringify({ what: 'the node to drain', got, expected }) })
    if (node === this.config.session.node) return refuse(`${node}, the head`, 'another node: the cluster ends with its head; `beamline stop` ends it')
    if (state === undefined) return refuse(node, `one of ${[...this.#nodes.keys()].join(', ')}`)
    if (state === 'DEAD') return fail(undefined)
    this.#drains.set(node, [...(this.#drains.get(node) ?? []), { process, request }])
    this.#port?.handle({ kind: 'node-drain', node, reason })
    this.mesh.send(node, { $case: 'leave', value: { node, reason, deadlineMs, replaced: false } })
  }

  // ---------------------------------------------------------------- messages of other daemons

  #message(node: string, body: MeshBody): void {
    const port = this.#port
    if (port === undefined) return void this.#early.push([node, body])
    if (!this.mayAct || this.packages.message(node, body)) return
    switch (body.$case) {
      case 'register':
        if (!this.isHead) return this.mesh.send(node, { $case: 'refused', value: { code: 'NOT_HEAD', reason: `the head is at ${this.headAddress}` } })
        for (const info of body.value.processes) this.#isAt(node, info)
        if (body.value.node?.node === node) port.handle({ kind: 'node-registered', register: body.value })
        return
      case 'registered':
        return this.#membership?.registered(node, body.value)
      case 'heartbeat': {
        const { sequence, available, queued, storeUsedBytes } = body.value
        const { state } = this.#nodes.get(node) ?? {}
        // It has not registered here, or is refused: its lease must not go on.
        if (!this.isHead || state === undefined || state === 'DEAD' || available === undefined || this.#head?.isHead === false) return
        port.handle({ kind: 'node-heartbeat', node, available, queued, storeUsedBytes, nowMs: Date.now() })
        return this.mesh.send(node, { $case: 'heartbeatSeen', value: { sequence, epoch: this.#epoch } })
      }
      case 'heartbeatSeen':
        return this.#membership?.seen(node, body.value)
      case 'view':
        if (node !== this.#membership?.head) return
        this.#see(body.value)
        return port.handle({ kind: 'view', view: body.value })
      case 'order': {
        const order = node === this.#membership?.head ? decodeOrder(body.value) : undefined
        return order && port.handle(order)
      }
      case 'report': {
        const report = this.isHead ? decodeReport(body.value, node) : undefined
        return report && port.handle(report)
      }
      case 'fromProcess':
        return this.#fromProcess(node, body.value.id, body.value.process, body.value.message?.body)
      case 'toProcess': {
        const { id, message } = body.value
        return message?.body && this.#toProcess(node, id, message.body)
      }
      case 'processGone':
        return this.#processGone(node, body.value)
      case 'processQuestion': {
        const { process } = body.value
        if (!this.#local().some((info) => info.process === process)) this.mesh.send(node, { $case: 'processGone', value: { process, inOrder: false } })
        return
      }
      case 'nodeQuery': {
        const { request, what, limit } = body.value
        void port.answer(what, limit).then((answer) => this.mesh.send(node, { $case: 'nodeAnswer', value: { request, json: JSON.stringify(answer) } }))
        return
      }
      case 'nodeAnswer':
        return this.#questions.get(body.value.request)?.(body.value.json)
      case 'leave':
        if (this.isHead) return port.handle({ kind: 'node-left', node: body.value.node, reason: body.value.reason, replaced: body.value.replaced })
        if (node === this.#membership?.head) port.drain(body.value.reason, body.value.deadlineMs)
        return
      case 'refused':
        if (node === this.#membership?.head) this.#membership.refused(body.value.reason)
        return
      default:
        this.#plane?.meshMessage(node, body)
    }
  }

  #fromProcess(node: string, id: string, info: ProcessInfo | undefined, body: ProcessMessage['body']): void {
    const port = this.#port as ClusterPort
    if (info !== undefined && this.#remote.get(id)?.node !== node) {
      this.#isAt(node, info)
      const { kind, pid, address, job, jobId } = info
      if (kind === 'driver' || kind === 'worker' || kind === 'cli')
        port.handle({ kind: 'process-attached', process: id, node, processKind: kind, pid, address, job, jobId })
    }
    if (body !== undefined && this.#remote.get(id)?.node === node) port.fromRemote(id, body)
  }

  #isAt(node: string, info: ProcessInfo): void {
    this.#remote.set(info.process, { node, info })
    if (info.again) this.#moved.add(info.process)
  }

  #toProcess(node: string, id: string, body: MessageBody): void {
    const port = this.#port as ClusterPort
    if (port.deliver(id, body)) {
      if (body.$case === 'leaseGranted' && !body.value.again)
        port.handle({ kind: 'remote-granted', node, process: id, key: body.value.key, lease: body.value.lease })
    } else if (this.isHead && this.#remote.has(id)) this.sendToProcess(id, undefined, body)
  }

  #processGone(node: string, { process, inOrder }: ProcessGone): void {
    const port = this.#port as ClusterPort
    for (const asker of this.#suspects.get(process) ?? []) port.deliver(asker, { $case: 'processLost', value: { process, cause: undefined } })
    this.#suspects.delete(process)
    if (this.#remote.get(process)?.node !== node) return
    this.#remote.delete(process)
    this.#moved.delete(process)
    port.handle({ kind: 'process-lost', process, clean: inOrder })
    port.remoteGone(process)
  }

  #nodeLost({ node, number, cause }: Extract<EdgeInstruction, { kind: 'node-lost' }>): void {
    log(() => `node ${node} is lost: ${cause.code} ${cause.detailsJson}`)
    const port = this.#port as ClusterPort
    const known = this.#nodes.get(node)
    if (known !== undefined) this.#nodes.set(node, { ...known, state: 'DEAD', cause })
    this.packages.gone(node)
    this.mesh.drop(node, `node ${node} was declared dead`)
    for (const process of this.#moved) if (this.#remote.get(process)?.node === node) this.#moved.delete(process)
    for (const { process } of this.#local()) port.deliver(process, { $case: 'nodeLost', value: { node, number, cause, survivors: [...this.#moved] } })
    for (const [process, remote] of this.#remote) {
      if (remote.node !== node) continue
      this.#remote.delete(process)
      this.#suspects.delete(process)
      port.remoteGone(process)
    }
    for (const introduced of this.#introduced.values()) introduced.delete(node)
    this.#plane?.nodeLost(node, cause.code)
    for (const { process, request } of this.#drains.get(node) ?? []) {
      const message: MessageBody = { $case: 'drained', value: { request, failure: undefined } }
      if (!port.deliver(process, message)) this.sendToProcess(process, undefined, message)
    }
    this.#drains.delete(node)
  }

  // ---------------------------------------------------------------- helpers

  #see({ all, nodes, jobsEnded }: ClusterView): void {
    for (const job of jobsEnded) this.packages.jobEnded(job)
    if (all) this.#nodes.clear()
    for (const node of nodes) this.#nodes.set(node.node, node)
    this.#introduceMoved()
  }

  #others(): PlaneNode[] {
    const others = [...this.#nodes.values()].filter(({ node, state }) => state !== 'DEAD' && node !== this.config.session.node)
    return others.map(({ node, bulkAddress, state, storeBytes, storeUsedBytes }) => ({
      node,
      bulkAddress,
      draining: state === 'DRAINING',
      freeBytes: storeBytes - storeUsedBytes,
    }))
  }

  #toHead(body: MeshBody): void {
    if (this.#membership !== undefined) this.mesh.send(this.#membership.head, body)
  }

  #locate(node: string): string | undefined {
    if (node === this.config.session.node) return undefined
    const known = this.#nodes.get(node)
    if (known !== undefined) return known.state === 'DEAD' ? undefined : known.address
    return node === this.#membership?.head ? this.#membership.headAddress : undefined
  }

  #local(): ProcessInfo[] {
    const processes = this.#port?.held().processes ?? []
    return this.#moved.size === 0 ? processes : processes.map((info) => ({ ...info, again: this.#moved.has(info.process) }))
  }

  #introduce(process: string, node: string): void {
    const introduced = this.#introduced.get(process)
    if (introduced === undefined) this.#introduced.set(process, new Set([node]))
    else introduced.add(node)
  }

  get #epoch(): number {
    return this.#head?.epoch ?? 1
  }

  #clusterId(): string {
    return this.#membership?.cluster || this.config.session.cluster
  }

  #register(): Register {
    const { session, total, labels, storeBytes } = this.config
    const port = this.#port as ClusterPort
    const { available, queued, storeUsedBytes } = port.load()
    const held = { ...port.held(), processes: this.#local() }
    if (this.#membership !== undefined) for (const { process } of held.processes) this.#introduce(process, this.#membership.head)
    return {
      node: {
        node: session.node,
        number: this.#number,
        address: this.mesh.address,
        bulkAddress: this.#bulkAddress,
        host: hostname(),
        total,
        available,
        labels: { ...labels },
        state: 'ALIVE',
        cause: undefined,
        queued,
        storeBytes,
        storeUsedBytes,
        pid: process.pid,
        head: this.isHead,
      },
      ...held,
    }
  }
}

function nodeDied(info: NodeInfo | undefined): Failure {
  return info?.cause ?? { code: 'NODE_DIED', detailsJson: JSON.stringify({ reason: `node ${info?.node ?? ''} is gone` }) }
}
