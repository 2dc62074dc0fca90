/**
 * Errors between processes. A system error travels as its code and facts and is made anew from the table; a user's
 * exception travels as the `cause` of a `TASK_FAILED`, with its class name, fields and stack.
 */
import { BeamlineError, type ErrorCode, ERRORS } from '../errors.ts'
import type { Failure } from '../net/gen/node.ts'
import { decode, encodeInline } from '../objects/codec.ts'

interface WireForm {
  readonly code: ErrorCode
  readonly details: never
  readonly stack: string | undefined
  readonly cause: unknown
}

/** Anything thrown, as a BeamlineError: itself if it is one, else wrapped as a failure of `task` on `worker`. */
export function taskError(thrown: unknown, task: string, worker: string): BeamlineError {
  return new BeamlineError('TASK_FAILED', { task, worker, error: summary(thrown) }, { cause: thrown })
}

/** `TypeError: text`, or what a thrown non-error looks like. */
export function summary(thrown: unknown): string {
  if (thrown instanceof Error) return `${thrown.name}: ${thrown.message}`
  try {
    return `a thrown ${typeof thrown}: ${typeof thrown === 'object' ? JSON.stringify(thrown) : String(thrown)}`
  } catch {
    return `a thrown ${typeof thrown}`
  }
}

export function encodeError(error: Error): Uint8Array {
  const known = BeamlineError.is(error) ? error : taskError(error, 'unknown', 'unknown')
  const form = (cause: unknown): WireForm => ({ code: known.code, details: known.details as never, stack: known.stack, cause })
  if (known.cause === undefined) return encodeInline(form(undefined), 'an error')
  try {
    return encodeInline(form(BeamlineError.is(known.cause) ? { beamlineError: encodeError(known.cause) } : known.cause), 'an error')
  } catch {
    return encodeInline(form(portable(known.cause)), 'an error')
  }
}

/** A copy of a thrown value without the fields that cannot travel; those are named in `lostFields`. */
function portable(thrown: unknown): unknown {
  if (!(thrown instanceof Error)) return new Error(summary(thrown))
  const copy = new Error(thrown.message)
  copy.name = thrown.name
  if (thrown.stack !== undefined) copy.stack = thrown.stack
  const lost: string[] = []
  for (const [key, value] of Object.entries(thrown)) {
    try {
      encodeInline(value, key)
      Object.assign(copy, { [key]: value })
    } catch {
      lost.push(key)
    }
  }
  if (thrown.cause !== undefined) copy.cause = BeamlineError.is(thrown.cause) ? { beamlineError: encodeError(thrown.cause) } : portable(thrown.cause)
  if (lost.length > 0) Object.assign(copy, { lostFields: lost })
  return copy
}

export function decodeError(bytes: Uint8Array): BeamlineError {
  const { code, details, stack, cause } = decode(bytes) as WireForm
  const options = cause === undefined ? undefined : { cause: revive(cause) }
  const error = ERRORS[code] ? new BeamlineError(code, details, options) : new BeamlineError('INTERNAL', { what: `unknown error code ${code}` }, options)
  if (stack !== undefined) error.stack = stack
  return error
}

function revive(cause: unknown): unknown {
  if (cause instanceof Error) {
    if (cause.cause !== undefined) cause.cause = revive(cause.cause)
    return cause
  }
  const nested = typeof cause === 'object' && cause !== null ? (cause as { beamlineError?: unknown }).beamlineError : undefined
  return nested instanceof Uint8Array ? decodeError(nested) : cause
}

/** An error as the node speaks of it. */
export function wireError(failure: Failure): BeamlineError {
  const code = failure.code as ErrorCode
  if (!ERRORS[code]) return new BeamlineError('INTERNAL', { what: `the node reported an unknown error code ${failure.code}: ${failure.detailsJson}` })
  return new BeamlineError(code, JSON.parse(failure.detailsJson || '{}') as never)
}
