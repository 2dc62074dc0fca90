/**
 * The part of the daemon that runs before gRPC is loaded: state, logs and worker processes. Exits that happen meanwhile wait for the daemon.
 */
import { join } from 'node:path'
import type { EdgeInstruction, WorkerExit } from '../state/events.ts'
import { nodeLeaseMs } from '../state/fence.ts'
import { ALONE, type MachineRole, MachineState } from '../state/machine-state.ts'
import { NODE_DEFAULTS, type NodeConfig, startVariables } from '../state/node-tables.ts'
import { type LogBatch, Logs } from './logs.ts'
import { type DaemonConfig, MEMORY_STORE } from './options.ts'
import { WorkerPool } from './worker-pool.ts'

export interface Launched {
  readonly machine: MachineState
  readonly pool: WorkerPool
  readonly logs: Logs
  /** Instructions of the start that are not worker-spawn: none today, but never lost. */
  readonly pending: readonly EdgeInstruction[]
  /** Take over: earlier exits and log lines come at once. */
  connect(onExit: (worker: string, exit: WorkerExit) => void, onLog: (batch: LogBatch) => void): void
}

/** @param host - address on which its processes listen for those of other nodes; "": there are none */
export function launchWorkers(config: DaemonConfig, host: string = ''): Launched {
  const { session } = config
  const exits: [string, WorkerExit][] = []
  const batches: LogBatch[] = []
  let onExit = (worker: string, exit: WorkerExit): void => void exits.push([worker, exit])
  let onLog = (batch: LogBatch): void => void batches.push(batch)
  const nodeConfig: NodeConfig = {
    ...NODE_DEFAULTS,
    node: session.node,
    total: config.total,
    labels: config.labels,
    gpuDevices: config.gpuDevices,
    workerIdPrefix: session.node.slice(0, 8),
    prestart: Math.min(config.prestart, config.taskWorkersMax),
    // Half of the cpus are busy with this process and the program that waits for it.
    prestartAtOnce: Math.max(1, Math.floor(config.total.cpus / 20_000) - 1),
    prestartExecArgv: config.execArgv,
    prestartCwd: config.cwd,
    taskWorkersMax: config.taskWorkersMax,
    actorWorkersMax: config.actorWorkersMax,
    startingMax: Math.max(2, Math.ceil(config.total.cpus / 10_000)),
    idleTimeoutMs: config.idleTimeoutMs,
    startEnv: startVariables(process.env as Record<string, string>),
  }
  const { cluster } = config
  const role: MachineRole = {
    head: cluster?.head ?? true,
    growable: cluster !== undefined,
    restores: cluster?.head === true && cluster.store !== MEMORY_STORE,
    leaseMs: cluster === undefined ? ALONE.leaseMs : nodeLeaseMs(cluster.nodeTimeoutMs),
  }
  const machine = new MachineState(nodeConfig, role, process.env['BEAMLINE_VALIDATE'] === '1')
  const logs = new Logs(join(session.dir, 'logs'), (batch) => onLog(batch))
  const { address, token, node } = session
  const tlsDir = config.cluster?.tlsDir ?? ''
  const pool = new WorkerPool({
    entry: config.workerEntry,
    logs,
    bootstrap: (worker) => ({
      process: worker,
      address,
      token,
      sessionDir: session.dir,
      storeDir: session.storeDir,
      cluster: session.cluster,
      node,
      host,
      tlsDir,
    }),
    onExit: (worker, exit) => onExit(worker, exit),
  })
  const pending: EdgeInstruction[] = []
  for (const instruction of machine.start(Date.now())) {
    if (instruction.kind === 'worker-spawn') pool.spawn(instruction)
    else pending.push(instruction)
  }
  return {
    machine,
    pool,
    logs,
    pending,
    connect: (exit, log) => {
      onExit = exit
      onLog = log
      for (const [worker, how] of exits.splice(0)) exit(worker, how)
      for (const batch of batches.splice(0)) log(batch)
    },
  }
}
