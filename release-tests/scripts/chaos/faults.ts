/**
 * What happens to a cluster while a workload runs. Each fault goes on until it is told to stop and then leaves a cluster that is whole: every daemon
 * runs, every network passes, every disk has room. Times and choices come from a seed.
 *
 * Nodes 2 and 3 are the ones that daemons are killed and stopped on, and that networks fail for; node 0 is the head; node 1, with the program and what
 * must not be lost with a process, loses no process.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { TestCluster, TestNode, TestNodeOptions } from '@beamline/runtime/testing'
import type { Random } from './random.ts'

/** How fast things happen, in milliseconds. */
export interface Pace {
  /** After this long without a sign of life a node is dead. */
  readonly nodeTimeoutMs: number
  /** Before the first thing happens. */
  readonly first: readonly [number, number]
  readonly betweenWorkerKills: readonly [number, number]
  readonly betweenDaemonKills: readonly [number, number]
  /** How long a killed daemon is away. */
  readonly away: readonly [number, number]
  /** How long a stopped daemon stays so; longer than `nodeTimeoutMs`. */
  readonly stoppedMs: number
  readonly betweenStops: readonly [number, number]
  readonly betweenHeadKills: readonly [number, number]
  /** Shorter than `nodeTimeoutMs`: nodes are suspected and nothing is lost. */
  readonly blackoutMs: number
  readonly betweenBlackouts: readonly [number, number]
}

export const LONG: Pace = {
  nodeTimeoutMs: 10_000,
  first: [2_000, 6_000],
  betweenWorkerKills: [1_000, 4_000],
  betweenDaemonKills: [10_000, 20_000],
  away: [1_000, 4_000],
  stoppedMs: 20_000,
  betweenStops: [5_000, 10_000],
  betweenHeadKills: [10_000, 20_000],
  blackoutMs: 5_000,
  betweenBlackouts: [15_000, 15_000],
}

export const SHORT: Pace = {
  nodeTimeoutMs: 8_000,
  first: [500, 1_500],
  betweenWorkerKills: [300, 900],
  betweenDaemonKills: [3_000, 5_000],
  away: [300, 1_000],
  stoppedMs: 10_000,
  betweenStops: [2_000, 3_000],
  betweenHeadKills: [5_000, 8_000],
  blackoutMs: 2_000,
  betweenBlackouts: [2_000, 4_000],
}

/** Where a fault works. */
export interface Stage {
  readonly cluster: TestCluster
  readonly random: Random
  readonly pace: Pace
  readonly signal: AbortSignal
  /** Something happened. */
  readonly happened: (what: string) => void
}

export interface Fault {
  readonly title: string
  /** What its nodes need. */
  readonly nodes?: TestNodeOptions
  readonly run: (stage: Stage) => Promise<void>
}

const HEAD = 0
const SPARED_NODE = 1
const LOSS_PERCENT = 2
const DELAY_MS = 50
const STORE_BYTES_SHORT_OF_ROOM = 48 << 20
const DISK_BYTES = 64 << 20

const at = (cluster: TestCluster, index: number): TestNode => cluster.nodes[index] as TestNode
const mayFail = ({ nodes }: TestCluster): TestNode[] => nodes.filter(({ index }) => index !== HEAD && index !== SPARED_NODE)

/** Waits; false when it is time to stop. */
async function pause(ms: number, { signal }: Stage): Promise<boolean> {
  await delay(ms, undefined, { signal }).catch(() => undefined)
  return !signal.aborted
}

/** The times at which something is to happen, until it is time to stop. */
async function* times(stage: Stage, between: readonly [number, number]): AsyncGenerator<void, void, void> {
  for (let wait = stage.pace.first; await pause(stage.random.between(wait), stage); wait = between) yield
}

async function killWorkers(stage: Stage): Promise<void> {
  const { cluster, random, pace, happened } = stage
  for await (const _ of times(stage, pace.betweenWorkerKills)) {
    const node = random.pick(cluster.nodes.filter(({ index }) => index !== SPARED_NODE)) as TestNode
    const workers = (await node.list<{ worker: string; pid: number; state: string; node?: string }>('workers')).filter(
      (each) => (each.node ?? node.id) === node.id && ['leased', 'blocked', 'actor'].includes(each.state),
    )
    const worker = random.pick(workers)
    if (worker === undefined || stage.signal.aborted) continue
    try {
      process.kill(worker.pid, 'SIGKILL')
      happened(`killed worker ${worker.pid} (${worker.state}) of node ${node.index}`)
    } catch {
      // It ended by itself.
    }
  }
}

