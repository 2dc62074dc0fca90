/** Runs a program of this package as a user would, on the Node that runs the tests, and gives back what it printed. */
import { execFile } from 'node:child_process'

export const ROOT: string = new URL('../..', import.meta.url).pathname

export interface Outcome {
  readonly code: number | string | null
  readonly stdout: string
  readonly stderr: string
}

export async function runProgram(file: string, timeoutMs: number): Promise<Outcome> {
  return await new Promise((resolve) => {
    const options = { cwd: ROOT, timeout: timeoutMs, env: { ...process.env, NO_COLOR: '1' } }
    execFile(process.execPath, ['--conditions=@beamline/source', file], options, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : (error.code ?? error.signal ?? null), stdout, stderr })
    })
  })
}
