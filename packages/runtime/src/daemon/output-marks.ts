/**
 * Takes the marks of worker/output-marks.ts out of a stream of bytes, wherever the pipe has cut it. Pure.
 */
import { OUTPUT_MARK } from './bootstrap.ts'

const MARK = Buffer.from(OUTPUT_MARK)
const FIRST = MARK[0] as number
const NEWLINE = 10
/** What begins like a mark and does not end within so many bytes is output. */
const LABEL_BYTES_MAX = 4_096

export class OutputMarks {
  #held: Buffer | undefined

  /** Calls `onText` for what was printed and `onLabel` for each mark, in order. */
  take(chunk: Uint8Array, onText: (text: Uint8Array) => void, onLabel: (label: string) => void): void {
    if (this.#held === undefined && !chunk.includes(FIRST)) return onText(chunk)
    let rest = this.#held === undefined ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) : Buffer.concat([this.#held, chunk])
    this.#held = undefined
    for (let at = rest.indexOf(FIRST); at >= 0; at = rest.indexOf(FIRST, at)) {
      const candidate = rest.subarray(at)
      if (!candidate.subarray(0, MARK.length).equals(MARK.subarray(0, candidate.length))) {
        at++
        continue
      }
      const end = candidate.indexOf(NEWLINE)
      if (end < 0 && candidate.length > LABEL_BYTES_MAX) {
        at++
        continue
      }
      if (at > 0) onText(rest.subarray(0, at))
      if (end < 0) {
        this.#held = Buffer.from(candidate)
        return
      }
      onLabel(candidate.subarray(MARK.length, end).toString())
      rest = candidate.subarray(end + 1)
      at = 0
    }
    if (rest.length > 0) onText(rest)
  }

  /** What is left at the end of the stream. */
  end(onText: (text: Uint8Array) => void): void {
    if (this.#held !== undefined) onText(this.#held)
    this.#held = undefined
  }
}
