/** The thread of a SQLite control store: requests in, answers out, in order. A slow disk holds up this thread and nothing else. */
import { parentPort, workerData } from 'node:worker_threads'
import { BeamlineError, type ErrorCode } from '../errors.ts'
import { SqliteTables } from './sqlite-tables.ts'
import type { Transaction } from './transaction.ts'

export type SqliteCall =
  | { readonly kind: 'commit'; readonly transactions: readonly Transaction[] }
  | { readonly kind: 'get'; readonly key: string }
  | { readonly kind: 'scan'; readonly prefix: string }
  | { readonly kind: 'changes'; readonly prefix: string; readonly since: number }
  | { readonly kind: 'close' }

/** What the method of {@link SqliteTables} returned, or its failure. The first one, 0, says that the file is open. */
export interface SqliteAnswer {
  readonly request: number
  readonly value?: unknown
  readonly failure?: { readonly code: ErrorCode; readonly details: BeamlineError['details'] }
}

const port = parentPort!

function answer(request: number, work: () => unknown): void {
  try {
    port.postMessage({ request, value: work() } satisfies SqliteAnswer)
  } catch (error) {
    const { code, details } = BeamlineError.is(error) ? error : new BeamlineError('INTERNAL', { what: String((error as Error).stack) })
    port.postMessage({ request, failure: { code, details } } satisfies SqliteAnswer)
  }
}

let tables: SqliteTables | undefined

function run(call: SqliteCall): unknown {
  switch (call.kind) {
    case 'commit':
      return tables!.commit(call.transactions)
    case 'get':
      return tables!.get(call.key)
    case 'scan':
      return tables!.scan(call.prefix)
    case 'changes':
      return tables!.changes(call.prefix, call.since)
    case 'close':
      tables?.close()
      // Nothing keeps the thread any more. Until then it stays, so that no answer is lost with it.
      return port.close()
  }
}

port.on('message', ({ request, call }: { request: number; call: SqliteCall }) => answer(request, () => run(call)))
answer(0, () => {
  tables = new SqliteTables(workerData as string)
})
