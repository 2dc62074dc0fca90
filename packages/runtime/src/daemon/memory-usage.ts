/**
 * How much memory is in use, as Linux tells: of the machine, and of the control groups (version 2) that this process is in, whichever is nearer to its limit.
 * Elsewhere nothing is known. Reads are of files that the kernel makes on the fly: about 50 µs.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { MemoryUsage } from '../state/memory-policy.ts'

const PAGE_BYTES = 4096
const GROUPS = '/sys/fs/cgroup'

export interface Sizes {
  readonly residentBytes: number
  /** Not shared with others: what is free when it ends. */
  readonly ownBytes: number
}

export class MemoryReader {
  readonly #root: string
  /** Folders of control groups with a limit. */
  readonly #groups: readonly string[]

  /** @param root - where `proc` and `sys` are; for tests */
  constructor(root: string = '/') {
    this.#root = root
    this.#groups = this.#limitedGroups()
  }

  /** Undefined where the system does not tell. */
  usage(): MemoryUsage | undefined {
    const machine = this.#machine()
    let tightest = machine
    for (const folder of this.#groups) {
      const group = this.#group(folder)
      if (group !== undefined && (tightest === undefined || share(group) > share(tightest))) tightest = group
    }
    return tightest
  }

  sizes(pid: number): Sizes | undefined {
    const [, resident, shared] = (this.#read(`proc/${pid}/statm`) ?? '').split(' ').map(Number)
    return resident === undefined || shared === undefined ? undefined : { residentBytes: resident * PAGE_BYTES, ownBytes: (resident - shared) * PAGE_BYTES }
  }

  /** The processes of the machine with most memory of their own. */
  biggest(count: number): { readonly pid: number; readonly bytes: number; readonly name: string }[] {
    const pids = readdirSync(join(this.#root, 'proc')).filter((name) => /^\d+$/.test(name))
    return pids
      .map((pid) => ({ pid: Number(pid), bytes: this.sizes(Number(pid))?.ownBytes ?? 0 }))
      .toSorted((a, b) => b.bytes - a.bytes)
      .slice(0, count)
      .map(({ pid, bytes }) => ({ pid, bytes, name: (this.#read(`proc/${pid}/comm`) ?? '').trim() }))
  }

  /** Processes that the kernel has ended for want of memory, of the machine or of any control group. */
  kernelKills(): number {
    return Number(/^oom_kill (\d+)$/m.exec(this.#read('proc/vmstat') ?? '')?.[1] ?? 0)
  }

  #machine(): MemoryUsage | undefined {
    const facts = this.#read('proc/meminfo')
    const bytes = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(facts ?? '')?.[1]) * 1024
    const limitBytes = bytes('MemTotal')
    const usedBytes = limitBytes - bytes('MemAvailable')
    return Number.isFinite(usedBytes) ? { usedBytes, limitBytes, of: 'of the machine' } : undefined
  }

  #group(folder: string): MemoryUsage | undefined {
    const current = Number(this.#read(`${folder}/memory.current`))
    const limitBytes = Number(this.#read(`${folder}/memory.max`))
    // Of the file cache, what was not used lately is given up before anything else.
    const reclaimable = Number(/^inactive_file (\d+)$/m.exec(this.#read(`${folder}/memory.stat`) ?? '')?.[1] ?? 0)
    return Number.isFinite(current) && Number.isFinite(limitBytes)
      ? { usedBytes: current - reclaimable, limitBytes, of: `of the control group ${folder.slice(GROUPS.length)}` }
      : undefined
  }

  // A limit above this process's own group holds too.
  #limitedGroups(): string[] {
    const own = /^0::(\/.*)$/m.exec(this.#read('proc/self/cgroup') ?? '')?.[1]
    if (own === undefined) return []
    const found: string[] = []
    for (let folder = join(GROUPS, own); folder.startsWith(GROUPS); folder = dirname(folder)) {
      if (existsSync(join(this.#root, folder, 'memory.max')) && this.#read(`${folder}/memory.max`)?.trim() !== 'max') found.push(folder)
    }
    return found
  }

  #read(path: string): string | undefined {
    try {
      return readFileSync(join(this.#root, path), 'latin1')
    } catch {
      return undefined
    }
  }
}

const share = ({ usedBytes, limitBytes }: MemoryUsage): number => usedBytes / limitBytes
