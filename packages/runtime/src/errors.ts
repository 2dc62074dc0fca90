/**
 * The one table of errors: a code, the facts it carries, and the sentence made of them.
 *
 * People and programs switch on `code`; texts may change. Errors cross processes as {code, details},
 * so every detail is plain data. `docs/errors.md` is generated from this table.
 */

const many = (n: number, noun: string): string => `${n.toLocaleString('en-US')} ${noun}${n === 1 ? '' : 's'}`
const mib = (bytes: number): string => `${(bytes / 1_048_576).toFixed(1)} MiB`

/** What a node saw when it ended a worker because memory was short, in details of `OUT_OF_MEMORY`. */
export interface MemoryFacts {
  readonly usedBytes: number
  readonly limitBytes: number
  /** Whose: "of the machine", … */
  readonly of: string
  /** Part of the limit from which on workers are ended. */
  readonly threshold: number
  /** Those with most memory of their own. */
  readonly processes: readonly { readonly pid: number; readonly bytes: number; readonly what: string }[]
}

/** Code, whether repeating may help, and text. @internal */
export const ERRORS = {
  TASK_FAILED: {
    retry: false,
    text: (d: { task: string; worker: string; error: string }) => `task "${d.task}" failed on worker ${d.worker}: ${d.error}`,
  },
  WORKER_CRASHED: {
    retry: true,
    text: (d: { task: string; worker: string; pid: number; how: string; stderr: string }) =>
      `worker ${d.worker} (pid ${d.pid}) ${d.how}${d.task ? ` while it ran "${d.task}"` : ''}${d.stderr ? `; its last lines on stderr:\n${d.stderr}` : ''}`,
  },
  OUT_OF_MEMORY: {
    retry: true,
    text: (d: { task: string; worker: string; pid: number; how: string; stderr: string; memory?: MemoryFacts }) =>
      `worker ${d.worker} (pid ${d.pid}) ran out of memory (${d.how})${d.task ? ` while it ran "${d.task}"` : ''}; give it smaller inputs, run fewer at a time (the option memory says what one needs), or give it a larger heap, if that was too small, through NODE_OPTIONS=--max-old-space-size=MiB in the driver's environment${d.stderr ? `; its last lines on stderr:\n${d.stderr}` : ''}`,
  },
  OWNER_DIED: {
    retry: false,
    text: (d: { object: string; owner: string; why?: string }) =>
      `object ${d.object} is lost: the process ${d.owner} that owned it is gone${d.why ? ` (${d.why})` : ''}; keep the process that creates a reference alive while others use it`,
  },
  OBJECT_LOST: {
    retry: true,
    text: (d: { object: string; reason: string; madeBy?: string; node?: string; nodeLost?: string; reruns?: number }) =>
      `object ${d.object}${d.madeBy ? ` (made by ${d.madeBy})` : ''} is lost: ${d.reason}${d.node ? `; it lay on node ${d.node}${d.nodeLost ? `, which is gone: ${d.nodeLost}` : ''}` : ''}${d.reruns ? `; its task was run again ${many(d.reruns, 'time')} before` : ''}`,
  },
  CANCELLED: { retry: false, text: (d: { task: string; reason: string }) => `"${d.task}" was cancelled: ${d.reason}` },
  TASK_TIMEOUT: {
    retry: false,
    text: (d: { task: string; timeoutMs: number }) => `task "${d.task}" ran longer than its limit of ${d.timeoutMs} ms; raise timeoutMs or make it shorter`,
  },
  GET_TIMEOUT: {
    retry: true,
    text: (d: { pending: number; total: number; timeoutMs: number; first: string }) =>
      `${d.pending} of ${many(d.total, 'reference')} not ready after ${d.timeoutMs} ms; the first pending one: ${d.first}`,
  },
  INFEASIBLE: {
    retry: false,
    text: (d: { what: string; wanted: string; has: string }) => `${d.what} asks for ${d.wanted}, which this cluster can never give: it has ${d.has}`,
  },
  NOT_SERIALIZABLE: {
    retry: false,
    text: (d: { what: string; path: string; reason: string; hint: string }) => `${d.what} cannot be sent to another process: ${d.path} ${d.reason}; ${d.hint}`,
  },
  CLASS_NOT_REGISTERED: {
    retry: false,
    text: (d: { className: string }) =>
      `this process cannot rebuild an instance of ${d.className}: the sender had registered that class and this process has not; call registerClass where the class is defined, in a module that both import`,
  },
  STORE_FULL: {
    retry: true,
    text: (d: {
      wantedBytes: number
      usedBytes: number
      capacityBytes: number
      holders: string
      pinnedBytes: number
      spilledBytes: number
      spilling: string
    }) =>
      `the object store cannot take ${mib(d.wantedBytes)}: ${mib(d.usedBytes)} of ${mib(d.capacityBytes)} are in use, ${mib(d.pinnedBytes)} of them being read, and ${mib(d.spilledBytes)} are on disk already${d.spilling ? `; no more goes there: ${d.spilling}` : ''}; the biggest holders: ${d.holders || 'none'}; release references, or raise init({ storeBytes })`,
  },
  STORE_UNAVAILABLE: {
    retry: false,
    text: (d: { path: string; reason: string }) => `the object store cannot use ${d.path}: ${d.reason}`,
  },
  ACTOR_DIED: {
    retry: false,
    text: (d: { actor: string; className: string; reason: string }) => `actor ${d.className} (${d.actor}) is dead: ${d.reason}`,
  },
  ACTOR_UNAVAILABLE: {
    retry: true,
    text: (d: { actor: string; className: string; reason: string }) =>
      `a call of actor ${d.className} (${d.actor}) was interrupted and may have run: ${d.reason}; set maxTaskRetries to repeat such calls`,
  },
  ACTOR_NAME_TAKEN: {
    retry: false,
    text: (d: { name: string; namespace: string }) => `an actor named "${d.name}" exists in namespace "${d.namespace}"; use getIfExists: true or another name`,
  },
  ACTOR_NOT_FOUND: {
    retry: false,
    text: (d: { name: string; namespace: string }) => `no actor named "${d.name}" in namespace "${d.namespace}"`,
  },
  PENDING_CALLS_LIMIT: {
    retry: true,
    text: (d: { actor: string; pending: number; max: number }) =>
      `actor ${d.actor} has ${many(d.pending, 'pending call')} and allows ${d.max}; await some results or raise maxPendingCalls`,
  },
  QUEUE_EMPTY: { retry: true, text: (d: { queue: string; timeoutMs: number }) => `the queue ${d.queue} had no items to take within ${d.timeoutMs} ms` },
  QUEUE_FULL: {
    retry: true,
    text: (d: { queue: string; timeoutMs: number; size: number; maxSize: number }) =>
      `the queue ${d.queue} had no room within ${d.timeoutMs} ms: it holds ${many(d.size, 'item')} and takes ${d.maxSize}`,
  },
  QUEUE_CLOSED: { retry: false, text: (d: { queue: string }) => `the queue ${d.queue} is closed` },
  NODE_DIED: {
    retry: false,
    text: (d: { reason: string }) => `the connection to the node daemon is gone: ${d.reason}; call init() again`,
  },
  NODE_LOST: {
    retry: true,
    text: (d: { task: string; node: string; reason: string }) => `node ${d.node} is gone${d.task ? ` while "${d.task}" ran there` : ''}: ${d.reason}`,
  },
  START_FAILED: { retry: false, text: (d: { what: string; reason: string }) => `${d.what} did not start: ${d.reason}` },
  NOT_INITIALIZED: { retry: false, text: (d: { call: string }) => `${d.call} needs a running cluster: call \`await init()\` first` },
  ALREADY_INITIALIZED: {
    retry: false,
    text: (_: Record<never, never>) => 'this process is attached to a cluster already; shut it down before you call init() again',
  },
  INVALID_ARGUMENT: {
    retry: false,
    text: (d: { what: string; got: string; expected: string }) => `${d.what} is ${d.got}; expected ${d.expected}`,
  },
  FILES_NOT_FOUND: { retry: false, text: (d: { what: string; paths: string; hint: string }) => `${d.what} found no file at ${d.paths}; ${d.hint}` },
  FILE_UNREADABLE: {
    retry: false,
    text: (d: { path: string; part: string; reason: string }) => `${d.path}${d.part ? ` (${d.part})` : ''} cannot be read: ${d.reason}`,
  },
  COLUMN_NOT_FOUND: {
    retry: false,
    text: (d: { what: string; column: string; columns: string }) => `${d.what} has no column "${d.column}"; its columns are ${d.columns}`,
  },
  SCHEMA_MISMATCH: {
    retry: false,
    text: (d: { where: string; column: string; found: string; expected: string; reference: string }) =>
      `${d.where}: column "${d.column}" is ${d.found}, but ${d.expected} in ${d.reference}`,
  },
  EXPRESSION_INVALID: {
    retry: false,
    text: (d: { what: string; expression: string; reason: string; hint: string }) => `${d.what}: ${d.expression}: ${d.reason}; ${d.hint}`,
  },
  EXPRESSION_FAILED: {
    retry: false,
    text: (d: { expression: string; row: number; reason: string; hint: string }) => `${d.expression} in row ${d.row} of a block: ${d.reason}; ${d.hint}`,
  },
  BATCH_INVALID: { retry: false, text: (d: { what: string; reason: string; hint: string }) => `${d.what}: ${d.reason}; ${d.hint}` },
  OUTPUT_EXISTS: {
    retry: false,
    text: (d: { path: string; files: number }) =>
      `${d.path} already holds ${many(d.files, 'file')}; write elsewhere, or pass { mode: 'overwrite' } to replace what is there`,
  },
  UNAUTHENTICATED: { retry: false, text: (d: { address: string }) => `${d.address} refused the token; use the one that its cluster was started with` },
  CLUSTER_REFUSED: { retry: false, text: (d: { address: string; reason: string }) => `the daemon at ${d.address} does not take this node in: ${d.reason}` },
  CONTROL_STORE_UNREACHABLE: {
    retry: true,
    text: (d: { store: string; call: string; waitedMs: number; reason: string }) =>
      `the control store ${d.store} did not answer ${d.call} for ${d.waitedMs} ms: ${d.reason}; a write may have happened; start it, or make it reachable from this machine`,
  },
  CONTROL_STORE_FAILED: { retry: false, text: (d: { store: string; reason: string }) => `the control store ${d.store} cannot be used: ${d.reason}` },
  CONTROL_STORE_IN_USE: {
    retry: true,
    text: (d: { path: string; holder: string }) =>
      `the control store ${d.path} is in use by ${d.holder}: a cluster has one head; stop that one, or give this one a file of its own with --store sqlite:/PATH`,
  },
  HEAD_EXISTS: {
    retry: true,
    text: (d: { store: string; cluster: string; node: string; address: string; host: string; pid: number }) =>
      `cluster ${d.cluster} has a head: node ${d.node} at ${d.address} on ${d.host} (pid ${d.pid}), which renews its lease in ${d.store}; join it with --address ${d.address}, or stop it first`,
  },
  LEASE_LOST: {
    retry: false,
    text: (d: { store: string; key: string }) =>
      `the lease on "${d.key}" in the control store ${d.store} is over, and another process may hold it: nothing was written`,
  },
  ENVIRONMENT_INVALID: {
    retry: false,
    text: (d: { what: string; path: string; host: string; reason: string; hint: string }) =>
      `${d.what} cannot be used on ${d.host}: ${d.reason}; it was looked for at ${d.path}; ${d.hint}`,
  },
  CODE_TOO_LARGE: {
    retry: false,
    text: (d: { root: string; bytes: number; limitBytes: number; files: number; largest: string }) =>
      `the code in ${d.root} is too large for other machines: ${many(d.files, 'file')} of ${mib(d.bytes)} together, ${mib(d.limitBytes)} at most; the largest: ${d.largest}; name data in .gitignore, or pass init({ env: { workingDir } }) with a folder that holds the code only`,
  },
  SESSION_UNKNOWN: {
    retry: false,
    text: (d: { address: string }) => `the process at ${d.address} is another one than before: what was sent to the old one and not answered is lost`,
  },
  TLS_REFUSED: {
    retry: false,
    text: (d: { address: string; reason: string }) =>
      `no TLS connection with ${d.address}: ${d.reason}; both ends need certificates of the same cluster, see --tls-dir`,
  },
  LISTEN_REFUSED: {
    retry: false,
    text: (d: { address: string }) =>
      `${d.address} can be reached from other machines, and without TLS everything on it can be read and changed; pass --tls to encrypt every connection, or --insecure if the network is private`,
  },
  PLATFORM_UNSUPPORTED: { retry: false, text: (d: { platform: string }) => `Beamline runs on Linux (x64, arm64) and macOS, not on ${d.platform}` },
  INTERNAL: { retry: false, text: (d: { what: string }) => `a defect of Beamline: ${d.what}` },
} as const

