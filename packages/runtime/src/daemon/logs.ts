/**
 * What workers print: kept in files, and sent to the driver of their job without repetition and without flooding it.
 *
 * Files: `logs/worker-<id>.out` and `.err`, rotated at 100 MB (five kept). To drivers: batches of whole lines. A line that a worker repeats
 * at once, or that another worker printed within the last second, is counted instead of sent: `line [repeated 123×]`.
 * A worker may send a driver `LINES_PER_SECOND_MAX` lines; the rest is in the file only, and a note says how many.
 */
import { closeSync, openSync, renameSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { OutputMarks } from './output-marks.ts'

export interface LogBatch {
  readonly worker: string
  readonly stream: 'out' | 'err'
  /** Name of the task that printed; "" before the first. */
  readonly label: string
  readonly lines: string[]
}

const FILE_BYTES_MAX = 100 * 1024 * 1024
const FILES_MAX = 5
const LINE_CHARS_MAX = 64 * 1024
const TAIL_LINES_MAX = 20
const NATIVE_FRAME = /^\s*\d+: 0x[0-9a-f]+ |^----- (Native|JavaScript) stack trace -----$|^<--- \w.* --->$|^\[\d+:0x[0-9a-f]+\] +\d+ ms: /
const TAIL_CHARS_MAX = 4_000
const LINES_PER_SECOND_MAX = 5_000
const REPEAT_WINDOW_MS = 1_000
const FLUSH_MS = 20
const REMEMBERED_LINES_MAX = 1_000

class RotatingFile {
  readonly #path: string
  readonly #bytesMax: number
  #fd: number | undefined
  #bytes = 0

  constructor(path: string, bytesMax: number) {
    this.#path = path
    this.#bytesMax = bytesMax
  }

  write(chunk: Uint8Array): void {
    try {
      this.#fd ??= openSync(this.#path, 'a', 0o600)
      writeSync(this.#fd, chunk)
      this.#bytes += chunk.length
      if (this.#bytes < this.#bytesMax) return
      this.close()
      this.#bytes = 0
      for (let n = FILES_MAX - 1; n > 0; n--) {
        try {
          renameSync(n === 1 ? this.#path : `${this.#path}.${n - 1}`, `${this.#path}.${n}`)
        } catch {
          // not there yet
        }
      }
    } catch {
      // A full disk must not end the daemon; the driver still sees the lines.
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd)
    this.#fd = undefined
  }
}

interface Repeat {
  readonly worker: string
  readonly stream: 'out' | 'err'
  readonly label: string
  readonly line: string
  count: number
  readonly untilMs: number
}

/** One stream of one worker. */
export class WorkerLog {
  readonly worker: string
  readonly stream: 'out' | 'err'
  readonly #file: RotatingFile
  readonly #deliver: (log: WorkerLog, lines: string[]) => void
  readonly #decoder = new TextDecoder()
  readonly #marks = new OutputMarks()
  /** Name of the task that prints. */
  label = ''
  #partial = ''
  #tail: string[] = []

  constructor(dir: string, worker: string, stream: 'out' | 'err', fileBytesMax: number, deliver: (log: WorkerLog, lines: string[]) => void) {
    this.worker = worker
    this.stream = stream
    this.#file = new RotatingFile(join(dir, `worker-${worker}.${stream}`), fileBytesMax)
    this.#deliver = deliver
  }

  write(chunk: Uint8Array): void {
    this.#marks.take(
      chunk,
      (text) => this.#write(text),
      (label) => {
        this.label = label
      },
    )
  }

  #write(chunk: Uint8Array): void {
    this.#file.write(chunk)
    const text = this.#partial + this.#decoder.decode(chunk, { stream: true })
    const lines = text.split('\n')
    this.#partial = lines.pop() ?? ''
    const whole = this.#partial.length - (this.#partial.length % LINE_CHARS_MAX)
    if (whole > 0) {
      lines.push(this.#partial.slice(0, whole))
      this.#partial = this.#partial.slice(whole)
    }
    this.#lines(lines)
  }

  /** The last lines, at most a few thousand characters. */
  tail(): string {
    return [...this.#tail, this.#partial].filter(Boolean).join('\n').slice(-TAIL_CHARS_MAX)
  }

  close(): void {
    this.#marks.end((text) => this.#write(text))
    const rest = this.#partial + this.#decoder.decode()
    this.#partial = ''
    if (rest !== '') this.#lines([rest])
    this.#file.close()
  }

  #lines(lines: string[]): void {
    if (lines.length === 0) return
    // The collector's log and the native frames around a fatal error say nothing to its reader and would push out what does.
    const telling = lines.filter((line) => line !== '' && !NATIVE_FRAME.test(line)).slice(-TAIL_LINES_MAX)
    this.#tail = [...this.#tail, ...telling].slice(-TAIL_LINES_MAX)
    this.#deliver(
      this,
      lines.flatMap((line) => (line.length <= LINE_CHARS_MAX ? [line.replace(/\r$/, '')] : pieces(line))),
    )
  }
}

/** A very long line is delivered in several. */
function pieces(line: string): string[] {
  const out: string[] = []
  for (let at = 0; at < line.length; at += LINE_CHARS_MAX) out.push(line.slice(at, at + LINE_CHARS_MAX))
  return out
}

export class Logs {
  readonly dir: string
  readonly #fileBytesMax: number
  readonly #sink: (batch: LogBatch) => void
  /** Lines that wait for the next flush, in order of arrival. */
  #waiting: LogBatch[] = []
  #timer: NodeJS.Timeout | undefined
  readonly #repeats: Map<string, Repeat> = new Map()
  readonly #last: Map<string, string> = new Map()
  readonly #rates: Map<string, { sinceMs: number; lines: number; dropped: number }> = new Map()

  constructor(dir: string, sink: (batch: LogBatch) => void, fileBytesMax: number = FILE_BYTES_MAX) {
    this.dir = dir
    this.#fileBytesMax = fileBytesMax
    this.#sink = sink
  }

  open(worker: string, stream: 'out' | 'err'): WorkerLog {
    return new WorkerLog(this.dir, worker, stream, this.#fileBytesMax, (log, lines) => this.#collect(log, lines))
  }

  /** Send what waits, also counts of repetitions whose window is over (or all of them). */
  flush(all: boolean = false): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const now = performance.now()
    for (const [key, repeat] of this.#repeats) {
      if (!all && repeat.untilMs > now) continue
      this.#repeats.delete(key)
      this.#endRepeat(repeat)
    }
    for (const [worker, rate] of this.#rates) if (all || now - rate.sinceMs >= 1_000) this.#endRate(worker, rate)
    const batches = this.#waiting
    this.#waiting = []
    for (const batch of batches) this.#sink(batch)
    if (this.#repeats.size > 0 || this.#rates.size > 0) this.#timer = setTimeout(() => this.flush(), REPEAT_WINDOW_MS)
  }

  #collect(log: WorkerLog, lines: string[]): void {
    const { worker, stream, label } = log
    const now = performance.now()
    const source = `${worker} ${stream}`
    const before = this.#rates.get(worker)
    if (before !== undefined && now - before.sinceMs >= 1_000) this.#endRate(worker, before)
    const rate = this.#rates.get(worker) ?? { sinceMs: now, lines: 0, dropped: 0 }
    this.#rates.set(worker, rate)
    for (const line of lines) {
      const repeat = this.#repeats.get(line)
      const consecutive = this.#last.get(source) === line
      if (line !== '' && repeat !== undefined && (repeat.untilMs > now || consecutive) && (consecutive || repeat.worker !== worker)) {
        repeat.count++
        continue
      }
      if (++rate.lines > LINES_PER_SECOND_MAX) {
        rate.dropped++
        continue
      }
      const previous = this.#last.get(source)
      const ended = previous === undefined ? undefined : this.#repeats.get(previous)
      if (ended !== undefined && ended.count > 0 && ended.worker === worker) {
        this.#repeats.delete(ended.line)
        this.#endRepeat(ended)
      }
      this.#last.set(source, line)
      this.#add(worker, stream, label, line)
      this.#repeats.delete(line)
      this.#repeats.set(line, { worker, stream, label, line, count: 0, untilMs: now + REPEAT_WINDOW_MS })
      if (this.#repeats.size > REMEMBERED_LINES_MAX) {
        const [oldest] = this.#repeats.values()
        if (oldest !== undefined) {
          this.#repeats.delete(oldest.line)
          this.#endRepeat(oldest)
        }
      }
    }
    // A timer that waits for repetitions is replaced by a short one.
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.flush(), FLUSH_MS)
  }

  #endRepeat(repeat: Repeat): void {
    if (repeat.count === 0) return
    this.#add(repeat.worker, repeat.stream, repeat.label, repeat.count === 1 ? repeat.line : `${repeat.line} [repeated ${repeat.count}×]`)
  }

  #endRate(worker: string, rate: { dropped: number }): void {
    this.#rates.delete(worker)
    if (rate.dropped > 0) this.#add(worker, 'err', '', `[${rate.dropped} more lines in one second are only in ${this.dir}/worker-${worker}.*]`)
  }

  #add(worker: string, stream: 'out' | 'err', label: string, line: string): void {
    const last = this.#waiting.at(-1)
    if (last !== undefined && last.worker === worker && last.stream === stream && last.label === label) last.lines.push(line)
    else this.#waiting.push({ worker, stream, label, lines: [line] })
  }

  /** The worker is gone: send what it said to the end. */
  forget(worker: string): void {
    for (const repeat of this.#repeats.values()) {
      if (repeat.worker !== worker) continue
      this.#repeats.delete(repeat.line)
      this.#endRepeat(repeat)
    }
    const rate = this.#rates.get(worker)
    if (rate !== undefined) this.#endRate(worker, rate)
    this.flush()
    this.#last.delete(`${worker} out`)
    this.#last.delete(`${worker} err`)
  }
}
