/**
 * What the programs of a test file left: processes that inherited its temporary folder, sessions in that folder, and shared memory of those
 * sessions. Processes are found on Linux only.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** What goes away by itself has so long to do so. */
export const graceMs = 5_000

export class LeftBehind {
  readonly #folder: string
  readonly #before: ReadonlySet<string> = new Set(sharedMemory())

  /** @param folder - BEAMLINE_TMPDIR of everything that the tests start */
  constructor(folder: string) {
    this.#folder = folder
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
      ...sharedMemory()
        .filter((path) => !this.#before.has(path) && !this.#isForeign(path))
        .map((path) => `shared memory ${path}`),
    ]
  }

  #processes(): string[] {
    return list('/proc').filter(
      (name) => /^\d+$/.test(name) && Number(name) !== process.pid && text(`/proc/${name}/environ`).split('\0').includes(`BEAMLINE_TMPDIR=${this.#folder}`),
    )
  }

  /** Whether a process that these tests did not start uses this folder: another cluster on the same machine. */
  #isForeign(path: string): boolean {
    return list('/proc').some((pid) => {
      if (!/^\d+$/.test(pid)) return false
      const environment = text(`/proc/${pid}/environ`)
      return !environment.includes(this.#folder) && (environment.includes(path) || text(`/proc/${pid}/maps`).includes(path))
    })
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended between the look and the signal.
  }
}

/** Store folders of this user, also those of clusters that have nothing to do with these tests. */
function sharedMemory(): string[] {
  return list('/dev/shm')
    .filter((name) => name.startsWith(`beamline-${process.getuid?.() ?? 0}-`))
    .map((name) => join('/dev/shm', name))
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
