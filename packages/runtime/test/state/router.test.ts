/** How the demand of a process is split over nodes, and split anew: what the nodes are told, in units in all. */
import { describe, expect, test } from 'vitest'
import { amounts, ONE_CPU, shape } from './machine.ts'
import { ClusterView } from '../../src/state/cluster-view.ts'
import { LeaseRouter, type RouterInstruction } from '../../src/state/lease-router.ts'
import { checkRouter } from '../../src/state/invariants.ts'
import type { GroupInfo, NodeInfo } from '../../src/net/gen/mesh.ts'
import type { Shape } from '../../src/net/gen/node.ts'

const info = (node: string, cpus: number, more: Partial<NodeInfo> = {}): NodeInfo => ({
  ...{ node, number: Number.parseInt(node, 36), address: '', bulkAddress: '', host: '', labels: {}, state: 'ALIVE', cause: undefined, queued: 0 },
  ...{ total: amounts({ cpus: 40_000 }), available: amounts({ cpus: cpus * 10_000 }), storeBytes: 0, storeUsedBytes: 0, pid: 0, head: false },
  ...more,
})

/** The router of node a, and what each node was told last: units by node. */
class Story {
  readonly view = new ClusterView()
  readonly router: LeaseRouter
  readonly told: Map<string, number> = new Map()
  messages = 0
  texts: string[] = []
  nowMs = 0

  constructor(nodes: NodeInfo[], growable: boolean = true) {
    this.router = new LeaseRouter('a', this.view, growable)
    this.see(...nodes)
  }

  #do(instructions: readonly RouterInstruction[]): this {
    for (const instruction of instructions) {
      this.messages++
      if (instruction.kind === 'lease-demand') this.told.set('a', instruction.wanted)
      else if (instruction.kind === 'to-node' && instruction.message.$case === 'leaseDemand') this.told.set(instruction.node, instruction.message.value.wanted)
      else if (instruction.kind === 'send' && instruction.message.$case === 'infeasible')
        this.texts.push(`${instruction.message.value.waits ? 'waits' : 'fails'}: ${instruction.message.value.text}`)
    }
    checkRouter(this.router)
    return this
  }

  see(...nodes: NodeInfo[]): this {
    return this.#do(this.router.viewed(this.view.apply({ all: false, nodes, groups: [], jobsEnded: [] })))
  }

  group(group: Partial<GroupInfo>): this {
    const info = { group: 'g', state: 'CREATED', nodes: [], bundles: [], ...group }
    return this.#do(this.router.viewed(this.view.apply({ all: false, nodes: [], groups: [info], jobsEnded: [] })))
  }

  demand(wanted: number, of: Shape = ONE_CPU, key: number = 1): this {
    return this.#do(this.router.demand({ kind: 'lease-demand', process: 'p', key, shape: of, wanted, backlog: wanted, label: 'f' }))
  }

  granted(node: string, lease: number, key: number = 1): this {
    return this.#do(this.router.granted('p', key, node, lease))
  }

  tick(ms: number = 250): this {
    this.nowMs += ms
    return this.#do(this.router.tick(this.nowMs))
  }

  get units(): Record<string, number> {
    return Object.fromEntries([...this.told].filter(([, units]) => units > 0).sort())
  }
}

describe('units', () => {
  test('go where there is room, and the rest waits at all nodes in turn', () => {
    expect(new Story([info('a', 4), info('b', 4)]).demand(3).units).toEqual({ a: 2, b: 1 })
    expect(new Story([info('a', 4), info('b', 4)]).demand(12).units).toEqual({ a: 6, b: 6 })
    expect(new Story([info('a', 0), info('b', 1)]).demand(1).units).toEqual({ b: 1 })
  })

  test('are told again only where they changed, and lowered where they wait for room first', () => {
    const story = new Story([info('a', 1), info('b', 0, { queued: 1 })]).demand(3)
    expect(story.units).toEqual({ a: 2, b: 1 })
    const before = story.messages
    expect(story.demand(3).messages).toBe(before)
    expect(story.demand(2).units).toEqual({ a: 2 })
    expect(story.demand(0).units).toEqual({})
  })

  test('are granted once: a second word of the same lease changes nothing', () => {
    const story = new Story([info('a', 0), info('b', 4)]).demand(2).granted('b', 1)
    expect(story.router.explain('p', 1)?.demand.wanted).toBe(1)
    expect(story.granted('b', 1).router.explain('p', 1)?.demand.wanted).toBe(1)
    expect(story.granted('b', 2).router.explain('p', 1)).toBeUndefined()
  })

  test('that a grant overtook are counted by the node: it hears which grants were seen', () => {
    const story = new Story([info('a', 0), info('b', 4)]).demand(2).granted('b', 1)
    const told = story.router.demand({ kind: 'lease-demand', process: 'p', key: 1, shape: ONE_CPU, wanted: 3, backlog: 3, label: 'f' })
    expect(told).toMatchObject([{ kind: 'to-node', node: 'b', message: { value: { wanted: 3, seen: 1 } } }])
  })

  test('leave a node that is dead or drains at once', () => {
    const story = new Story([info('a', 0), info('b', 4), info('c', 4)]).demand(2, shape({ cpus: 10_000 }, { prefers: 'b' }))
    expect(story.units).toEqual({ b: 2 })
    expect(story.see(info('b', 4, { state: 'DRAINING' })).units).toEqual({ c: 2 })
    // What a dead node was told counts for nothing.
    expect(story.see(info('b', 4)).see(info('c', 0, { state: 'DEAD' })).units['b']).toBe(2)
  })

  test('that wait at a full node move when another has room, not before they waited a while, and do not move back', () => {
    const story = new Story([info('a', 0, { queued: 2 }), info('b', 0, { queued: 2 })]).demand(2)
    expect(story.units).toEqual({ a: 1, b: 1 })
    story.tick(250).see(info('b', 4))
    expect(story.tick(10).units).toEqual({ a: 1, b: 1 })
    expect(story.tick(100).units).toEqual({ b: 2 })
    const before = story.messages
    expect(story.see(info('a', 4)).tick(400).tick(400).messages).toBe(before)
  })

  test('of one process never wait twice, whatever is seen', () => {
    const story = new Story([info('a', 1), info('b', 1), info('c', 0)]).demand(5)
    for (let i = 0; i < 50; i++) {
      story.see(info('abc'[i % 3] as string, i % 4, { queued: i % 2 })).tick(170)
      expect(Object.values(story.units).reduce((a, b) => a + b, 0)).toBe(5)
    }
  })

  test('go around when they spread', () => {
    expect(new Story([info('a', 4), info('b', 4), info('c', 4)]).demand(6, shape({ cpus: 10_000 }, { spread: true })).units).toEqual({ a: 2, b: 2, c: 2 })
  })

  test('of a node that granted and got back before anybody said so are free again after a while', () => {
    const story = new Story([info('a', 0), info('b', 4)]).demand(4)
    for (let lease = 1; lease <= 4; lease++) story.granted('b', lease)
    expect(story.view.nodes.get('b')?.free.cpus).toBe(0)
    expect(story.tick(2_500).view.nodes.get('b')?.free.cpus).toBe(40_000)
  })
})

