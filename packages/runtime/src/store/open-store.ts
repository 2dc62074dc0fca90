/** A control store by its URL. What an engine needs is loaded with the first store of its kind. */
import { isAbsolute } from 'node:path'
import { BeamlineError } from '../errors.ts'
import type { Backend } from './backend.ts'
import type { ControlStore } from './control-store.ts'
import { StoreClient } from './store-client.ts'

const RETRY_MS = 30_000
/** Keys and tables start so. */
const NAME = 'beamline'

export interface OpenStoreOptions {
  /** How long a call repeats itself without an answer. Default 30 s. */
  readonly retryMs?: number
  /** Told what the store's own settings put at risk. */
  readonly warn: (text: string) => void
}

/**
 * - `memory:` gone with the process;
 * - `sqlite:/PATH` a file of this machine, for one process at a time;
 * - `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` with TLS; `?replicas=N` waits for N replicas at each write;
 * - `postgres://[USER:PASSWORD@]HOST[:PORT]/DATABASE`; parameters are those of libpq, such as `sslmode`.
 *
 * With `?name=NAME` several clusters share a Redis or PostgreSQL database.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT`, `CONTROL_STORE_UNREACHABLE`, `CONTROL_STORE_IN_USE`, `CONTROL_STORE_FAILED`
 */
export async function openStore(url: string, options: OpenStoreOptions): Promise<ControlStore> {
  const { retryMs = RETRY_MS, warn } = options
  const shown = withoutPassword(url)
  return StoreClient.open(await backendOf(url, shown, warn), { url: shown, retryMs })
}

async function backendOf(url: string, shown: string, warn: (text: string) => void): Promise<Backend> {
  const scheme = url.slice(0, url.indexOf(':') + 1)
  const path = url.slice(scheme.length)
  if (url === 'memory:') return new (await import('./memory-backend.ts')).MemoryBackend()
  if (scheme === 'sqlite:' && isAbsolute(path)) return new (await import('./sqlite-backend.ts')).SqliteBackend(path)
  const server = URL.canParse(url) ? new URL(url) : undefined
  const name = take(server, 'name') ?? NAME
  const named = /^[a-z][a-z0-9_]{0,39}$/.test(name)
  if (server !== undefined && named && (scheme === 'redis:' || scheme === 'rediss:')) {
    const replicas = Number(take(server, 'replicas') ?? 0)
    const { RedisBackend } = await import('./redis-backend.ts')
    if (Number.isInteger(replicas) && replicas >= 0) return new RedisBackend({ url: server.href, shown, name, replicas, warn })
  }
  if (server !== undefined && named && (scheme === 'postgres:' || scheme === 'postgresql:')) {
    const { PostgresBackend } = await import('./postgres-backend.ts')
    return new PostgresBackend({ url: server.href, shown, name, warn })
  }
  throw new BeamlineError('INVALID_ARGUMENT', {
    what: 'the URL of the control store',
    got: JSON.stringify(shown),
    expected:
      'memory:, sqlite:/PATH, redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or postgres://USER:PASSWORD@HOST:PORT/DATABASE; parameters: name (a-z, 0-9, _), and replicas (a number) for Redis',
  })
}

/** Our own parameters are none of the engine's. */
function take(url: URL | undefined, parameter: string): string | undefined {
  const value = url?.searchParams.get(parameter) ?? undefined
  url?.searchParams.delete(parameter)
  return value
}

/** Both engines take a password as a parameter, too. */
function withoutPassword(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined
  if (parsed === undefined || (parsed.password === '' && !parsed.searchParams.has('password'))) return url
  if (parsed.password !== '') parsed.password = '***'
  if (parsed.searchParams.has('password')) parsed.searchParams.set('password', '***')
  return parsed.href
}
