/**
 * What a daemon has beside its own machine when other machines belong to the cluster: the mesh, the head's store or the membership, and what it knows
 * of nodes and processes elsewhere. Turns messages of other daemons into events and instructions into messages; it decides nothing.
 */
import { hostname } from 'node:os'
import { join } from 'node:path'
import { debug } from '../debug.ts'
import type { Heartbeat, NodeInfo, Register } from '../net/gen/mesh.ts'
import type { StoredPlace } from '../net/gen/node.ts'
import { faultsOfEnvironment } from '../net/faults.ts'
import type { Tls } from '../net/tls.ts'
import type { EdgeInstruction, MessageBody } from '../state/events.ts'
import type { Inventory } from '../state/node-report.ts'
import type { CopyStore, CopyStoreListener } from '../transfer/copy-store.ts'
import { ObjectPlane, type PlaneNode } from '../transfer/object-plane.ts'
import type { HeadStore } from './head.ts'
import { HeadNodes } from './head-nodes.ts'
import { KnownNodes } from './known-nodes.ts'
import { Membership } from './membership.ts'
import { Mesh, type MeshBody } from './mesh.ts'
import { decodeOrder, encodeReport } from './mesh-codec.ts'
import { NodeQuestions } from './node-questions.ts'
import type { ClusterConfig, DaemonConfig } from './options.ts'
import { blobsInMemory } from '../packages/package-blobs.ts'
import { NodePackages } from '../packages/node-packages.ts'
import { placeWithin } from '../packages/package-place.ts'
import { ProcessDirectory, type ProcessPort } from './process-directory.ts'
import { adoptSession } from './session.ts'

const log = debug('cluster')

/** What the daemon does for other nodes. */
export interface ClusterPort extends Omit<ProcessPort, 'local'> {
  /** What is on this node: processes, actors and bundles. */
  held(): Inventory
  /** The objects of this node. */
  readonly store: CopyStore & { tell(listener: CopyStoreListener): void }
  load(): Omit<Heartbeat, 'sequence' | 'processesGone'>
  answer(what: string, limit: number): Promise<unknown>
  /** No new work; leave when what runs is done, or after so long. */
  drain(reason: string, deadlineMs: number): void
  /** This node may not act any more: end all at once, and take part again as a new one. */
  end(reason: string): void
}

/** What is there before a daemon deals with others. */
export interface ClusterParts {
  /** With the id and token of the cluster, as far as they are known. */
  readonly config: DaemonConfig
  readonly cluster: ClusterConfig
  readonly host: string
  readonly tls: Tls | undefined
  /** At a head that keeps records. */
  readonly head: HeadStore | undefined
}

export class ClusterEdge {
  readonly #cluster: ClusterConfig
  readonly tls: Tls | undefined
  readonly mesh: Mesh
  readonly packages: NodePackages
  readonly nodes: KnownNodes
  readonly processes: ProcessDirectory
  readonly questions: NodeQuestions
  /** At the head. */
  readonly headNodes: HeadNodes | undefined
  readonly #head: HeadStore | undefined
  readonly #membership: Membership | undefined
  /** Address on which processes of this node listen for those of others. */
  readonly host: string
  #config: DaemonConfig
  #port: ClusterPort | undefined
  /** What came before the daemon was ready. */
  #early: [string, MeshBody][] = []
  /** That the first head gave: a later one may not know it, and lease ids begin with it. */
  #number = 0
  #plane: ObjectPlane | undefined
  #bulkAddress = ''
  #registered: (() => void) | undefined

