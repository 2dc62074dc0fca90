/**
 * A head that goes on from the records of an earlier one: what nodes that come back still have goes on, what they have and it does not know is
 * released, what they have no longer is lost; nodes that do not come back are dead with the grace, and so is what depended on them.
 */
import { describe, expect, test } from 'vitest'
import { create, DRIVER, driver, group, Head, here, LEASE_MS, workerOf } from './head.ts'
import { amounts, nodeConfig, shape } from './machine.ts'
import type { ActorHere, GroupHere } from '../../src/net/gen/mesh.ts'
import type { ActorCreate } from '../../src/net/gen/node.ts'
import type { ControlEvent, NodeOrder } from '../../src/state/events.ts'
import { inventoryOf } from '../../src/state/node-report.ts'
import { NodeState } from '../../src/state/node-state.ts'

const SELF = 'h2'

/** The first head: nodes n1 and n2, a driver on n2, an actor that runs on n1, a group over both. */
function first(more: Partial<ActorCreate> = {}): Head {
  const head = new Head('h1').register('n1').register('n2', { processes: [driver] })
  head.do({ kind: 'actor-create', process: DRIVER, create: create('a1', more) }).runs('a1')
  head.do({ kind: 'group-create', process: DRIVER, create: group })
  for (const node of new Set(head.control.groups.groups.get('g1')?.nodes)) head.do({ kind: 'bundles-prepared', node, group: 'g1', attempt: 1 })
  return head
}
const second = (of: Head): Head => new Head(SELF, of.records)

describe('an actor', () => {
  // What the node says when it comes back -> what becomes of the actor, what the node is told.
  test.each<[string, Partial<ActorCreate>, ActorHere[], unknown[], unknown[]]>([
    ['that still runs goes on', {}, [here('a1')], ['ALIVE', 'w-a1', 0], []],
    ['that was starting is told to start again', {}, [here('a1', { alive: false })], ['STARTING', 'w-a1', 0], []],
    ['that still waits for a worker waits', {}, [here('a1', { worker: '', alive: false })], ['PENDING', '', 0], []],
    ['that is no longer there is dead', {}, [], ['DEAD', '', 0], []],
    ['that is no longer there and may restart is placed again', { maxRestarts: 1 }, [], ['RESTARTING', '', 1], [{ to: 'n1', kind: 'actor-place', attempt: 2 }]],
    [
      'of an earlier placement is released, and placed again when it may',
      { maxRestarts: 1 },
      [here('a1', { attempt: 7 })],
      ['RESTARTING', '', 1],
      [
        { to: 'n1', kind: 'actor-release', attempt: 7, force: true },
        { to: 'n1', kind: 'actor-place', attempt: 2 },
      ],
    ],
  ])('%s', (_what, more, actors, state, orders) => {
    const head = second(first(more))
      .register('n2', { processes: [driver] })
      .register('n1', { actors })
    expect([head.actor('a1'), head.orders().filter((order) => (order as { actor?: string }).actor === 'a1')]).toMatchObject([state, orders])
  })

  test('that the head does not know is released', () => {
    const head = second(first()).register('n1', { actors: [here('a1'), here('a7')] })
    expect(head.orders()).toContainEqual({ to: 'n1', kind: 'actor-release', actor: 'a7', attempt: 1, force: true, reason: 'the head does not know it' })
  })

  test('whose order was lost with the head is ordered again, and that is no restart', () => {
    const before = new Head('h1').register('n1').register('n2', { processes: [driver] })
    before.do({ kind: 'actor-create', process: DRIVER, create: create('a1') })
    const head = second(before)
      .register('n2', { processes: [driver] })
      .register('n1')
    expect(head.orders()).toMatchObject([{ to: 'n1', kind: 'actor-place', actor: 'a1', attempt: 2 }])
    expect(head.actor('a1')).toEqual(['PENDING', '', 0])
  })

  test('is asked about before its node is back: the answer waits until somebody knows', () => {
    const head = second(first()).register('n2', { processes: [driver] })
    const states = (): string[] => head.out.flatMap((each) => (each.kind === 'send' && each.message.$case === 'actorState' ? [each.message.value.state] : []))
    head.do({ kind: 'actor-watch', process: DRIVER, actor: 'a1' })
    expect(states()).toEqual([])
    head.register('n1', { actors: [here('a1')] })
    expect(states()).toEqual(['ALIVE'])
  })

  test('is asked to end before its node is back: it does so then, and a kill that lets it restart does not wait for another restart', () => {
    const stop = (noRestart: boolean): ControlEvent => ({
      ...{ kind: 'actor-stop', process: DRIVER, stop: { actor: 'a1', force: true, noRestart, reason: 'test' } },
    })
    const releases = (head: Head): unknown[] => head.orders().filter((order) => (order as { kind: string }).kind === 'actor-release')
    for (const noRestart of [false, true]) {
      const head = second(first({ maxRestarts: 1 }))
        .register('n2', { processes: [driver] })
        .do(stop(noRestart))
      expect(releases(head)).toEqual([])
      head.register('n1', { actors: [here('a1')] })
      expect(releases(head)).toMatchObject([{ to: 'n1', actor: 'a1', attempt: 1, force: true }])
    }
  })

  test('has all that it was made of', () => {
    const head = second(first({ name: 'x', detached: true }))
    const actor = head.control.actors.actors.get('a1')
    expect(actor?.create).toEqual(create('a1', { name: 'x', detached: true }))
    head.register('n2', { processes: [driver] }).do({ kind: 'actor-lookup', process: DRIVER, request: 5, name: 'x', namespace: '' })
    expect(head.out.at(-1)).toMatchObject({ message: { $case: 'actorFound', value: { actor: 'a1', handle: new Uint8Array([3]) } } })
  })

  test('whose node was declared dead at the very end of the first head restarts elsewhere', () => {
    const before = first({ maxRestarts: 1, shape: shape({}, { node: 'n1', soft: true }) })
    const actor = before.records.get('actor/a1') as string
    before.do({ kind: 'node-left', node: 'n1', reason: 'gone' }).records.set('actor/a1', actor)
    const head = second(before)
      .register('n2', { processes: [driver] })
      .tick(250)
    expect(head.control.actors.actors.get('a1')).toMatchObject({ state: 'RESTARTING', restarts: 1, attempt: 2 })
  })

  test('that is dead stays dead, and late watchers learn why', () => {
    const before = first().do({ kind: 'actor-stop', process: DRIVER, stop: { actor: 'a1', force: true, noRestart: true, reason: 'enough' } })
    before.do({ kind: 'actor-worker-lost', node: 'n1', actor: 'a1', attempt: 1, worker: 'w-a1', failure: { code: 'X', detailsJson: '{}' } })
    const head = second(before)
      .register('n2', { processes: [driver] })
      .do({ kind: 'actor-watch', process: DRIVER, actor: 'a1' })
    expect(head.out.at(-1)).toMatchObject({ message: { $case: 'actorState', value: { state: 'DEAD', cause: { code: 'ACTOR_DIED' } } } })
  })
})

