/**
 * A link over TCP: a session that outlives its connections (session-state.ts decides what is sent and delivered; here are connections and time).
 *
 * The end that dialled brings a broken connection back, for as long as the link is open; the other end keeps the session meanwhile. A connection on
 * which nothing was heard is not given up at once: its process may be busy for long in one call of the user's code. A second connection is dialled
 * beside it, and replaces it as soon as the other end answers there. So a link heals within about a second after its network does, and only what
 * the network says (refused, unreachable, broken) counts as an interruption.
 *
 * A session ends in order by `close`, at once by `abort`, or when the other end does not know it: then a new process listens at that address.
 */
import { BeamlineError } from '../errors.ts'
import { type Faults, faultsOfEnvironment } from './faults.ts'
import type { Link } from './link.ts'
import { frameArrived } from './polling.ts'
import { END_ABORT, END_CLOSE, type Frame, SessionState } from './session-state.ts'

/** A full frame is sent at once instead of at the end of the turn. */
const FRAME_MESSAGES_MAX = 256
const TICK_MS = 500
/** An end that had nothing to send for so long says that it is there. */
const PING_MS = 1_000
/** Nothing was heard for so long: look for another connection. */
const SILENCE_MS = 5_000
/** Frames are confirmed after so many, or so much time. */
const CONFIRM_FRAMES = 32
const CONFIRM_MS = 20
/** A host that is there takes a connection in this time. */
const CONNECT_MS = 1_000
/** Between the starts of two attempts; doubles. */
const RETRY_MS = 50
const RETRY_MAX_MS = 1_000
/** A process that listens has so long to answer; doubles. */
const ANSWER_MS = 1_000
const ANSWER_MAX_MS = 10_000
/** A closing end waits so long for the other one. */
const CLOSE_MS = 10_000
/** The accepting end forgets a session that nobody came back to. */
const FORGET_MS = 600_000

export interface ConnectionEvents<In> {
  frame(frame: Frame<In>): void
  /** What was written left. */
  drain(): void
  /** The other end takes part, and received so many frames before; `ended`: it has closed the session. Dialled connections only. */
  answer(received: number, ended: boolean): void
  /** It carries nothing any more. */
  gone(error: Error): void
}

/** One gRPC stream that carries a session for a while. */
export interface Connection<Out, In> {
  readonly peer: string
  receive(events: ConnectionEvents<In>): void
  /** False: wait for `drain`. */
  write(frame: Frame<Out>): boolean
  /** Once what was written left. */
  end(): void
  destroy(): void
  /** As ConnectionEvents.answer at the other end. Accepted connections only. */
  answer(received: number, ended: boolean): void
}

/** How a link finds its other end again. */
export interface Dialler<Out, In> {
  /**
   * Resolves when somebody listens there.
   *
   * @param failed - the attempts so far got no answer: the reason may be one for which no further attempt helps
   */
  probe(timeoutMs: number, failed: boolean): Promise<void>
  /** @param opened - the other end has answered before: it must know the session */
  open(received: number, opened: boolean): Connection<Out, In>
  /** Give up when there was no answer at all in this time. */
  readonly connectMs: number
}

/** A reason for which no further attempt helps. */
function isFinal(error: Error): boolean {
  return BeamlineError.is(error, 'UNAUTHENTICATED') || BeamlineError.is(error, 'SESSION_UNKNOWN') || BeamlineError.is(error, 'TLS_REFUSED')
}

const later = (ms: number, background: boolean, call: () => void): NodeJS.Timeout => {
  const timer = setTimeout(call, ms)
  return background ? timer.unref() : timer
}

