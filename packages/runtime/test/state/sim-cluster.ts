/**
 * A cluster of pure machines in one process: daemons and processes with a queue of messages between each two, delivered in any order that keeps
 * the order of each queue. Nodes die, drain and join, the head dies in the middle of what it does and is started again from what it made durable.
 */
import { amounts, nodeConfig } from './machine.ts'
import { SimProcess, type ToDaemon } from './sim-process.ts'
import type { NodeInfo, ProcessInfo, Register } from '../../src/net/gen/mesh.ts'
import type { Resources } from '../../src/net/gen/node.ts'
import type { EdgeInstruction, MessageBody, NodeOrder, NodeReport, View } from '../../src/state/events.ts'
import { type MachineEvent, MachineState } from '../../src/state/machine-state.ts'
import { inventoryOf, isDrained, offerOf } from '../../src/state/node-report.ts'

export const LEASE_MS = 3_000
export const TICK_MS = 100

type Mesh =
  | { kind: 'register'; register: Register }
  | { kind: 'registered'; number: number }
  | { kind: 'heartbeat' }
  | { kind: 'view'; view: View }
  | { kind: 'order'; order: NodeOrder }
  | { kind: 'report'; report: NodeReport }
  | { kind: 'from-process'; process: string; info: ProcessInfo | undefined; message: ToDaemon | undefined }
  | { kind: 'to-process'; process: string; message: MessageBody }
  | { kind: 'process-gone'; process: string }
  | { kind: 'drain' }
  | { kind: 'left' }

const CONTROL = /^(actorCreate|actorStarted|actorWatch|actorStop|actorLookup|groupCreate|groupRemove)$/

class SimNode {
  readonly id: string
  readonly machine: MachineState
  /** Whose processes this daemon introduced where, and where processes of others are. */
  readonly introduced: Map<string, Set<string>> = new Map()
  readonly remote: Map<string, string> = new Map()
  readonly epochSeen = new Set<string>()
  alive = true
  draining = false

  constructor(id: string, machine: MachineState) {
    this.id = id
    this.machine = machine
  }
}

interface Channel {
  readonly from: string
  readonly to: string
  readonly deliver: (item: never) => void
  items: unknown[]
}

export interface SimOptions {
  readonly seed: number
  readonly total?: Partial<Resources>
  /** Some messages arrive twice. */
  readonly duplicates?: boolean
  readonly moves?: boolean
  /** Every event, for whoever looks for a defect. */
  readonly trace?: (line: string) => void
}

export class SimCluster {
  readonly nodes: Map<string, SimNode> = new Map()
  readonly processes: Map<string, SimProcess> = new Map()
  readonly records: Map<string, string> = new Map()
  /** What nothing waits for; a head that is killed now never wrote it. */
  readonly #unwritten: Map<string, string | undefined> = new Map()
  head = ''
  nowMs = 1_000
  readonly #channels: Map<string, Channel> = new Map()
  readonly #options: SimOptions
  #state: number
  #count = 0
  /** The head dies after so many more instructions. */
  #crashIn = Number.POSITIVE_INFINITY
  /** Drivers without a daemon. */
  readonly #homeless: SimProcess[] = []
  readonly maxAlive: Map<string, number> = new Map()

  constructor(options: SimOptions) {
    this.#options = options
    this.#state = options.seed | 0
    this.startHead()
  }

  readonly random = (): number => {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }

  pick<T>(from: Iterable<T>): T | undefined {
    const all = [...from]
    return all[Math.floor(this.random() * all.length)]
  }

  // ---------------------------------------------------------------- members

  get living(): SimNode[] {
    return [...this.nodes.values()].filter((node) => node.alive)
  }

  startHead(): void {
    const node = this.#makeNode(true)
    this.head = node.id
    this.#perform(node, node.machine.start(this.nowMs))
    this.#unwritten.clear()
    this.#handle(node, { kind: 'restore', records: new Map(this.records) })
    // Daemons find the new head and say what they have.
    for (const other of this.living) if (other !== node) this.#register(other)
  }

