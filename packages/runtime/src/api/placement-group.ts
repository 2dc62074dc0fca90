/**
 * Placement groups: resources reserved together.
 */
import { current } from '../core/current.ts'
import type { GroupRecord, Strategy } from '../core/groups.ts'
import { whileBlocked } from '../core/running-task.ts'
import { BeamlineError } from '../errors.ts'
import { checkNames, toResources, toSelectors } from './options.ts'

/** Resources of one bundle. */
export interface Bundle {
  readonly cpus?: number
  readonly gpus?: number
  /** Bytes. */
  readonly memory?: number
  readonly resources?: Readonly<Record<string, number>>
  /** Only on a node with these labels, see the option `labels` of tasks. */
  readonly labels?: Readonly<Record<string, string>>
}

/** Options of {@link placementGroup}. */
export interface PlacementGroupOptions {
  /** PACK (default): on few nodes. SPREAD: on many. STRICT_PACK: on one. STRICT_SPREAD: each on another. */
  readonly strategy?: Strategy
  readonly name?: string
  /** Outlives the process that made it. Default false. */
  readonly detached?: boolean
  /** Tasks and actors that those in the group start join it too, unless they name another. Default false. */
  readonly captureChildTasks?: boolean
}

/** A reservation; tasks and actors use it through their `placementGroup` option. */
export class PlacementGroup {
  readonly #record: GroupRecord
  /** 16 hex digits. */
  readonly id: string
  readonly bundleCount: number
  readonly captureChildTasks: boolean

  /** Made by {@link placementGroup}. */
  constructor(record: GroupRecord, bundleCount: number, captureChildTasks: boolean) {
    this.#record = record
    this.id = record.id
    this.bundleCount = bundleCount
    this.captureChildTasks = captureChildTasks
  }

  /**
   * Resolves when all bundles are reserved.
   *
   * @throws {@link BeamlineError} `INFEASIBLE` when the cluster can never hold them
   */
  async ready(): Promise<void> {
    await this.#settled(undefined)
  }

  /**
   * Waits for all bundles to be reserved, but not for longer than this.
   *
   * @param timeoutMs - 0 looks once
   * @returns whether they are
   * @throws {@link BeamlineError} as {@link PlacementGroup.ready}; `INVALID_ARGUMENT`
   */
  async wait(timeoutMs: number): Promise<boolean> {
    if (typeof timeoutMs !== 'number' || !(timeoutMs >= 0))
      throw new BeamlineError('INVALID_ARGUMENT', { what: 'timeoutMs', got: String(timeoutMs), expected: 'milliseconds, 0 or more' })
    return await this.#settled(timeoutMs)
  }

  async #settled(withinMs: number | undefined): Promise<boolean> {
    const record = this.#record
    const untilMs = withinMs === undefined ? undefined : performance.now() + withinMs
    const reserved = await whileBlocked(async () => {
      while (record.state === 'PENDING' || record.state === 'RESCHEDULING') {
        const leftMs = untilMs === undefined ? undefined : untilMs - performance.now()
        if (leftMs !== undefined && leftMs <= 0) return false
        await current('PlacementGroup.ready').groups.changed(record, leftMs)
      }
      return true
    })
    if (record.state !== 'REMOVED') return reserved
    throw record.cause ?? new BeamlineError('CANCELLED', { task: `placement group ${this.id}`, reason: 'it was removed' })
  }

  /** Gives the resources back; what still runs in the group is killed. Resolves when that is done. */
  async remove(): Promise<void> {
    if (this.#record.state === 'REMOVED') return
    const { groups } = current('PlacementGroup.remove')
    groups.remove(this.#record)
    for (let state: string = this.#record.state; state !== 'REMOVED'; state = this.#record.state) await groups.changed(this.#record)
  }

  /** {@link PlacementGroup.remove}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.remove()
  }
}

/**
 * Reserve resources for tasks and actors that belong together: all bundles or none.
 *
 * @param bundles - at least one; what each holds
 * @example
 * await using group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { strategy: 'STRICT_PACK' })
 * await group.ready()
 * await get(f.options({ placementGroup: group, bundleIndex: 0 }).remote())
 */
export function placementGroup(bundles: readonly Bundle[], options: PlacementGroupOptions = {}): PlacementGroup {
  const { strategy = 'PACK', name = '', detached = false, captureChildTasks = false } = options
  checkNames('placementGroup', options, ['strategy', 'name', 'detached', 'captureChildTasks'])
  if (bundles.length === 0) throw new BeamlineError('INVALID_ARGUMENT', { what: 'bundles', got: 'empty', expected: 'at least one bundle' })
  const strategies: readonly string[] = ['PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD']
  if (!strategies.includes(strategy)) throw new BeamlineError('INVALID_ARGUMENT', { what: 'strategy', got: strategy, expected: strategies.join(', ') })
  const resources = bundles.map((bundle) => {
    checkNames('a bundle', bundle, ['cpus', 'gpus', 'memory', 'resources', 'labels'])
    return toResources(bundle, 0)
  })
  const selectors = bundles.some(({ labels }) => labels !== undefined) ? bundles.map(({ labels }) => ({ labels: toSelectors(labels) })) : []
  const record = current('placementGroup').groups.create(resources, strategy, name, detached, selectors)
  return new PlacementGroup(record, bundles.length, captureChildTasks)
}
