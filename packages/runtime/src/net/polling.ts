/**
 * Waiting for the next message without falling asleep, while two processes answer each other message by message.
 *
 * A process that sleeps between such messages is woken for each one, and on a virtual machine that takes longer than the answer: a task and its
 * result took 150 µs with sleep and 55 µs without, and less processor time too. So while single messages follow each other quickly, the event loop
 * looks again instead of sleeping, for a moment. That must not cost others their processor: where it did not help several times in a row, because
 * the answer took longer or needed this core, the process sleeps between messages for a while, and longer each time.
 */
import { availableParallelism } from 'node:os'

/** Messages that follow each other faster than this are answers to each other. */
const QUICK_MS = 0.3
/** How long the next one is awaited. */
const POLL_MS = 0.2
/** Time between two looks that is only explained by another process on this core. */
const SUSPENDED_MS = 0.06
const FAILURES_MAX = 8
/** The first pause after so many failures in a row; doubles up to the last until polling works again. */
const PAUSE_MS = 4
const PAUSE_MAX_MS = 500
/** So often in a row: it works. */
const SUCCESSES_MIN = 64

/** When to look again instead of sleeping. Pure: times in milliseconds come from outside. */
export class PollState {
  #lastArrival = Number.NEGATIVE_INFINITY
  #lastLook = 0
  #pollUntil = 0
  #polling = false
  /** The last poll ended before its message came. */
  #expired = false
  #failures = 0
  #successes = 0
  #pauseMs = PAUSE_MS
  #pausedUntil = 0

  /** A frame came. True: start to look, at the end of this turn. */
  arrived(now: number, messages: number): boolean {
    const quick = messages === 1 && now - this.#lastArrival < QUICK_MS
    this.#lastArrival = now
    if (this.#polling || this.#expired) this.#judge(now, !this.#expired && now - this.#lastLook <= SUSPENDED_MS)
    this.#expired = false
    this.#pollUntil = quick && now > this.#pausedUntil ? now + POLL_MS : 0
    if (this.#pollUntil === 0 || this.#polling) return false
    this.#polling = true
    return true
  }

  #judge(now: number, helped: boolean): void {
    if (helped) {
      this.#failures = 0
      if (++this.#successes >= SUCCESSES_MIN) this.#pauseMs = PAUSE_MS
      return
    }
    this.#successes = 0
    if (++this.#failures < FAILURES_MAX) return
    this.#failures = 0
    this.#pausedUntil = now + this.#pauseMs
    this.#pauseMs = Math.min(2 * this.#pauseMs, PAUSE_MAX_MS)
  }

  /** One look. True: look again, after a turn of the event loop. */
  looked(now: number): boolean {
    this.#lastLook = now
    if (now < this.#pollUntil) return true
    this.#polling = false
    this.#expired = this.#pollUntil > 0
    return false
  }
}

const state = availableParallelism() > 1 ? new PollState() : undefined

/** A frame begins to be handled. */
export function frameArrived(messages: number): void {
  if (state?.arrived(performance.now(), messages)) setImmediate(look)
}

function look(): void {
  if (state?.looked(performance.now())) setImmediate(look)
}
