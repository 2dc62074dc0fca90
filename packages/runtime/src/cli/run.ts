/**
 * `beamline run FILE [ARGS]`: run a program against the head that runs, or with a cluster of its own when none does.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { findCurrentHead } from '../daemon/session.ts'
import { CommandError, EXIT } from './exit.ts'

/** @returns the program's exit status; 128 + signal when a signal ended it */
export async function run(file: string, args: readonly string[], address: string | undefined): Promise<number> {
  if (!existsSync(file)) throw new CommandError(EXIT.failure, `there is no file ${file}`)
  const found = address ?? (process.env['BEAMLINE_ADDRESS'] || findCurrentHead()?.address)
  const env = found === undefined ? process.env : { ...process.env, BEAMLINE_ADDRESS: found }
  const child = spawn(process.execPath, [...process.execArgv, file, ...args], { stdio: 'inherit', env })
  // A terminal sends Ctrl-C to the whole group; the program decides what it means, and this command waits for it.
  const onInterrupt = (): void => {}
  const onTerminate = (): void => void child.kill('SIGTERM')
  process.on('SIGINT', onInterrupt)
  process.on('SIGTERM', onTerminate)
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  child.once('error', (error) => reject(new CommandError(EXIT.failure, `${file} could not be started: ${error.message}`)))
  child.once('exit', (code, signal) => resolve(signal === null ? (code ?? EXIT.failure) : 128 + constants.signals[signal]))
  try {
    return await promise
  } finally {
    process.off('SIGINT', onInterrupt)
    process.off('SIGTERM', onTerminate)
  }
}