  join(): SimNode {
    const node = this.#makeNode(false)
    this.#perform(node, node.machine.start(this.nowMs))
    this.#register(node)
    return node
  }

  #makeNode(head: boolean): SimNode {
    const id = `${(++this.#count).toString(16).padStart(8, '0')}00000000`
    const total = amounts({ cpus: 80_000, memoryBytes: 1_000, ...this.#options.total })
    const config = nodeConfig({ node: id, total, workerIdPrefix: id.slice(0, 8), prestart: 0, taskWorkersMax: 32 })
    const node = new SimNode(id, new MachineState(config, { head, growable: true, restores: head, leaseMs: LEASE_MS }, true))
    this.nodes.set(id, node)
    return node
  }

  #register(node: SimNode): void {
    const { tables } = node.machine.node
    const offer = offerOf(tables)
    const inventory = inventoryOf(tables)
    const info: NodeInfo = {
      ...{ node: node.id, number: tables.number ?? 0, address: `at ${node.id}`, bulkAddress: '', host: 'h', total: tables.config.total, labels: {} },
      ...{ ...offer, state: 'ALIVE', cause: undefined, storeBytes: 0, storeUsedBytes: 0, pid: 0, head: false },
    }
    for (const { process } of inventory.processes) this.#introduce(node, process, this.head)
    this.#send(node, this.head, { kind: 'register', register: { node: info, ...inventory } })
    for (const { process } of inventory.processes) this.#toProcess(process, { $case: 'controlLost', value: { lost: false, reason: '' } })
  }

  driver(node: SimNode): SimProcess {
    const id = `d${String(this.processes.size).padStart(15, '0')}`
    return this.#attach(node, id, 'driver')
  }

