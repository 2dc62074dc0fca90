/**
 * What the programs of a test file left: processes that inherited its temporary folder, sessions in that folder, and shared memory in its folder for
 * that. Processes are found on Linux only.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** What goes away by itself has so long to do so. */
export const graceMs = 5_000

export class LeftBehind {
  readonly #folder: string
  readonly #store: string

  /**
   * @param folder - BEAMLINE_TMPDIR of everything that the tests start
   * @param store - its BEAMLINE_STORE_DIR
   */
  constructor(folder: string, store: string) {
    this.#folder = folder
    this.#store = store
  }

  /** What is left once everything had time to go; usually nothing, at once. */
  async found(): Promise<string[]> {
    const deadline = performance.now() + graceMs
    let left = this.#list()
    while (left.length > 0 && performance.now() < deadline) {
      await delay(50)
      left = this.#list()
    }
    return left
  }

  /** Ends what still runs. */
  kill(): void {
    for (const pid of this.#processes()) kill(Number(pid))
  }

  #list(): string[] {
    const sessions = list(this.#folder).flatMap((user) =>
      list(join(this.#folder, user))
        .filter((name) => /^[0-9a-f]{16}$/.test(name))
        .map((session) => join(this.#folder, user, session)),
    )
    return [
      ...this.#processes().map((pid) => `process ${pid}: ${text(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`),
      ...sessions.map((path) => `session ${path}`),
      ...list(this.#store).map((name) => `shared memory ${join(this.#store, name)}`),
    ]
  }

  #processes(): string[] {
    return list('/proc').filter(
      (name) => /^\d+$/.test(name) && Number(name) !== process.pid && text(`/proc/${name}/environ`).split('\0').includes(`BEAMLINE_TMPDIR=${this.#folder}`),
    )
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended between the look and the signal.
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
