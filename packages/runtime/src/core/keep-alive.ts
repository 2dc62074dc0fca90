/**
 * Holds the process while something of the runtime is pending. Links hold no process (an open stream would keep it for
 * ever), so a program that waits for nothing any more ends by itself.
 */
const FOREVER_MS = 2 ** 31 - 1

export class KeepAlive {
  readonly #handle: NodeJS.Timeout = setInterval(() => undefined, FOREVER_MS).unref()
  #pending = 0

  /** One more thing is pending; `done` must follow exactly once. */
  add(): void {
    if (this.#pending++ === 0) this.#handle.ref()
  }

  done(): void {
    if (--this.#pending === 0) this.#handle.unref()
  }

  /** Holds nothing any more. */
  close(): void {
    clearInterval(this.#handle)
  }

  /** Holds the process until `promise` settles. */
  async during<T>(promise: Promise<T>): Promise<T> {
    this.add()
    try {
      return await promise
    } finally {
      this.done()
    }
  }
}
