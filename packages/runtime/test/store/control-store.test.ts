import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe } from 'vitest'
import type { Backend } from '../../src/store/backend.ts'
import { MemoryBackend } from '../../src/store/memory-backend.ts'
import { SqliteBackend } from '../../src/store/sqlite-backend.ts'
import { StoreClient } from '../../src/store/store-client.ts'
import { controlStoreContract } from './contract.ts'

/** Several clients of an engine that one process has for itself. */
function clientOf(backend: Backend, url: string): StoreClient {
  return new StoreClient({ ...forwarded(backend), close: () => Promise.resolve() }, { url, retryMs: 5_000 })
}

function forwarded(backend: Backend): Backend {
  return {
    shared: backend.shared,
    commit: (group) => backend.commit(group),
    get: (key) => backend.get(key),
    scan: (prefix) => backend.scan(prefix),
    changes: (prefix, since) => backend.changes(prefix, since),
    follow: (wake) => backend.follow(wake),
    close: () => backend.close(),
  }
}

describe('memory', () => {
  const backend = new MemoryBackend()
  controlStoreContract(() => Promise.resolve(clientOf(backend, 'memory:')))
})

describe('sqlite', () => {
  const dir = mkdtempSync(join(tmpdir(), 'beamline-store-'))
  let backend: SqliteBackend
  beforeAll(async () => {
    backend = await SqliteBackend.open(join(dir, 'control.db'))
  })
  afterAll(async () => {
    await backend.close()
    rmSync(dir, { recursive: true, force: true })
  })
  controlStoreContract(() => Promise.resolve(clientOf(backend, 'sqlite:')))
})
