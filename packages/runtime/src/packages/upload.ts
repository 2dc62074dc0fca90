/**
 * A program gives its packed code to its daemon, and waits until it is kept: what it submits next may run on any machine.
 */
import type { Runtime } from '../core/runtime.ts'
import { wireError } from '../core/wire-error.ts'
import { LIMITS } from '../limits.ts'
import type { CodePackage } from './pack.ts'

/** The only request of its kind that a program makes. */
const REQUEST = 1

export async function uploadCode(runtime: Runtime, { digest, bytes }: CodePackage): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  runtime.events.once('packageStored', ({ failure }) => (failure ? reject(wireError(failure)) : resolve()))
  runtime.events.once('closed', (error) => reject(error ?? new Error('the program left its cluster')))
  for (let offset = 0; offset < bytes.length; offset += LIMITS.packageChunkBytes) {
    const chunk = bytes.subarray(offset, offset + LIMITS.packageChunkBytes)
    runtime.sendToNode({ body: { $case: 'packagePut', value: { request: REQUEST, digest, chunk, offset, bytes: bytes.length } } })
  }
  await runtime.keepAlive.during(promise)
}
