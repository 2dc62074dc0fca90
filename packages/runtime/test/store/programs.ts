/** Programs of the fixtures folder as processes, and what they tell line by line. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export type Line = Record<string, unknown>

export class Program {
  readonly lines: Line[] = []
  readonly exited: Promise<void>
  readonly #child: ChildProcess
  #waiting: (() => void)[] = []
  #ended = false

  constructor(fixture: string, args: readonly string[], wrap: readonly string[] = []) {
    const file = new URL(`./fixtures/${fixture}.ts`, import.meta.url).pathname
    const [command, ...rest] = [...wrap, process.execPath, '--conditions=@beamline/source', file, ...args]
    this.#child = spawn(command!, rest, { stdio: ['pipe', 'pipe', 'inherit'] })
    const wake = (): void => {
      for (const one of this.#waiting.splice(0)) one()
    }
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      this.lines.push(JSON.parse(line) as Line)
      wake()
    })
    this.exited = new Promise((resolve) =>
      this.#child.once('close', () => {
        this.#ended = true
        wake()
        resolve()
      }),
    )
  }

  get pid(): number {
    return this.#child.pid!
  }

  send(line: string): void {
    this.#child.stdin!.write(`${line}\n`)
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.exited
  }

  /** The first line, of those already told and those to come, that matches. */
  async line(matches: (line: Line) => boolean): Promise<Line> {
    for (;;) {
      const found = this.lines.find(matches)
      if (found !== undefined) return found
      if (this.#ended) throw new Error(`the program ended; it told ${JSON.stringify(this.lines.slice(-5))}`)
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  event(name: string): Promise<Line> {
    return this.line(({ event }) => event === name)
  }
}
