/**
 * What the codec does not encode but its process numbers: references, functions, actor handles. Loads nothing: users'
 * objects carry the brand from the moment that the package is imported.
 */
import type { HeldHandle, ObjectEntry } from './object-entry.ts'

/** Objects with this brand are not encoded by the codec but numbered by their process. */
export const EXTERNAL: unique symbol = Symbol.for('beamline.external')

/** How the API's objects appear to the core; the API hands it in, so that arrows point one way. */
export interface ExternalKinds {
  /** The entry of an ObjectRef, undefined for other things; throws for a released reference. */
  entryOf(value: object): ObjectEntry | undefined
  handleOf(value: object): HeldHandle | undefined
  makeRef(entry: ObjectEntry): object
  makeHandle(handle: HeldHandle): object
}