describe('a group', () => {
  const nodes = (head: Head): unknown => head.control.groups.groups.get('g1')?.nodes
  const bundle = (index: number, committed: number[] = [index]): GroupHere => ({ group: 'g1', bundles: { [index]: amounts({ cpus: 1 }) }, committed })
  const back = (head: Head, n1: GroupHere[], n2: GroupHere[], on: unknown): Head => {
    const [one, two] = on as [string, string]
    return head.register(one, { groups: n1 }).register(two, { groups: n2, processes: [driver] })
  }

  test('whose bundles are all there goes on', () => {
    const before = first()
    const head = back(second(before), [bundle(0)], [bundle(1)], nodes(before))
    expect([head.control.groups.groups.get('g1')?.state, nodes(head)]).toEqual(['CREATED', nodes(before)])
    expect(head.orders()).toEqual([])
  })

  test('whose commit was lost is committed', () => {
    const before = first()
    const head = back(second(before), [bundle(0)], [bundle(1, [])], nodes(before))
    expect(head.orders()).toMatchObject([{ kind: 'bundles-commit', group: 'g1', attempt: 1 }])
    expect(head.control.groups.groups.get('g1')?.state).toBe('CREATED')
  })

  test('whose commit was lost with a head is committed by the next one, also when another bundle was placed again meanwhile', () => {
    const before = first()
    const [one, two] = nodes(before) as [string, string]
    const node = new NodeState(nodeConfig({ node: two, total: amounts({ cpus: 10_000 }) }))
    node.handle({ kind: 'registered', number: 1 })
    node.handle({ kind: 'bundles-prepare', group: 'g1', attempt: 1, bundles: new Map([[1, amounts({ cpus: 1 })]]) })
    // The first bundle moves.
    before.do({ kind: 'node-left', node: one, reason: 'gone' }).register('n3')
    expect(before.control.groups.groups.get('g1')).toMatchObject({ attempt: 2, committed: new Set([1]) })
    const head = second(before).register(two, { ...inventoryOf(node.tables), processes: [driver] })
    const orders = head.out.flatMap((each) => (each.kind === 'order' && each.node === two ? [each.order] : []))
    expect(orders).toEqual([{ kind: 'bundles-commit', group: 'g1', attempt: 2 }])
    for (const order of orders) node.handle(order)
    expect(node.tables.groups.get('g1')?.bundles.get(1)?.state).toBe('committed')
  })

  test('that lost a bundle gets that one again, and keeps the other', () => {
    const before = first()
    const head = back(second(before), [bundle(0)], [], nodes(before))
    expect(head.control.groups.groups.get('g1')?.state).toBe('RESCHEDULING')
    expect(head.orders().filter((order) => (order as { kind: string }).kind === 'bundles-prepare')).toMatchObject([
      { attempt: 2, bundles: new Map([[1, { cpus: 1 }]]) },
    ])
  })

  test('tells its creator of its end, and so does a head that does not know it any more', () => {
    const before = first()
    const head = back(second(before), [bundle(0)], [bundle(1)], nodes(before))
    const told = (): unknown[] => head.out.flatMap((each) => (each.kind === 'send' ? [[each.process, each.message.value]] : []))
    head.out = []
    head.do({ kind: 'group-remove', process: DRIVER, group: 'g1' })
    expect(told()).toEqual([[DRIVER, { group: 'g1', state: 'REMOVED', cause: undefined, nodes: [] }]])
    const next = back(second(head), [], [], nodes(before))
    next.out = []
    next.do({ kind: 'group-remove', process: DRIVER, group: 'g1' })
    expect(next.out).toMatchObject([{ kind: 'send', process: DRIVER, message: { $case: 'groupState', value: { group: 'g1', state: 'REMOVED' } } }])
  })

  test('whose bundles wait for room at a node is not prepared there for a head that began anew', () => {
    const node = new NodeState(nodeConfig({ node: 'n1', total: amounts({ cpus: 10_000 }) }))
    const prepare = (id: string, attempt: number): NodeOrder => ({
      ...{ kind: 'bundles-prepare', group: id, attempt, bundles: new Map([[0, amounts({ cpus: 10_000 })]]) },
    })
    node.handle({ kind: 'registered', number: 1 })
    node.handle(prepare('g8', 1))
    node.handle(prepare('g9', 1))
    const { groups } = inventoryOf(node.tables)
    const all = { 0: amounts({ cpus: 10_000 }) }
    expect(groups).toEqual([
      { group: 'g8', bundles: all, committed: [] },
      { group: 'g9', bundles: all, committed: [] },
    ])
    const head = new Head(SELF).register('n1', { groups })
    const returns = head.out.flatMap((each) => (each.kind === 'order' && each.order.kind === 'bundles-return' ? [each.order] : []))
    const reason = 'the head does not know it'
    expect(returns).toEqual(['g8', 'g9'].map((id) => ({ kind: 'bundles-return', group: id, bundles: [0], reason })))
    // What the first one gives back the other takes before its own order comes.
    expect(returns.map((order) => node.handle(order))).toEqual([[{ kind: 'bundles-prepared', node: 'n1', group: 'g9', attempt: 1 }], []])
    expect([node.tables.queue, node.tables.groups.size, node.tables.root.available()]).toEqual([[], 0, amounts({ cpus: 10_000 })])
  })

  test('that the head does not know is returned', () => {
    const head = second(first()).register('n1', { groups: [{ ...bundle(0), group: 'g9' }] })
    expect(head.orders()).toContainEqual({ to: 'n1', kind: 'bundles-return', group: 'g9', bundles: [0], reason: 'the head does not know it' })
  })
})

