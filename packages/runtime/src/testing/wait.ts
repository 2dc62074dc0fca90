/**
 * Waiting for a state that can only be asked for.
 */
import { setTimeout as delay } from 'node:timers/promises'

const POLL_MS = 50

export interface WaitOptions {
  /** Milliseconds; default 30,000. */
  readonly withinMs?: number
  /** Milliseconds between two looks; default 50. */
  readonly everyMs?: number
}

/**
 * Looks until there is something, and returns it.
 *
 * @param what - what is waited for, as in "after 30 s there was no {what}"
 * @param look - something, or a string that says what is missing
 * @throws Error that says what was missing at the last look; errors of `look` count as what is missing
 *
 * @example
 * const node = await until('second node', async () => (await nodes())[1] ?? 'only one node')
 */
export async function until<T>(what: string, look: () => Promise<T | string> | T | string, options: WaitOptions = {}): Promise<Exclude<T, string>> {
  const { withinMs = 30_000, everyMs = POLL_MS } = options
  const deadline = performance.now() + withinMs
  for (;;) {
    const got = await attempt(look)
    if (typeof got !== 'string') return got as Exclude<T, string>
    if (performance.now() > deadline) throw new Error(`after ${withinMs / 1_000} s there was no ${what}: ${got}`)
    await delay(everyMs)
  }
}

async function attempt<T>(look: () => Promise<T | string> | T | string): Promise<T | string> {
  try {
    return await look()
  } catch (error) {
    return (error as Error).message
  }
}
