/**
 * The command: `npm run release-tests -- --help`.
 */
import { main } from './src/runner.ts'

const stop = new AbortController()
let exitCodeOfSignal = 1
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => {
    exitCodeOfSignal = code
    stop.abort()
  })
}

try {
  process.exitCode = await main(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, signal: stop.signal })
} catch (error) {
  if (!stop.signal.aborted) throw error
  process.exitCode = exitCodeOfSignal
}
