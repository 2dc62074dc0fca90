import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { ControlStore } from '../../src/store/control-store.ts'
import { HeadLease } from '../../src/store/head-lease.ts'
import { openStore } from '../../src/store/open-store.ts'
import { risks } from '../../src/store/redis-backend.ts'
import { noPostgres, noRedis, postgresServer, redisServer, type Server } from '../servers.ts'
import { Told } from './contract.ts'
import { Program } from './programs.ts'
import { Relay } from './relay.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (value: Uint8Array | undefined): string | undefined => (value === undefined ? undefined : new TextDecoder().decode(value))

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup()
})

async function open(url: string, retryMs: number = 20_000): Promise<ControlStore> {
  const store = await openStore(url, { warn: () => {}, retryMs })
  cleanups.push(() => store.close())
  return store
}

function program(fixture: string, args: readonly string[], wrap?: readonly string[]): Program {
  const started = new Program(fixture, args, wrap)
  cleanups.push(() => started.kill())
  return started
}

const self = (node: string, ttlMs: number) => ({ cluster: 'c', node, address: `${node}:1`, ttlMs, host: node, pid: process.pid, started: '' })
const everyProcessLives = (): boolean => true

/** Everything that was acknowledged is there, and nothing but the one write after it. */
async function expectAcknowledged(store: ControlStore, acknowledged: number): Promise<void> {
  const last = Number(text((await store.get('last'))?.value))
  expect(acknowledged).toBeGreaterThan(10)
  expect([acknowledged, acknowledged + 1]).toContain(last)
  const numbers = (await store.scan('n/')).map(({ value }) => Number(text(value))).toSorted((a, b) => a - b)
  expect(numbers).toEqual(Array.from({ length: last }, (_, index) => index + 1))
}