/** The codes of {@link BeamlineError}. */
export type ErrorCode = keyof typeof ERRORS
/** The facts that an error of code `C` carries. */
export type ErrorDetails<C extends ErrorCode> = Parameters<(typeof ERRORS)[C]['text']>[0]

/**
 * Every error that Beamline itself raises. A user's own exception arrives as the `cause` of a `TASK_FAILED`.
 *
 * @example
 * try { await get(ref) } catch (e) { if (BeamlineError.is(e, 'WORKER_CRASHED')) console.log(e.details.pid) }
 */
export class BeamlineError<C extends ErrorCode = ErrorCode> extends Error {
  override readonly name: string = 'BeamlineError'
  readonly code: C
  readonly details: ErrorDetails<C>

  constructor(code: C, details: ErrorDetails<C>, options?: ErrorOptions) {
    super((ERRORS[code].text as (d: ErrorDetails<C>) => string)(details), options)
    this.code = code
    this.details = details
  }

  /** Whether the same call may succeed when it is repeated. */
  get retry(): boolean {
    return ERRORS[this.code].retry
  }

  /** True for a BeamlineError (of this code), also one from another copy of the package. */
  static is<K extends ErrorCode = ErrorCode>(error: unknown, code?: K): error is BeamlineError<K> {
    return error instanceof Error && error.name === 'BeamlineError' && (code === undefined || (error as BeamlineError).code === code)
  }
}
