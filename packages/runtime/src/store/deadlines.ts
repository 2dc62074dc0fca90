/** When the leases in a store of this process end, by its monotonic clock. Pure. */
export class Deadlines {
  readonly #ends = new Map<string, number>()
  /** None ends before. Renewals move ends without moving this, until it is reached. */
  #firstMs = Infinity

  get(key: string): number | undefined {
    return this.#ends.get(key)
  }

  set(key: string, endMs: number): void {
    this.#ends.set(key, endMs)
    this.#firstMs = Math.min(this.#firstMs, endMs)
  }

  delete(key: string): void {
    this.#ends.delete(key)
    if (this.#ends.size === 0) this.#firstMs = Infinity
  }

  due(nowMs: number): string[] {
    if (nowMs < this.#firstMs) return []
    const due: string[] = []
    this.#firstMs = Infinity
    for (const [key, endMs] of this.#ends) {
      if (endMs <= nowMs) due.push(key)
      this.#firstMs = Math.min(this.#firstMs, endMs)
    }
    return due
  }

  /** Until the first may end. */
  nextMs(nowMs: number): number | undefined {
    return this.#firstMs === Infinity ? undefined : Math.max(0, this.#firstMs - nowMs)
  }
}
