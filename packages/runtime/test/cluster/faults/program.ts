/**
 * Programs under test: plain Node programs that tests start, listen to (events are lines of JSON on stdout), and end.
 *
 * A program that is still there when its test ends is killed. After each test nothing that it started may be left.
 */
import { readFileSync } from 'node:fs'
import { afterEach, expect, onTestFinished } from 'vitest'
import { graceMs, LeftBehind } from '../../../../../tools/left-behind.ts'
import { type ProgramEvent as Event, type ProgramExit as Exit, Program as AnyProgram } from '../../../src/testing/program.ts'

export type { Event }

const leftBehind = new LeftBehind(process.env['BEAMLINE_TMPDIR'] ?? '', process.env['BEAMLINE_STORE_DIR'] ?? '')

afterEach(async () => {
  const left = await leftBehind.found()
  leftBehind.kill()
  expect(left, `left behind ${graceMs / 1_000} s after the test`).toEqual([])
}, graceMs + 10_000)

export interface ProgramOptions {
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Flags of Node. */
  readonly flags?: readonly string[]
  /** Command in front of Node, such as one that changes its view of the file system. */
  readonly under?: readonly string[]
}

export class Program extends AnyProgram {
  /** @param fixture - file in fixtures/ */
  constructor(fixture: string, options: ProgramOptions = {}) {
    const { args = [], env = {}, flags = [], under = [] } = options
    const file = new URL(`./fixtures/${fixture}`, import.meta.url).pathname
    super([...under, process.execPath, '--conditions=@beamline/source', ...flags, file, ...args], { env })
    onTestFinished(async () => {
      await this[Symbol.asyncDispose]()
    })
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