describe('a node', () => {
  test('keeps its number, and nobody gets a number again', () => {
    const head = second(first())
    const number = (node: string): unknown => head.control.nodes.members.get(node)?.number
    head.register('n2').register('n1').register('n3')
    expect([number('n1'), number('n2'), number(SELF), number('n3')]).toEqual([1, 2, 3, 4])
  })

  test('that was declared dead is refused for ever', () => {
    const before = first().do({ kind: 'node-left', node: 'n1', reason: 'gone' })
    for (const head of [before, second(before)])
      expect(head.register('n1').out).toEqual([{ kind: 'node-refused', node: 'n1', code: 'NODE_LOST', reason: 'gone' }])
  })

  test('whose number is another one is refused: its leases could not be told from the other one’s', () => {
    const head = new Head('h1').register('n1')
    expect(head.register('n2', {}, { number: 1 }).out).toMatchObject([{ kind: 'node-refused', node: 'n2' }])
  })

  test('that drains still does', () => {
    const head = second(first().do({ kind: 'node-drain', node: 'n1', reason: 'repair' })).register('n1')
    expect(head.control.nodes.members.get('n1')?.state).toBe('DRAINING')
  })

  test('that is asked to drain before it is back does so then, with what it has', () => {
    const drained = second(first({ maxRestarts: 1 })).do({ kind: 'node-drain', node: 'n1', reason: 'repair' })
    for (const head of [drained, second(drained)]) {
      head.register('n2', { processes: [driver] }).register('n1', { actors: [here('a1'), here('a7')], processes: [workerOf('a1')] })
      expect(head.control.nodes.members.get('n1')?.state).toBe('DRAINING')
      expect(head.orders()).toContainEqual({ to: 'n1', kind: 'actor-release', actor: 'a7', attempt: 1, force: true, reason: 'the head does not know it' })
      const ends = head.out.filter((each) => each.kind === 'send' && each.message.$case === 'actorTerminate')
      expect(ends).toMatchObject([{ process: 'w-a1', node: 'n1' }])
    }
  })

  test('that does not come back is dead with its lease, and what ran there restarts elsewhere', () => {
    const head = second(first({ maxRestarts: 1, shape: shape({}) })).register('n2', { processes: [driver] })
    const before = head.control.actors.actors.get('a1')?.node
    const alive = (): void => void head.do({ kind: 'node-heartbeat', node: 'n2', available: amounts({}), queued: 0, storeUsedBytes: 0, nowMs: head.nowMs })
    for (let ms = 0; ms < LEASE_MS - 1_000; ms += 1_000) {
      alive()
      head.tick(1_000)
    }
    expect([head.control.restoring, head.control.actors.actors.get('a1')?.node]).toEqual([true, before])
    alive()
    head.tick(2_000)
    expect([head.control.restoring, [...head.control.nodes.members.keys()].sort()]).toEqual([false, [SELF, 'n2']])
  })

  test('that does not come back is waited for as long as the head before let it act', () => {
    const head = second(new Head('h1', new Map(), 3 * LEASE_MS).register('n1')).tick(3 * LEASE_MS)
    expect([head.control.restoring, head.control.nodes.members.get('n1')?.state]).toEqual([true, 'AWAY'])
    head.tick(1_000)
    expect([head.control.restoring, [...head.control.nodes.members.keys()]]).toEqual([false, [SELF]])
  })
})