describe('what fits nowhere', () => {
  const tape = shape({ custom: { tape: 10_000 } })

  test('waits where nodes may join, says so once, and goes to the node that can', () => {
    const story = new Story([info('a', 4)]).demand(2, tape).demand(3, tape)
    expect([story.units, story.texts]).toEqual([{}, [expect.stringMatching(/^waits: "f" asks for 1 of "tape", which no node has now/)]])
    expect([...story.router.unplaced].map(({ reason }) => reason)).toEqual([expect.stringContaining('needs 1 of "tape"; the cluster has 4 cpus on node a')])
    expect(story.see(info('b', 4, { total: amounts({ custom: { tape: 20_000 } }), available: amounts({ custom: { tape: 20_000 } }) })).units).toEqual({ b: 3 })
  })

  test('fails in a cluster that cannot grow', () => {
    const story = new Story([info('a', 4)], false).demand(1, tape)
    expect([story.units, story.texts]).toEqual([{}, [expect.stringMatching(/^fails: .* this cluster can never give: it has 4 cpus on node a/)]])
  })

  test('because the node is gone fails, once the view must know', () => {
    const story = new Story([info('a', 4)]).demand(1, shape({ cpus: 10_000 }, { node: 'zz' }))
    expect(story.texts).toEqual([])
    expect(story.tick(2_100).texts).toEqual([expect.stringContaining('fails: "f" asks for 1 cpu on node zz')])
    const soft = new Story([info('a', 4)]).demand(1, shape({ cpus: 10_000 }, { node: 'zz', soft: true }))
    expect([soft.units, soft.texts]).toEqual([{ a: 1 }, []])
  })
})

describe('in a placement group', () => {
  const bundles = [amounts({ cpus: 10_000 }), amounts({ cpus: 20_000 })]
  const inside = (bundle: number): Shape => shape({ cpus: 10_000 }, { placementGroup: 'g', bundle })

  test('units wait until it is created, then go to its nodes by what their bundles hold', () => {
    const story = new Story([info('a', 4), info('b', 4)]).demand(3, inside(-1))
    expect(story.units).toEqual({})
    expect(story.group({ state: 'PENDING', nodes: ['', ''], bundles }).tick(5_000).units).toEqual({})
    expect(story.group({ nodes: ['a', 'b'], bundles }).units).toEqual({ a: 1, b: 2 })
    expect(new Story([info('a', 4), info('b', 4)]).group({ nodes: ['a', 'b'], bundles }).demand(3, inside(1)).units).toEqual({ b: 3 })
  })

  test('units wait while their bundle is placed again, and follow it', () => {
    const story = new Story([info('a', 4), info('b', 4), info('c', 4)]).group({ nodes: ['a', 'b'], bundles }).demand(2, inside(1))
    expect(story.group({ state: 'RESCHEDULING', nodes: ['a', ''], bundles }).units).toEqual({})
    expect([...story.router.unplaced].map(({ reason }) => reason)).toEqual([expect.stringContaining('placed again')])
    expect(story.group({ nodes: ['a', 'c'], bundles }).units).toEqual({ c: 2 })
  })

  test('units that wait long at one of its nodes take their turn at another', () => {
    const story = new Story([info('a', 4), info('b', 4)])
      .group({ nodes: ['a', 'b'], bundles: [bundles[0] as never, bundles[0] as never] })
      .demand(1, inside(-1))
    const [first] = Object.keys(story.units)
    story.tick(600)
    expect(Object.keys(story.units)).toEqual([first === 'a' ? 'b' : 'a'])
  })

  test('what no bundle holds, or in no group, fails', () => {
    const story = new Story([info('a', 4)]).group({ nodes: ['a', 'a'], bundles })
    expect(story.demand(1, shape({ cpus: 30_000 }, { placementGroup: 'g' })).texts).toEqual([
      expect.stringContaining('a group of bundle 0: 1 cpu; bundle 1: 2 cpus'),
    ])
    const gone = new Story([info('a', 4)]).demand(1, shape({ cpus: 1 }, { placementGroup: 'x' }))
    expect(gone.tick(500).texts).toEqual([])
    expect(gone.tick(600).texts).toEqual([expect.stringContaining('no such placement group')])
  })
})
