/** Links over TCP between two ends in this process, on real sockets, through a relay that breaks. */
import { afterEach, expect, test } from 'vitest'
import type { PeerMessage } from '../../src/net/gen/peer.ts'
import { type DialOptions, dial } from '../../src/net/dial.ts'
import { type Link, PEER_SERVICE } from '../../src/net/link.ts'
import { type ListenOptions, listen, type Server } from '../../src/net/listen.ts'
import { type Relay, relay } from './relay.ts'

type PeerLink = Link<PeerMessage, PeerMessage>

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

interface Listening {
  readonly server: Server
  readonly relay: Relay
  /** The accepted end of the first link. */
  readonly accepted: Promise<PeerLink>
}

async function start(receive: (link: PeerLink) => void = collect, options: ListenOptions = {}): Promise<Listening> {
  const { promise, resolve } = Promise.withResolvers<PeerLink>()
  const server = await listen(
    '127.0.0.1:0',
    'secret',
    {
      peer: (link) => {
        receive(link)
        resolve(link)
      },
    },
    options,
  )
  ends.push(() => server.close())
  const between = await relay(server.addresses[0] as string)
  ends.push(() => between.close())
  return { server, relay: between, accepted: promise }
}

function open(address: string, options: DialOptions = {}, token: string = 'secret'): PeerLink {
  const link = dial(PEER_SERVICE, address, token, options)
  ends.push(() => link.abort(new Error('the test is over')))
  return link
}

const got = new WeakMap<PeerLink, number[]>()

/** Keep what comes. */
function collect(link: PeerLink): void {
  const numbers: number[] = []
  got.set(link, numbers)
  link.onMessage(({ body }) => {
    if (body?.$case === 'resultReceived') numbers.push(body.value.task)
  })
}

const message = (task: number): PeerMessage => ({ body: { $case: 'resultReceived', value: { task } } })

/** Resolves when a link has got so many messages. */
async function received(link: PeerLink, count: number): Promise<number[]> {
  const numbers = got.get(link) as number[]
  while (numbers.length < count) await new Promise((resolve) => setTimeout(resolve, 5))
  return numbers
}

const countTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

test('messages go both ways, and the end comes to both in order, after everything that was sent', async () => {
  const { relay: between, accepted } = await start()
  const link = open(between.address)
  collect(link)
  for (let i = 0; i < 1_000; i++) link.send(message(i))
  const other = await accepted
  for (let i = 0; i < 1_000; i++) other.send(message(i))
  link.close()
  expect(await link.closed).toBeUndefined()
  expect(await other.closed).toBeUndefined()
  expect(got.get(other)).toEqual(countTo(1_000))
  expect(got.get(link)).toEqual(countTo(1_000))
})

