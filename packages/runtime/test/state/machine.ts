/** Drives a MachineState in tests: short events, workers that start when told, and what was sent to whom. */
import { ANYWHERE } from '../shapes.ts'
import type { ActorCreate, JobConfig, Resources, Shape } from '../../src/net/gen/node.ts'
import type { EdgeInstruction, MessageBody } from '../../src/state/events.ts'
import { ALONE, type MachineEvent, MachineState } from '../../src/state/machine-state.ts'
import { NODE_DEFAULTS, type NodeConfig } from '../../src/state/node-tables.ts'

export const JOB: JobConfig = {
  name: 'app.ts',
  namespace: '',
  cwd: '/app',
  entry: '/app/app.ts',
  execArgv: [],
  env: {},
  logToDriver: true,
  package: '',
  root: '',
  modules: [],
}

export const amounts = (from: Partial<Resources>): Resources => ({ cpus: 0, gpus: 0, memoryBytes: 0, custom: {}, ...from })
export const shape = (resources: Partial<Resources>, more: Partial<Shape> = {}): Shape => ({
  resources: amounts(resources),
  env: {},
  placementGroup: '',
  bundle: -1,
  ...ANYWHERE,
  ...more,
})
export const ONE_CPU: Shape = shape({ cpus: 10_000 })

export const nodeConfig = (more: Partial<NodeConfig> = {}): NodeConfig => ({
  ...NODE_DEFAULTS,
  node: 'n1',
  total: amounts({ cpus: 20_000, memoryBytes: 1_000 }),
  gpuDevices: [],
  workerIdPrefix: 'aaaaaaaa',
  prestart: 0,
  prestartAtOnce: 100,
  taskWorkersMax: 8,
  startingMax: 4,
  ...more,
})

export const worker = (n: number): string => `aaaaaaaa${n.toString(16).padStart(8, '0')}`

export class TestMachine {
  readonly state: MachineState
  /** Instructions since the last `take`. */
  out: EdgeInstruction[] = []
  nowMs = 0

  constructor(config: Partial<NodeConfig> = {}) {
    this.state = new MachineState(nodeConfig(config), ALONE, true)
    this.out.push(...this.state.start(0))
  }

  do(event: MachineEvent): this {
    this.out.push(...this.state.handle(event))
    return this
  }

  driver(process: string, job: Partial<JobConfig> = {}): this {
    return this.do({ kind: 'process-attached', process, processKind: 'driver', pid: 1, address: `at ${process}`, job: { ...JOB, ...job } })
  }

  /** Worker n, counted from 1 in the order of spawning, says hello. */
  up(...numbers: number[]): this {
    for (const n of numbers) this.do({ kind: 'process-attached', process: worker(n), processKind: 'worker', pid: 100 + n, address: `at w${n}`, job: undefined })
    return this
  }

  /** Every worker that is starting says hello, also those that are spawned meanwhile. */
  allUp(): this {
    for (;;) {
      const starting = [...this.state.node.tables.workers.values()].find((each) => each.state === 'starting')
      if (starting === undefined) return this
      this.up(Number.parseInt(starting.id.slice(8), 16))
    }
  }

  /** Every worker that is asked whether it owns objects answers. */
  answer(owns: boolean = false): this {
    for (const each of this.state.node.tables.workers.values()) if (each.owns === 'asked') this.do({ kind: 'worker-answered', worker: each.id, owns })
    return this
  }

  exit(n: number, how: { code?: number | null; signal?: string | null; stderr?: string } = {}): this {
    return this.do({ kind: 'worker-exited', worker: worker(n), exit: { code: how.signal === undefined ? 0 : null, signal: null, stderr: '', ...how } })
  }

  demand(process: string, key: number, wanted: number, of: Shape = ONE_CPU): this {
    return this.do({ kind: 'lease-demand', process, key, shape: of, wanted, backlog: wanted, label: `f${key}` })
  }

  giveBack(process: string, lease: number, retire: boolean = false): this {
    return this.do({ kind: 'lease-return', process, lease, retire })
  }

  block(process: string, lease: number, blocked: boolean = true): this {
    return this.do({ kind: 'lease-blocked', process, lease, blocked })
  }

  actor(process: string, actor: string, more: Partial<ActorCreate> = {}): this {
    const create: ActorCreate = {
      actor,
      name: '',
      namespace: '',
      className: 'Counter',
      detached: false,
      getIfExists: false,
      maxRestarts: 0,
      shape: shape({}),
      creation: new Uint8Array([1]),
      request: 7,
      handle: new Uint8Array([2]),
      stopTimeoutMs: 1_000,
      ...more,
    }
    return this.do({ kind: 'actor-create', process, create })
  }

  group(process: string, group: string, strategy: string, bundles: Partial<Resources>[], detached: boolean = false): this {
    return this.do({ kind: 'group-create', process, create: { group, name: '', strategy, bundles: bundles.map(amounts), detached, selectors: [] } })
  }

  tick(byMs: number = 250): this {
    this.nowMs += byMs
    return this.do({ kind: 'tick', nowMs: this.nowMs })
  }

  take(): EdgeInstruction[] {
    return this.out.splice(0)
  }

  /** What was sent to one process since the last take, as `[case, value]`. Takes everything. */
  sent(process: string): [MessageBody['$case'], unknown][] {
    return this.take().flatMap((each) =>
      each.kind === 'send' && each.process === process ? [[each.message.$case, each.message.value] as [MessageBody['$case'], unknown]] : [],
    )
  }
}

export const granted = (key: number, lease: number, n: number, gpuIndices: number[] = []): [string, unknown] => [
  'leaseGranted',
  { key, lease, worker: worker(n), address: `at w${n}`, gpuIndices, again: false },
]
