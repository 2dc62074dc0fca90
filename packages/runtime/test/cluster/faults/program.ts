/**
 * Programs under test: plain Node programs that tests start, listen to (events are lines of JSON on stdout), and end.
 *
 * A program that is still there when its test ends is killed. After each test nothing that it started may be left.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { afterEach, expect, onTestFinished } from 'vitest'
import { graceMs, LeftBehind } from '../../../../../tools/left-behind.ts'

const leftBehind = new LeftBehind(process.env['BEAMLINE_TMPDIR'] ?? '')

afterEach(async () => {
  const left = await leftBehind.found()
  leftBehind.kill()
  expect(left, `left behind ${graceMs / 1_000} s after the test`).toEqual([])
}, graceMs + 10_000)

export interface Event {
  readonly event: string
  /** Pid of the process that told it. */
  readonly by: number
  readonly [fact: string]: unknown
}

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stderr: string
  readonly stdout: string
}

export interface ProgramOptions {
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Flags of Node. */
  readonly flags?: readonly string[]
  /** Command in front of Node, such as one that changes its view of the file system. */
  readonly under?: readonly string[]
}

const EVENT_LINE = /^(?:\(.* pid=\d+\) )?(\{"event":.*\})$/

export class Program {
  readonly #child: ChildProcess
  readonly #events: Event[] = []
  #waiters: (() => void)[] = []
  #partial = ''
  #ended = false
  stdout = ''
  stderr = ''
  readonly exited: Promise<Exit>

  /** @param fixture - file in fixtures/ */
  constructor(fixture: string, options: ProgramOptions = {}) {
    const { args = [], env = {}, flags = [], under = [] } = options
    const file = new URL(`./fixtures/${fixture}`, import.meta.url).pathname
    const [command = '', ...rest] = [...under, process.execPath, '--conditions=@beamline/source', ...flags, file, ...args]
    this.#child = spawn(command, rest, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, NODE_OPTIONS: '', ...env } })
    this.#child.stdin?.on('error', () => undefined)
    this.#child.stdout?.on('data', (chunk: Buffer) => this.#read(chunk.toString()))
    this.#child.stderr?.on('data', (chunk: Buffer) => {
      this.stderr += chunk.toString()
    })
    this.exited = new Promise((resolve) =>
      this.#child.on('close', (code, signal) => {
        this.#ended = true
        this.#wake()
        resolve({ code, signal, stdout: this.stdout, stderr: this.stderr })
      }),
    )
    onTestFinished(async () => {
      this.kill('SIGKILL')
      await this.exited
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
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
  get events(): readonly Event[] {
    return this.#events
  }

  /** The first event of this name, with `accept` the first that it accepts, past or future. */
  async event(name: string, accept: (event: Event) => boolean = () => true): Promise<Event> {
    for (;;) {
      const found = this.#events.find((event) => event.event === name && accept(event))
      if (found) return found
      await this.#news(`the event "${name}"`)
    }
  }

  /** Resolves when stderr matches. */
  async says(pattern: RegExp): Promise<void> {
    this.#child.stderr?.on('data', () => this.#wake())
    while (!pattern.test(this.stderr)) await this.#news(`${pattern} on stderr`)
  }

  async #news(what: string): Promise<void> {
    if (this.#ended) throw new Error(`the program ended before ${what}; stdout:\n${this.stdout}\nstderr:\n${this.stderr}`)
    await new Promise<void>((resolve) => this.#waiters.push(resolve))
  }

  #read(text: string): void {
    this.stdout += text
    const lines = (this.#partial + text).split('\n')
    this.#partial = lines.pop() ?? ''
    for (const line of lines) {
      const json = EVENT_LINE.exec(line)?.[1]
      if (json !== undefined) this.#events.push(JSON.parse(json) as Event)
    }
    this.#wake()
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) waiter()
  }
}

/** Runs a program to its end, which must be in order: exit code 0 and nothing on stderr that is not expected. */
export async function finished(program: Program, stderr: RegExp = /^$/): Promise<Exit> {
  const exit = await program.exited
  if (exit.code !== 0 || exit.signal !== null || !stderr.test(exit.stderr)) {
    throw new Error(`the program ended with ${exit.signal ?? exit.code}; stdout:\n${exit.stdout}\nstderr:\n${exit.stderr}`)
  }
  return exit
}

/** True once no such process runs; one that only waits for its parent to notice runs no more. */
export function isGone(pid: number): boolean {
  try {
    return /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return true
  }
}
