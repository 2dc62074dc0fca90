/** On which node something runs: the policy for one choice, and the candidates that make many. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { amounts } from './machine.ts'
import { Candidates } from '../../src/state/candidates.ts'
import type { KnownNode } from '../../src/state/cluster-view.ts'
import { matches, parseSelector } from '../../src/state/labels.ts'
import { ANYWHERE, chooseNode, copyAmounts, covers, feasible, type NodeOffer, reserved, score, take, unitsThatFit, type Wish } from '../../src/state/policy.ts'
import { UNIT } from '../../src/state/resources.ts'
import type { Resources } from '../../src/net/gen/node.ts'

const cpus = (n: number): Resources => amounts({ cpus: n * UNIT })
/** A node with so many free cpus of so many. */
const node = (name: string, free: number, total: number = 4, more: Partial<NodeOffer> = {}): NodeOffer => ({
  ...{ node: name, state: 'ALIVE', total: cpus(total), available: cpus(free), labels: {}, queued: 0 },
  ...more,
})
const choose = (nodes: NodeOffer[], wanted: Resources, wish: Partial<Wish> = {}, preferred: string = '', turn: number = 0): unknown =>
  chooseNode(nodes, wanted, { ...ANYWHERE, ...wish }, preferred, turn)?.node

describe('one choice', () => {
  const gpu = { total: amounts({ cpus: 4 * UNIT, gpus: UNIT }), available: amounts({ cpus: 4 * UNIT, gpus: UNIT }) }
  test.each<[string, unknown, unknown]>([
    ['the node of the caller while it is not half used', choose([node('a', 4), node('b', 3)], cpus(1), {}, 'b'), 'b'],
    ['another one when that is better then', choose([node('a', 4), node('b', 1)], cpus(1), {}, 'b'), 'a'],
    ['the node of the caller when all are used alike', choose([node('a', 1), node('b', 1)], cpus(1), {}, 'b'), 'b'],
    ['the emptiest when all are more than half used', choose([node('a', 1), node('b', 2), node('c', 1)], cpus(1)), 'b'],
    ['one with room before one that only could', choose([node('a', 0, 8), node('b', 1)], cpus(1), {}, 'a'), 'b'],
    ['where least waits when none has room', choose([node('a', 0, 4, { queued: 5 }), node('b', 0, 4, { queued: 2 })], cpus(1), {}, 'a'), 'b'],
    ['none when it fits nowhere', choose([node('a', 4)], cpus(5)), undefined],
    ['none that drains', choose([node('a', 4, 4, { state: 'DRAINING' })], cpus(1)), undefined],
    ['one without gpus for work without', choose([node('a', 4, 4, gpu), node('b', 1)], cpus(1), {}, 'a'), 'b'],
    ['one with gpus when only those have room', choose([node('a', 4, 4, gpu), node('b', 0)], cpus(1)), 'a'],
    ['where the arguments are, before all that', choose([node('a', 4), node('b', 1)], cpus(1), { prefers: 'b' }, 'a'), 'b'],
    ['elsewhere when there is no room at the arguments', choose([node('a', 4), node('b', 0)], cpus(1), { prefers: 'b' }), 'a'],
    ['the named one, though it is full', choose([node('a', 4), node('b', 0)], cpus(1), { node: 'b' }), 'b'],
    ['none when the named one is gone', choose([node('a', 4)], cpus(1), { node: 'b' }), undefined],
    ['any when the named one is gone and was a wish', choose([node('a', 4)], cpus(1), { node: 'b', soft: true }), 'a'],
    ['one with the labels', choose([node('a', 4), node('b', 1, 4, { labels: { zone: 'x' } })], cpus(1), { labels: { zone: 'x' } }), 'b'],
  ])('%s', (_what, got, expected) => expect(got).toBe(expected))

  test('spread goes around over those with room', () => {
    const nodes = [node('a', 4), node('b', 0), node('c', 1)]
    expect([0, 1, 2, 3].map((turn) => choose(nodes, cpus(1), { spread: true }, 'a', turn))).toEqual(['a', 'c', 'a', 'c'])
  })

  test('of many nodes one of the best fifth is taken, in turn', () => {
    const nodes = Array.from({ length: 20 }, (_, i) => node(`n${i}`, i < 4 ? 2 : 1, 4))
    const chosen = new Set(Array.from({ length: 20 }, (_, turn) => choose(nodes, cpus(1), {}, '', turn)))
    expect([...chosen].sort()).toEqual(['n0', 'n1', 'n2', 'n3'])
  })
})

