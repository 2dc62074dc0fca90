/**
 * What happens to a machine (events) and what must be done about it (instructions): closed unions on `kind`.
 *
 * Node events concern one node's workers, leases and bundles; control events concern what exists once per cluster: nodes, actors, placement groups
 * and jobs. Instructions of one side that are events of the other carry the same shape, so the edge (or MachineState) only routes them.
 */
import type { MemoryFacts } from '../errors.ts'
import type { GroupInfo, NodeInfo, Register } from '../net/gen/mesh.ts'
import type { ActorCreate, ActorStarted, ActorStop, Failure, GroupCreate, JobConfig, NodeMessage, ProcessMessage, Resources, Shape } from '../net/gen/node.ts'

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
  /** Present: the kernel ended it, since there was no memory left. */
  readonly memory?: MemoryFacts
}

export type ProcessEvent =
  | {
      readonly kind: 'process-attached'
      readonly process: string
      /** Where it runs; absent: on this node. */
      readonly node?: string
      readonly processKind: 'driver' | 'worker' | 'cli'
      readonly pid: number
      readonly address: string
      /** Of a driver. Of a worker of another node: the job that it works for, "" and undefined while it works for none. */
      readonly job: JobConfig | undefined
      readonly jobId?: string
      /** How many daemons it has attached to; default 1. */
      readonly attach?: number
    }
  /** `clean` false: a driver that did not say that it leaves. */
  | { readonly kind: 'process-lost'; readonly process: string; readonly clean?: boolean }
  | { readonly kind: 'tick'; readonly nowMs: number }

/** From control to a node. `attempt` grows with each placement of the same actor or group. */
export type NodeOrder =
  | {
      readonly kind: 'actor-place'
      readonly actor: string
      readonly attempt: number
      readonly job: Job
      readonly shape: Shape | undefined
      readonly label: string
    }
  /** `attempt` 0: whichever is there. */
  | { readonly kind: 'actor-release'; readonly actor: string; readonly attempt: number; readonly force: boolean; readonly reason: string }
  | { readonly kind: 'bundles-prepare'; readonly group: string; readonly attempt: number; readonly bundles: ReadonlyMap<number, Resources> }
  | { readonly kind: 'bundles-commit'; readonly group: string; readonly attempt: number }
  /** `bundles` empty: all of them. */
  | { readonly kind: 'bundles-return'; readonly group: string; readonly bundles: readonly number[]; readonly reason: string }

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
      /** Of remote ones: grants that the sender had seen. */
      readonly seen?: number
      /** It came from the router of another node, which has split it. */
      readonly remote?: boolean
    }
  | { readonly kind: 'lease-return'; readonly process: string; readonly lease: number; readonly retire: boolean }
  | { readonly kind: 'lease-blocked'; readonly process: string; readonly lease: number; readonly blocked: boolean }
  /** `memory`: its node is short of it. */
  | { readonly kind: 'worker-kill'; readonly process: string; readonly worker: string; readonly reason: string; readonly memory?: MemoryFacts }
  /** Memory is short: which idle workers could end without loss? */
  | { readonly kind: 'memory-short' }
  /** The constructor of an actor here ended, or so its worker says. For control too. */
  | { readonly kind: 'actor-started'; readonly process: string; readonly started: ActorStarted }
  /** The head accepted this node. No lease is granted before: their ids begin with the number. */
  | { readonly kind: 'registered'; readonly number: number }
  /** No new work for this node. */
  | { readonly kind: 'drain'; readonly reason: string }
  /** This node ends, and with it its workers: what still runs learns why. */
  | { readonly kind: 'node-ends'; readonly reason: string }
  /** Nobody of that job is left anywhere. */
  | { readonly kind: 'job-ended'; readonly job: string }
  /** That node is dead: its processes are. */
  | { readonly kind: 'node-gone'; readonly node: string }

/** From a node to control; `node` is the sender. */
export type NodeReport =
  | {
      readonly kind: 'actor-placed'
      readonly node: string
      readonly actor: string
      readonly attempt: number
      readonly worker: string
      readonly address: string
      readonly gpuIndices: number[]
    }
  | { readonly kind: 'actor-unplaceable'; readonly node: string; readonly actor: string; readonly attempt: number; readonly failure: Failure }
  | {
      readonly kind: 'actor-worker-lost'
      readonly node: string
      readonly actor: string
      readonly attempt: number
      readonly worker: string
      readonly failure: Failure
    }
  | { readonly kind: 'bundles-prepared'; readonly node: string; readonly group: string; readonly attempt: number }
  | { readonly kind: 'bundles-refused'; readonly node: string; readonly group: string; readonly attempt: number; readonly reason: string }

