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
  /** So many workers are killed, or so many other things happen, and more only while no fault met a program that runs. */
  readonly workerKills: number
  readonly rounds: number
  /** Where a disk is full: little enough that nodes write to their disks, and enough for the share of the one that cannot. */
  readonly storeBytes: number
  readonly diskBytes: number
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
  workerKills: Infinity,
  rounds: Infinity,
  storeBytes: 768 << 20,
  diskBytes: 1 << 30,
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
  workerKills: 20,
  rounds: 3,
  storeBytes: 64 << 20,
  diskBytes: 128 << 20,
}

/** Where a fault works. */
export interface Stage {
  readonly cluster: TestCluster
  readonly random: Random
  readonly pace: Pace
  readonly signal: AbortSignal
  /** Something happens. Whose work it met is said to what it returns, while it lasts as often as one looks: each program counts once. */
  readonly happened: (what: string) => (met: readonly BusyWorker[]) => void
  /** How many programs that no fault met yet these work for; without workers: how many there are. */
  readonly unmet: (workers?: readonly BusyWorker[]) => number
}

export interface Fault {
  readonly title: string
  /** What its nodes need. */
  readonly nodes?: (pace: Pace) => TestNodeOptions
  /** Before the programs start. */
  readonly prepare?: (cluster: TestCluster) => Promise<void>
  readonly run: (stage: Stage) => Promise<void>
}

/** A worker with something to do: a row of `list workers`. */
export interface BusyWorker {
  readonly pid: number
  readonly node: string
  readonly state: string
  /** Process of the program that it works for. */
  readonly job: string
}

const HEAD = 0
const SPARED_NODE = 1
const LOSS_PERCENT = 2
const DELAY_MS = 50
const LOOK_MS = 250
const LOOKS_MAX = 16

const at = (cluster: TestCluster, index: number): TestNode => cluster.nodes[index] as TestNode
const mayFail = ({ nodes }: TestCluster): TestNode[] => nodes.filter(({ index }) => index !== HEAD && index !== SPARED_NODE)

/** Waits; false when it is time to stop. */
async function pause(ms: number, { signal }: Stage): Promise<boolean> {
  await delay(ms, undefined, { signal }).catch(() => undefined)
  return !signal.aborted
}

/** The times at which something is to happen, until it is time to stop. */
async function* times(stage: Stage, between: readonly [number, number], most: number = stage.pace.rounds): AsyncGenerator<void, void, void> {
  let done = 0
  for (let wait = stage.pace.first; await pause(stage.random.between(wait), stage); wait = between) {
    if (done++ < most || stage.unmet() > 0) yield
  }
}

/** Those of these nodes, as the spared one says, whose daemon always answers. */
async function busyWorkers(cluster: TestCluster, nodes: readonly TestNode[]): Promise<BusyWorker[]> {
  const ids = new Set(nodes.map(({ id }) => id))
  const workers = await at(cluster, SPARED_NODE).list<BusyWorker>('workers')
  return workers.filter(({ node, state }) => ids.has(node) && ['leased', 'blocked', 'actor'].includes(state))
}

/** Once a program works there that no fault met yet, or it does not come to that. */
async function workersSoon(stage: Stage, nodes: readonly TestNode[]): Promise<BusyWorker[]> {
  for (let looks = 1; ; looks++) {
    const busy = await busyWorkers(stage.cluster, nodes)
    if (stage.unmet() === 0 || stage.unmet(busy) > 0 || looks === LOOKS_MAX || !(await pause(LOOK_MS, stage))) return busy
  }
}

/** Of these nodes, one of those where most programs work that no fault met yet, and who works there. */
async function choose(stage: Stage, nodes: readonly TestNode[]): Promise<{ node: TestNode; busy: readonly BusyWorker[] }> {
  const all = await workersSoon(stage, nodes)
  const choices = nodes.map((node) => ({ node, busy: all.filter((worker) => worker.node === node.id) }))
  const most = Math.max(...choices.map(({ busy }) => stage.unmet(busy)))
  return stage.random.pick(choices.filter(({ busy }) => stage.unmet(busy) === most)) as (typeof choices)[number]
}

async function killWorkers(stage: Stage): Promise<void> {
  const { cluster, random, pace, happened, unmet } = stage
  const nodes = cluster.nodes.filter(({ index }) => index !== SPARED_NODE)
  for await (const _ of times(stage, pace.betweenWorkerKills, pace.workerKills)) {
    const { node, busy } = await choose(stage, nodes)
    const first = busy.filter((worker) => unmet([worker]) > 0)
    const worker = random.pick(first.length > 0 ? first : busy)
    if (worker === undefined || stage.signal.aborted) continue
    try {
      process.kill(worker.pid, 'SIGKILL')
      happened(`killed worker ${worker.pid} (${worker.state}) of node ${node.index}`)([worker])
    } catch {
      // It ended by itself.
    }
  }
}

