/** Two processes of different nodes: a broken link is a suspicion, the node's word is the end. */
import { afterEach, expect, test } from 'vitest'
import { type Peer, type PeerPort, Peers } from '../../src/core/peers.ts'
import type { PeerMessage } from '../../src/net/gen/peer.ts'
import { listen, type Server } from '../../src/net/listen.ts'
import { until } from '../../src/testing/wait.ts'
import { type Relay, relay } from '../net/relay.ts'

const TOKEN = 'token'
const LEFT: (() => unknown)[] = []

afterEach(async () => {
  for (const end of LEFT.splice(0).reverse()) await end()
})

/** A process with its peers, and what they told it. */
class Process implements PeerPort {
  readonly process: string
  readonly node: string
  address = ''
  readonly peers: Peers
  readonly heard: number[] = []
  readonly lost: string[] = []
  readonly suspects: [string, string][] = []
  readonly deadNodes = new Set<string>()
  #server: Server | undefined
  relay: Relay | undefined

  constructor(process: string, node: string) {
    this.process = process
    this.node = node
    this.peers = new Peers(TOKEN, undefined, this)
  }

  static async start(process: string, node: string): Promise<Process> {
    const self = new Process(process, node)
    self.#server = await listen('127.0.0.1:0', TOKEN, { peer: (link) => self.peers.accept(link) }, { background: true, identity: process })
    const [address = ''] = self.#server.addresses
    self.relay = await relay(address)
    self.address = `unix:/${process}@${node},${self.relay.address}`
    LEFT.push(() => {
      self.peers.close()
      self.relay?.close()
      return self.#server?.close()
    })
    return self
  }

  say(to: Process, number: number): void {
    this.peers.get(to.process, to.address).link.send({ body: { $case: 'borrowAdded', value: { number } } })
  }

  message(_peer: Peer, { body }: PeerMessage): void {
    if (body?.$case === 'borrowAdded') this.heard.push(body.value.number)
  }

  linkLost(process: string): void {
    this.lost.push(process)
  }

  suspect(process: string, node: string): void {
    this.suspects.push([process, node])
  }

  isDead(_process: string, node: string): boolean {
    return this.deadNodes.has(node)
  }
}

const pair = async (): Promise<[Process, Process]> => [await Process.start('a'.repeat(16), 'node-a'), await Process.start('b'.repeat(16), 'node-b')]

test('a link that breaks is suspected again and again, and goes on when the network is back: nothing is lost or doubled', async () => {
  const [a, b] = await pair()
  a.say(b, 1)
  await until('the first message', () => b.heard.length === 1 || 'nothing came')
  b.relay?.blackhole()
  b.relay?.cut()
  a.say(b, 2)
  await until('two suspicions', () => a.suspects.length >= 2 || `${a.suspects.length}`)
  expect(a.suspects[0]).toEqual([b.process, 'node-b'])
  expect(b.heard).toEqual([1])
  b.relay?.heal()
  a.say(b, 3)
  await until('the other messages', () => b.heard.length === 3 || `${b.heard.join()}`)
  b.say(a, 4)
  await until('the answer', () => a.heard.length === 1 || 'nothing came')
  expect([b.heard, a.heard, a.lost, b.lost]).toEqual([[1, 2, 3], [4], [], []])
  const { length } = a.suspects
  await new Promise((resolve) => setTimeout(resolve, 1_200)) // longer than between two suspicions
  expect(a.suspects.length).toBe(length)
})

test('a process that is declared dead is lost once, and is not heard any more', async () => {
  const [a, b] = await pair()
  a.say(b, 1)
  await until('the first message', () => b.heard.length === 1 || 'nothing came')
  a.peers.processDied(b.process, 'it was killed')
  expect(a.lost).toEqual([b.process])
  b.say(a, 2)
  a.say(b, 3)
  await until('the end of the new link', () => a.lost.length === 2 || 'it is open')
  await until('the end for the one that was declared dead', () => b.lost.includes(a.process) || 'it is open')
  expect([a.heard, b.heard]).toEqual([[], [1]])
})

test('a process that was not linked and is declared dead is lost, too', async () => {
  const [a, b] = await pair()
  a.peers.processDied(b.process, 'it was killed')
  expect(a.lost).toEqual([b.process])
})

test('processes of a node that is dead are refused', async () => {
  const [a, b] = await pair()
  b.deadNodes.add('node-a')
  a.say(b, 1)
  await until('the end of the link', () => a.lost.includes(b.process) || 'it is open')
  expect(b.heard).toEqual([])
  b.say(a, 2)
  await until('the end of the other link', () => b.lost.includes(a.process) || 'it is open')
  expect(a.heard).toEqual([])
})

test('a link that its other end closes in order ends', async () => {
  const [a, b] = await pair()
  a.say(b, 1)
  await until('the first message', () => b.heard.length === 1 || 'nothing came')
  b.peers.close()
  await until('the end', () => a.lost.length === 1 || 'it is open')
  expect(a.lost).toEqual([b.process])
})

test('of a pair that dialled each other each process sends on one link, also its answers, so that what it says stays in order', async () => {
  const [a, b] = await pair()
  const sent = [a.peers.get(b.process, b.address), b.peers.get(a.process, a.address)] // no one knows of the other yet
  const answers: Peer[] = []
  for (const process of [a, b]) process.message = (peer) => void answers.push(peer)
  a.say(b, 1)
  b.say(a, 1)
  await until('both messages', () => answers.length === 2 || `${answers.length}`)
  expect(answers.every((peer) => sent.includes(peer.sender))).toBe(true)
  expect(answers.some((peer) => sent.includes(peer))).toBe(false)
})
