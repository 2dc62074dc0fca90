/**
 * scale-simulation: the pure scheduler of a cluster that this machine could never run. 1,000 nodes of 64 cpus, 1,000,000 tasks in the queues of a few
 * drivers, each with a lease of its own, as if every task ran long; a node dies and another joins again and again. Workers start at once, messages
 * take no time, and nothing is executed: what is left is what deciding costs, of all nodes together in one process, per second of its processor.
 *
 * Each node is a real MachineState without its edge; the head's control hears all heartbeats and tells what changed to the nodes that have drivers.
 */
import type { NodeInfo } from '../../packages/runtime/src/net/gen/mesh.ts'
import type { JobConfig, Shape } from '../../packages/runtime/src/net/gen/node.ts'
import type { EdgeInstruction } from '../../packages/runtime/src/state/events.ts'
import type { MachineEvent, MachineState } from '../../packages/runtime/src/state/machine-state.ts'
import { internal } from '../src/internals.ts'
import { SMOKE, report } from '../src/measure.ts'

const NODES = SMOKE ? 100 : 1_000
const TASKS = SMOKE ? 50_000 : 1_000_000
const DRIVERS = 4
const CPUS_PER_NODE = 64
/** Leases in use at one time: 60 % of the cluster. Beyond, the oldest one ends for each that is granted. */
const LEASES_MAX = 0.6 * NODES * CPUS_PER_NODE
const DEMAND_MAX = 1_024
/** So many grants are a tenth of a second. */
const GRANTS_PER_TICK = 5_000
const TICK_MS = 100
/** A node dies and one joins. */
const CHURN_MS = 1_000
const LEASE_MS = 10_000

const { MachineState: Machine } = await internal<typeof import('../../packages/runtime/src/state/machine-state.ts')>('state/machine-state')
const { NODE_DEFAULTS } = await internal<typeof import('../../packages/runtime/src/state/node-tables.ts')>('state/node-tables')
const { offerOf } = await internal<typeof import('../../packages/runtime/src/state/node-report.ts')>('state/node-report')

const JOB: JobConfig = {
  name: 'scale.ts',
  namespace: '',
  cwd: '/',
  entry: '/scale.ts',
  execArgv: [],
  env: {},
  logToDriver: false,
  package: '',
  root: '',
  modules: [],
}
const ANY = { env: {}, placementGroup: '', bundle: -1, node: '', soft: false, prefers: '', package: '', workingDir: '', modules: [], retriable: true }
const shape = (cpus: number, spread: boolean, labels: Record<string, string> = {}): Shape => ({
  ...ANY,
  spread,
  labels,
  resources: { cpus, gpus: 0, memoryBytes: 0, custom: {} },
})
const SHAPES = [shape(10_000, false), shape(5_000, false), shape(20_000, false), shape(10_000, true), shape(10_000, false, { zone: 'in(a,b)' })]

interface Node {
  readonly id: string
  readonly machine: MachineState
  number: number
  alive: boolean
}
interface Queue {
  readonly driver: string
  readonly key: number
  pending: number
  demanded: number
}
interface Lease {
  readonly queue: Queue
  readonly id: number
  readonly node: Node
}

class Simulation {
  readonly nodes: Map<string, Node> = new Map()
  readonly homes: Map<string, Node> = new Map()
  readonly queues: Queue[] = []
  readonly running: Lease[] = []
  readonly #events: [Node, MachineEvent][] = []
  /** Events that are done; the list is cut now and then. */
  #at = 0
  #firstRunning = 0
  #made = 0
  nowMs = 1_000
  granted = 0
  lost = 0
  messages = 0
  readonly head: Node

  constructor() {
    this.head = this.#make(true)
    for (let i = 1; i < NODES; i++) this.join()
    this.drain()
    const homes = [...this.nodes.values()]
    for (let d = 0; d < DRIVERS; d++) {
      const driver = `d${d}`.padEnd(16, '0')
      const home = homes[Math.floor((d * NODES) / DRIVERS)] as Node
      this.homes.set(driver, home)
      this.#push(home, { kind: 'process-attached', process: driver, processKind: 'driver', pid: 1, address: '', job: JOB })
      for (const key of SHAPES.keys()) this.queues.push({ driver, key, pending: TASKS / DRIVERS / SHAPES.length, demanded: 0 })
    }
    this.drain()
  }