async function killDaemons(stage: Stage): Promise<void> {
  const { cluster, random, pace, happened } = stage
  for await (const _ of times(stage, pace.betweenDaemonKills)) {
    const node = random.pick(mayFail(cluster)) as TestNode
    await node.kill()
    happened(`killed the daemon of node ${node.index}`)
    await pause(random.between(pace.away), stage)
    await node.start()
  }
}

async function stopDaemons(stage: Stage): Promise<void> {
  const { cluster, random, pace, happened } = stage
  for await (const _ of times(stage, pace.betweenStops)) {
    const node = random.pick(mayFail(cluster)) as TestNode
    node.pause()
    happened(`stopped the daemon of node ${node.index} for ${pace.stoppedMs / 1000} s`)
    await pause(pace.stoppedMs, stage)
    node.resume()
  }
}

async function restartHead(stage: Stage): Promise<void> {
  const { cluster, random, pace, happened } = stage
  for await (const _ of times(stage, pace.betweenHeadKills)) {
    await at(cluster, HEAD).kill()
    happened('killed the head')
    await pause(random.between(pace.away), stage)
    await at(cluster, HEAD).start()
  }
}

async function blackouts(stage: Stage): Promise<void> {
  const { cluster, pace, happened } = stage
  const hosts = mayFail(cluster).map(({ host }) => host)
  for await (const _ of times(stage, pace.betweenBlackouts)) {
    await Promise.all(hosts.map((host) => host?.cut()))
    happened(`cut off half of the nodes for ${pace.blackoutMs / 1000} s`)
    await pause(pace.blackoutMs, stage)
    await Promise.all(hosts.map((host) => host?.heal()))
  }
}

async function poorNetwork(stage: Stage): Promise<void> {
  const { network } = stage.cluster
  await Promise.all((network?.hosts ?? []).map((host) => Promise.all([host.lose(LOSS_PERCENT), host.delay(DELAY_MS)])))
  stage.happened(`${LOSS_PERCENT} % of the packets are lost, the others take ${DELAY_MS} ms`)
  while (await pause(1_000, stage));
  await network?.heal()
}

async function fullDisk(stage: Stage): Promise<void> {
  const node = at(stage.cluster, 2)
  // A disk fills while work is done: the code of the program is there already.
  while (!(await isWorking(node)) && (await pause(100, stage)));
  node.fillDisk()
  stage.happened(`filled the disk of node ${node.index}`)
  while (await pause(1_000, stage));
  node.emptyDisk()
}

async function isWorking(node: TestNode): Promise<boolean> {
  const workers = await node.list<{ state: string; node: string }>('workers')
  return workers.some((worker) => worker.node === node.id && ['leased', 'blocked', 'actor'].includes(worker.state))
}

async function nothing(stage: Stage): Promise<void> {
  while (await pause(1_000, stage));
}

export const FAULTS = {
  none: { title: 'no fault', run: nothing },
  'kill-worker': { title: 'workers killed', run: killWorkers },
  'kill-daemon': { title: 'daemons killed and started again', run: killDaemons },
  'stop-daemon': { title: 'daemons stopped (SIGSTOP) until they are declared dead', run: stopDaemons },
  'restart-head': { title: 'the head killed and started again', run: restartHead },
  blackout: { title: 'half of the nodes cut off, again and again', run: blackouts },
  'poor-network': { title: `${LOSS_PERCENT} % loss and ${DELAY_MS} ms delay`, run: poorNetwork },
  'full-disk': { title: 'the disk of a node full, stores too small', nodes: { storeBytes: STORE_BYTES_SHORT_OF_ROOM, diskBytes: DISK_BYTES }, run: fullDisk },
} as const satisfies Record<string, Fault>

export type FaultName = keyof typeof FAULTS
