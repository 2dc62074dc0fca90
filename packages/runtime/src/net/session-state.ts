/**
 * What one end of a session knows: which frames the other end has, and which of its own are new.
 *
 * A session outlives the connections that carry it. Every frame with messages has a number; both ends say what they received in order, keep what
 * the other end has not confirmed, and after a new connection go on behind it. So each message is delivered once and in order, whatever
 * connections do, as long as both processes live. Pure: connections and time are in session-link.ts.
 *
 * What is not confirmed yet is kept without a bound: whoever sends to a process that cannot be reached holds the messages until it is told that
 * the process is dead.
 */

/** The sender goes on. */
export const END_NONE = 0
/** The last numbered frame of a sender that closes. */
export const END_CLOSE = 1
/** Not numbered: the sender has forgotten the session. */
export const END_ABORT = 2

export interface Frame<M> {
  messages: M[]
  /** From 1; 0 for frames without messages that are not numbered. */
  seq: number
  ack: number
  end: number
}

/** What to do with a frame that came. A gap cannot happen between two ends that keep these rules. */
export type Arrival = 'deliver' | 'duplicate' | 'bare' | 'gap'

export class SessionState<Out, In> {
  /** Sent and not confirmed, in order; `#head` of them are confirmed and wait to be cut off. */
  #kept: (Frame<Out> | undefined)[] = []
  #head = 0
  #confirmed = 0
  #lastSent = 0
  /** The last one written to the connection of now. */
  #written = 0
  #received = 0
  /** What the other end was told of `#received`. */
  #told = 0

  /** The last frame that came in order. */
  get received(): number {
    return this.#received
  }

  /** Frames received of which the other end was not told. */
  get untold(): number {
    return this.#received - this.#told
  }

  /** Frames that the other end has not confirmed. */
  get unconfirmed(): number {
    return this.#lastSent - this.#confirmed
  }

  /** Number the next frame and keep it; `nextToWrite` gives it out. */
  add(messages: Out[], end: number = END_NONE): void {
    this.#kept.push({ messages, seq: ++this.#lastSent, ack: 0, end })
  }

  /** The next frame that this connection has not carried. */
  nextToWrite(): Frame<Out> | undefined {
    if (this.#written === this.#lastSent) return undefined
    const frame = this.#kept[this.#head + this.#written - this.#confirmed] as Frame<Out>
    this.#written++
    frame.ack = this.#told = this.#received
    return frame
  }

  /** A frame that only says what was received. */
  bare(end: number = END_NONE): Frame<Out> {
    this.#told = this.#received
    return { messages: [], seq: 0, ack: this.#received, end }
  }

  /** A frame came. Its messages are delivered only when this says so. */
  arrived(frame: Frame<In>): Arrival {
    this.#confirm(frame.ack)
    if (frame.seq === 0) return 'bare'
    if (frame.seq <= this.#received) return 'duplicate'
    if (frame.seq > this.#received + 1) return 'gap'
    this.#received = frame.seq
    return 'deliver'
  }

  /**
   * A new connection, whose other end had received so many frames when it was dialled: what comes after is to be written again. It may have received
   * more by now, on the connection of before. False: it cannot have received so many.
   */
  resume(otherReceived: number): boolean {
    if (otherReceived > this.#lastSent) return false
    this.#confirm(otherReceived)
    this.#written = this.#confirmed
    this.#told = this.#received
    return true
  }

  #confirm(seq: number): void {
    if (seq <= this.#confirmed || seq > this.#lastSent) return
    for (; this.#confirmed < seq; this.#confirmed++) this.#kept[this.#head++] = undefined
    if (this.#written < seq) this.#written = seq
    if (this.#head === this.#kept.length) {
      this.#kept = []
      this.#head = 0
    } else if (this.#head > 1_024 && this.#head * 2 > this.#kept.length) {
      this.#kept = this.#kept.slice(this.#head)
      this.#head = 0
    }
  }
}