function onServers(start: () => Promise<Server>): void {
  let server: Server
  let names = 0
  /** A store of its own for each test. */
  const named = (base: string = server.url): string => `${base}${base.includes('?') ? '&' : '?'}name=f${++names}`
  const relayed = async (): Promise<{ relay: Relay; url: string; direct: string }> => {
    const port = Number(new URL(server.url).port)
    const relay = await Relay.start(port)
    cleanups.push(() => relay.close())
    const direct = named()
    return { relay, direct, url: direct.replace(`:${port}/`, `:${relay.port}/`) }
  }

  beforeAll(async () => {
    server = await start()
  })
  afterAll(() => server.close())

  test('a server killed in the middle of writes has all that it acknowledged, and the writer goes on', async () => {
    const url = named()
    const writer = program('writer', [url])
    for (const round of [1, 2]) {
      const before = writer.lines.length
      await writer.line(({ acknowledged }) => Number(acknowledged) === before + 20 * round)
      await server.kill()
      await server.start()
    }
    const before = writer.lines.length
    await writer.line(({ acknowledged }) => Number(acknowledged) === before + 20)
    await writer.kill()
    await expectAcknowledged(await open(url), writer.lines.length)
  })

  test('a compareAndSet whose answer is lost is done once and tells its revision', async () => {
    const { relay, url, direct } = await relayed()
    const [store, other] = [await open(url), await open(direct)]
    let revision = 0
    for (let round = 1; round <= 5; round++) {
      const lost = relay.loseAnswerTo(/EVALSHA|COMMIT/)
      const next = await store.compareAndSet('a', revision, bytes(String(round)))
      await lost
      expect(next).toBe(round)
      expect((await other.get('a'))?.revision).toBe(round)
      revision = next!
    }
  })

  test('a lease whose answer is lost is held by who asked', async () => {
    const { relay, url, direct } = await relayed()
    const [store, other] = [await open(url), await open(direct)]
    const lost = relay.loseAnswerTo(/EVALSHA|COMMIT/)
    const lease = (await store.lease('head', bytes('x'), 60_000))!
    await lost
    expect(lease.held).toBe(true)
    expect(await lease.renew()).toBe(true)
    expect(await other.lease('head', bytes('y'), 60_000)).toBeUndefined()
    await store.write([{ key: 'a', value: bytes('1') }], lease)
  })

  test('connections cut again and again: each of many additions is done once', async () => {
    const { relay, url, direct } = await relayed()
    const store = await open(url)
    let revision = 0
    for (let number = 1; number <= 100; number++) {
      // Somewhere on the way there, in the middle or on the way back.
      if (number % 3 === 0) setTimeout(() => relay.cutAll(), number % 8)
      const next = await store.compareAndSet('n', revision, bytes(String(number)))
      expect(next).toBe(number)
      revision = next!
    }
    expect(text((await (await open(direct)).get('n'))?.value)).toBe('100')
  })

  test('a watch goes on over a cut and over a restart of the server, and misses nothing', async () => {
    const { relay, url, direct } = await relayed()
    const [watcher, writer] = [await open(url), await open(direct)]
    const told = new Told()
    await watcher.watch('w/', told.onChange)
    await writer.put('w/a', bytes('1'))
    await told.has('w/a=1')
    relay.cutAll()
    await writer.write([
      { key: 'w/a', value: undefined },
      { key: 'w/b', value: bytes('2') },
    ])
    await told.has('w/b=2')
    expect(told.texts).toContain('w/a=-')
    await server.kill()
    await server.start()
    await writer.put('w/c', bytes('3'))
    await told.has('w/c=3')
    expect(told.texts.filter((line) => line !== 'w/a=-').slice(-3)).toEqual(['w/a=1', 'w/b=2', 'w/c=3'])
    expect(new Set(told.texts).size).toBe(told.texts.length)
  })

  test('a store that stays silent is unreachable after the time to retry, and is used again when it wakes up', async () => {
    const url = named()
    const store = await open(url, 1_000)
    await store.put('a', bytes('1'))
    server.pause()
    try {
      await expect(store.put('a', bytes('2'))).rejects.toMatchObject({ code: 'CONTROL_STORE_UNREACHABLE', details: { store: url, call: 'put' } })
    } finally {
      server.resume()
    }
    const patient = await open(url)
    const revision = await patient.put('a', bytes('3'))
    // The second write reached the server or did not; not twice.
    expect([2, 3]).toContain(revision)
    expect(await store.put('a', bytes('4'))).toBe(revision + 1)
  }, 60_000)

  test('of heads started at once one leads, the others are told which; a head that stops in order is followed at once', async () => {
    const url = named()
    const heads = ['n1', 'n2', 'n3'].map((node) => program('head', [url, node, '1500']))
    const first = await Promise.race(heads.map(async (head) => head.event('leads').then(() => head)))
    const others = heads.filter((head) => head !== first)
    for (const other of others) {
      expect(await other.line(() => true)).toMatchObject({ event: 'failed', code: 'HEAD_EXISTS' })
      await other.exited
    }
    first.send('k')
    expect(await first.event('wrote')).toMatchObject({ isHead: true })
    await first.kill()
    // Its process is gone from this machine: the lease is not waited for.
    const next = program('head', [url, 'n4', '60000'])
    expect(await next.event('leads')).toMatchObject({ epoch: 2 })
  })

  test('a paused head that wakes up after another took over knows it, and cannot write', async () => {
    const url = named()
    const old = program('head', [url, 'old', '1000'])
    expect(await old.event('leads')).toMatchObject({ epoch: 1 })
    old.signal('SIGSTOP')
    const store = await open(url)
    const lease = await HeadLease.lead(store, { self: self('new', 60_000), isProcess: everyProcessLives })
    expect(lease.epoch).toBe(2)
    old.send('stale')
    old.signal('SIGCONT')
    expect(await old.event('refused')).toMatchObject({ isHead: false, code: 'LEASE_LOST' })
    expect(await old.event('lost')).toBeDefined()
    expect(await store.get('stale')).toBeUndefined()
    await store.write([{ key: 'fresh', value: bytes('1') }], lease.guard)
    expect(lease.isHead).toBe(true)
    await lease.release()
  })

  test('a head that is cut off from its store stops leading before another can', async () => {
    const { relay, url, direct } = await relayed()
    const [cut, other] = [await open(url), await open(direct)]
    const lease = await HeadLease.lead(cut, { self: self('cut', 1_000), isProcess: everyProcessLives })
    relay.refuse(true)
    const watched = new Told()
    await other.watch('head', watched.onChange)
    const leading: boolean[] = []
    await Promise.all([lease.lost, watched.until(({ changes }) => changes.at(-1)?.value === undefined && leading.push(lease.isHead) > 0)])
    expect(leading).toEqual([false])
    relay.refuse(false)
  })

  test('a store closes soon when its server cannot be reached any more', async () => {
    const { relay, url } = await relayed()
    const store = await open(url)
    await store.put('a', bytes('1'))
    await store.get('a')
    relay.swallowAll()
    const sinceMs = performance.now()
    await store.close()
    expect(performance.now() - sinceMs).toBeLessThan(5_000)
  })

  test('a server that is not there is named in the error, without its password', async () => {
    const url = new URL(server.url)
    url.port = '1'
    url.username = 'someone'
    url.password = 'secret'
    const error = await openStore(url.href, { warn: () => {}, retryMs: 200 }).catch((reason: Error) => reason)
    expect(error).toMatchObject({ code: 'CONTROL_STORE_UNREACHABLE' })
    expect((error as Error).message).toMatch(/:1\/.* did not answer open for \d+ ms: .*ECONNREFUSED/)
    expect((error as Error).message).not.toContain('secret')
  })
}

