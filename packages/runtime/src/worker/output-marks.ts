/**
 * Says in the output of a worker which task prints: a mark in front of what it prints, which the daemon takes out again. Output that
 * does not pass `process.stdout` and `process.stderr` (of native code, of child processes) counts as that of the task before.
 */
import { runningTask } from '../core/running-task.ts'
import { OUTPUT_MARK } from '../daemon/bootstrap.ts'

export function markOutput(): void {
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream) as (...args: unknown[]) => boolean
    let marked = ''
    stream.write = ((...args: unknown[]) => {
      const name = runningTask()?.name ?? marked
      if (name !== marked) {
        marked = name
        write(`${OUTPUT_MARK}${name.replaceAll('\n', ' ')}\n`)
      }
      return write(...args)
    }) as typeof stream.write
  }
}
