/**
 * When a node must end its workers because the head may have declared it dead. Pure; all times are of one monotonic clock of this node.
 *
 * The head counts a lease from when it heard a heartbeat, this node from when it sent that heartbeat: its own end always comes first, and by
 * `marginMs` more, in which the workers end. A head that is silent may live and decide. A connection that was refused at the head's address proves
 * that none listens there at that moment, and whichever comes gives every node a whole lease: so the node may go on, up to `headTimeoutMs` in all.
 */
export interface FenceConfig {
  readonly leaseMs: number
  readonly headTimeoutMs: number
}

/** The head looks at the leases four times a second: the end of one that is a little shorter is seen within the timeout, if that is 2.5 s or more. */
export const nodeLeaseMs = (nodeTimeoutMs: number): number => Math.floor(nodeTimeoutMs - Math.min(500, nodeTimeoutMs / 10))

/** Time in which the workers end before the lease does. */
export const fenceMarginMs = (leaseMs: number): number => Math.min(2_000, leaseMs / 4)

export class Fence {
  readonly #config: FenceConfig
  #heardMs: number
  #deadlineMs: number

  /** @param nowMs - when the registration that the head accepted was sent */
  constructor(config: FenceConfig, nowMs: number) {
    this.#config = config
    this.#heardMs = nowMs
    this.#deadlineMs = this.#end(nowMs)
  }

  /** The last moment at which this node may have workers, unless it hears more. */
  get deadlineMs(): number {
    return this.#deadlineMs
  }

  /** The head answered a heartbeat or registration that was sent at `sentMs`. */
  renewed(sentMs: number): void {
    this.#heardMs = Math.max(this.#heardMs, sentMs)
    this.#deadlineMs = Math.max(this.#deadlineMs, this.#end(sentMs))
  }

  /** A connection that was tried at `triedMs` was refused: no head listened then. Comes too late when the deadline has passed. */
  refused(triedMs: number, nowMs: number): void {
    if (this.expired(nowMs)) return
    const longest = this.#heardMs + this.#config.headTimeoutMs
    this.#deadlineMs = Math.max(this.#deadlineMs, Math.min(this.#end(triedMs), longest))
  }

  expired(nowMs: number): boolean {
    return nowMs >= this.#deadlineMs
  }

  #end(fromMs: number): number {
    return fromMs + this.#config.leaseMs - fenceMarginMs(this.#config.leaseMs)
  }
}
