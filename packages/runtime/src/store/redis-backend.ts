/**
 * A control store in Redis or Valkey. What is acknowledged is as durable as the server's settings make it: see {@link RedisBackend.open}.
 *
 * One connection asks, another one listens. The server's replication is asynchronous: after a failover acknowledged writes can be missing unless
 * `replicas=N` in the URL makes each write wait for N of them, and even then Redis promises no consensus. The head's epoch has a random guard, so that two
 * heads never take each other's writes for their own.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Redis, type RedisOptions } from 'ioredis'
import { BeamlineError } from '../errors.ts'
import { type Backend, type Changes, ConnectionLost, type Group, type Scan } from './backend.ts'
import type { Change, Entry } from './control-store.ts'
import { REDIS_SCRIPT } from './redis-script.ts'
import { type Outcome, TRACES_KEPT, TRACES_SWEPT_EVERY } from './transaction.ts'

const FORMAT = '1'
const CALL_TIMEOUT_MS = 5_000
const CONNECT_TIMEOUT_MS = 5_000
const RECONNECT_MS = 20
const RECONNECT_MAX_MS = 500
/** A call waits so long for a connection that is being made. */
const READY_MS = 1_000
const REPLICAS_WAIT_MS = 2_000
/** Answers of a server that will be itself again, or of one that is not the primary any more. */
const PASSING = /^(LOADING|READONLY|MASTERDOWN|TRYAGAIN|BUSY|CLUSTERDOWN|UNKILLABLE|NOREPLICAS)\b/

const SCRIPT_DIGEST = createHash('sha1').update(REDIS_SCRIPT).digest('hex')

type Reply = Buffer | number | null | Reply[]

export interface RedisBackendOptions {
  /** For ioredis. */
  readonly url: string
  /** For people. */
  readonly shown: string
  /** Start of all its keys, so that several clusters can share a server. */
  readonly name: string
  /** Acknowledgements of so many replicas for each write. */
  readonly replicas: number
  readonly warn: (text: string) => void
}

export class RedisBackend implements Backend {
  readonly shared: boolean = true
  readonly #options: RedisBackendOptions
  readonly #redis: Redis
  readonly #keys: readonly string[]
  readonly #channel: string
  readonly #followers = new Set<() => void>()
  #subscriber: Redis | undefined
  #lastError = 'no connection'
  readonly #closed = new AbortController()

  constructor(options: RedisBackendOptions) {
    this.#options = options
    const { name } = options
    // Braces: one slot, wherever slots are.
    this.#keys = ['meta', 'values', 'revisions', 'traces', 'keys', 'leases', 'tokens'].map((part) => `{${name}}:${part}`)
    this.#channel = `{${name}}:changes`
    this.#redis = this.#connect()
  }

  #connect(): Redis {
    const settings = {
      // A call fails at once when there is no connection, and is repeated by who knows whether it may be.
      lazyConnect: true,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      maxRetriesPerRequest: 0,
      commandTimeout: CALL_TIMEOUT_MS,
      connectTimeout: CONNECT_TIMEOUT_MS,
      protocol: 2,
      replyMapping: 'legacy',
      retryStrategy: (times: number): number => Math.min(RECONNECT_MS * 2 ** Math.min(times, 10), RECONNECT_MAX_MS),
    } satisfies RedisOptions
    const redis = new Redis(this.#options.url, settings)
    redis.on('error', (error: Error) => {
      this.#lastError = error.message
    })
    return redis
  }

