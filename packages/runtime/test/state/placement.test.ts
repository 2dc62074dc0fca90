/** Placement of bundles over nodes, and pools of resources. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Resources } from '../../src/net/gen/node.ts'
import { type BundleNode, placeBundles, STRATEGIES } from '../../src/state/placement.ts'
import { formatBytes, formatResources, parseResources, Pool, sumResources, UNIT } from '../../src/state/resources.ts'
import { amounts } from './machine.ts'

const cpus = (n: number): Resources => amounts({ cpus: n * UNIT })
const node = (name: string, total: number, free: number = total): BundleNode => ({ node: name, total: cpus(total), available: cpus(free) })

describe('placement', () => {
  test.each([
    ['PACK', [1, 1], [node('a', 2), node('b', 2)], ['a', 'a']],
    ['PACK', [2, 4], [node('a', 4), node('b', 2)], ['b', 'a']],
    ['PACK', [1, 1, 1], [node('a', 2), node('b', 2)], ['a', 'a', 'b']],
    ['SPREAD', [1, 1], [node('a', 2), node('b', 2)], ['a', 'b']],
    ['SPREAD', [1, 1, 1], [node('a', 2), node('b', 1)], ['a', 'b', 'a']],
    ['STRICT_PACK', [1, 1], [node('a', 1), node('b', 2)], ['b', 'b']],
    ['STRICT_SPREAD', [1, 1], [node('a', 2), node('b', 1)], ['a', 'b']],
  ] as const)('%s of %j', (strategy, bundles, nodes, expected) => {
    expect(placeBundles(strategy, bundles.map(cpus), nodes)).toEqual({ kind: 'placed', nodes: expected, now: true })
  })

  test('what fits into free nodes only once others are done is placed for later', () => {
    expect(placeBundles('STRICT_PACK', [cpus(2)], [node('a', 1), node('b', 2, 1)])).toEqual({ kind: 'placed', nodes: ['b'], now: false })
  })

  test('what never fits says why', () => {
    expect(placeBundles('STRICT_PACK', [cpus(2), cpus(1)], [node('a', 2), node('b', 2)])).toEqual({
      kind: 'never',
      reason: 'the bundles do not fit on 2 nodes',
    })
    expect(placeBundles('STRICT_SPREAD', [cpus(1), cpus(1)], [node('a', 2)])).toEqual({
      kind: 'never',
      reason: 'STRICT_SPREAD of 2 bundles needs as many nodes and the cluster has 1 node',
    })
  })

  test('no plan gives a node more than it has, and strict strategies keep their word', () => {
    const someCpus = fc.integer({ min: 0, max: 4 })
    const nodes = fc
      .array(fc.tuple(someCpus, someCpus), { minLength: 1, maxLength: 4 })
      .map((list) => list.map(([total, free], i) => node(`n${i}`, total, Math.min(total, free))))
    fc.assert(
      fc.property(fc.constantFrom(...STRATEGIES), fc.array(someCpus.map(cpus), { minLength: 1, maxLength: 5 }), nodes, (strategy, bundles, views) => {
        const plan = placeBundles(strategy, bundles, views)
        if (plan.kind === 'never') return
        for (const view of views) {
          const sum = bundles.reduce((total, bundle, i) => total + (plan.nodes[i] === view.node ? bundle.cpus : 0), 0)
          expect(sum).toBeLessThanOrEqual(plan.now ? view.available.cpus : view.total.cpus)
        }
        if (strategy === 'STRICT_PACK') expect(new Set(plan.nodes).size).toBe(1)
        if (strategy === 'STRICT_SPREAD') expect(new Set(plan.nodes).size).toBe(bundles.length)
      }),
    )
  })
})

describe('pools', () => {
  const pool = (): Pool =>
    new Pool(
      'node',
      amounts({ cpus: 2 * UNIT, gpus: 2 * UNIT, memoryBytes: 100, custom: { tape: UNIT } }),
      new Map([
        [0, UNIT],
        [1, UNIT],
      ]),
    )

  test('a tenth three times is three tenths', () => {
    const p = new Pool('node', amounts({ cpus: 3_000 }), new Map())
    for (let i = 0; i < 3; i++) expect(p.take(amounts({ cpus: 1_000 }))).toBeDefined()
    expect(p.cpus).toBe(0)
    expect(p.take(amounts({ cpus: 1 }))).toBeUndefined()
  })

  test('a fraction of a gpu goes where fractions are already, a whole one to a free device', () => {
    const p = pool()
    const first = p.take(amounts({ gpus: 4_000 }))
    expect([...(first?.gpus ?? [])]).toEqual([[0, 4_000]])
    expect([...(p.take(amounts({ gpus: 4_000 }))?.gpus ?? [])]).toEqual([[0, 4_000]])
    expect([...(p.take(amounts({ gpus: UNIT }))?.gpus ?? [])]).toEqual([[1, UNIT]])
    expect(p.shortage(amounts({ gpus: 4_000 }))).toMatchObject({ gpus: 2_000 })
    expect(p.couldFit(amounts({ gpus: 15_000 }))).toBe(true)
    expect(p.couldFit(amounts({ gpus: 25_000 }))).toBe(false)
  })

  test('what is given back is there again, and a reservation ends without a trace', () => {
    const p = pool()
    const before = p.available()
    const taken = p.take(amounts({ cpus: UNIT, gpus: 15_000, memoryBytes: 40, custom: { tape: 1 } }))
    const undo = p.reserve(amounts({ cpus: 4 * UNIT, gpus: 2 * UNIT, memoryBytes: 100 }))
    expect(p.take(amounts({ cpus: 1 }))).toBeUndefined()
    undo()
    if (taken !== undefined) p.give(taken)
    expect(p.available()).toEqual(before)
  })

  test('names that objects inherit are not resources', () => {
    expect(pool().couldFit(amounts({ custom: { constructor: 1 } }))).toBe(false)
    expect(pool().take(amounts({ custom: { toString: 1 } }))).toBeUndefined()
  })
})

test('amounts from outside are checked', () => {
  expect(parseResources(undefined)).toEqual(amounts({}))
  expect(parseResources(amounts({ cpus: 1, custom: { a: 0, b: 2 } }))).toEqual(amounts({ cpus: 1, custom: { b: 2 } }))
  for (const bad of [Number.NaN, -1, 0.5, Number.POSITIVE_INFINITY, 2 ** 60]) {
    expect(parseResources(amounts({ cpus: bad }))).toBeUndefined()
    expect(parseResources(amounts({ custom: { a: bad } }))).toBeUndefined()
  }
})

test('amounts are written as people write them', () => {
  expect(formatResources(amounts({ cpus: 5_000, gpus: UNIT, memoryBytes: 3 * 1024 ** 3, custom: { tape: 20_000 } }))).toBe(
    '0.5 cpus, 1 gpu, 3.0 GiB of memory, 2 of "tape"',
  )
  expect(formatResources(amounts({}))).toBe('nothing')
  expect([formatBytes(1_023), formatBytes(1_536), formatBytes(2 ** 50)]).toEqual(['1023 B', '1.5 KiB', '1024.0 TiB'])
  expect(sumResources([amounts({ cpus: 1, custom: { a: 1 } }), amounts({ cpus: 2, custom: { a: 2, b: 3 } })])).toEqual(
    amounts({ cpus: 3, custom: { a: 3, b: 3 } }),
  )
})
