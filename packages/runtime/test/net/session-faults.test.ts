/** A link over TCP with BEAMLINE_TEST_FAULTS: losses in both directions and delays, and nothing is lost, doubled or out of order. */
import { expect, test, vi } from 'vitest'
import type { PeerMessage } from '../../src/net/gen/peer.ts'
import { dial } from '../../src/net/dial.ts'
import { type Link, PEER_SERVICE } from '../../src/net/link.ts'
import { listen } from '../../src/net/listen.ts'

const { said } = vi.hoisted(() => {
  process.env['BEAMLINE_TEST_FAULTS'] = 'peer.resultReceived:request=0.02,response=0.02,delay=1-5ms@0.1;seed=11'
  const said: string[] = []
  process.stderr.write = (text: string | Uint8Array) => said.push(String(text)) > 0
  return { said }
})

const message = (task: number): PeerMessage => ({ body: { $case: 'resultReceived', value: { task } } })

test('a conversation of 2,000 messages goes on through losses of requests and of responses', async () => {
  const accepted: number[] = []
  const server = await listen('127.0.0.1:0', 'secret', {
    peer: (link: Link<PeerMessage, PeerMessage>) => {
      link.onMessage(({ body }) => {
        if (body?.$case !== 'resultReceived') return
        accepted.push(body.value.task)
        link.send(message(body.value.task))
      })
    },
  })
  const link = dial(PEER_SERVICE, server.addresses[0] as string, 'secret')
  let interruptions = 0
  link.onInterrupted(() => interruptions++)
  const answered: number[] = []
  const total = 2_000
  const all = new Promise<void>((resolve) => {
    link.onMessage(({ body }) => {
      if (body?.$case !== 'resultReceived') return
      answered.push(body.value.task)
      if (answered.length === total) resolve()
      // Up to 50 at a time: single messages travel in frames of their own.
      else if (body.value.task + 50 < total) link.send(message(body.value.task + 50))
    })
  })
  for (let i = 0; i < 50; i++) setImmediate(() => link.send(message(i)))
  await all
  const numbers = Array.from({ length: total }, (_, i) => i)
  expect(accepted).toEqual(numbers)
  expect(answered).toEqual(numbers)
  expect(interruptions).toBeGreaterThan(20)
  link.abort(new Error('done'))
  await server.close()
  expect(said.join('')).toContain('with seed=11')
}, 60_000)