  /** Checks that the server is a primary and what its settings promise. */
  async open(): Promise<void> {
    const { warn, shown } = this.#options
    const meta = this.#keys[0]!
    const role = await this.#call('INFO', ['replication'])
    if (/^role:slave/m.test(String(role))) throw new BeamlineError('CONTROL_STORE_FAILED', { store: shown, reason: 'it is a replica; name its primary' })
    await this.#call('HSETNX', [meta, 'format', FORMAT])
    const format = String(await this.#call('HGET', [meta, 'format']))
    if (format !== FORMAT) {
      const reason = `it was written in format ${format}, and this version of Beamline reads format ${FORMAT}; use the version that wrote it, or another name (?name=…)`
      throw new BeamlineError('CONTROL_STORE_FAILED', { store: shown, reason })
    }
    for (const risk of risks(await this.#settings())) warn(`control store ${shown}: ${risk}`)
  }

  /** Undefined: the server does not tell; some that are run as a service do not. */
  async #settings(): Promise<ReadonlyMap<string, string> | undefined> {
    const settings = new Map<string, string>()
    for (const name of ['appendonly', 'appendfsync', 'maxmemory-policy']) {
      try {
        const [key, value] = (await this.#call('CONFIG', ['GET', name])) as Buffer[]
        if (key !== undefined) settings.set(String(key), String(value))
      } catch (error) {
        if (error instanceof ConnectionLost) throw error
        return undefined
      }
    }
    return settings
  }

  async commit({ client, sequence, transactions }: Group): Promise<Outcome[]> {
    const args: (string | Buffer)[] = [String(sequence), String(TRACES_KEPT), String(TRACES_SWEPT_EVERY), String(transactions.length)]
    for (const { conditions, operations } of transactions) {
      const parts = conditions.flatMap(({ key, revision, token }) => [
        ...(revision === undefined ? [] : [['revision', key, String(revision)]]),
        ...(token === undefined ? [] : [['token', key, token]]),
      ])
      args.push(String(parts.length), ...parts.flat(), String(operations.length))
      for (const operation of operations) {
        const { kind, key } = operation
        if (kind === 'put') args.push(kind, key, bufferOf(operation.value), operation.token ?? '', String(operation.ttlMs ?? 0))
        else args.push(kind, key, '', '', kind === 'renew' ? String(operation.ttlMs) : '0')
      }
    }
    const { replicas } = this.#options
    const [done, copies] = await Promise.all([
      this.#script('commit', args, client),
      replicas === 0 ? undefined : this.#call('WAIT', [String(replicas), String(REPLICAS_WAIT_MS)]),
    ])
    // Repeating it waits again: the script knows that the group was done.
    if (replicas > Number(copies ?? 0))
      throw new ConnectionLost(`${Number(copies)} of ${replicas} replicas acknowledged the write within ${REPLICAS_WAIT_MS} ms`)
    const [, ...outcomes] = String(done).split(' ')
    return outcomes.map((outcome) => (outcome === '-' ? undefined : Number(outcome)))
  }

  async get(key: string): Promise<Entry | undefined> {
    return toEntries((await this.#script('get', [key])) as Reply[], 1)[0]
  }

  async scan(prefix: string): Promise<Scan> {
    const reply = (await this.#script('scan', [prefix])) as Reply[]
    return { revision: Number(reply[0]), entries: toEntries(reply, 1) }
  }

  async changes(prefix: string, since: number): Promise<Changes> {
    const reply = (await this.#script('changes', [prefix, String(since)])) as Reply[]
    const [revision, due, traces] = reply.map(String)
    const changes = since < Number(traces) ? undefined : toChanges(reply, 3).toSorted((a, b) => a.revision - b.revision)
    return { revision: Number(revision), changes, nextDueMs: due === '' ? undefined : Number(due) }
  }

  async follow(wake: () => void): Promise<() => void> {
    this.#followers.add(wake)
    if (this.#subscriber === undefined) {
      const subscriber = this.#connect()
      this.#subscriber = subscriber
      const all = (): void => this.#wakeAll()
      subscriber.on('message', all)
      // Again after each break; what changed meanwhile is looked for.
      subscriber.on('ready', () => void subscriber.subscribe(this.#channel).then(all, () => {}))
      subscriber.connect().catch(() => {})
    }
    return () => void this.#followers.delete(wake)
  }

  close(): Promise<void> {
    this.#closed.abort()
    this.#subscriber?.disconnect()
    this.#redis.disconnect()
    return Promise.resolve()
  }

  #wakeAll(): void {
    for (const wake of this.#followers) wake()
  }

  /** Resolves when there is a connection, or after READY_MS. */
  async #connected(): Promise<void> {
    const redis = this.#redis
    if (redis.status === 'ready') return
    if (redis.status === 'wait') redis.connect().catch(() => {})
    await once(redis, 'ready', { signal: AbortSignal.any([this.#closed.signal, AbortSignal.timeout(READY_MS)]) }).catch(() => {})
  }

  async #script(call: string, args: readonly (string | Buffer)[], client: string = ''): Promise<Reply> {
    const keys = [...this.#keys, `{${this.#options.name}}:client:${client}`]
    const rest = [String(keys.length), ...keys, call, this.#channel, ...args]
    try {
      return await this.#call('EVALSHA', [SCRIPT_DIGEST, ...rest])
    } catch (error) {
      if (!(error instanceof BeamlineError) || !(error.cause as Error).message.startsWith('NOSCRIPT')) throw error
      return this.#call('EVAL', [REDIS_SCRIPT, ...rest])
    }
  }

  async #call(command: string, args: readonly (string | Buffer)[]): Promise<Reply> {
    await this.#connected()
    try {
      return (await this.#redis.callBuffer(command, [...args])) as Reply
    } catch (error) {
      throw this.#failure(error as Error)
    }
  }

  #failure(error: Error): Error {
    const { name, message } = error
    if (name === 'ReplyError' && !PASSING.test(message)) {
      return new BeamlineError('CONTROL_STORE_FAILED', { store: this.#options.shown, reason: message }, { cause: error })
    }
    // A connection that is silent, or leads to what is no primary any more, is given up.
    if (name === 'ReplyError' || message.includes('timed out')) this.#redis.disconnect(true)
    return new ConnectionLost(/enableOfflineQueue|closed|max retries/i.test(message) ? this.#lastError : message)
  }
}

/** What a server with such settings does not promise. */
export function risks(settings: ReadonlyMap<string, string> | undefined): string[] {
  if (settings === undefined) return ['its settings cannot be read; make sure that it keeps an append-only file and evicts nothing']
  const found: string[] = []
  const setting = (name: string): string => settings.get(name) ?? ''
  if (setting('appendonly') === 'no') {
    found.push('it keeps no append-only file, so a restart may lose what was acknowledged; set "appendonly yes" and "appendfsync always"')
  } else if (setting('appendfsync') !== 'always') {
    found.push(`"appendfsync ${setting('appendfsync')}" may lose the last acknowledged second when its machine dies; set "appendfsync always"`)
  }
  if (!['noeviction', ''].includes(setting('maxmemory-policy')) && !setting('maxmemory-policy').startsWith('volatile')) {
    found.push(`"maxmemory-policy ${setting('maxmemory-policy')}" may evict what the cluster needs; set "maxmemory-policy noeviction"`)
  }
  return found
}

const bufferOf = (value: Uint8Array): Buffer => Buffer.from(value.buffer, value.byteOffset, value.byteLength)

function toChanges(reply: readonly Reply[], from: number): Change[] {
  const changes: Change[] = []
  for (let i = from; i + 2 < reply.length; i += 3) {
    changes.push({ key: String(reply[i]), revision: Number(reply[i + 1]), value: (reply[i + 2] as Buffer | null) ?? undefined })
  }
  return changes
}

function toEntries(reply: readonly Reply[], from: number): Entry[] {
  return toChanges(reply, from).flatMap(({ key, revision, value }) => (value === undefined ? [] : [{ key, revision, value }]))
}
