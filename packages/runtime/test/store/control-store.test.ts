import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe } from 'vitest'
import type { Backend } from '../../src/store/backend.ts'
import type { ControlStore } from '../../src/store/control-store.ts'
import { MemoryBackend } from '../../src/store/memory-backend.ts'
import { openStore } from '../../src/store/open-store.ts'
import { SqliteBackend } from '../../src/store/sqlite-backend.ts'
import { StoreClient } from '../../src/store/store-client.ts'
import { noPostgres, noRedis, postgresServer, redisServer, type Server } from '../servers.ts'
import { controlStoreContract } from './contract.ts'

/** One of several clients of an engine that a process has for itself; closing the client leaves the engine. */
function clientOf(backend: Backend, url: string): Promise<ControlStore> {
  const shared: Backend = {
    shared: backend.shared,
    open: () => backend.open(),
    commit: (group) => backend.commit(group),
    get: (key) => backend.get(key),
    scan: (prefix) => backend.scan(prefix),
    changes: (prefix, since) => backend.changes(prefix, since),
    follow: (wake) => backend.follow(wake),
    close: () => Promise.resolve(),
  }
  return StoreClient.open(shared, { url, retryMs: 5_000 })
}

function onServer(start: () => Promise<Server>): () => Promise<ControlStore> {
  let server: Server
  beforeAll(async () => {
    server = await start()
  })
  afterAll(() => server.close())
  return () => openStore(server.url, { warn: () => {}, retryMs: 5_000 })
}

describe('memory', () => {
  const backend = new MemoryBackend()
  controlStoreContract(() => clientOf(backend, 'memory:'))
})

describe('SQLite', () => {
  const dir = mkdtempSync(join(tmpdir(), 'beamline-store-'))
  const backend = new SqliteBackend(join(dir, 'control.db'))
  afterAll(async () => {
    await backend.close()
    rmSync(dir, { recursive: true, force: true })
  })
  controlStoreContract(() => clientOf(backend, 'sqlite:'))
})

describe.skipIf(noRedis)('Redis', () => {
  controlStoreContract(onServer(redisServer))
})

describe.skipIf(noPostgres)('PostgreSQL', () => {
  controlStoreContract(onServer(postgresServer))
})
