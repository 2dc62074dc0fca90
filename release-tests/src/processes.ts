/**
 * What the kernel says about the processes that a script started: who they are, their memory and descriptors. Linux only: it reads /proc.
 */
import { readFileSync, readdirSync } from 'node:fs'

export interface ProcessInfo {
  readonly pid: number
  readonly parent: number
  readonly command: string
}

/** True where the functions of this module work. */
export function hasProc(): boolean {
  try {
    readFileSync('/proc/self/smaps_rollup')
    return true
  } catch {
    return false
  }
}

/** Children of `pid`, their children and so on, zombies left out. */
export function descendants(pid: number): ProcessInfo[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendants(child.pid)])
}

/** Proportional set size: private memory plus its share of what is mapped by several processes. In MB of 10⁶ bytes. */
export function pssMb(pid: number): number {
  return (kilobytes(`/proc/${pid}/smaps_rollup`, 'Pss') * 1024) / 1e6
}

/** Resident memory without files and shared memory, in MB of 10⁶ bytes. Mapped objects do not count: they belong to the store. */
export function anonymousRssMb(pid: number): number {
  return (kilobytes(`/proc/${pid}/status`, 'RssAnon') * 1024) / 1e6
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

function childrenOf(pid: number): ProcessInfo[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    const pids = readFileSync(`/proc/${pid}/task/${thread}/children`, 'latin1').split(' ').filter(Boolean).map(Number)
    return pids.flatMap((child) => {
      try {
        if (/\) Z/.test(readFileSync(`/proc/${child}/stat`, 'latin1'))) return []
        return [{ pid: child, parent: pid, command: readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0').filter(Boolean).join(' ') }]
      } catch {
        return []
      }
    })
  })
}

function kilobytes(file: string, field: string): number {
  const value = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(file, 'latin1'))?.[1]
  if (value === undefined) throw new Error(`${file} has no ${field}`)
  return Number(value)
}
