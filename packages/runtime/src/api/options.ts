/**
 * Options of tasks and actors: what users may ask for, checked, and as the node understands it.
 */
import { BeamlineError } from '../errors.ts'
import type { Resources, Shape } from '../net/gen/node.ts'
import type { PlacementGroup } from './placement-group.ts'

/** What a task or actor holds while it runs. Amounts are admission control, not enforcement. */
export interface ResourceOptions {
  /** Logical CPUs, in steps of 0.0001. Default: 1 for tasks, 0 for actors. */
  readonly cpus?: number
  /** GPUs: below 1 a share of one device, else a whole number. Sets `CUDA_VISIBLE_DEVICES` in the worker. Default 0. */
  readonly gpus?: number
  /** Bytes of memory. Default 0. */
  readonly memory?: number
  /** Custom resources that the cluster was started with. */
  readonly resources?: Readonly<Record<string, number>>
  /** Environment variables of the worker. Workers of different `env` are not shared. */
  readonly env?: Readonly<Record<string, string>>
  /** Run inside a bundle of this group. */
  readonly placementGroup?: PlacementGroup
  /** Which bundle; default: any. */
  readonly bundleIndex?: number
}

const UNITS = 10_000

function invalid(what: string, got: unknown, expected: string): never {
  throw new BeamlineError('INVALID_ARGUMENT', { what, got: typeof got === 'string' ? JSON.stringify(got) : String(got), expected })
}

/** A number in fixed point, refused when it is negative or finer than 0.0001. */
function fixed(what: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) return invalid(what, value, 'a number of at least 0')
  const units = Math.round(value * UNITS)
  if (Math.abs(units - value * UNITS) > 1e-6) return invalid(what, value, 'a multiple of 0.0001')
  return units
}

/** A whole number in a range, or an error that names it. */
export function whole(what: string, value: unknown, min: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min) return invalid(what, value, `a whole number of at least ${min}`)
  return value
}

export function toResources(options: ResourceOptions, defaultCpus: number): Resources {
  const { cpus = defaultCpus, gpus = 0, memory = 0, resources = {} } = options
  if (gpus > 1 && !Number.isInteger(gpus)) invalid('gpus', gpus, 'a share below 1 or a whole number')
  const custom: Record<string, number> = {}
  for (const [name, amount] of Object.entries(resources)) {
    if (['cpus', 'gpus', 'memory'].includes(name)) invalid(`resources.${name}`, amount, `the option ${name} itself`)
    custom[name] = fixed(`resources.${name}`, amount)
  }
  return { cpus: fixed('cpus', cpus), gpus: fixed('gpus', gpus), memoryBytes: whole('memory', memory, 0), custom }
}

export function toShape(options: ResourceOptions, defaultCpus: number): Shape {
  const { env = {}, placementGroup, bundleIndex } = options
  for (const [name, value] of Object.entries(env)) if (typeof value !== 'string') invalid(`env.${name}`, value, 'a string')
  if (bundleIndex !== undefined) {
    whole('bundleIndex', bundleIndex, 0)
    const bundles = placementGroup?.bundleCount ?? 0
    if (bundleIndex >= bundles)
      invalid('bundleIndex', bundleIndex, placementGroup ? `below ${bundles}, the bundles of the group` : 'a placementGroup beside it')
  }
  return {
    resources: toResources(options, defaultCpus),
    env: { ...env },
    placementGroup: placementGroup?.id ?? '',
    bundle: bundleIndex ?? -1,
    spread: false,
    node: '',
    soft: false,
    labels: {},
    prefers: '',
    package: '',
  }
}

/** Refuses names that no option has: a misspelt option would silently do nothing. */
export function checkNames(what: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) invalid(`option "${name}" of ${what}`, 'unknown', `one of ${known.join(', ')}`)
  }
}

export const RESOURCE_OPTIONS = ['cpus', 'gpus', 'memory', 'resources', 'env', 'placementGroup', 'bundleIndex'] as const