/** `node`: where the process is, when it is known and not here; else the edge knows it from its introduction. */
export type Send = { readonly kind: 'send'; readonly process: string; readonly node?: string; readonly message: MessageBody }

/** What the head tells every node: what changed since the last one, or all there is. */
export interface View {
  readonly all: boolean
  readonly nodes: readonly NodeInfo[]
  readonly groups: readonly GroupInfo[]
  readonly jobsEnded: readonly string[]
}

export type WorkerInstruction =
  | {
      readonly kind: 'worker-spawn'
      readonly worker: string
      /** Folder to start in; "": any. */
      readonly cwd: string
      readonly execArgv: readonly string[]
      readonly env: Readonly<Record<string, string>>
    }
  /** Ask an idle worker whether it owns objects that others may need: they would be lost with it. Answered by `worker-answered`. */
  | { readonly kind: 'worker-ask'; readonly worker: string }
  /** Not forced: Exit message, then SIGTERM, then SIGKILL. Forced: SIGKILL to the whole group at once. */
  | { readonly kind: 'worker-stop'; readonly worker: string; readonly force: boolean; readonly reason: string }

/** A worker works for a job from now on: what it creates belongs to that job. */
export type WorkerBound = { readonly kind: 'worker-bound'; readonly worker: string; readonly job: Job }

export type NodeInstruction = Send | WorkerInstruction | NodeReport | WorkerBound

/** A message of a process of this node to another node, as if the process were attached there. */
export type ToNode = { readonly kind: 'to-node'; readonly node: string; readonly process: string; readonly message: NonNullable<ProcessMessage['body']> }

/** What the edge does. */
export type EdgeInstruction =
  | Send
  | WorkerInstruction
  | ToNode
  /** To the head, from a node that is not the head. */
  | { readonly kind: 'report'; readonly report: NodeReport }
  /** Every machine that learns of it: its processes are told, its streams end. At the head: it is refused from now on. */
  | { readonly kind: 'node-lost'; readonly node: string; readonly number: number; readonly cause: Failure }
  | HeadInstruction

/** What only the edge of the head does. */
export type HeadInstruction =
  | { readonly kind: 'order'; readonly node: string; readonly order: NodeOrder }
  /** Before the instructions after it are performed, the record is durable; one that is written `later` holds nothing up. `value` undefined: delete. */
  | { readonly kind: 'persist'; readonly key: string; readonly value: string | undefined; readonly later?: boolean }
  /** To one node, or to all others that are alive; what is not urgent may be told together with what comes next. */
  | { readonly kind: 'view'; readonly to: string | undefined; readonly view: View; readonly urgent: boolean }
  /** Answers a `node-registered` of another node. */
  | { readonly kind: 'node-accepted'; readonly node: string; readonly number: number }
  | { readonly kind: 'node-refused'; readonly node: string; readonly code: string; readonly reason: string }

export type ControlEvent =
  | ProcessEvent
  | NodeReport
  | WorkerBound
  | { readonly kind: 'actor-create'; readonly process: string; readonly create: ActorCreate }
  | { readonly kind: 'actor-started'; readonly process: string; readonly started: ActorStarted }
  | { readonly kind: 'actor-watch'; readonly process: string; readonly actor: string; readonly creates?: boolean }
  | { readonly kind: 'actor-stop'; readonly process: string; readonly stop: ActorStop }
  | { readonly kind: 'actor-lookup'; readonly process: string; readonly request: number; readonly name: string; readonly namespace: string }
  | { readonly kind: 'group-create'; readonly process: string; readonly create: GroupCreate }
  | { readonly kind: 'group-remove'; readonly process: string; readonly group: string }
  /** First contact with this head. Also of the head's own node, whose addresses are known once it listens. */
  | { readonly kind: 'node-registered'; readonly register: Register }
  | {
      readonly kind: 'node-heartbeat'
      readonly node: string
      readonly available: Resources
      readonly queued: number
      readonly storeUsedBytes: number
      readonly nowMs: number
    }
  /** Nothing new goes there from now on, and what can move moves. */
  | { readonly kind: 'node-drain'; readonly node: string; readonly reason: string }
  /** It left in order, or is known to be gone; `replaced`: its daemon was killed, and its machine has another one, to which its drivers may come. */
  | { readonly kind: 'node-left'; readonly node: string; readonly reason: string; readonly replaced?: boolean }
  /** What an earlier head of this cluster made durable. Before every other event. */
  | { readonly kind: 'restore'; readonly records: ReadonlyMap<string, string> }

/** `node` of an order: for whom it is. */
export type ControlInstruction =
  | Send
  | HeadInstruction
  | { readonly kind: 'node-lost'; readonly node: string; readonly number: number; readonly cause: Failure }
