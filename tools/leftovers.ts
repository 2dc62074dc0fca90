/**
 * Setup of each test file that starts real processes. The file gets a temporary folder of its own through BEAMLINE_TMPDIR, which everything it
 * starts inherits; at its end no process with that variable, no session in that folder and no shared memory of those sessions may be left. What goes away by
 * itself has five seconds to do so. Processes are found on Linux only.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll } from 'vitest'

const graceMs = 5_000
const folder = mkdtempSync(join(tmpdir(), 'bl-'))
process.env['BEAMLINE_TMPDIR'] = folder
const before = new Set(sharedMemory())

afterAll(async () => {
  const deadline = performance.now() + graceMs
  let left = leftovers()
  while (left.length > 0 && performance.now() < deadline) {
    await delay(50)
    left = leftovers()
  }
  for (const pid of ownProcesses()) kill(Number(pid))
  rmSync(folder, { recursive: true, force: true })
  if (left.length > 0) throw new Error(`left behind ${graceMs / 1_000} s after the last test of this file:\n${left.join('\n')}`)
}, graceMs + 10_000)

function leftovers(): string[] {
  const sessions = list(folder).flatMap((user) => list(join(folder, user)).map((session) => join(folder, user, session)))
  return [
    ...ownProcesses().map((pid) => `process ${pid}: ${text(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')}`),
    ...sessions.map((path) => `session ${path}`),
    ...sharedMemory()
      .filter((path) => !before.has(path) && !inUse(path))
      .map((path) => `shared memory ${path}`),
  ]
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended between the look and the signal.
  }
}

function ownProcesses(): string[] {
  return list('/proc').filter((name) => /^\d+$/.test(name) && text(`/proc/${name}/environ`).split('\0').includes(`BEAMLINE_TMPDIR=${folder}`))
}

/** Store folders of this user, also those of clusters that have nothing to do with these tests. */
function sharedMemory(): string[] {
  return list('/dev/shm')
    .filter((name) => name.startsWith(`beamline-${process.getuid?.() ?? 0}-`))
    .map((name) => join('/dev/shm', name))
}

/** Whether a process that these tests did not start holds something in this folder: another cluster on the same machine. */
function inUse(path: string): boolean {
  return list('/proc').some(
    (pid) => /^\d+$/.test(pid) && !text(`/proc/${pid}/environ`).includes(folder) && (text(`/proc/${pid}/maps`) + text(`/proc/${pid}/cmdline`)).includes(path),
  )
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
