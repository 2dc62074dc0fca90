/**
 * How `beamline` ends.
 */

/** Exit status of `beamline`. */
export const EXIT = { ok: 0, failure: 1, usage: 2, noCluster: 3 } as const

/** Ends the command with a message on stderr and this status. */
export class CommandError extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}