describe.skipIf(noRedis)('Redis', () => {
  onServers(redisServer)

  test('settings that lose what was acknowledged are told at the start', async () => {
    const server = await redisServer({ appendonly: 'no', 'maxmemory-policy': 'allkeys-lru' })
    cleanups.push(() => server.close())
    const warnings: string[] = []
    const store = await openStore(server.url, { warn: (warning) => warnings.push(warning) })
    await store.close()
    expect(warnings).toHaveLength(2)
    expect(warnings[0]).toMatch(/no append-only file.*set "appendonly yes"/)
    expect(warnings[1]).toMatch(/allkeys-lru/)
    expect(risks(new Map(Object.entries({ appendonly: 'yes', appendfsync: 'always', 'maxmemory-policy': 'noeviction' })))).toEqual([])
    expect(risks(new Map(Object.entries({ appendonly: 'yes', appendfsync: 'everysec' })))).toEqual([expect.stringMatching(/acknowledged second/)])
    expect(risks(undefined)).toEqual([expect.stringMatching(/cannot be read/)])
  })

  test('writes wait for as many replicas as the URL asks for', async () => {
    const server = await redisServer({ 'repl-diskless-sync-delay': '0' })
    cleanups.push(() => server.close())
    const url = `${server.url}?replicas=1`
    const alone = await open(url, 500)
    await expect(alone.put('a', bytes('1'))).rejects.toMatchObject({
      code: 'CONTROL_STORE_UNREACHABLE',
      details: { reason: expect.stringMatching(/0 of 1 replicas/) },
    })
    const replica = await redisServer({ replicaof: `127.0.0.1 ${new URL(server.url).port}` })
    cleanups.push(() => replica.close())
    const store = await open(url)
    await store.put('a', bytes('2'))
    await expect(openStore(replica.url, { warn: () => {} })).rejects.toMatchObject({ code: 'CONTROL_STORE_FAILED', message: expect.stringMatching(/replica/) })
  })
})

describe.skipIf(noPostgres)('PostgreSQL', () => {
  onServers(postgresServer)

  test('who stops in the middle of a transaction does not hold up the others for long', async () => {
    const server = await postgresServer()
    cleanups.push(() => server.close())
    const store = await open(server.url)
    await store.put('a', bytes('1'))
    const stopped = new pg.Client({ connectionString: server.url, idle_in_transaction_session_timeout: 2_000 })
    stopped.on('error', () => {})
    await stopped.connect()
    await stopped.query('BEGIN')
    await stopped.query('SELECT revision FROM beamline_meta FOR UPDATE')
    const start = performance.now()
    await store.put('a', bytes('2'))
    expect(performance.now() - start).toBeLessThan(4_500)
    await stopped.end().catch(() => {})
  })
})

