/**
 * A cluster of several nodes on this machine, for tests: real daemons that the command line starts, each with folders of its own for sockets, logs,
 * spilled objects and its store; either plain processes on 127.0.0.1, or each on a host of its own (network.ts), where the network between them can be
 * cut, delayed and the like. Daemons can be killed, stopped and started again, disks can be full.
 *
 * At its end everything is gone: daemons end in order, and what is left of those that were not killed fails `dispose`. What a killed test process left is
 * removed when the next one starts.
 *
 * @example
 * await using cluster = await startTestCluster({ nodes: 4, isolation: 'netns' })
 * const [head, second] = cluster.nodes
 * const before = await cluster.baseline()
 * const driver = head.driver('./program.ts')
 * await driver.event('started')
 * await second.host.cut()
 * await cluster.waitDead(second)
 * await driver.finished()
 * await cluster.expectBaseline(before)
 */
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { BeamlineError } from '../errors.ts'
import type { Resources } from '../net/gen/node.ts'
import { type Baseline, differences, takeBaseline } from './baseline.ts'
import { isGone, TestNode, type TestNodeOptions } from './cluster-node.ts'
import { TestNetwork } from './network.ts'
import { claim, processesOf, remove, storeFolder, temporaryFolder } from './registry.ts'
import { until, type WaitOptions } from './wait.ts'

/** Options of {@link startTestCluster}. */
export interface TestClusterOptions extends TestNodeOptions {
  /** How many, or what each has; the other options hold for all that do not say otherwise. Default CPUs: 1. */
  readonly nodes: number | readonly TestNodeOptions[]
  /** `process` (default): plain processes on 127.0.0.1. `netns`: each on a host of its own; Linux, root. */
  readonly isolation?: 'process' | 'netns'
  /** Index of the node where the control is; default 0. */
  readonly head?: number
  /** URL of the control store, as of `beamline start --head --store`; a function of the address of the test process, as its hosts see it. */
  readonly store?: string | ((testProcess: string) => string)
  /** True: every connection is TLS, with certificates made for this cluster. Default false. */
  readonly tls?: boolean
}

/** A row of `list nodes`. */
export interface NodeRow {
  readonly node: string
  readonly state: string
  readonly pid: number
  readonly head: boolean
  readonly total: Resources
  readonly available: Resources
  /** When it was declared dead. */
  readonly endMs?: number
  /** Of nodes that answered. */
  readonly store?: { readonly fileBytes: number; readonly spareBytes: number; readonly liveBytes: number; readonly segments: number; readonly objects: number }
}

/** A row of `list tasks`. */
interface TaskRow {
  readonly name: string
  readonly state: string
  readonly worker: string
}

const HEAD_PORT = 6_380
const LOG_LINES = 30
const END_MS = 5_000
const BASELINE_MS = 40_000

/**
 * Starts a cluster and waits until all of its nodes are part of it.
 *
 * @throws {@link BeamlineError} `START_FAILED` where hosts are not possible, Error with what a daemon said; nothing is left then
 */
export async function startTestCluster(options: TestClusterOptions): Promise<TestCluster> {
  const cluster = await TestCluster.prepare(options)
  try {
    await cluster.start()
  } catch (error) {
    const logs = cluster.nodes.map((node) => `node ${node.index} said:\n${node.log().split('\n').slice(-LOG_LINES).join('\n')}`)
    await cluster.remove()
    throw new Error(`the test cluster did not start: ${(error as Error).message}\n${logs.join('\n')}`, { cause: error })
  }
  return cluster
}

export class TestCluster implements AsyncDisposable {
  readonly id: string
  readonly nodes: readonly TestNode[]
  /** Its hosts; undefined with isolation `process`. */
  readonly network: TestNetwork | undefined
  readonly #options: TestClusterOptions
  readonly #port: number
  #head: TestNode

