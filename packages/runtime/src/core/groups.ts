/**
 * Placement groups as their users see them: state follows the node.
 */
import { randomBytes } from 'node:crypto'
import { BeamlineError } from '../errors.ts'
import { LIMITS } from '../limits.ts'
import type { GroupState, ProcessMessage, Resources, Selector } from '../net/gen/node.ts'
import type { Runtime } from './runtime.ts'
import { wireError } from './wire-error.ts'

/** Removed groups that are remembered: more than a head's store may have yet to write. */
const REMOVED_MAX = 1_000

export type Strategy = 'PACK' | 'SPREAD' | 'STRICT_PACK' | 'STRICT_SPREAD'

/** One group at one of its users. */
export interface GroupRecord {
  readonly id: string
  state: 'PENDING' | 'CREATED' | 'RESCHEDULING' | 'REMOVED'
  cause: Error | undefined
  readonly waiting: (() => void)[]
  /** What was asked for it and not answered yet. */
  asked: ProcessMessage | undefined
}

export class Groups {
  readonly #runtime: Runtime
  readonly #groups = new Map<string, GroupRecord>()
  /** Whose removal a head that was killed at once may have forgotten. */
  readonly #removed = new Set<string>()

  constructor(runtime: Runtime) {
    this.#runtime = runtime
  }

  create(bundles: Resources[], strategy: Strategy, name: string, detached: boolean, selectors: Selector[]): GroupRecord {
    const record: GroupRecord = { id: randomBytes(8).toString('hex'), state: 'PENDING', cause: this.#runtime.lost, waiting: [], asked: undefined }
    if (record.cause) record.state = 'REMOVED'
    else this.#groups.set(record.id, record)
    this.#ask(record, { body: { $case: 'groupCreate', value: { group: record.id, name, strategy, bundles, detached, selectors } } })
    return record
  }

  #ask(record: GroupRecord, message: ProcessMessage): void {
    record.asked = message
    this.#runtime.sendToNode(message)
  }

  /** A head is back that may not know what it was asked before. */
  controlBack(): void {
    for (const { asked } of this.#groups.values()) if (asked) this.#runtime.sendToNode(asked)
    for (const group of this.#removed) this.#runtime.sendToNode({ body: { $case: 'groupRemove', value: { group } } })
  }

  /** Resolves at the next change of the group, with false when there was none in this time. */
  changed(record: GroupRecord, withinMs?: number): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const changed = (): void => resolve(true)
    record.waiting.push(changed)
    if (withinMs === undefined) return this.#runtime.keepAlive.during(promise)
    const timer = setTimeout(
      () => {
        record.waiting.splice(record.waiting.indexOf(changed), 1)
        resolve(false)
      },
      Math.min(withinMs, LIMITS.timerMsMax),
    )
    return this.#runtime.keepAlive.during(promise.finally(() => clearTimeout(timer)))
  }

  remove(record: GroupRecord): void {
    this.#ask(record, { body: { $case: 'groupRemove', value: { group: record.id } } })
  }

  stateChanged(message: GroupState): void {
    const record = this.#groups.get(message.group)
    if (!record) return
    record.state = message.state as GroupRecord['state']
    if (record.state === 'REMOVED' || (record.asked?.body?.$case === 'groupCreate' && record.state !== 'PENDING')) record.asked = undefined
    if (message.cause) record.cause = wireError(message.cause)
    if (record.state === 'REMOVED') this.#forget(record.id)
    for (const resolve of record.waiting.splice(0)) resolve()
  }

  #forget(id: string): void {
    this.#groups.delete(id)
    this.#removed.add(id)
    if (this.#removed.size <= REMOVED_MAX) return
    for (const oldest of this.#removed) {
      this.#removed.delete(oldest)
      return
    }
  }

  failAll(error: Error): void {
    for (const record of this.#groups.values()) {
      record.state = 'REMOVED'
      record.cause = BeamlineError.is(error) ? error : new BeamlineError('NODE_DIED', { reason: error.message })
      for (const resolve of record.waiting.splice(0)) resolve()
    }
    this.#groups.clear()
  }
}
