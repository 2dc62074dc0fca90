/**
 * Yardstick: the best-known pool of worker threads. It does less (no other machine, no failure handling, no stored objects), within one process.
 */
import path from 'node:path'
import { Piscina } from 'piscina'
import type { Bench } from '../../src/measure.ts'

const THREADS = 2
const CONCURRENT = 1000

export function threadPool(): AsyncDisposable & { readonly sequential: Bench; readonly concurrent: Bench } {
  const pool = new Piscina<undefined, string>({ filename: path.join(import.meta.dirname, 'piscina-worker.ts'), minThreads: THREADS, maxThreads: THREADS })
  return {
    sequential: { name: 'yardstick_piscina_sequential', op: () => pool.run(undefined) },
    concurrent: {
      name: 'yardstick_piscina_concurrent',
      sample: (rate) => rate * CONCURRENT,
      op: () => Promise.all(Array.from({ length: CONCURRENT }, () => pool.run(undefined))),
    },
    async [Symbol.asyncDispose]() {
      await pool.destroy()
    },
  }
}