describe('what belongs to a driver', () => {
  test('goes on when the driver is back', () => {
    const head = second(first())
      .register('n1', { actors: [here('a1')], processes: [workerOf('a1')] })
      .register('n2', { processes: [driver] })
    head.tick(1_000)
    expect([head.control.jobs.jobs.get(DRIVER)?.state, head.actor('a1')[0]]).toEqual(['RUNNING', 'ALIVE'])
  })

  test('ends with the grace when the driver is not back; what is detached stays', () => {
    const before = first()
    before.do({ kind: 'actor-create', process: DRIVER, create: create('a2', { detached: true, name: 'y' }) }).runs('a2')
    const head = second(before)
      .register('n1', { actors: [here('a1'), here('a2')], processes: [workerOf('a1'), workerOf('a2')] })
      .register('n2')
    // The node of the first head is given up.
    head.do({ kind: 'node-left', node: 'h1', reason: 'another head is there' }).tick(500)
    expect([head.control.restoring, head.actor('a1')[0], head.actor('a2')[0]]).toEqual([false, 'DEAD', 'ALIVE'])
    expect(head.control.jobs.jobs.get(DRIVER)).toMatchObject({ state: 'FAILED', reason: 'its driver did not come back after the head was started again' })
  })
})

describe('a driver whose node was killed', () => {
  const comes: ControlEvent = { ...driver, kind: 'process-attached', node: 'n3', processKind: 'driver' }
  const job = (head: Head): unknown => head.control.jobs.jobs.get(DRIVER)
  const gone: ControlEvent = { kind: 'node-left', node: 'n2', reason: 'its daemon ended' }

  test.each<[string, (of: Head) => Head]>([
    ['under the same head', (head) => head],
    ['under the next one', (head) => second(head).register('n1', { actors: [here('a1')] })],
  ])('goes on at another node with all that it has, %s', (_how, then) => {
    const head = then(first()).register('n3').do(comes)
    head.out = []
    head.do(gone).tick(LEASE_MS / 2)
    expect(job(head)).toMatchObject({ state: 'RUNNING', node: 'n3' })
    expect(head.actor('a1')).toEqual(['ALIVE', 'w-a1', 0])
    expect(head.out.filter((each) => each.kind === 'send' && each.node !== 'n3')).toEqual([])
    expect(second(head).control.jobs.jobs.get(DRIVER)).toMatchObject({ state: 'RUNNING', node: 'n3' })
  })

  const replaced: ControlEvent = { ...gone, replaced: true }
  const isDead = (head: Head, node = 'n2'): boolean => head.out.some((each) => each.kind === 'node-lost' && each.node === node)

  test('is waited for before its node is declared dead: until it is at the head, else for the whole time', () => {
    const absent = first().do(replaced).tick(4_750)
    expect(isDead(absent)).toBe(false)
    expect([isDead(absent.tick(250)), job(absent)]).toMatchObject([true, { state: 'FAILED' }])
    const atHead = first()
      .do(replaced)
      .do({ ...comes, node: 'h1' })
    expect(isDead(atHead)).toBe(false)
    expect([isDead(atHead.tick(250)), job(atHead)]).toMatchObject([true, { state: 'RUNNING', node: 'h1' }])
    const elsewhere = first().register('n3').do(comes, replaced).tick(4_750)
    expect(isDead(elsewhere)).toBe(false)
    expect([isDead(elsewhere.tick(250)), job(elsewhere)]).toMatchObject([true, { state: 'RUNNING', node: 'n3' }])
  })

  test('alone is waited for: a node without drivers is dead as soon as its machine has another daemon', () => {
    expect(isDead(first().do({ ...replaced, node: 'n1' }), 'n1')).toBe(true)
    expect(isDead(first().do({ kind: 'process-lost', process: DRIVER, clean: true }, replaced))).toBe(true)
  })

  test('was at the former head, at whose address another one listens: that one is dead once the driver is back', () => {
    const address = '10.0.0.1:6379'
    const plain = new Head('h1').register('h1', {}, { address })
    const before = plain.do({ ...driver, kind: 'process-attached', node: 'h1', processKind: 'driver' })
    const head = second(before).register(SELF, {}, { address })
    expect(isDead(head, 'h1')).toBe(false)
    head.do({ ...comes, node: SELF }).tick(250)
    expect([isDead(head, 'h1'), job(head)]).toMatchObject([true, { state: 'RUNNING', node: SELF }])
    expect(isDead(second(new Head('h1').register('h1', {}, { address })).register(SELF, {}, { address }), 'h1')).toBe(true)
    expect(isDead(second(plain).register(SELF, {}, { address: '10.0.0.2:6379' }).tick(5_000), 'h1')).toBe(false)
  })

  test('is told that it comes too late when it was declared dead with its node', () => {
    const head = first().register('n3').do(gone)
    head.out = []
    head.do(comes)
    expect(job(head)).toMatchObject({ state: 'FAILED', node: 'n2' })
    expect(head.out).toMatchObject([{ kind: 'send', process: DRIVER, node: 'n3', message: { $case: 'processLost', value: { process: DRIVER } } }])
  })

  test('changes nothing any more when it was declared dead with its node, and what is detached stays', () => {
    const head = second(first().do(gone)).register('n1', { actors: [here('a1')] })
    head.register('n3').do(comes)
    head.out = []
    head.do({ kind: 'group-remove', process: DRIVER, group: 'g1' })
    head.do({ kind: 'group-create', process: DRIVER, create: { ...group, group: 'g2' } }, { kind: 'actor-create', process: DRIVER, create: create('a2') })
    expect(head.out).toEqual([])
    expect([...head.control.groups.groups.keys()]).toEqual(['g1'])
    expect(head.control.groups.groups.get('g1')?.state).not.toBe('REMOVED')
  })
})
