/**
 * Options of tasks and actors: what users may ask for, checked, and as the node understands it.
 */
import { resolve } from 'node:path'
import { runningTask } from '../core/running-task.ts'
import { BeamlineError } from '../errors.ts'
import type { Resources, Shape } from '../net/gen/node.ts'
import { parseSelector } from '../state/labels.ts'
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
  /** What it finds around it. Default: that of the program, see `init`. */
  readonly env?: Environment
  /** Run inside a bundle of this group. */
  readonly placementGroup?: PlacementGroup
  /** Which bundle; default: any. */
  readonly bundleIndex?: number
  /** `default`: near its arguments and its caller while there is room, then where there is most. `spread`: over as many nodes as possible. */
  readonly strategy?: 'default' | 'spread'
  /** Only on the node with this id; `soft`: on another one when that is gone or can never hold it. */
  readonly node?: string | { readonly id: string; readonly soft?: boolean }
  /**
   * Only on nodes with these labels: `v` (equals), `!v` (does not), `in(a,b)`, `!in(a,b)`. Every node has `beamline/node` and `beamline/host`, those
   * with GPUs `beamline/gpu`; others are given at the start of a node.
   */
  readonly labels?: Readonly<Record<string, string>>
}

/** What code finds around it in its worker. Workers are not shared between different environments. */
export interface Environment {
  /** Environment variables, beside those of the daemon. */
  readonly vars?: Readonly<Record<string, string>>
  /** Folder that the worker runs in. Default: the one that the program runs in. On other machines it must be part of the program's code, or exist there. */
  readonly workingDir?: string
  /** Modules that the worker imports before its first task: names of packages, or paths from `workingDir`. */
  readonly modules?: readonly string[]
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

/** Checked, with the absolute path of the folder; "" for none. */
export function toEnvironment(env: Environment = {}): { readonly vars: Record<string, string>; readonly workingDir: string; readonly modules: string[] } {
  if (typeof env !== 'object' || env === null) return invalid('env', env, '{ vars, workingDir, modules }')
  checkNames('env', env, ['vars', 'workingDir', 'modules'])
  const { vars = {}, workingDir, modules = [] } = env
  for (const [name, value] of Object.entries(vars)) if (typeof value !== 'string') invalid(`env.vars.${name}`, value, 'a string')
  if (workingDir !== undefined && (typeof workingDir !== 'string' || workingDir === '')) invalid('env.workingDir', workingDir, 'the path of a folder')
  if (!Array.isArray(modules)) return invalid('env.modules', modules, 'a list of module names and paths')
  for (const name of modules as readonly unknown[]) if (typeof name !== 'string' || name === '') invalid('env.modules', name, 'module names and paths')
  return { vars: { ...vars }, workingDir: workingDir === undefined ? '' : resolve(workingDir), modules: [...(modules as readonly string[])] }
}

/** Label selectors, checked. */
export function toSelectors(labels: Readonly<Record<string, string>> = {}): Record<string, string> {
  if (typeof labels !== 'object' || labels === null) return invalid('labels', labels, '{ label: value }')
  for (const [name, text] of Object.entries(labels as Readonly<Record<string, unknown>>)) {
    if (typeof text !== 'string' || parseSelector(text) === undefined) invalid(`labels.${name}`, text, '"v", "!v", "in(a,b)" or "!in(a,b)"')
  }
  return { ...labels }
}

/** Where it may run. */
function toPlace(options: ResourceOptions): Pick<Shape, 'spread' | 'node' | 'soft' | 'labels'> {
  const { strategy = 'default', node = '', labels, placementGroup } = options
  if (!['default', 'spread'].includes(strategy)) invalid('strategy', strategy, '"default" or "spread"')
  const { id, soft = false } = typeof node === 'string' ? { id: node } : node
  if (typeof id !== 'string' || typeof soft !== 'boolean' || (options.node !== undefined && id === ''))
    invalid('node', JSON.stringify(node), 'the id of a node, or { id, soft }')
  const place = { spread: strategy === 'spread', node: id, soft, labels: toSelectors(labels) }
  if (placementGroup && (place.spread || id !== '' || labels !== undefined))
    invalid('placementGroup', 'beside strategy, node or labels', 'one of them: a group has a place of its own')
  return place
}

/** The group that a call joins because the task that makes it is in it; "": none. */
export const joinedGroup = (options: ResourceOptions): string => (options.placementGroup === undefined ? (runningTask()?.group ?? '') : '')

/** The group that the children of a call join. */
export const childGroup = ({ placementGroup }: ResourceOptions, joined: string): string =>
  placementGroup?.captureChildTasks === true ? placementGroup.id : joined

/** @param joined - group of the task that makes the call, when that captures its children */
export function toShape(options: ResourceOptions, defaultCpus: number, joined: string = ''): Shape {
  const { placementGroup, bundleIndex } = options
  const { vars, workingDir, modules } = toEnvironment(options.env)
  if (bundleIndex !== undefined) {
    whole('bundleIndex', bundleIndex, 0)
    const bundles = placementGroup?.bundleCount ?? 0
    if (bundleIndex >= bundles)
      invalid('bundleIndex', bundleIndex, placementGroup ? `below ${bundles}, the bundles of the group` : 'a placementGroup beside it')
  }
  return {
    resources: toResources(options, defaultCpus),
    env: vars,
    placementGroup: placementGroup?.id ?? joined,
    bundle: bundleIndex ?? -1,
    ...toPlace(options),
    prefers: '',
    package: '',
    workingDir,
    modules,
    retriable: false,
  }
}

/** Refuses names that no option has: a misspelt option would silently do nothing. */
export function checkNames(what: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) invalid(`option "${name}" of ${what}`, 'unknown', `one of ${known.join(', ')}`)
  }
}

export const RESOURCE_OPTIONS = ['cpus', 'gpus', 'memory', 'resources', 'env', 'placementGroup', 'bundleIndex', 'strategy', 'node', 'labels'] as const