  constructor({ config, cluster, host, tls, head }: ClusterParts) {
    const { node, token, dir, storeDir } = config.session
    this.#config = config
    this.#cluster = cluster
    this.host = host
    this.tls = tls
    this.#head = head
    const mesh = new Mesh({
      node,
      token,
      tls,
      cluster: () => this.#clusterId(),
      headAddress: () => this.headAddress,
      locate: (other) => this.#locate(other),
      isDead: (other) => this.nodes.isDead(other),
      message: (from, body) => this.#message(from, body),
      lost: (other) => this.#membership?.lost(other),
      refused: (other, { code, reason }) => {
        if (code === 'NODE_DEAD' || other === this.#membership?.head) this.#membership?.refused(reason)
      },
    })
    this.mesh = mesh
    this.nodes = new KnownNodes(node)
    this.questions = new NodeQuestions(this.nodes, (to, query) => mesh.send(to, { $case: 'nodeQuery', value: query }))
    this.processes = new ProcessDirectory({ nodes: this.nodes, head: () => this.#membership?.head, send: (to, body) => mesh.send(to, body) })
    this.packages = new NodePackages({
      // The folder of the store is in memory, as a rule: work goes on when the disk is full.
      dirs: [dir, storeDir].map((each) => join(each, 'packages')),
      store: cluster.head ? (head?.blobs ?? blobsInMemory()) : undefined,
      place: cluster.packages === '' ? '' : placeWithin(cluster.packages, config.session.cluster),
      toHead: (body) => this.#toHead(body),
      toNode: (to, body) => mesh.send(to, body),
    })
    if (cluster.head) {
      const { processes } = this
      const tell = (process: string, message: MessageBody): void => this.#tell(process, message)
      this.headNodes = new HeadNodes({ node, cluster, store: head, mesh, nodes: this.nodes, processes, handle: (event) => this.#port?.handle(event), tell })
      return
    }
    this.#membership = new Membership({
      config: cluster,
      mesh,
      register: () => this.#register(),
      heartbeat: () => ({ ...(this.#port as ClusterPort).load(), processesGone: [] }),
      registered: ({ number }, again) => {
        this.#number ||= number
        this.#port?.handle({ kind: 'registered', number })
        // A head that came back does not know who is attached here, nor what it was asked.
        if (again) this.processes.tellAll({ $case: 'controlLost', value: { lost: false, reason: '' } })
        this.#registered?.()
      },
      headLost: (reason) => this.processes.tellAll({ $case: 'controlLost', value: { lost: true, reason } }),
      fenced: (reason) => this.#port?.end(reason),
    })
  }

  /** Find the cluster, or lead it. The mesh has its address. */
  async open(): Promise<void> {
    // A head that does not listen is none: nodes wait for it. One that listens and is silent may have declared them dead: it listens when it can answer.
    if (!this.isHead) await this.mesh.listen()
    const { session } = this.#config
    await this.#head?.lead(session.node, this.mesh.address, (reason) => this.#port?.end(`this head must not decide any more: ${reason}`))
    await this.#membership?.find()
    if (!this.isHead) this.#config = { ...this.#config, session: adoptSession(session, { cluster: this.#clusterId(), token: session.token }) }
  }

  /** With the id and token of the cluster. */
  get config(): DaemonConfig {
    return this.#config
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
      nodes: () => this.nodes.others.map(planeNode),
      whyDead: (other) => this.nodes.whyDead(other),
      sendToNode: (node, body) => this.mesh.send(node, body),
      sendToProcess: (process, message) => this.#tell(process, message),
      validate: process.env['BEAMLINE_VALIDATE'] === '1',
    })
    port.store.tell(this.#plane)
    this.#bulkAddress = await this.#plane.listen(this.host)
    this.#port = port
    this.processes.connect({ ...port, local: () => port.held().processes })
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
    this.headNodes?.close()
    this.#membership?.stop()
    if (this.#membership !== undefined)
      this.mesh.send(this.#membership.head, { $case: 'leave', value: { node: this.config.session.node, reason, deadlineMs: 0, replaced: false } })
    await Promise.all([this.mesh.close(), this.#plane?.close()])
    // What a head keeps in memory only, no other head finds.
    if (forget || this.#head === undefined) await this.packages.clear().catch((error: Error) => log(() => `packed code stays: ${error.message}`))
    await this.#head?.close(forget)
  }

  // ---------------------------------------------------------------- instructions

  /** What concerns other nodes. */
  perform(instruction: Exclude<EdgeInstruction, { readonly kind: 'persist' | 'worker-spawn' | 'worker-ask' | 'worker-stop' }>): void {
    switch (instruction.kind) {
      case 'send':
        return this.sendToProcess(instruction.process, instruction.node, instruction.message)
      case 'to-node':
        return this.processes.send(instruction.node, instruction.process, instruction.message)
      case 'report':
        return this.#toHead({ $case: 'report', value: encodeReport(instruction.report) })
      case 'node-lost':
        return this.#nodeLost(instruction)
      default:
        return this.headNodes?.perform(instruction)
    }
  }

  /** A message for a process that is attached to another daemon. */
  sendToProcess(process: string, known: string | undefined, message: MessageBody): void {
    const node = known ?? this.processes.nodeOf(process) ?? this.#membership?.head
    // What it names in its next task, its node must know.
    if (node !== undefined && message.$case === 'groupState') this.headNodes?.tellGroup(node, message.value.group)
    // The head knows all processes; what it does not know either is gone.
    if (node !== undefined && node !== this.config.session.node)
      this.mesh.send(node, { $case: 'toProcess', value: { id: process, message: { body: message } } })
  }

  /** A process of this node ended. */
  detached(process: string, inOrder: boolean): void {
    this.packages.gone(process)
    this.processes.detached(process, inOrder)
    this.#plane?.processGone(process)
  }

  // ---------------------------------------------------------------- objects and nodes

  /** Objects that move between nodes; undefined until this node takes part. */
  get objects(): ObjectPlane | undefined {
    return this.#plane
  }

  /** The owner of objects on another node lets them go. */
  freed(process: string, node: string, places: StoredPlace[]): void {
    if (this.nodes.isDead(node)) this.#plane?.freedOnLostNode(places)
    else this.processes.send(node, process, { $case: 'objectsFreed', value: { places } })
  }

  /** Nodes whose daemons were killed on this machine, of whatever cluster. */
  gone(nodes: readonly string[]): void {
    const reason = 'its daemon ended, and its machine has another one'
    for (const node of nodes) {
      if (this.isHead) this.#port?.handle({ kind: 'node-left', node, reason, replaced: true })
      else this.#toHead({ $case: 'leave', value: { node, reason, deadlineMs: 0, replaced: true } })
    }
  }

  // ---------------------------------------------------------------- messages of other daemons

  #message(node: string, body: MeshBody): void {
    const port = this.#port
    if (port === undefined) return void this.#early.push([node, body])
    if (!this.mayAct || this.packages.message(node, body) || this.headNodes?.message(node, body) === true) return
    switch (body.$case) {
      case 'register':
        return this.mesh.send(node, { $case: 'refused', value: { code: 'NOT_HEAD', reason: `the head is at ${this.headAddress}` } })
      case 'registered':
        return this.#membership?.registered(node, body.value)
      case 'heartbeatSeen':
        return this.#membership?.seen(node, body.value)
      case 'view':
        if (node !== this.#membership?.head) return
        for (const job of body.value.jobsEnded) this.packages.jobEnded(job)
        this.nodes.see(body.value)
        this.processes.introduceMoved()
        return port.handle({ kind: 'view', view: body.value })
      case 'order': {
        const order = node === this.#membership?.head ? decodeOrder(body.value) : undefined
        return order && port.handle(order)
      }
      case 'fromProcess':
        return this.processes.came(node, body.value.id, body.value.process, body.value.message?.body)
      case 'toProcess': {
        const { id, message } = body.value
        if (message?.body === undefined || this.processes.deliver(node, id, message.body)) return
        if (this.isHead && this.processes.nodeOf(id) !== undefined) this.sendToProcess(id, undefined, message.body)
        return
      }
      case 'processGone':
        return this.processes.gone(node, body.value)
      case 'processQuestion':
        return this.processes.asked(node, body.value.process)
      case 'nodeQuery': {
        const { request, what, limit } = body.value
        void port.answer(what, limit).then((answer) => this.mesh.send(node, { $case: 'nodeAnswer', value: { request, json: JSON.stringify(answer) } }))
        return
      }
      case 'nodeAnswer':
        return this.questions.answered(body.value.request, body.value.json)
      case 'leave':
        if (node === this.#membership?.head) port.drain(body.value.reason, body.value.deadlineMs)
        return
      case 'refused':
        if (node === this.#membership?.head) this.#membership.refused(body.value.reason)
        return
      default:
        this.#plane?.meshMessage(node, body)
    }
  }

  #nodeLost(lost: Extract<EdgeInstruction, { kind: 'node-lost' }>): void {
    const { node, cause } = lost
    log(() => `node ${node} is lost: ${cause.code} ${cause.detailsJson}`)
    this.nodes.died(node, cause)
    this.packages.gone(node)
    this.mesh.drop(node, `node ${node} was declared dead`)
    this.processes.nodeLost(lost)
    this.#plane?.nodeLost(node, cause.code)
    this.headNodes?.nodeLost(node)
  }

  // ---------------------------------------------------------------- helpers

  #toHead(body: MeshBody): void {
    if (this.#membership !== undefined) this.mesh.send(this.#membership.head, body)
  }

  #locate(node: string): string | undefined {
    if (node === this.config.session.node) return undefined
    const known = this.nodes.all.get(node)
    if (known !== undefined) return known.state === 'DEAD' ? undefined : known.address
    return node === this.#membership?.head ? this.#membership.headAddress : undefined
  }

  /** A process of any node. */
  #tell(process: string, message: MessageBody): void {
    if (this.#port?.deliver(process, message) !== true) this.sendToProcess(process, undefined, message)
  }

  #clusterId(): string {
    return this.#membership?.cluster || this.config.session.cluster
  }

  #register(): Register {
    const { session, total, labels, storeBytes } = this.config
    const port = this.#port as ClusterPort
    const { available, queued, storeUsedBytes } = port.load()
    const held = port.held()
    if (this.#membership !== undefined) for (const { process } of held.processes) this.processes.introduced(process, this.#membership.head)
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

const planeNode = ({ node, bulkAddress, state, storeBytes, storeUsedBytes }: NodeInfo): PlaneNode => ({
  node,
  bulkAddress,
  draining: state === 'DRAINING',
  freeBytes: storeBytes - storeUsedBytes,
})