export class SessionLink<Out extends { body?: { $case: string } | undefined }, In extends { body?: { $case: string } | undefined }> implements Link<Out, In> {
  readonly name: string
  readonly closed: Promise<Error | undefined>
  readonly #service: string
  readonly #background: boolean
  readonly #dialler: Dialler<Out, In> | undefined
  readonly #state = new SessionState<Out, In>()
  readonly #faults: Faults | undefined = faultsOfEnvironment()
  #connection: Connection<Out, In> | undefined
  /** A connection that waits for its answer. */
  #candidate: Connection<Out, In> | undefined
  #dialling = false
  #queue: Out[] = []
  #scheduled = false
  #congested = false
  #open = true
  #closing = false
  #endAdded = false
  #interrupted = false
  #handler: ((message: In) => void) | undefined
  #closeHandlers: ((error: Error | undefined) => void)[] = []
  #interruptedHandlers: ((error: Error) => void)[] = []
  #resumedHandlers: (() => void)[] = []
  #reason: Error | undefined
  readonly #ticker: NodeJS.Timeout
  #confirmTimer: NodeJS.Timeout | undefined
  readonly #createdAt = performance.now()
  #opened = false
  #heardAt = performance.now()
  #writtenAt = 0
  #tickedAt = performance.now()
  #closingAt = 0

  /** @param dialler - absent at the accepting end */
  constructor(service: string, name: string, background: boolean, dialler: Dialler<Out, In> | undefined) {
    this.#service = service
    this.name = name
    this.#background = background
    this.#dialler = dialler
    this.closed = new Promise((resolve) => this.onClose(resolve))
    this.#ticker = setInterval(() => this.#tick(), TICK_MS)
    if (background) this.#ticker.unref()
    if (dialler) void this.#dial()
  }

  get isOpen(): boolean {
    return this.#open
  }

