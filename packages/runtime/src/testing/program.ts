/**
 * A program that a test started: its output, its end, and the events that it tells. An event is one line of JSON on stdout, `{"event": NAME, …}`, also
 * when it comes from a worker and has its prefix. {@link tell} writes one.
 */
import { type ChildProcess, spawn } from 'node:child_process'

/** What a program said with {@link tell}. */
export interface ProgramEvent {
  readonly event: string
  /** Pid of the process that told it: the program or one of its workers. */
  readonly by: number
  readonly [fact: string]: unknown
}

export interface ProgramExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface ProgramOptions {
  /** Laid over those of this process; undefined removes one. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
}

const EVENT_LINE = /^(?:\(.* pid=\d+[^)]*\) )?(\{"event":.*\})$/

/**
 * From a program or one of its workers to the test that started it.
 *
 * @example
 * tell('counted', { count: 3 })
 */
export function tell(event: string, facts: Readonly<Record<string, unknown>> = {}): void {
  process.stdout.write(`${JSON.stringify({ event, by: process.pid, ...facts })}\n`)
}

export class Program implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #events: ProgramEvent[] = []
  #waiters: (() => void)[] = []
  #partial = ''
  #exit: ProgramExit | undefined
  stdout = ''
  stderr = ''
  readonly exited: Promise<ProgramExit>

  /** @param argv - the command and its arguments */
  constructor(argv: readonly string[], options: ProgramOptions = {}) {
    const [command = '', ...args] = argv
    this.#child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '', ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    })
    this.#child.stdin?.on('error', () => undefined)
    this.#child.stdout?.on('data', (chunk: Buffer) => this.#read(chunk.toString()))
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString()
      this.#wake()
    })
    this.exited = new Promise((resolve) => {
      const end = (code: number | null, signal: NodeJS.Signals | null): void => {
        this.#exit = { code, signal, stdout: this.stdout, stderr: this.stderr }
        this.#wake()
        resolve(this.#exit)
      }
      this.#child.once('error', (error) => {
        this.stderr += error.message
        end(127, null)
      })
      this.#child.once('close', end)
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** Undefined while it runs. */
  get exit(): ProgramExit | undefined {
    return this.#exit
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** To its stdin. */
  write(text: string): void {
    this.#child.stdin?.write(text)
  }

  /** Ends its stdin. */
  end(): void {
    this.#child.stdin?.end()
  }

  /** Every event so far. */
  get events(): readonly ProgramEvent[] {
    return this.#events
  }

  /**
   * The first event of this name, with `accept` the first that it accepts, past or future.
   *
   * @throws Error with its output when it ends before
   */
  async event(name: string, accept: (event: ProgramEvent) => boolean = () => true): Promise<ProgramEvent> {
    for (;;) {
      const found = this.#events.find((event) => event.event === name && accept(event))
      if (found) return found
      await this.#news(`the event "${name}"`)
    }
  }

  /** Resolves when stderr matches. */
  async says(pattern: RegExp): Promise<void> {
    while (!pattern.test(this.stderr)) await this.#news(`${pattern} on stderr`)
  }

  /**
   * Its end, which must be in order: exit code 0.
   *
   * @throws Error with its output otherwise
   */
  async finished(): Promise<ProgramExit> {
    const exit = await this.exited
    if (exit.code !== 0) throw new Error(`the program ended with ${exit.signal ?? exit.code}; ${this.#output()}`)
    return exit
  }

  /** Kills it if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.kill('SIGKILL')
    await this.exited
  }

  async #news(what: string): Promise<void> {
    if (this.#exit !== undefined) throw new Error(`the program ended with ${this.#exit.signal ?? this.#exit.code} before ${what}; ${this.#output()}`)
    await new Promise<void>((resolve) => this.#waiters.push(resolve))
  }

  #output(): string {
    return `stdout:\n${this.stdout}\nstderr:\n${this.stderr}`
  }

  #read(text: string): void {
    this.stdout += text
    const lines = (this.#partial + text).split('\n')
    this.#partial = lines.pop() ?? ''
    for (const line of lines) {
      const json = EVENT_LINE.exec(line)?.[1]
      if (json !== undefined) this.#events.push(JSON.parse(json) as ProgramEvent)
    }
    this.#wake()
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) waiter()
  }
}
