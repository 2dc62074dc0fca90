/**
 * Amounts of resources in fixed point (ten-thousandths; memory in bytes), and pools that lend them.
 *
 * A pool is a whole node, or one bundle of a placement group that was carved out of a node. It keeps GPUs per device index, so that
 * two holders of half a GPU may share one device and a holder of a whole one never shares. Pure bookkeeping: no clock, no I/O.
 */
import type { Resources } from '../net/gen/node.ts'

/** One whole CPU, GPU or custom unit. */
export const UNIT = 10_000

/** What a holder took from a pool. `cpusLent`: the holder waits for objects and its CPUs are back in the pool meanwhile. */
export interface Allocation {
  readonly pool: Pool
  readonly resources: Resources
  /** device index -> amount, in index order */
  readonly gpus: ReadonlyMap<number, number>
  cpusLent: boolean
}

interface Device {
  readonly total: number
  free: number
}

export class Pool {
  /** "node", or "group/bundle index". */
  readonly name: string
  readonly total: Resources
  /** Free amounts. CPUs may be negative for a while: a holder that lent its CPUs takes them back at once. */
  cpus: number
  memoryBytes: number
  readonly custom: Map<string, number>
  readonly devices: Map<number, Device>

  constructor(name: string, total: Resources, gpus: ReadonlyMap<number, number>) {
    this.name = name
    this.total = total
    this.cpus = total.cpus
    this.memoryBytes = total.memoryBytes
    this.custom = new Map(Object.entries(total.custom))
    this.devices = new Map([...gpus].map(([index, amount]) => [index, { total: amount, free: amount }]))
  }

  get gpus(): number {
    let sum = 0
    for (const device of this.devices.values()) sum += device.free
    return sum
  }

  /** What is missing for `wanted` right now; undefined when it fits. */
  shortage(wanted: Resources): Resources | undefined {
    const cpus = wanted.cpus > 0 ? Math.max(0, wanted.cpus - this.cpus) : 0
    const memoryBytes = Math.max(0, wanted.memoryBytes - this.memoryBytes)
    const gpus = wanted.gpus > 0 && this.#pick(wanted.gpus) === undefined ? Math.max(1, wanted.gpus - this.gpus) : 0
    let custom: Record<string, number> | undefined
    for (const [name, amount] of Object.entries(wanted.custom)) {
      const missing = amount - (this.custom.get(name) ?? 0)
      if (missing > 0) (custom ??= {})[name] = missing
    }
    if (cpus === 0 && gpus === 0 && memoryBytes === 0 && custom === undefined) return undefined
    return { cpus, gpus, memoryBytes, custom: custom ?? {} }
  }

