/**
 * Many nodes pull one object at the same moment: pull managers and referrals of all of them, over a network of which every node can send so many
 * chunks per step.
 */
import { describe, expect, test } from 'vitest'
import { CHUNK_BYTES } from '../../src/transfer/chunks.ts'
import type { FetchOutcome, PullEvent } from '../../src/transfer/pull-events.ts'
import { PullManager } from '../../src/transfer/pull-manager.ts'
import { Referrals } from '../../src/transfer/referrals.ts'

const CHUNKS = 52 // 256 MiB
const STEP_MS = 1 // 5 MiB at 5 GiB/s
const KEY = 'o:1'

interface Peer {
  readonly name: string
  readonly manager: PullManager
  readonly referrals: Referrals
  chunks: number
  sent: number
  feeds: number
  pulling: boolean
  dead: boolean
  fetch: { source: Peer; attempt: number } | undefined
}

function broadcast(nodes: number, arrivalMs: (index: number) => number, kill?: { readonly atMs: number; readonly node: number }) {
  const peers = Array.from({ length: nodes + 1 }, (_, index): Peer => {
    const name = `node ${index}`
    return {
      name,
      manager: new PullManager(name),
      referrals: new Referrals(),
      chunks: index === 0 ? CHUNKS : 0,
      sent: 0,
      feeds: 0,
      pulling: false,
      dead: false,
      fetch: undefined,
    }
  })
  const [source, ...readers] = peers as [Peer, ...Peer[]]
  const timers: { atMs: number; run: () => void }[] = []
  let nowMs = 0
  const leave = (peer: Peer): void => {
    const { fetch } = peer
    if (!fetch) return
    peer.fetch = undefined
    fetch.source.referrals.done(KEY, peer.name)
    fetch.source.feeds--
  }
  const end = (peer: Peer, attempt: number, outcome: FetchOutcome): void => {
    leave(peer)
    handle(peer, { kind: 'ended', key: KEY, attempt, outcome })
  }
  const open = (peer: Peer, from: Peer, attempt: number): void => {
    const later = (outcome: FetchOutcome): void => void timers.push({ atMs: nowMs + STEP_MS, run: () => end(peer, attempt, outcome) })
    if (from.dead) return later({ kind: 'cut', reason: 'reset' })
    if (from.chunks < CHUNKS && !from.pulling) return later({ kind: 'gone', reason: 'it does not have it' })
    const arriving = from.chunks < CHUNKS ? { here: from.chunks, have: peer.chunks, feeds: peer.feeds } : undefined
    const nodes = from.referrals.admit(KEY, CHUNKS * CHUNK_BYTES, peer.name, arriving)
    if (nodes) return later({ kind: 'busy', nodes })
    from.feeds++
    peer.fetch = { source: from, attempt }
  }
  const handle = (peer: Peer, event: PullEvent): void => {
    if (peer.dead) return
    for (const instruction of peer.manager.handle(event, Number.POSITIVE_INFINITY)) {
      if (instruction.kind === 'allocate') {
        peer.pulling = true
        timers.push({ atMs: nowMs, run: () => handle(peer, { kind: 'allocated', key: KEY }) })
      } else if (instruction.kind === 'fetch') open(peer, peers.find(({ name }) => name === instruction.node)!, instruction.attempt)
      else if (instruction.kind === 'stop') leave(peer)
      else if (instruction.kind === 'startTimer') {
        const { timer } = instruction
        timers.push({ atMs: nowMs + instruction.afterMs, run: () => handle(peer, { kind: 'timerRang', timer }) })
      } else if (instruction.kind === 'seal') source.referrals.addCopy(KEY, peer.name)
      else throw new Error(`unexpected ${instruction.kind}`)
    }
  }
  for (const [index, peer] of readers.entries()) {
    const run = (): void => handle(peer, { kind: 'wanted', wanter: 'w', key: KEY, bytes: CHUNKS * CHUNK_BYTES, use: 'get', node: source.name })
    timers.push({ atMs: arrivalMs(index), run })
  }
  if (kill) {
    const victim = peers[kill.node]!
    const run = (): void => {
      victim.dead = true
      leave(victim)
      for (const peer of readers) if (peer.fetch?.source === victim) end(peer, peer.fetch.attempt, { kind: 'cut', reason: 'reset' })
      timers.push({ atMs: nowMs + 10_000, run: () => readers.forEach((peer) => handle(peer, { kind: 'nodeLost', node: victim.name, reason: 'dead' })) })
    }
    timers.push({ atMs: kill.atMs, run })
  }
  while (readers.some((peer) => peer.chunks < CHUNKS && !peer.dead)) {
    expect(nowMs, 'the broadcast ends').toBeLessThan(100_000)
    for (const timer of timers.filter(({ atMs }) => atMs <= nowMs)) {
      timers.splice(timers.indexOf(timer), 1)
      timer.run()
    }
    // Each source sends one chunk per step, to its readers in turn; what a relay got in this step it sends in the next.
    const before = new Map(peers.map((peer) => [peer, peer.chunks]))
    for (const from of peers) {
      const waiting = readers.filter((peer) => peer.fetch?.source === from && peer.chunks < before.get(from)!)
      const peer = waiting.sort((a, b) => a.chunks - b.chunks)[0]
      if (!peer) continue
      peer.chunks++
      from.sent++
      from.referrals.sent(KEY, peer.name, CHUNK_BYTES)
      if (peer.chunks === CHUNKS) end(peer, peer.fetch!.attempt, { kind: 'whole' })
    }
    nowMs += STEP_MS
  }
  return { nowMs, sent: peers.map((peer) => peer.sent / CHUNKS), alone: CHUNKS * STEP_MS }
}

describe('an object that many nodes want at the same moment', () => {
  test.each([2, 4, 8, 16, 50])('%i nodes: its first source sends it about twice, not to each of them', (nodes) => {
    const { sent, nowMs, alone } = broadcast(nodes, () => 0)
    expect(sent[0]).toBeLessThanOrEqual(2.2)
    expect(Math.max(...sent), 'and nobody else much more often').toBeLessThanOrEqual(3)
    // A source that sends to two at a time gives each half of its bandwidth; below it nobody waits for the whole object.
    expect(nowMs / alone).toBeLessThan(2 + Math.log2(nodes) / 2)
  })

  test('those who come later get it from those who have it', () => {
    const { sent } = broadcast(20, (index) => index * 10)
    expect(sent[0]).toBeLessThanOrEqual(4)
    expect(Math.max(...sent)).toBeLessThanOrEqual(4)
    expect(sent.reduce((sum, share) => sum + share)).toBeCloseTo(20, 5)
  })

  test('a relay that dies holds up nobody for longer than its readers need to find another source', () => {
    const { sent, nowMs, alone } = broadcast(8, () => 0, { atMs: 40, node: 1 })
    expect(sent[0]).toBeLessThanOrEqual(3)
    expect(nowMs).toBeLessThan(5 * alone)
  })
})
