/**
 * The actor that lives in this worker: its instance, its lanes, and when its CPUs are lent.
 */
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import type { ActorStart, ActorStarted, ProcessMessage } from '../net/gen/node.ts'
import { Creation, type Template } from '../net/gen/peer.ts'
import { CallArguments } from './call-arguments.ts'
import { Executable, type FunctionCache } from './executable.ts'
import { Lane } from './lane.ts'
import { RunningTask, runAs } from './running-task.ts'
import type { Runtime } from './runtime.ts'
import { encodeError, taskError } from './wire-error.ts'

const EMPTY = new Uint8Array(0)
const log = debug('exec')

export class ActorHost {
  readonly #runtime: Runtime
  readonly #functions: FunctionCache
  /** By concurrency group; "" for methods without one. */
  readonly #lanes = new Map<string, Lane>()
  #name = ''
  /** One actor ever lives here. */
  #isTaken = false
  #instance: Record<string, unknown> | undefined
  /** Calls, the constructor included, that wait for objects; when all of them do, the actor's CPUs are lent. */
  #waiting = 0
  #isConstructing = false
  /** Placement group that calls made by its methods join; "": none. */
  group = ''
  #lends = false
  /** What the node was told of the constructor's end. */
  #started: ProcessMessage | undefined
  /** Told when the last running call of an actor that shall end is done. */
  #whenIdle: (() => void) | undefined

  constructor(runtime: Runtime, functions: FunctionCache) {
    this.#runtime = runtime
    this.#functions = functions
  }

  get lanes(): Iterable<Lane> {
    return this.#lanes.values()
  }

  laneOf({ concurrencyGroup, name }: Template): Lane {
    const lane = this.#lanes.get(concurrencyGroup) ?? this.#lanes.get('')
    if (!lane) throw new BeamlineError('INTERNAL', { what: `a call of ${name} reached a worker without that actor` })
    return lane
  }

  method({ method }: Template): Function | Promise<Function> {
    const found = this.#instance?.[method]
    if (typeof found === 'function') return found.bind(this.#instance) as Function
    return Promise.reject(new TypeError(`actor ${this.#name} has no method "${method}"`))
  }

  /** Makes this worker the home of an actor. */
  async start(start: ActorStart): Promise<void> {
    if (this.#isTaken) return
    this.#isTaken = true
    const { template, push, owner, ownerAddress, maxConcurrency, concurrencyGroups } = Creation.decode(start.creation)
    if (!template || !push) throw new BeamlineError('INTERNAL', { what: `actor ${start.actor} came without a constructor call` })
    const args = new CallArguments(this.#runtime)
    const { name, group } = template
    this.group = group
    const running = new RunningTask({ name, owner, number: 0, lease: 0, attempt: start.incarnation, startedAt: performance.now(), group }, (blocked) =>
      this.waits(blocked),
    )
    this.#isConstructing = true
    try {
      const executable = new Executable(template, this.#functions, this.#runtime.values)
      const Class = (await executable.function) as new (...args: unknown[]) => Record<string, unknown>
      await args.load(push)
      this.#instance = await runAs(running, async () => new Class(...args.values))
      this.#name = template.name
      this.#lanes.set('', new Lane(maxConcurrency))
      for (const [group, limit] of Object.entries(concurrencyGroups)) this.#lanes.set(group, new Lane(limit))
      this.#tell({ actor: start.actor, error: EMPTY, errorText: '' })
    } catch (thrown) {
      const error = taskError(thrown, `${template.name} constructor`, this.#runtime.process)
      this.#tell({ actor: start.actor, error: encodeError(error), errorText: error.message })
    } finally {
      this.#isConstructing = false
      args.release()
      log(() => `actor ${template.name} for ${owner} at ${ownerAddress}`)
    }
  }

  #tell(value: ActorStarted): void {
    this.#started = { body: { $case: 'actorStarted', value } }
    this.#runtime.sendToNode(this.#started)
  }

  /** A head is back that may not have heard of it. */
  controlBack(): void {
    if (this.#started) this.#runtime.sendToNode(this.#started)
  }

  /** Lets running calls finish, disposes of the actor, and resolves. */
  async stop(): Promise<void> {
    for (const lane of this.#lanes.values()) lane.limit = 0
    if (this.#running() > 0) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve
      })
    }
    await this.dispose()
  }

  /** Runs the actor's dispose method, whatever else runs. */
  async dispose(): Promise<void> {
    const instance = this.#instance as Partial<AsyncDisposable & Disposable> | undefined
    await (instance?.[Symbol.asyncDispose] ?? instance?.[Symbol.dispose])?.call(instance)
  }

  #running(): number {
    let count = 0
    for (const lane of this.#lanes.values()) count += lane.running.size
    return count
  }

  /** One call more waits for objects, or one less. */
  waits(begins: boolean): void {
    this.#waiting += begins ? 1 : -1
    this.#adjustLending()
  }

  /** A call began or ended. */
  runningChanged(): void {
    if (this.#lends || this.#waiting > 0) this.#adjustLending()
    if (this.#whenIdle && this.#running() === 0) this.#whenIdle()
  }

  #adjustLending(): void {
    const running = this.#running() + (this.#isConstructing ? 1 : 0)
    const lends = this.#waiting > 0 && this.#waiting >= running
    if (lends === this.#lends) return
    this.#lends = lends
    this.#runtime.sendToNode({ body: { $case: 'leaseBlocked', value: { lease: 0, blocked: lends } } })
  }
}
