/**
 * The JavaScript heap of this process after everything unreachable is gone. Works in processes that were not started with --expose-gc.
 */
import { setImmediate } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

export interface ProcessHeap {
  readonly pid: number
  /** MB of 10⁶ bytes. */
  readonly heapMb: number
}

/** Finalizers run after a collection, and what they let go of falls to the next one. */
const COLLECTIONS = 3

export async function collectGarbage(): Promise<ProcessHeap> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (let round = 0; round < COLLECTIONS; round += 1) {
    collect()
    await setImmediate()
  }
  return { pid: process.pid, heapMb: process.memoryUsage().heapUsed / 1e6 }
}