test('100,000 messages in both directions arrive once and in order while their connections are reset again and again', async () => {
  const { relay: between, accepted } = await start()
  const link = open(between.address)
  collect(link)
  let interruptions = 0
  let resumptions = 0
  link.onInterrupted(() => interruptions++)
  let resumed = (): void => undefined
  link.onResumed(() => {
    resumptions++
    resumed()
  })
  link.send(message(0))
  const other = await accepted
  const total = 100_000
  let healed = Promise.resolve()
  let sent = 1
  for (; sent < total; sent++) {
    link.send(message(sent))
    other.send(message(sent - 1))
    if (sent % 10_000 === 5_000) {
      healed = new Promise((resolve) => {
        resumed = resolve
      })
      between.cut()
    }
    // Half of the messages are sent while there is no connection, or a new one.
    if (sent % 10_000 === 0) await healed
    if (sent % 500 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  other.send(message(total - 1))
  expect(await received(other, total)).toEqual(countTo(total))
  expect(await received(link, total)).toEqual(countTo(total))
  expect(between.connections).toBeGreaterThanOrEqual(10)
  expect(resumptions).toBeGreaterThanOrEqual(9)
  expect(interruptions).toBeGreaterThanOrEqual(resumptions)
})

test('a network that swallows everything for 6 s is survived, and healed within 1.5 s of its end', async () => {
  const { relay: between, accepted } = await start()
  const link = open(between.address)
  link.send(message(0))
  const other = await accepted
  await received(other, 1)
  between.blackhole()
  const started = performance.now()
  let sent = 1
  while (performance.now() - started < 6_000) {
    link.send(message(sent++))
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  between.heal()
  const healed = performance.now()
  expect(await received(other, sent)).toEqual(countTo(sent))
  expect(performance.now() - healed).toBeLessThan(1_500)
}, 20_000)

test('what is sent while nobody listens arrives once somebody does', async () => {
  const { server, relay: between } = await start()
  const address = server.addresses[0] as string
  await server.close()
  const link = open(address)
  const refused = new Promise<string | number | undefined>((resolve) => link.onInterrupted((error) => resolve(error.code)))
  link.send(message(0))
  expect(await refused).toBe('ECONNREFUSED')
  const { promise, resolve } = Promise.withResolvers<PeerLink>()
  const second = await listen(address, 'secret', {
    peer: (accepted) => {
      collect(accepted)
      resolve(accepted)
    },
  })
  ends.push(() => second.close())
  link.send(message(1))
  expect(await received(await promise, 2)).toEqual([0, 1])
  expect(between.connections).toBe(0)
})

test('a first connection that does not come about in its time ends the link with the reason', async () => {
  const { server } = await start()
  const address = server.addresses[0] as string
  await server.close()
  const link = open(address, { connectMs: 200 })
  expect(await link.closed).toMatchObject({ code: 'ECONNREFUSED' })
})

test('a new process at the same address ends the link: the session was with the old one', async () => {
  const first = await start()
  const link = open(first.relay.address)
  link.send(message(0))
  await received(await first.accepted, 1)
  const address = first.server.addresses[0] as string
  // Dies without a word.
  first.relay.blackhole()
  first.relay.cut()
  await first.server.close()
  const second = await listen(address, 'secret', { peer: collect })
  ends.push(() => second.close())
  first.relay.heal()
  expect(await link.closed).toMatchObject({ code: 'SESSION_UNKNOWN', details: { address: first.relay.address } })
})

test('a link that is meant for a process which has this port no more is refused', async () => {
  const { relay: between } = await start(collect, { identity: 'aaaa' })
  expect(await open(between.address, { to: 'bbbb' }).closed).toMatchObject({ code: 'SESSION_UNKNOWN' })
  const link = open(between.address, { to: 'aaaa' })
  link.send(message(0))
  link.close()
  expect(await link.closed).toBeUndefined()
})

test('an aborted link ends at once at both ends, and what waited is not sent', async () => {
  const { relay: between, accepted } = await start()
  const link = open(between.address)
  link.send(message(0))
  const other = await accepted
  await received(other, 1)
  link.send(message(1))
  link.abort(new Error('declared dead'))
  expect((await link.closed)?.message).toBe('declared dead')
  expect((await other.closed)?.message).toContain('has ended the link')
  expect(got.get(other)).toEqual([0])
})

test('an interrupted link that is aborted stays ended when the network comes back', async () => {
  const { relay: between, accepted } = await start()
  const link = open(between.address)
  link.send(message(0))
  await accepted
  between.blackhole()
  const interrupted = new Promise<void>((resolve) => link.onInterrupted(() => resolve()))
  between.cut()
  await interrupted
  link.abort(new Error('declared dead'))
  const before = between.connections
  between.heal()
  expect((await link.closed)?.message).toBe('declared dead')
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(between.connections - before).toBeLessThanOrEqual(1)
})

test('a server that closes ends its links at the other end, too', async () => {
  const { server, relay: between, accepted } = await start()
  const link = open(between.address)
  link.send(message(0))
  await received(await accepted, 1)
  await server.close()
  expect((await link.closed)?.message).toContain('has ended the link')
})

test('a wrong token ends the link with UNAUTHENTICATED, without further attempts', async () => {
  const { relay: between } = await start()
  const link = open(between.address, {}, 'guess')
  expect(await link.closed).toMatchObject({ code: 'UNAUTHENTICATED' })
})

test('one server listens on a unix socket and on TCP, and says which port it got', async () => {
  const path = `/tmp/beamline-link-${process.pid}.sock`
  const links: PeerLink[] = []
  const server = await listen([`unix:${path}`, '127.0.0.1:0'], 'secret', {
    peer: (link) => {
      collect(link)
      links.push(link)
    },
  })
  ends.push(() => server.close())
  expect(server.addresses[0]).toBe(`unix:${path}`)
  expect(server.addresses[1]).toMatch(/^127\.0\.0\.1:[1-9]\d*$/)
  for (const address of server.addresses) {
    const link = open(address)
    link.send(message(7))
    link.close()
    expect(await link.closed).toBeUndefined()
  }
  expect(links.map((link) => got.get(link))).toEqual([[7], [7]])
})

test('an aborted link on a unix socket ends at both ends with the error', async () => {
  const address = `unix:/tmp/beamline-abort-${process.pid}.sock`
  const accepted = Promise.withResolvers<PeerLink>()
  const server = await listen(address, 'secret', {
    peer: (link) => {
      collect(link)
      accepted.resolve(link)
    },
  })
  ends.push(() => server.close())
  const link = open(address)
  link.send(message(0))
  const other = await accepted.promise
  other.abort(new Error('declared dead'))
  expect((await other.closed)?.message).toBe('declared dead')
  expect((await link.closed)?.message).toContain('declared dead')
})
