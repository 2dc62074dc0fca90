/**
 * Makes the empty error objects that the decoder fills. An error class that this process does not know comes back as a class of the
 * same name that extends the same built-in, so `error.name`, `error.constructor.name` and `instanceof Error` tell the truth.
 */
import { ERROR_CLASSES } from './format.ts'
import { findRegistration } from './registry.ts'

export interface CustomErrorClass {
  readonly className: string
  readonly registered: boolean
  readonly inheritedName: string | undefined
}

/** Stand-ins for unknown classes, so that two errors of one class share it. Bounded: past it, each error has its own. */
const STAND_INS_MAX = 1_000
const standIns = new Map<string, object>()

/** An error without own properties except, perhaps, a `stack` to be replaced. */
export function makeError(builtin: number, custom: CustomErrorClass | undefined): Error {
  const Base = ERROR_CLASSES[builtin] ?? Error
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0 // the stack is about to be replaced
  const error: Error = Base === (AggregateError as unknown) ? new AggregateError([]) : new Base()
  Error.stackTraceLimit = stackTraceLimit
  for (const name of Object.getOwnPropertyNames(error)) if (name !== 'stack') delete (error as unknown as Record<string, unknown>)[name]
  if (custom) Object.setPrototypeOf(error, prototypeOf(Base, builtin, custom))
  return error
}

function prototypeOf(Base: new () => Error, builtin: number, { className, registered, inheritedName }: CustomErrorClass): object {
  const known = registered ? findRegistration(className) : undefined
  if (known) return known.prototype
  const key = JSON.stringify([builtin, className, inheritedName])
  const found = standIns.get(key)
  if (found) return found
  const { prototype } = { [className]: class extends Base {} }[className]!
  if (inheritedName !== undefined && inheritedName !== prototype.name) {
    Object.defineProperty(prototype, 'name', { value: inheritedName, writable: true, configurable: true, enumerable: false })
  }
  if (standIns.size < STAND_INS_MAX) standIns.set(key, prototype)
  return prototype
}
