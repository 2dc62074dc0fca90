/** A control store by its URL. What an engine needs is loaded with the first store of its kind. */
import { isAbsolute } from 'node:path'
import { BeamlineError } from '../errors.ts'
import type { Backend } from './backend.ts'
import type { ControlStore } from './control-store.ts'
import { StoreClient } from './store-client.ts'

const RETRY_MS = 30_000

export interface OpenStoreOptions {
  /** How long a call repeats itself without an answer. Default 30 s. */
  readonly retryMs?: number
  /** Told what the store's own settings put at risk. */
  readonly warn: (text: string) => void
}

/**
 * `memory:`, `sqlite:/PATH`, `redis://HOST:PORT/DATABASE`, `rediss://…` (TLS) or `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
 *
 * @throws {@link BeamlineError} `INVALID_ARGUMENT`, `CONTROL_STORE_UNREACHABLE`, `CONTROL_STORE_IN_USE`, `CONTROL_STORE_FAILED`
 */
export async function openStore(url: string, options: OpenStoreOptions): Promise<ControlStore> {
  const shown = withoutPassword(url)
  return new StoreClient(await openBackend(url, shown, options), { url: shown, retryMs: options.retryMs ?? RETRY_MS })
}

async function openBackend(url: string, shown: string, { warn }: OpenStoreOptions): Promise<Backend> {
  void warn
  const scheme = url.slice(0, url.indexOf(':') + 1)
  if (url === 'memory:') return new (await import('./memory-backend.ts')).MemoryBackend()
  if (scheme === 'sqlite:') {
    const path = url.slice(scheme.length)
    if (isAbsolute(path)) return (await import('./sqlite-backend.ts')).SqliteBackend.open(path)
  }
  throw new BeamlineError('INVALID_ARGUMENT', {
    what: 'the URL of the control store',
    got: JSON.stringify(shown),
    expected: 'memory:, sqlite:/PATH, redis://HOST:PORT, rediss://HOST:PORT or postgres://USER:PASSWORD@HOST:PORT/DATABASE',
  })
}

function withoutPassword(url: string): string {
  if (!URL.canParse(url)) return url
  const parsed = new URL(url)
  if (parsed.password === '') return url
  parsed.password = '***'
  return parsed.href
}