describe('labels', () => {
  test.each<[string, string | undefined, boolean]>([
    ['a', 'a', true],
    ['a', 'b', false],
    ['a', undefined, false],
    ['!a', 'b', true],
    ['!a', 'a', false],
    ['!a', undefined, true],
    ['in(a, b)', 'b', true],
    ['in(a,b)', 'c', false],
    ['!in(a,b)', 'c', true],
    ['!in(a,b)', 'a', false],
  ])('%s and a node with %s', (selector, value, expected) => {
    expect(matches(value === undefined ? {} : { zone: value }, { zone: selector })).toBe(expected)
  })

  test.each(['', '!', 'in()', 'in(a', 'a b', '!!a', 'in(a,)'])('%j is no selector', (text) => {
    expect(parseSelector(text)).toBeUndefined()
    expect(matches({ zone: 'a' }, { zone: text })).toBe(false)
  })

  test('names that objects inherit are no labels', () => expect(matches({}, { constructor: '!a' })).toBe(true))
})

describe('candidates', () => {
  const known = (offer: NodeOffer): KnownNode => ({
    ...{ node: offer.node, number: 1, state: offer.state, total: offer.total, labels: offer.labels, queued: 0, bookedAtMs: 0 },
    info: undefined as never,
    free: copyAmounts(offer.available),
  })
  const list = (nodes: NodeOffer[], wanted: Resources, wish: Partial<Wish> = {}, preferred: string = ''): Candidates =>
    new Candidates(nodes.map(known), wanted, { ...ANYWHERE, ...wish }, preferred)
  /** Nodes of as many units as fit. */
  const all = (candidates: Candidates, wanted: Resources): string[] => {
    const taken: string[] = []
    for (let found = candidates.take(); found !== undefined; found = candidates.take()) {
      taken.push(found.node)
      take(found.free, wanted)
    }
    return taken
  }

  test('the caller’s node is filled to one half, then the others, then all alike', () => {
    const taken = all(list([node('a', 4), node('b', 4)], cpus(1), {}, 'b'), cpus(1))
    expect([taken.slice(0, 2), taken.slice(2, 4), taken.slice(4).sort()]).toEqual([
      ['b', 'b'],
      ['a', 'a'],
      ['a', 'a', 'b', 'b'],
    ])
  })

  test('spread goes around', () => {
    expect(all(list([node('a', 2), node('b', 1), node('c', 2)], cpus(1), { spread: true }), cpus(1))).toEqual(['a', 'b', 'c', 'a', 'c'])
  })

  test('a node that got room is found again after a refill', () => {
    const nodes = [node('a', 0), node('b', 0)].map(known)
    const candidates = new Candidates(nodes, cpus(1), ANYWHERE, '')
    expect(candidates.take()).toBeUndefined()
    ;(nodes[1] as KnownNode).free.cpus = UNIT
    candidates.refill()
    expect(candidates.take()?.node).toBe('b')
  })

  const offers = fc.array(fc.record({ total: fc.integer({ min: 1, max: 8 }), used: fc.integer({ min: 0, max: 8 }), gpus: fc.constantFrom(0, 0, 0, 1) }), {
    minLength: 1,
    maxLength: 30,
  })
  test('nothing is left out: they end when no node has room, and never give what a node has not', () => {
    fc.assert(
      fc.property(offers, fc.integer({ min: 1, max: 3 }), fc.boolean(), (some, size, spread) => {
        const nodes = some.map(({ total, used, gpus }, i) => {
          const of = amounts({ cpus: total * UNIT, gpus: gpus * UNIT })
          return node(`n${i}`, 0, 0, { total: of, available: { ...of, cpus: Math.max(0, total - used) * UNIT } })
        })
        const wanted = cpus(size)
        const taken = all(list(nodes, wanted, { spread }, 'n0'), wanted)
        for (const each of nodes) {
          const units = taken.filter((name) => name === each.node).length
          expect([each.node, units]).toEqual([each.node, unitsThatFit(each.available, wanted, 100)])
        }
      }),
    )
  })

  test('no choice has a worse score than the policy allows: one of the best fifth, and nodes with gpus last', () => {
    fc.assert(
      fc.property(offers, (some) => {
        const nodes = some.map(({ total, used, gpus }, i) => {
          const of = amounts({ cpus: total * UNIT, gpus: gpus * UNIT })
          return node(`n${i}`, 0, 0, { total: of, available: { ...of, cpus: Math.max(0, total - used) * UNIT } })
        })
        const found = list(nodes, cpus(1)).take()
        const free = nodes.filter((each) => covers(each.available, cpus(1)) && feasible(each, cpus(1), ANYWHERE))
        expect(found === undefined).toBe(free.length === 0)
        if (found === undefined) return
        const rank = (each: Pick<NodeOffer, 'total'>, left: Resources): number => score(each.total, left, cpus(1)) + (reserved(each, cpus(1)) ? 10 : 0)
        const better = free.filter((each) => rank(each, each.available) < rank(found, found.free) - 1 / 16)
        expect(better.length).toBeLessThan(Math.max(1, Math.floor(free.length * 0.2)))
      }),
    )
  })
})
