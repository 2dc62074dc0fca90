/** A link that is one stream, on a unix socket: its end is the end of the link. */
import { faultsOfEnvironment } from './faults.ts'
import type { Body, Link } from './link.ts'
import { frameArrived } from './polling.ts'
import type { Frame } from './session-state.ts'

/** A full frame is sent at once instead of at the end of the turn. */
const FRAME_MESSAGES_MAX = 256

/** The part of grpc-js's client and server streams that a link uses. */
export interface FrameStream<Out, In> {
  write(frame: Frame<Out>): boolean
  end(): void
  on(event: 'data', handler: (frame: Frame<In>) => void): unknown
  on(event: 'drain' | 'end' | 'close' | 'cancelled', handler: () => void): unknown
  on(event: 'error', handler: (error: Error) => void): unknown
}

export class StreamLink<Out extends Body, In extends Body> implements Link<Out, In> {
  readonly name: string
  readonly closed: Promise<Error | undefined>
  #stream: FrameStream<Out, In>
  #queue: Out[] = []
  #scheduled = false
  #congested = false
  #open = true
  #handler: ((message: In) => void) | undefined
  #closeHandlers: ((error: Error | undefined) => void)[] = []
  #reason: Error | undefined
  readonly #destroy: (error: Error) => void

  constructor(service: string, stream: FrameStream<Out, In>, name: string, describe: (error: Error) => Error, destroy: (error: Error) => void) {
    this.name = name
    const faults = faultsOfEnvironment()
    this.#stream = stream
    this.#destroy = destroy
    this.closed = new Promise((resolve) => this.onClose(resolve))
    stream.on('data', ({ messages }) => {
      frameArrived(messages.length)
      const handler = this.#handler
      if (handler && faults) faults.deliver(service, messages, handler)
      else if (handler) for (const message of messages) handler(message)
    })
    stream.on('drain', () => {
      this.#congested = false
      this.flush()
    })
    stream.on('error', (error) => this.#end(describe(error)))
    stream.on('cancelled', () => this.#end(new Error(`${name} went away`)))
    stream.on('end', () => {
      stream.end()
      this.#end(undefined)
    })
  }

  send(message: Out): void {
    if (!this.#open) return
    if (this.#queue.push(message) >= FRAME_MESSAGES_MAX && !this.#congested) this.flush()
    else if (!this.#scheduled) {
      this.#scheduled = true
      queueMicrotask(() => {
        this.#scheduled = false
        this.flush()
      })
    }
  }

  flush(): void {
    while (this.#queue.length > 0 && !this.#congested && this.#open) {
      const messages = this.#queue.length <= FRAME_MESSAGES_MAX ? this.#queue : this.#queue.splice(0, FRAME_MESSAGES_MAX)
      if (messages === this.#queue) this.#queue = []
      if (!this.#stream.write({ messages, seq: 0, ack: 0, end: 0 })) this.#congested = true
    }
  }

  onMessage(handler: (message: In) => void): void {
    this.#handler = handler
  }

  onClose(handler: (error: Error | undefined) => void): void {
    if (this.#open) this.#closeHandlers.push(handler)
    else queueMicrotask(() => handler(this.#reason))
  }

  onInterrupted(): void {}

  onResumed(): void {}

  close(): void {
    if (!this.#open) return
    this.flush()
    this.#stream.end()
  }

  abort(error: Error): void {
    if (!this.#open) return
    this.#end(error)
    this.#destroy(error)
  }

  #end(error: Error | undefined): void {
    if (!this.#open) return
    this.#open = false
    this.#reason = error
    this.#queue = []
    for (const handler of this.#closeHandlers) handler(error)
    this.#closeHandlers = []
  }
}
