/** Finished attempts of this worker on their way to the node, in batches; bounded, what does not fit is counted. */
import { LIMITS } from '../limits.ts'
import type { ProcessMessage, TaskEvent } from '../net/gen/node.ts'

export class TaskEventBuffer {
  readonly #send: (message: ProcessMessage) => void
  #events: TaskEvent[] = []
  #dropped = 0
  #flushes = 0
  #timer: NodeJS.Timeout | undefined

  constructor(send: (message: ProcessMessage) => void) {
    this.#send = send
  }

  add(event: TaskEvent): void {
    if (this.#events.length >= LIMITS.taskEventsHeldMax) {
      this.#dropped++
      return
    }
    this.#events.push(event)
    this.#timer ??= setTimeout(() => this.flush(), LIMITS.taskEventsIntervalMs)
  }

  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#events.length === 0) return
    this.#send({ body: { $case: 'taskEvents', value: { events: this.#events, dropped: this.#dropped, number: ++this.#flushes } } })
    this.#events = []
    this.#dropped = 0
  }
}