  send(message: Out): void {
    if (!this.#open || this.#closing) return
    if (this.#queue.push(message) >= FRAME_MESSAGES_MAX) this.flush()
    else if (!this.#scheduled) {
      this.#scheduled = true
      queueMicrotask(() => {
        this.#scheduled = false
        this.flush()
      })
    }
  }

  flush(): void {
    while (this.#connection && !this.#congested && this.#open) {
      let frame = this.#state.nextToWrite()
      if (!frame) {
        if (this.#queue.length > 0) this.#state.add(this.#queue.splice(0, FRAME_MESSAGES_MAX))
        else if (this.#closing && !this.#endAdded) this.#addEnd()
        else return
        frame = this.#state.nextToWrite() as Frame<Out>
      }
      if (this.#faults) this.#writeWithFaults(this.#connection, frame, this.#faults)
      else this.#write(this.#connection, frame)
    }
  }

  onMessage(handler: (message: In) => void): void {
    this.#handler = handler
  }

  onClose(handler: (error: Error | undefined) => void): void {
    if (this.#open) this.#closeHandlers.push(handler)
    else queueMicrotask(() => handler(this.#reason))
  }

  onInterrupted(handler: (error: Error) => void): void {
    this.#interruptedHandlers.push(handler)
  }

  onResumed(handler: () => void): void {
    this.#resumedHandlers.push(handler)
  }

  close(): void {
    if (!this.#open || this.#closing) return
    this.#closing = true
    this.#closingAt = performance.now()
    this.flush()
  }

  abort(error: Error): void {
    if (!this.#open) return
    const connection = this.#connection
    connection?.write(this.#state.bare(END_ABORT))
    this.#finish(error)
  }

  /** The other end came, for the first time or again, and has received so many frames. */
  attach(connection: Connection<Out, In>, otherReceived: number): void {
    this.#receive(connection)
    connection.answer(this.#state.received, !this.#open)
    if (this.#open) this.#adopt(connection, otherReceived)
    else connection.end()
  }

  #adopt(connection: Connection<Out, In>, otherReceived: number): void {
    const before = this.#connection
    this.#connection = connection
    before?.destroy()
    this.#congested = false
    this.#opened = true
    this.#heardAt = performance.now()
    if (!this.#state.resume(otherReceived)) {
      this.#finish(new BeamlineError('SESSION_UNKNOWN', { address: this.name }))
      return
    }
    this.#resumed()
    this.flush()
  }

  #receive(connection: Connection<Out, In>): void {
    connection.receive({
      frame: (frame) => {
        if (connection === this.#connection) this.#frame(connection, frame)
      },
      drain: () => {
        if (connection !== this.#connection) return
        this.#congested = false
        this.flush()
        if (this.#open && !this.#congested && this.#state.untold > 0) this.#write(connection, this.#state.bare())
      },
      answer: () => undefined,
      gone: (error) => {
        if (connection === this.#connection) this.#broken(error)
      },
    })
  }

  #frame(connection: Connection<Out, In>, frame: Frame<In>): void {
    this.#heardAt = performance.now()
    if (this.#interrupted) this.#resumed()
    if (frame.end === END_ABORT) return this.#finish(new Error(`${this.name} has ended the link`))
    const arrival = this.#state.arrived(frame)
    if (arrival === 'gap') return this.#broken(new Error(`a frame from ${this.name} is missing`))
    if (arrival === 'duplicate') return this.#confirmSoon()
    if (arrival === 'bare') return
    frameArrived(frame.messages.length)
    const handler = this.#handler
    if (handler && this.#faults) this.#faults.deliver(this.#service, frame.messages, handler)
    else if (handler) for (const message of frame.messages) handler(message)
    if (!this.#open || connection !== this.#connection) return
    if (frame.end === END_CLOSE) return this.#otherClosed(connection)
    if (this.#faults?.losesResponse(this.#service, frame.messages)) return this.#broken(new Error('BEAMLINE_TEST_FAULTS: response lost'))
    this.#confirmSoon()
  }

  /** Its end is in order when this one has said so, too. */
  #otherClosed(connection: Connection<Out, In>): void {
    this.flush()
    if (!this.#endAdded) {
      while (this.#queue.length > 0) this.#state.add(this.#queue.splice(0, FRAME_MESSAGES_MAX))
      this.#addEnd()
    }
    for (let frame = this.#state.nextToWrite(); frame; frame = this.#state.nextToWrite()) connection.write(frame)
    connection.write(this.#state.bare())
    this.#finish(undefined)
  }

  #addEnd(): void {
    this.#endAdded = true
    this.#state.add([], END_CLOSE)
  }

  #confirmSoon(): void {
    if (this.#state.untold >= CONFIRM_FRAMES) this.#confirm()
    else this.#confirmTimer ??= later(CONFIRM_MS, this.#background, () => this.#confirm())
  }

  #confirm(): void {
    clearTimeout(this.#confirmTimer)
    this.#confirmTimer = undefined
    if (this.#connection && !this.#congested && this.#state.untold > 0) this.#write(this.#connection, this.#state.bare())
  }

  #write(connection: Connection<Out, In>, frame: Frame<Out>): void {
    this.#writtenAt = performance.now()
    if (!connection.write(frame)) this.#congested = true
  }

  #writeWithFaults(connection: Connection<Out, In>, frame: Frame<Out>, faults: Faults): void {
    const write = (): void => {
      if (faults.losesRequest(this.#service, frame.messages)) this.#broken(new Error('BEAMLINE_TEST_FAULTS: request lost'))
      else this.#write(connection, frame)
    }
    const delayMs = faults.delayMs(this.#service, frame.messages)
    if (delayMs === 0) return write()
    this.#congested = true
    later(delayMs, this.#background, () => {
      if (connection !== this.#connection) return
      this.#congested = false
      write()
      this.flush()
    })
  }

  #tick(): void {
    const now = performance.now()
    const late = now - this.#tickedAt > 3 * TICK_MS
    this.#tickedAt = now
    // This process was busy or stopped: what was heard meanwhile is still to be read.
    if (late) this.#heardAt = Math.max(this.#heardAt, now - SILENCE_MS + 2 * TICK_MS)
    if (this.#closing && now - this.#closingAt > CLOSE_MS) return this.#finish(new Error(`${this.name} did not confirm the end of the link`))
    if (!this.#dialler && this.#interrupted && now - this.#heardAt > FORGET_MS) return this.#finish(new Error(`${this.name} did not come back`))
    if (!this.#connection) return
    if (now - this.#heardAt > SILENCE_MS) {
      if (this.#dialler) void this.#dial()
      else if (!this.#interrupted) this.#interrupt(new Error(`nothing was heard from ${this.name} for ${SILENCE_MS} ms`))
    }
    if (!this.#congested && now - this.#writtenAt > PING_MS) this.#write(this.#connection, this.#state.bare())
  }

  #broken(error: Error): void {
    const connection = this.#connection
    this.#connection = undefined
    this.#congested = false
    connection?.destroy()
    if (isFinal(error)) return this.#finish(error)
    this.#interrupt(error)
    if (this.#open && this.#dialler) void this.#dial()
  }

  #interrupt(error: Error): void {
    this.#interrupted = true
    for (const handler of this.#interruptedHandlers) handler(error)
  }

  #resumed(): void {
    if (!this.#interrupted) return
    this.#interrupted = false
    for (const handler of this.#resumedHandlers) handler()
  }

  /** Attempts, until one succeeds or the connection of before is heard again. */
  async #dial(): Promise<void> {
    if (this.#dialling) return
    this.#dialling = true
    const dialler = this.#dialler as Dialler<Out, In>
    let pauseMs = RETRY_MS
    let answerMs = ANSWER_MS
    let failed = false
    while (this.#open) {
      const startedAt = performance.now()
      try {
        await dialler.probe(CONNECT_MS, failed)
        if (!this.#open) break
        failed = !this.#opened
        await this.#attempt(dialler, answerMs)
        if (this.#connection) break
      } catch (cause) {
        const error = cause as Error
        if (!this.#open) break
        if (isFinal(error) || (!this.#opened && performance.now() - this.#createdAt > dialler.connectMs)) {
          this.#finish(error)
          break
        }
        if (this.#connection && performance.now() - this.#heardAt < SILENCE_MS) break
        const busy = error instanceof Unanswered
        if (busy) answerMs = Math.min(2 * answerMs, ANSWER_MAX_MS)
        if (!busy || !this.#connection) this.#interrupt(error)
      }
      const waitMs = startedAt + pauseMs - performance.now()
      if (waitMs > 0) await new Promise<void>((resolve) => later(waitMs, this.#background, resolve))
      pauseMs = Math.min(2 * pauseMs, RETRY_MAX_MS)
    }
    this.#dialling = false
  }

  #attempt(dialler: Dialler<Out, In>, answerMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const connection = dialler.open(this.#state.received, this.#opened)
      this.#candidate = connection
      const fail = (error: Error): void => {
        clearTimeout(timer)
        connection.destroy()
        reject(error)
      }
      const timer = later(answerMs, this.#background, () => fail(new Unanswered(`${this.name} took the connection and did not answer in ${answerMs} ms`)))
      connection.receive({
        frame: () => undefined,
        drain: () => undefined,
        gone: fail,
        answer: (received, ended) => {
          clearTimeout(timer)
          this.#candidate = undefined
          if (this.#open && !ended) {
            this.#receive(connection)
            this.#adopt(connection, received)
          } else {
            connection.destroy()
            this.#finish(undefined)
          }
          resolve()
        },
      })
    })
  }

  #finish(error: Error | undefined): void {
    if (!this.#open) return
    this.#open = false
    this.#reason = error
    this.#queue = []
    clearInterval(this.#ticker)
    clearTimeout(this.#confirmTimer)
    this.#candidate?.destroy()
    this.#connection?.end()
    for (const handler of this.#closeHandlers) handler(error)
    this.#closeHandlers = []
  }
}

/** Somebody listens, and does not say anything. */
class Unanswered extends Error {}