  private constructor(id: string, options: TestClusterOptions, network: TestNetwork | undefined, port: number) {
    this.id = id
    this.#options = options
    this.network = network
    this.#port = port
    const { nodes, head = 0, isolation: _isolation, store: _store, tls: _tls, ...common } = options
    const each: readonly TestNodeOptions[] = typeof nodes === 'number' ? Array.from({ length: nodes }, () => ({})) : nodes
    const token = randomBytes(32).toString('hex')
    this.nodes = each.map((own, index) => {
      const node: TestNode = new TestNode(
        { cpus: 1, ...common, ...own, env: { ...common.env, ...own.env }, args: [...(common.args ?? []), ...(own.args ?? [])] },
        {
          id,
          index,
          temporary: temporaryFolder(id),
          store: storeFolder(id),
          host: network?.hosts[index],
          token,
          role: () => this.#role(node),
        },
      )
      return node
    })
    const chosen = this.nodes[head]
    if (chosen === undefined) throw new BeamlineError('INVALID_ARGUMENT', { what: 'head', got: String(head), expected: 'the index of a node' })
    this.#head = chosen
  }

  /** @internal */
  static async prepare(options: TestClusterOptions): Promise<TestCluster> {
    const count = typeof options.nodes === 'number' ? options.nodes : options.nodes.length
    if (options.isolation !== 'netns') return new TestCluster(await claim(), options, undefined, await freePort())
    const network = await TestNetwork.create(count)
    return new TestCluster(network.id, options, network, HEAD_PORT)
  }

