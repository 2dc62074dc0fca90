/** How a worker ended, for those who learn of it. */
import type { Failure } from '../net/gen/node.ts'
import type { WorkerExit } from './events.ts'
import type { Worker } from './node-tables.ts'

export function exitText(exit: WorkerExit): string {
  if (exit.signal !== null) return `was ended by signal ${exit.signal}`
  return exit.code === null ? 'could not be started' : `exited with code ${exit.code}`
}

/** The cause that holders of a dead worker see. Facts of the task are filled in by its owner. */
export function workerFailure(worker: Worker, exit: WorkerExit): Failure {
  const byKernel = worker.stopReason === '' ? exit.memory : undefined
  const memory = worker.memory ?? byKernel
  const outOfHeap =
    worker.stopReason === '' &&
    (/JavaScript heap out of memory|allocation failed|std::bad_alloc/i.test(exit.stderr) || (exit.code === 134 && exit.stderr === ''))
  const facts = memory && { memory }
  const ended = byKernel === undefined ? exitText(exit) : 'was ended by the kernel, which had no memory left'
  const how = worker.stopReason === '' ? ended : `was ended by Beamline: ${worker.stopReason}`
  const stderr = worker.stopReason === '' ? exit.stderr : ''
  return {
    code: outOfHeap || memory !== undefined ? 'OUT_OF_MEMORY' : 'WORKER_CRASHED',
    detailsJson: JSON.stringify({ task: '', worker: worker.id, pid: worker.pid, how, stderr, ...facts }),
  }
}