  #make(head: boolean): Node {
    const id = `${(++this.#made).toString(16).padStart(8, '0')}00000000`
    const total = { cpus: CPUS_PER_NODE * 10_000, gpus: 0, memoryBytes: 2 ** 37, custom: {} }
    const config = {
      ...{ ...NODE_DEFAULTS, node: id, total, labels: { zone: 'abcd'[this.#made % 4] as string }, gpuDevices: [], workerIdPrefix: id.slice(0, 8) },
      ...{ prestart: 0, prestartAtOnce: 0, taskWorkersMax: 4 * CPUS_PER_NODE, startingMax: CPUS_PER_NODE },
    }
    const machine = new Machine(config, { head, growable: true, restores: false, leaseMs: LEASE_MS })
    const node = { id, machine, number: 0, alive: true }
    this.nodes.set(id, node)
    this.#perform(node, machine.start(this.nowMs))
    return node
  }

  join(): void {
    const node = this.#make(false)
    const { config } = node.machine.node.tables
    const info: NodeInfo = {
      ...{ node: node.id, number: 0, address: '', bulkAddress: '', host: '', total: config.total, available: config.total, labels: { ...config.labels } },
      ...{ state: 'ALIVE', cause: undefined, queued: 0, storeBytes: 0, storeUsedBytes: 0, pid: 0, head: false },
    }
    this.#push(this.head, { kind: 'node-registered', register: { node: info, processes: [], actors: [], groups: [] } })
  }

  die(): void {
    const homes = new Set(this.homes.values())
    const node = [...this.nodes.values()].find((each) => each !== this.head && !homes.has(each)) as Node
    node.alive = false
    this.nodes.delete(node.id)
    this.#push(this.head, { kind: 'node-left', node: node.id, reason: 'it died' })
  }

  /** As owners do: so many more than they hold, told when it changes. */
  demand(): void {
    for (const queue of this.queues) {
      const wanted = Math.min(queue.pending, DEMAND_MAX)
      if (wanted === queue.demanded) continue
      queue.demanded = wanted
      const { driver: process, key, pending: backlog } = queue
      this.#push(this.homes.get(process) as Node, { kind: 'lease-demand', process, key, shape: SHAPES[key], wanted, backlog, label: 'f', seen: 0 })
    }
  }

  /** The oldest leases end, so that as many are in use as may be. */
  end(most: number): void {
    while (this.running.length - this.#firstRunning > most) {
      const { queue, id, node } = this.running[this.#firstRunning++] as Lease
      if (node.alive) this.#push(this.homes.get(queue.driver) as Node, { kind: 'lease-return', process: queue.driver, lease: id, retire: false })
    }
    if (this.#firstRunning > 100_000) this.running.splice(0, this.#firstRunning)
    if (this.#firstRunning > 100_000) this.#firstRunning = 0
  }

  tick(): void {
    this.nowMs += TICK_MS
    for (const node of this.nodes.values()) {
      this.#push(node, { kind: 'tick', nowMs: this.nowMs })
      if (node !== this.head)
        this.#push(this.head, { kind: 'node-heartbeat', node: node.id, ...offerOf(node.machine.node.tables), storeUsedBytes: 0, nowMs: this.nowMs })
    }
  }

  /** All events and what follows from them. */
  drain(): void {
    while (this.#at < this.#events.length) {
      const [node, event] = this.#events[this.#at++] as [Node, MachineEvent]
      if (node.alive) this.#perform(node, node.machine.handle(event))
      if (this.#at === 10_000) this.#at = this.#events.splice(0, 10_000).length - 10_000
    }
    this.#events.length = 0
    this.#at = 0
  }

  #push(node: Node, event: MachineEvent): void {
    this.messages++
    this.#events.push([node, event])
  }

  #perform(node: Node, instructions: readonly EdgeInstruction[]): void {
    for (const instruction of instructions) {
      switch (instruction.kind) {
        case 'worker-spawn':
          this.#push(node, { kind: 'process-attached', process: instruction.worker, processKind: 'worker', pid: 1, address: '', job: undefined })
          break
        case 'worker-stop':
          this.#push(node, { kind: 'worker-exited', worker: instruction.worker, exit: { code: 0, signal: null, stderr: '' } })
          break
        case 'worker-ask':
          this.#push(node, { kind: 'worker-answered', worker: instruction.worker, owns: false })
          break
        case 'send':
          if (instruction.message.$case === 'leaseGranted') this.#grant(node, instruction.process, instruction.message.value)
          break
        case 'to-node':
          this.#toNode(node, instruction)
          break
        case 'view':
          for (const [id, target] of instruction.to === undefined ? this.#watchers() : [[instruction.to, this.nodes.get(instruction.to)] as const])
            if (target !== undefined && id !== this.head.id) this.#push(target, { kind: 'view', view: instruction.view })
          break
        case 'node-accepted': {
          const target = this.nodes.get(instruction.node)
          if (target === undefined) break
          target.number = instruction.number
          this.#push(target, { kind: 'registered', number: instruction.number })
          break
        }
        default:
          break
      }
    }
  }

  /** On real machines each node hears the view by itself; here it would be the work of all of them. */
  #watchers(): (readonly [string, Node])[] {
    return [...new Set(this.homes.values())].map((node) => [node.id, node] as const)
  }

  #grant(node: Node, driver: string, { key, lease }: { key: number; lease: number }): void {
    const home = this.homes.get(driver) as Node
    if (home !== node) this.#push(home, { kind: 'remote-granted', node: node.id, process: driver, key, lease })
    const queue = this.queues.find((each) => each.driver === driver && each.key === key) as Queue
    queue.demanded = Math.max(0, queue.demanded - 1)
    this.granted++
    if (queue.pending > 0) queue.pending--
    else this.lost++
    this.running.push({ queue, id: lease, node })
  }

  readonly #introduced: Set<string> = new Set()

  #toNode(node: Node, { node: to, process, message }: Extract<EdgeInstruction, { kind: 'to-node' }>): void {
    const target = this.nodes.get(to)
    if (target === undefined) return
    if (!this.#introduced.has(`${process} ${to}`)) {
      this.#introduced.add(`${process} ${to}`)
      this.#push(target, { kind: 'process-attached', process, node: node.id, processKind: 'driver', pid: 1, address: '', job: JOB })
    }
    if (message.$case === 'leaseDemand') this.#push(target, { kind: 'lease-demand', process, ...message.value, remote: true })
    else if (message.$case === 'leaseReturn') this.#push(target, { kind: 'lease-return', process, ...message.value })
  }
}

const megabytes = (): number => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed / 2 ** 20
}

const before = megabytes()
const simulation = new Simulation()
const empty = megabytes()
report('memory_per_node_kb', 'KiB', [((empty - before) * 1024) / NODES])
const rates: number[] = []
let peak = 0
let churnAt = simulation.nowMs + CHURN_MS
let since = process.cpuUsage()
let sinceGrants = 0
while (simulation.granted < TASKS) {
  const tickGrants = simulation.granted
  while (simulation.granted - tickGrants < GRANTS_PER_TICK && simulation.granted < TASKS) {
    const { granted } = simulation
    simulation.demand()
    simulation.drain()
    simulation.end(LEASES_MAX)
    simulation.drain()
    if (simulation.granted === granted) break
  }
  if (simulation.nowMs >= churnAt) {
    churnAt += CHURN_MS
    simulation.die()
    simulation.join()
  }
  simulation.tick()
  simulation.drain()
  if (simulation.granted - sinceGrants >= TASKS / 10) {
    const { user, system } = process.cpuUsage(since)
    rates.push((1e6 * (simulation.granted - sinceGrants)) / (user + system))
    sinceGrants = simulation.granted
    peak = Math.max(peak, megabytes())
    since = process.cpuUsage()
  }
}
report('decisions', '/s', rates)
report('memory_mb', 'MiB', [peak - before])
report('messages_per_decision', 'messages', [simulation.messages / simulation.granted])
report('granted_for_nothing', '%', [(100 * simulation.lost) / simulation.granted])