describe('SQLite', () => {
  let dir: string
  let url: string
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'beamline-store-'))
  })
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  let files = 0
  const fresh = (): string => (url = `sqlite:${join(dir, `deep/${++files}.db`)}`)

  test('a process killed in the middle of writes leaves all that was acknowledged', async () => {
    const writer = program('writer', [fresh()])
    await writer.line(({ acknowledged }) => Number(acknowledged) === 100)
    await writer.kill()
    await expectAcknowledged(await open(url), writer.lines.length)
  })

  test('a second process is refused at once and told who has the file, also while that one is paused', async () => {
    const head = program('head', [fresh(), 'n1', '1000'])
    await head.event('leads')
    head.signal('SIGSTOP')
    const path = url.slice('sqlite:'.length)
    const start = performance.now()
    await expect(openStore(url, { warn: () => {} })).rejects.toMatchObject({ code: 'CONTROL_STORE_IN_USE', details: { path, holder: `process ${head.pid}` } })
    expect(performance.now() - start).toBeLessThan(2_000)
    head.signal('SIGCONT')
    await head.kill()
    // The kernel let go of the file, so nobody holds a lease in it: no time to wait for.
    const next = program('head', [url, 'n2', '600000'])
    expect(await next.event('leads')).toMatchObject({ epoch: 2 })
  })

  test('of heads started at once one leads', async () => {
    fresh()
    const heads = ['n1', 'n2', 'n3'].map((node) => program('head', [url, node, '60000']))
    const lines = await Promise.all(heads.map((head) => head.line(() => true)))
    expect(lines.map(({ event, code }) => code ?? event).toSorted()).toEqual(['CONTROL_STORE_IN_USE', 'CONTROL_STORE_IN_USE', 'leads'])
  })

  test('what is there survives being closed and opened, but leases do not', async () => {
    const store = await openStore(fresh(), { warn: () => {} })
    const revision = await store.put('a', bytes('1'))
    const lease = (await store.lease('head', bytes('x'), 60_000))!
    await store.close()
    const next = await open(url)
    expect(await next.get('a')).toMatchObject({ revision })
    expect(await next.get('head')).toBeUndefined()
    await expect(next.write([{ key: 'b', value: bytes('1') }], lease)).rejects.toMatchObject({ code: 'LEASE_LOST' })
    expect(await next.put('b', bytes('1'))).toBe(lease.revision + 2)
  })

  test('a disk that is full fails the write and nothing else', async () => {
    fresh()
    // Files of the program cannot grow beyond 2 MiB.
    const writer = program('filler', [url], ['prlimit', '--fsize=2097152'])
    const failed = await writer.event('failed')
    expect(failed).toMatchObject({ code: 'CONTROL_STORE_FAILED', message: expect.stringMatching(/did not take a write: .*(full|I\/O)/) })
    expect(Number(failed['acknowledged'])).toBeGreaterThan(5)
    expect(await writer.event('small')).toMatchObject({ readable: true })
    await writer.exited
    const store = await open(url)
    expect((await store.scan('n/')).length).toBe(failed['acknowledged'])
  })

  test('a file that is something else is refused with the reason', async () => {
    const path = join(dir, 'text.db')
    writeFileSync(path, 'not a database, but long enough to look like one: '.repeat(100))
    await expect(openStore(`sqlite:${path}`, { warn: () => {} })).rejects.toMatchObject({
      code: 'CONTROL_STORE_FAILED',
      message: expect.stringMatching(/not a database/),
    })
  })

  test('a file of a later version is refused and told so', async () => {
    const store = await openStore(fresh(), { warn: () => {} })
    await store.close()
    const database = new DatabaseSync(url.slice('sqlite:'.length))
    database.exec('PRAGMA user_version = 9')
    database.close()
    await expect(openStore(url, { warn: () => {} })).rejects.toMatchObject({ message: expect.stringMatching(/format 9.*reads format 1/) })
  })
})

test.each(['', 'memory', 'sqlite:relative.db', 'mysql://h/x', 'redis://h/0?replicas=x', 'postgres://h/x?name=A;B'])('the URL %j is refused', async (url) => {
  await expect(openStore(url, { warn: () => {} })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(/expected memory:/) })
})

test.each(['mysql://someone:secret@h/x', 'postgres://h/x?name=A;B&password=secret'])('the password of %j is not told', async (url) => {
  const error = await openStore(url, { warn: () => {} }).catch((reason: Error) => reason)
  expect((error as Error).message).toContain('***')
  expect((error as Error).message).not.toContain('secret')
})
