/**
 * What happens to a machine (events) and what must be done about it (instructions): closed unions on `kind`.
 *
 * Node events concern one node's workers, leases and bundles; control events concern what exists once per cluster: actors and placement
 * groups. Instructions of one side that are events of the other carry the same shape, so the edge (or MachineState) only routes them.
 */
import type { ActorCreate, ActorStarted, ActorStop, Failure, GroupCreate, JobConfig, NodeMessage, Resources, Shape } from '../net/gen/node.ts'

/** One message to one attached process. */
export type MessageBody = NonNullable<NodeMessage['body']>

/** A driver's program: everything its workers need to know of it. Its id is the process id of the driver. */
export interface Job {
  readonly id: string
  readonly config: JobConfig
}

export interface WorkerExit {
  readonly code: number | null
  readonly signal: string | null
  /** last lines */
  readonly stderr: string
}

export type ProcessEvent =
  | {
      readonly kind: 'process-attached'
      readonly process: string
      readonly processKind: 'driver' | 'worker' | 'cli'
      readonly pid: number
      readonly address: string
      readonly job: JobConfig | undefined
    }
  | { readonly kind: 'process-lost'; readonly process: string }
  | { readonly kind: 'tick'; readonly nowMs: number }

/** From control to a node. */
export type NodeOrder =
  | { readonly kind: 'actor-place'; readonly actor: string; readonly job: Job; readonly shape: Shape | undefined; readonly label: string }
  | { readonly kind: 'actor-release'; readonly actor: string; readonly force: boolean; readonly reason: string }
  | { readonly kind: 'bundles-prepare'; readonly group: string; readonly bundles: ReadonlyMap<number, Resources> }
  | { readonly kind: 'bundles-commit'; readonly group: string }
  | { readonly kind: 'bundles-return'; readonly group: string; readonly reason: string }

export type NodeEvent =
  | ProcessEvent
  | NodeOrder
  /** `owns`: it has objects, or did not answer. */
  | { readonly kind: 'worker-answered'; readonly worker: string; readonly owns: boolean }
  | { readonly kind: 'worker-exited'; readonly worker: string; readonly exit: WorkerExit }
  | {
      readonly kind: 'lease-demand'
      readonly process: string
      readonly key: number
      readonly shape: Shape | undefined
      readonly wanted: number
      readonly backlog: number
      readonly label: string
    }
  | { readonly kind: 'lease-return'; readonly process: string; readonly lease: number; readonly retire: boolean }
  | { readonly kind: 'lease-blocked'; readonly process: string; readonly lease: number; readonly blocked: boolean }
  | { readonly kind: 'worker-kill'; readonly process: string; readonly worker: string; readonly reason: string }

/** From a node to control. */
export type NodeReport =
  | { readonly kind: 'actor-placed'; readonly actor: string; readonly worker: string; readonly address: string; readonly gpuIndices: number[] }
  | { readonly kind: 'actor-unplaceable'; readonly actor: string; readonly failure: Failure }
  | { readonly kind: 'actor-worker-lost'; readonly actor: string; readonly worker: string; readonly failure: Failure }
  | { readonly kind: 'bundles-prepared'; readonly node: string; readonly group: string }
  | { readonly kind: 'bundles-refused'; readonly node: string; readonly group: string; readonly reason: string }

export type Send = { readonly kind: 'send'; readonly process: string; readonly message: MessageBody }

/** What the edge does. */
export type EdgeInstruction =
  | Send
  | {
      readonly kind: 'worker-spawn'
      readonly worker: string /** Folder to start in; "": any. */
      readonly cwd: string
      readonly execArgv: readonly string[]
      readonly env: Readonly<Record<string, string>>
    }
  /** Ask an idle worker whether it owns objects that others may need: they would be lost with it. Answered by `worker-answered`. */
  | { readonly kind: 'worker-ask'; readonly worker: string }
  /** Not forced: Exit message, then SIGTERM, then SIGKILL. Forced: SIGKILL to the whole group at once. */
  | { readonly kind: 'worker-stop'; readonly worker: string; readonly force: boolean; readonly reason: string }

export type NodeInstruction = EdgeInstruction | NodeReport

export type ControlEvent =
  | ProcessEvent
  | NodeReport
  | { readonly kind: 'node-attached'; readonly node: string; readonly total: Resources }
  | { readonly kind: 'actor-create'; readonly process: string; readonly create: ActorCreate }
  | { readonly kind: 'actor-started'; readonly process: string; readonly started: ActorStarted }
  | { readonly kind: 'actor-watch'; readonly process: string; readonly actor: string; readonly creates?: boolean }
  | { readonly kind: 'actor-stop'; readonly process: string; readonly stop: ActorStop }
  | { readonly kind: 'actor-lookup'; readonly process: string; readonly request: number; readonly name: string; readonly namespace: string }
  | { readonly kind: 'group-create'; readonly process: string; readonly create: GroupCreate }
  | { readonly kind: 'group-remove'; readonly process: string; readonly group: string }

/** `node` says which node an order is for. */
export type ControlInstruction = Send | { readonly kind: 'order'; readonly node: string; readonly order: NodeOrder }
