/** The runtime that this process belongs to: one at a time. */
import { BeamlineError } from '../errors.ts'
import type { Runtime } from './runtime.ts'

let runtime: Runtime | undefined

/** The runtime of this process. Throws `NOT_INITIALIZED`, naming the call that needs it. */
export function current(call = 'this call'): Runtime {
  if (!runtime) throw new BeamlineError('NOT_INITIALIZED', { call })
  return runtime
}

export function currentOrNone(): Runtime | undefined {
  return runtime
}

export function setCurrent(next: Runtime | undefined): void {
  runtime = next
}
