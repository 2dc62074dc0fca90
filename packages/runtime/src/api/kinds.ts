/** How references and handles look to the core; see {@link ExternalKinds}. */
import type { ExternalKinds } from '../core/external.ts'
import { makeHandle, targetOf } from './actor.ts'
import { entryOf, ObjectRef } from './object-ref.ts'

export const KINDS: ExternalKinds = {
  entryOf,
  handleOf: (value) => targetOf(value)?.held,
  makeRef: (entry) => new ObjectRef(entry),
  makeHandle: (handle) => makeHandle(handle),
}