async function killDaemons(stage: Stage): Promise<void> {
  for await (const _ of times(stage, stage.pace.betweenDaemonKills)) {
    const { node, busy } = await choose(stage, mayFail(stage.cluster))
    await killAndStart(stage, node, `killed the daemon of node ${node.index}`, busy)
  }
}

/** It meets whoever works anywhere: nobody has a head. */
async function restartHead(stage: Stage): Promise<void> {
  const { cluster, pace } = stage
  for await (const _ of times(stage, pace.betweenHeadKills))
    await killAndStart(stage, at(cluster, HEAD), 'killed the head', await workersSoon(stage, cluster.nodes))
}

async function killAndStart(stage: Stage, node: TestNode, what: string, met: readonly BusyWorker[]): Promise<void> {
  await node.kill()
  stage.happened(what)(met)
  await pause(stage.random.between(stage.pace.away), stage)
  await node.start()
}

async function stopDaemons(stage: Stage): Promise<void> {
  const { cluster, pace, happened } = stage
  for await (const _ of times(stage, pace.betweenStops)) {
    const { node, busy } = await choose(stage, mayFail(cluster))
    node.pause()
    happened(`stopped the daemon of node ${node.index} for ${pace.stoppedMs / 1000} s`)(busy)
    await pause(pace.stoppedMs, stage)
    node.resume()
  }
}

async function blackouts(stage: Stage): Promise<void> {
  const { cluster, pace, happened } = stage
  const hosts = mayFail(cluster).map(({ host }) => host)
  for await (const _ of times(stage, pace.betweenBlackouts)) {
    const busy = await workersSoon(stage, mayFail(cluster))
    await Promise.all(hosts.map((host) => host?.cut()))
    happened(`cut off half of the nodes for ${pace.blackoutMs / 1000} s`)(busy)
    await pause(pace.blackoutMs, stage)
    await Promise.all(hosts.map((host) => host?.heal()))
  }
}

async function makeNetworkPoor({ network }: TestCluster): Promise<void> {
  await Promise.all((network?.hosts ?? []).map((host) => Promise.all([host.lose(LOSS_PERCENT), host.delay(DELAY_MS)])))
}

async function poorNetwork(stage: Stage): Promise<void> {
  const { cluster } = stage
  const met = stage.happened(`${LOSS_PERCENT} % of the packets are lost, the others take ${DELAY_MS} ms`)
  await whileItLasts(
    stage,
    cluster.nodes.filter(({ index }) => index !== SPARED_NODE),
    met,
  )
  await cluster.network?.heal()
}

async function fullDisk(stage: Stage): Promise<void> {
  // A disk fills while work is done: the code of the program is there already.
  const { node } = await choose(stage, mayFail(stage.cluster))
  node.fillDisk()
  await whileItLasts(stage, [node], stage.happened(`filled the disk of node ${node.index}`))
  node.emptyDisk()
}

/** Says who works on these nodes, until it is time to stop. */
async function whileItLasts(stage: Stage, nodes: readonly TestNode[], met: (met: readonly BusyWorker[]) => void): Promise<void> {
  do met(await busyWorkers(stage.cluster, nodes))
  while (await pause(LOOK_MS, stage))
}

async function nothing(stage: Stage): Promise<void> {
  while (await pause(LOOK_MS, stage));
}

export const FAULTS = {
  none: { title: 'no fault', run: nothing },
  'kill-worker': { title: 'workers killed', run: killWorkers },
  'kill-daemon': { title: 'daemons killed and started again', run: killDaemons },
  'stop-daemon': { title: 'daemons stopped (SIGSTOP) until they are declared dead', run: stopDaemons },
  'restart-head': { title: 'the head killed and started again', run: restartHead },
  blackout: { title: 'half of the nodes cut off, again and again', run: blackouts },
  'poor-network': { title: `${LOSS_PERCENT} % loss and ${DELAY_MS} ms delay`, prepare: makeNetworkPoor, run: poorNetwork },
  'full-disk': { title: 'the disk of a node full, stores too small', nodes: ({ storeBytes, diskBytes }) => ({ storeBytes, diskBytes }), run: fullDisk },
} as const satisfies Record<string, Fault>

export type FaultName = keyof typeof FAULTS