  #attach(node: SimNode, id: string, kind: 'driver' | 'worker'): SimProcess {
    const process: SimProcess = new SimProcess(id, kind, node.id, (message) => {
      const at = this.nodes.get(process.node) as SimNode
      this.#push(`p${id}`, at.id, message, (item: ToDaemon) => this.#fromLocal(at, id, item))
    })
    this.processes.set(id, process)
    this.#attached(node, process)
    return process
  }

  #attached(node: SimNode, { id, kind, job, attach }: SimProcess): void {
    this.#handle(node, {
      kind: 'process-attached',
      process: id,
      processKind: kind,
      pid: 1,
      address: `at ${id}`,
      job: kind === 'driver' ? job : undefined,
      attach,
    })
    if (kind === 'driver' && node.id !== this.head) this.#fromProcess(node, this.head, id, undefined)
  }

  /** Drivers whose daemon was killed go to another one, and every node hears of it. */
  #moveHomeless(): void {
    for (const driver of this.#homeless.splice(0)) {
      const node = this.pick(this.living) as SimNode
      const number = this.nodes.get(driver.node)?.machine.node.tables.number
      driver.node = node.id
      driver.attach++
      driver.alive = true
      node.remote.delete(driver.id)
      this.#attached(node, driver)
      for (const other of this.living) if (other !== node) this.#fromProcess(node, other.id, driver.id, undefined)
      driver.attachedAgain(number)
    }
  }

  // ---------------------------------------------------------------- faults

  killProcess(process: SimProcess): void {
    const node = this.nodes.get(process.node)
    if (node === undefined || !process.alive) return
    process.alive = false
    this.#gone(node, process.id)
    this.#handle(node, process.kind === 'worker' ? this.#exit(process.id) : { kind: 'process-lost', process: process.id })
  }

  /** @param moves - its drivers go on with another node */
  killNode(node: SimNode, moves: boolean = false): void {
    node.alive = false
    for (const process of this.processes.values()) {
      if (process.node !== node.id || !process.alive) continue
      process.alive = false
      if (moves && process.kind === 'driver') this.#homeless.push(process)
    }
    for (const [key, channel] of this.#channels) {
      // What it said last of its processes may still be on its way.
      if (channel.from === node.id) channel.items = channel.items.filter((item) => (item as Mesh).kind === 'from-process')
      else if (channel.to === node.id) this.#channels.delete(key)
    }
  }

  /** Kill -9 of the head in the middle of what it does next, and a new one. */
  crashHead(afterInstructions: number): void {
    this.#crashIn = afterInstructions
  }

  drain(node: SimNode): void {
    const head = this.nodes.get(this.head)
    if (head === undefined || node.id === this.head || node.draining) return
    node.draining = true
    this.#handle(head, { kind: 'node-drain', node: node.id, reason: 'test' })
    this.#send(head, node.id, { kind: 'drain' })
  }

  // ---------------------------------------------------------------- time and messages

  tick(): void {
    this.nowMs += TICK_MS
    for (const node of this.living) {
      if (node.id !== this.head) this.#send(node, this.head, { kind: 'heartbeat' })
      this.#handle(node, { kind: 'tick', nowMs: this.nowMs })
      if (node.draining && isDrained(node.machine.node.tables)) {
        this.#send(node, this.head, { kind: 'left' })
        node.draining = false
      }
    }
    if (!this.nodes.get(this.head)?.alive) {
      this.#crashIn = Number.POSITIVE_INFINITY
      this.startHead()
    }
    this.#moveHomeless()
  }

  /** One message of one queue. False: none is on its way. */
  deliver(): boolean {
    const channel = this.pick([...this.#channels.values()].filter(({ items }) => items.length > 0))
    if (channel === undefined) return false
    const item = channel.items.shift()
    channel.deliver(item as never)
    return true
  }

  deliverAll(): void {
    while (this.deliver());
  }

  /** Everything that is asked of workers is done, messages arrive, and time passes. */
  settle(rounds: number): void {
    for (let round = 0; round < rounds; round++) {
      this.deliverAll()
      for (const process of this.processes.values()) if (process.alive && process.kind === 'driver') while (this.#runs(process)) process.step(this.random)
      this.deliverAll()
      this.tick()
    }
    this.deliverAll()
  }

  #runs(process: SimProcess): boolean {
    return [...process.leases.values()].some(({ running }) => running)
  }

  #push<T>(from: string, to: string, item: T, deliver: (item: T) => void): void {
    const key = `${from} ${to}`
    const channel = this.#channels.get(key) ?? { from, to, deliver: deliver as (item: never) => void, items: [] }
    this.#channels.set(key, channel)
    channel.items.push(item)
  }

  #send(from: SimNode, to: string, message: Mesh): void {
    const target = this.nodes.get(to)
    if (target === undefined || !target.alive || !from.alive) return
    this.#push(from.id, to, message, (item: Mesh) => {
      if (!target.alive) return
      this.#receive(target, from.id, item)
      if (this.#options.duplicates === true && this.random() < 0.2 && item.kind !== 'register' && target.alive) this.#receive(target, from.id, item)
    })
  }

  #receive(node: SimNode, from: string, message: Mesh): void {
    switch (message.kind) {
      case 'register':
        for (const info of message.register.processes) this.#isAt(node, from, info)
        return this.#handle(node, { kind: 'node-registered', register: message.register })
      case 'registered':
        return this.#handle(node, { kind: 'registered', number: message.number })
      case 'heartbeat': {
        const sender = this.nodes.get(from)
        if (sender === undefined) return
        return this.#handle(node, { kind: 'node-heartbeat', node: from, ...offerOf(sender.machine.node.tables), storeUsedBytes: 0, nowMs: this.nowMs })
      }
      case 'view':
        return this.#handle(node, { kind: 'view', view: message.view })
      case 'order':
        return this.#handle(node, message.order)
      case 'report':
        return this.#handle(node, message.report)
      case 'from-process': {
        const { process, info, message: body } = message
        if (info !== undefined) {
          const { kind, pid, address, job, jobId, attach } = info
          this.#isAt(node, from, info)
          this.#handle(node, { kind: 'process-attached', process, node: from, processKind: kind as 'driver', pid, address, job, jobId, attach })
        }
        if (body !== undefined && node.remote.get(process) === from) this.#message(node, process, body, true)
        return
      }
      case 'to-process': {
        const { process, message: body } = message
        if (this.processes.get(process)?.node === node.id) {
          this.#toProcess(process, body)
          if (body.$case === 'leaseGranted' && !body.value.again)
            this.#handle(node, { kind: 'remote-granted', node: from, process, key: body.value.key, lease: body.value.lease })
        }
        return
      }
      case 'process-gone':
        if (node.remote.get(message.process) !== from) return
        node.remote.delete(message.process)
        return this.#handle(node, { kind: 'process-lost', process: message.process })
      case 'drain':
        return this.#handle(node, { kind: 'drain', reason: 'test' })
      case 'left': {
        this.#handle(node, { kind: 'node-left', node: from, reason: 'drained' })
        const left = this.nodes.get(from)
        if (left !== undefined) this.killNode(left)
      }
    }
  }

  #isAt(node: SimNode, from: string, { process, attach }: ProcessInfo): void {
    if ((node.machine.node.tables.processes.get(process)?.attach ?? 0) <= attach) node.remote.set(process, from)
  }

  #fromLocal(node: SimNode, process: string, message: ToDaemon): void {
    if (!node.alive || this.processes.get(process)?.alive !== true) return
    if (CONTROL.test(message.$case) && node.id !== this.head) {
      if (message.$case === 'actorStarted') this.#message(node, process, message, false)
      return this.#fromProcess(node, this.head, process, message)
    }
    this.#message(node, process, message, false)
  }

  #message(node: SimNode, process: string, message: ToDaemon, remote: boolean): void {
    switch (message.$case) {
      case 'leaseDemand':
        return this.#handle(node, { kind: 'lease-demand', process, ...message.value, ...(remote && { remote }) })
      case 'leaseReturn':
        return this.#handle(node, { kind: 'lease-return', process, ...message.value })
      case 'leaseBlocked':
        return this.#handle(node, { kind: 'lease-blocked', process, ...message.value })
      case 'actorCreate':
        return this.#handle(node, { kind: 'actor-create', process, create: message.value })
      case 'actorStarted':
        return this.#handle(node, { kind: 'actor-started', process, started: message.value })
      case 'actorWatch':
        return this.#handle(node, { kind: 'actor-watch', process, ...message.value })
      case 'actorStop':
        return this.#handle(node, { kind: 'actor-stop', process, stop: message.value })
      case 'groupCreate':
        return this.#handle(node, { kind: 'group-create', process, create: message.value })
      case 'groupRemove':
        return this.#handle(node, { kind: 'group-remove', process, group: message.value.group })
      default:
        return
    }
  }

  #introduce(node: SimNode, process: string, to: string): void {
    const known = node.introduced.get(process) ?? new Set()
    node.introduced.set(process, known.add(to))
  }

  #fromProcess(node: SimNode, to: string, process: string, message: ToDaemon | undefined): void {
    const known = node.introduced.get(process)?.has(to) === true
    const info = known ? undefined : inventoryOf(node.machine.node.tables).processes.find((each) => each.process === process)
    if (!known && info === undefined) return
    this.#introduce(node, process, to)
    this.#send(node, to, { kind: 'from-process', process, info, message })
  }

  #toProcess(process: string, message: MessageBody): void {
    const target = this.processes.get(process)
    if (target?.alive !== true) return
    this.#push(target.node, `p${process}`, message, (item: MessageBody) => {
      if (target.alive) target.receive(item)
    })
  }

  #gone(node: SimNode, process: string): void {
    for (const to of node.introduced.get(process) ?? []) this.#send(node, to, { kind: 'process-gone', process })
    node.introduced.delete(process)
  }

  // ---------------------------------------------------------------- the edge

  #handle(node: SimNode, event: MachineEvent): void {
    if (!node.alive) return
    this.#options.trace?.(`${this.nowMs} ${node.id.slice(0, 8)}${node.id === this.head ? '*' : ''} ${describe(event)}`)
    this.#perform(node, node.machine.handle(event))
  }

  #perform(node: SimNode, instructions: readonly EdgeInstruction[]): void {
    for (const instruction of instructions) {
      if (node.id === this.head && --this.#crashIn < 0) this.killNode(node, this.#options.moves)
      if (!node.alive) return
      this.#act(node, instruction)
    }
  }

  #act(node: SimNode, instruction: EdgeInstruction): void {
    switch (instruction.kind) {
      case 'send': {
        const { process, message } = instruction
        const where = instruction.node ?? (this.processes.get(process)?.node === node.id ? node.id : node.remote.get(process))
        if (where === node.id) this.#toProcess(process, message)
        else if (where !== undefined) this.#send(node, where, { kind: 'to-process', process, message })
        return
      }
      case 'worker-spawn': {
        const { worker } = instruction
        this.#push(`start ${worker}`, node.id, worker, () => {
          if (node.alive && node.machine.node.tables.workers.get(worker)?.state === 'starting') this.#attach(node, worker, 'worker')
        })
        return
      }
      case 'worker-ask':
        this.#push(`ask ${instruction.worker}`, node.id, instruction.worker, (worker: string) =>
          this.#handle(node, { kind: 'worker-answered', worker, owns: false }),
        )
        return
      case 'worker-stop': {
        const { worker } = instruction
        this.#push(`stop ${worker}`, node.id, worker, () => {
          const process = this.processes.get(worker)
          if (process !== undefined) {
            if (!process.alive) return
            process.alive = false
            this.#gone(node, worker)
          }
          this.#handle(node, this.#exit(worker))
        })
        return
      }
      case 'to-node':
        return this.#fromProcess(node, instruction.node, instruction.process, instruction.message)
      case 'report':
        return this.#send(node, this.head, { kind: 'report', report: instruction.report })
      case 'order':
        return this.#send(node, instruction.node, { kind: 'order', order: instruction.order })
      case 'view':
        for (const other of this.living) {
          if (other !== node && (instruction.to ?? other.id) === other.id) this.#send(node, other.id, { kind: 'view', view: instruction.view })
        }
        return
      case 'node-accepted':
        return this.#send(node, instruction.node, { kind: 'registered', number: instruction.number })
      case 'node-refused': {
        // It ends its workers.
        const refused = this.nodes.get(instruction.node)
        if (refused !== undefined) this.killNode(refused)
        return
      }
      case 'node-lost': {
        const { node: lost, number, cause } = instruction
        for (const process of this.processes.values())
          if (process.node === node.id) this.#toProcess(process.id, { $case: 'nodeLost', value: { node: lost, number, cause, survivors: [] } })
        for (const [process, where] of node.remote) if (where === lost) node.remote.delete(process)
        for (const known of node.introduced.values()) known.delete(lost)
        this.#channels.delete(`${lost} ${node.id}`)
        return
      }
      case 'persist':
        this.#unwritten.set(instruction.key, instruction.value)
        if (instruction.later !== true) this.#write()
    }
  }

  #write(): void {
    for (const [key, value] of this.#unwritten) {
      if (value === undefined) this.records.delete(key)
      else this.records.set(key, value)
    }
    this.#unwritten.clear()
  }

  #exit(worker: string): MachineEvent {
    return { kind: 'worker-exited', worker, exit: { code: null, signal: 'SIGKILL', stderr: '' } }
  }

  // ---------------------------------------------------------------- what there is

  /** Workers that run the actor now. */
  runsOf(actor: string): string[] {
    return [...this.processes.values()].filter((process) => process.alive && process.actor === actor).map(({ id }) => id)
  }
}

const describe = (event: MachineEvent): string =>
  JSON.stringify(event, (key, value) =>
    /^(job|config|creation|handle|shape|create|available|total|info)$/.test(key) ? undefined : value instanceof Map ? [...value] : (value as unknown),
  ).slice(0, 400)