  /** @internal */
  async start(): Promise<void> {
    if (this.#options.tls === true) await (await import('../net/tls.ts')).generateTls(this.#tlsFolder)
    await this.#head.start()
    await Promise.all(this.nodes.filter((node) => node !== this.#head).map((node) => node.start()))
    await this.waitForNodes()
  }

  /** The node where the control is. */
  get head(): TestNode {
    return this.#head
  }

  /** Starts the control on another node from now on: that one starts as head at its next start. For stores that both reach. */
  moveHead(to: TestNode): void {
    this.#head = to
  }

  /** HOST:PORT of the head. */
  get headAddress(): string {
    return `${this.#hostOf(this.#head)}:${this.#port}`
  }

  /** Rows of `list nodes`, as a node sees them; default: the head. */
  async members(seenBy: TestNode = this.#head): Promise<readonly NodeRow[]> {
    return seenBy.list<NodeRow>('nodes')
  }

  /** Waits until so many nodes are alive and no other: by default all whose daemons run. */
  async waitForNodes(count?: number, options: WaitOptions = {}): Promise<void> {
    await until(
      'complete cluster',
      async () => {
        const wanted = count ?? this.nodes.filter(({ isRunning }) => isRunning).length
        const alive = (await this.members()).filter(({ state }) => state === 'ALIVE')
        return alive.length === wanted || `${alive.length} of ${wanted} nodes are alive: ${alive.map(({ node }) => node).join(', ')}`
      },
      options,
    )
  }

  /** Waits until the head has declared dead the node as which `node` is part of the cluster, or was before it was killed. */
  async waitDead(node: TestNode | string, options: WaitOptions = {}): Promise<void> {
    const id = typeof node === 'string' ? node : node.id
    await until(
      `death of node ${id}`,
      async () => {
        const row = (await this.members()).find((each) => each.node === id)
        return row === undefined || row.state === 'DEAD' || `it is ${row.state}`
      },
      options,
    )
  }

  /**
   * Kills the worker that runs a task or method of this name, on whatever node, with SIGKILL.
   *
   * @returns its pid
   */
  async killWorker(task: string, options: WaitOptions = {}): Promise<number> {
    return until(
      `running task "${task}"`,
      async () => {
        const rows = await this.#head.list<TaskRow>('tasks')
        const running = rows.find(({ name, state, worker }) => name === task && state === 'RUNNING' && worker !== '')
        if (running === undefined) return `tasks there are: ${rows.map(({ name, state }) => `${name} ${state}`).join(', ') || 'none'}`
        const workers = await this.#head.list<{ worker: string; pid: number }>('workers')
        const pid = workers.find(({ worker }) => worker === running.worker)?.pid
        if (pid === undefined) return `its worker ${running.worker} is not in the list`
        // The head may not know yet that it was killed before.
        if (isGone(pid)) return `its worker ${running.worker} is gone`
        process.kill(pid, 'SIGKILL')
        await until(`end of worker ${running.worker}`, () => isGone(pid) || `process ${pid} still runs`, options)
        return pid
      },
      options,
    )
  }

  /** What is in use at the moment, once all workers have started: to compare with {@link expectBaseline}. */
  async baseline(): Promise<Baseline> {
    // Some of those that are kept warm start a moment after their daemon.
    const warm = this.nodes.filter(({ isRunning }) => isRunning).reduce((sum, { workersWarm }) => sum + workersWarm, 0)
    await until('end of the start of workers', async () => {
      const workers = await this.#head.list<{ state: string }>('workers')
      const started = workers.filter(({ state }) => state !== 'starting').length
      return (started === workers.length && started >= warm) || `${started} of ${Math.max(warm, workers.length)} have started`
    })
    return takeBaseline(this)
  }

  /**
   * Waits until nothing is in use that was not in `before`: resources, leases, drivers, actors, objects, files, processes, networks.
   *
   * @param options - `withinMs` default 40,000
   * @throws Error with each difference
   */
  async expectBaseline(before: Baseline, options: WaitOptions = {}): Promise<void> {
    const look = async (): Promise<true | string> => {
      const now = differences(before, await takeBaseline(this))
      return now.length === 0 || `\n  ${now.join('\n  ')}`
    }
    await until('rest as before', look, { withinMs: BASELINE_MS, everyMs: 250, ...options })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.network?.heal()
      const others = this.nodes.filter((node) => node !== this.#head)
      await Promise.all(others.map((node) => node.end()))
      await this.#head.end()
      await until('end without leftovers', () => this.#leftovers(), { withinMs: END_MS })
    } finally {
      await this.remove()
    }
  }

  /** @internal */
  async remove(): Promise<void> {
    if (this.network === undefined) await remove(this.id)
    else await this.network[Symbol.asyncDispose]()
  }

  get #tlsFolder(): string {
    return join(temporaryFolder(this.id), 'tls')
  }

  #leftovers(): true | string {
    const left: string[] = []
    // A program that delays packets belongs to the network.
    for (const { pid, command } of processesOf(this.id)) if (!command.includes('network-delay')) left.push(`process ${pid}: ${command}`)
    for (const node of this.nodes) {
      if (node.wasKilled) continue
      left.push(...(existsSync(node.store) ? readdirSync(node.store) : []).map((name) => `store folder ${name} of node ${node.index}`))
      const sessions = `${node.temporary}/beamline-${process.getuid?.() ?? ''}`
      const names = existsSync(sessions) ? readdirSync(sessions) : []
      left.push(...names.filter((name) => /^[0-9a-f]{16}$/.test(name)).map((name) => `session ${name} of node ${node.index}; its daemon said\n${node.log()}`))
    }
    return left.length === 0 || `\n${left.join('\n')}`
  }

  #hostOf(node: TestNode): string {
    return node.host?.address ?? '127.0.0.1'
  }

  #role(node: TestNode): string[] {
    const { store, tls = false } = this.#options
    const security = tls ? ['--tls-dir', this.#tlsFolder] : node.host === undefined ? [] : ['--insecure']
    const host = ['--host', this.#hostOf(node)]
    if (node !== this.#head) return ['--address', this.headAddress, ...host, ...security]
    const url = typeof store === 'function' ? store(this.network?.address ?? '127.0.0.1') : store
    return ['--head', '--port', String(this.#port), ...host, ...security, ...(url === undefined ? [] : ['--store', url])]
  }
}

export type { Baseline }

/** A port that was free a moment ago: a head that starts again must find its own. */
async function freePort(): Promise<number> {
  const server = createServer()
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.listen(0, '127.0.0.1', resolve)
  await promise
  const { port } = server.address() as { port: number }
  await new Promise((done) => server.close(done))
  return port
}