  /** Could it fit if nothing of this pool were in use? */
  couldFit(wanted: Resources): boolean {
    if (wanted.cpus > this.total.cpus || wanted.memoryBytes > this.total.memoryBytes) return false
    if (wanted.gpus > 0 && this.#pick(wanted.gpus, (device) => device.total) === undefined) return false
    return Object.entries(wanted.custom).every(([name, amount]) => amount <= (this.total.custom[name] ?? 0))
  }

  /** @param only - device indices that must be used, from a worker that sees no others */
  take(wanted: Resources, only?: readonly number[]): Allocation | undefined {
    if (this.shortage(wanted) !== undefined) return undefined
    const gpus = wanted.gpus > 0 ? this.#pick(wanted.gpus, (device) => device.free, only) : new Map<number, number>()
    if (gpus === undefined || (only !== undefined && gpus.size !== only.length)) return undefined
    this.cpus -= wanted.cpus
    this.memoryBytes -= wanted.memoryBytes
    for (const [name, amount] of Object.entries(wanted.custom)) this.custom.set(name, (this.custom.get(name) ?? 0) - amount)
    for (const [index, amount] of gpus) (this.devices.get(index) as Device).free -= amount
    return { pool: this, resources: wanted, gpus, cpusLent: false }
  }

  give(allocation: Allocation): void {
    const { resources } = allocation
    if (!allocation.cpusLent) this.cpus += resources.cpus
    this.memoryBytes += resources.memoryBytes
    for (const [name, amount] of Object.entries(resources.custom)) this.custom.set(name, (this.custom.get(name) ?? 0) + amount)
    for (const [index, amount] of allocation.gpus) (this.devices.get(index) as Device).free += amount
  }

  /** Keep what there is of `wanted` from everyone who asks later, until the returned function is called. */
  reserve(wanted: Resources): () => void {
    this.cpus -= wanted.cpus
    this.memoryBytes -= wanted.memoryBytes
    for (const [name, amount] of Object.entries(wanted.custom)) this.custom.set(name, (this.custom.get(name) ?? 0) - amount)
    const held: [Device, number][] = []
    let gpus = wanted.gpus
    for (const device of [...this.devices.values()].sort((a, b) => b.free - a.free)) {
      const amount = Math.min(device.free, gpus)
      if (amount <= 0) continue
      device.free -= amount
      gpus -= amount
      held.push([device, amount])
    }
    return () => {
      this.cpus += wanted.cpus
      this.memoryBytes += wanted.memoryBytes
      for (const [name, amount] of Object.entries(wanted.custom)) this.custom.set(name, (this.custom.get(name) ?? 0) + amount)
      for (const [device, amount] of held) device.free += amount
    }
  }

  lendCpus(allocation: Allocation, lent: boolean): void {
    if (allocation.cpusLent === lent) return
    allocation.cpusLent = lent
    this.cpus += lent ? allocation.resources.cpus : -allocation.resources.cpus
  }

  available(): Resources {
    return { cpus: this.cpus, gpus: this.gpus, memoryBytes: this.memoryBytes, custom: Object.fromEntries(this.custom) }
  }

  // Whole devices first (lowest index), then the fraction on the fullest device that still has room: packs fractions, keeps whole ones free.
  #pick(wanted: number, left: (device: Device) => number = (device) => device.free, only?: readonly number[]): Map<number, number> | undefined {
    const picked = new Map<number, number>()
    const devices = [...this.devices].filter(([index]) => only === undefined || only.includes(index)).sort((a, b) => a[0] - b[0])
    let whole = Math.floor(wanted / UNIT)
    const fraction = wanted - whole * UNIT
    for (const [index, device] of devices) {
      if (whole === 0) break
      if (left(device) < UNIT) continue
      picked.set(index, UNIT)
      whole--
    }
    if (whole > 0) return undefined
    if (fraction === 0) return picked
    let best: [number, Device] | undefined
    for (const entry of devices) {
      if (picked.has(entry[0]) || left(entry[1]) < fraction) continue
      if (best === undefined || left(entry[1]) < left(best[1])) best = entry
    }
    if (best === undefined) return undefined
    picked.set(best[0], fraction)
    return picked
  }
}

const NONE: Resources = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} }

/** Amounts from the wire: whole, finite, not negative; or undefined when they are not. Zero custom amounts vanish. */
export function parseResources(from: Resources | undefined): Resources | undefined {
  if (from === undefined) return NONE
  const entries = Object.entries(from.custom).filter(([, amount]) => amount !== 0)
  const amounts = [from.cpus, from.gpus, from.memoryBytes, ...entries.map(([, amount]) => amount)]
  if (!amounts.every((amount) => Number.isSafeInteger(amount) && amount >= 0)) return undefined
  return { cpus: from.cpus, gpus: from.gpus, memoryBytes: from.memoryBytes, custom: Object.fromEntries(entries) }
}

/** Component-wise sum. */
export function sumResources(parts: Iterable<Resources>): Resources {
  const sum = { cpus: 0, gpus: 0, memoryBytes: 0, custom: {} as Record<string, number> }
  for (const part of parts) {
    sum.cpus += part.cpus
    sum.gpus += part.gpus
    sum.memoryBytes += part.memoryBytes
    for (const [name, amount] of Object.entries(part.custom)) sum.custom[name] = (sum.custom[name] ?? 0) + amount
  }
  return sum
}

/** "2 cpus, 0.5 gpus, 1.5 GiB memory, 1 license"; "nothing" for zero amounts. */
export function formatResources(resources: Resources): string {
  const parts: string[] = []
  const counted = (amount: number, one: string): string => `${amount / UNIT} ${one}${amount === UNIT ? '' : 's'}`
  if (resources.cpus !== 0) parts.push(counted(resources.cpus, 'cpu'))
  if (resources.gpus !== 0) parts.push(counted(resources.gpus, 'gpu'))
  if (resources.memoryBytes !== 0) parts.push(`${formatBytes(resources.memoryBytes)} of memory`)
  for (const [name, amount] of Object.entries(resources.custom)) if (amount !== 0) parts.push(`${amount / UNIT} of "${name}"`)
  return parts.join(', ') || 'nothing'
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}
