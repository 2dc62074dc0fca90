/** The head of several nodes: who lives, what runs where and moves, what nodes are told, what is kept of jobs. */
import { describe, expect, test } from 'vitest'
import { create, DRIVER, driver, group, Head, info, LEASE_MS } from './head.ts'
import { amounts, JOB, shape } from './machine.ts'
import type { ActorCreate, Failure } from '../../src/net/gen/node.ts'
import type { ControlEvent, View } from '../../src/state/events.ts'

const heartbeat = (head: Head, node: string, cpus: number = 4, queued: number = 0): ControlEvent => ({
  ...{ kind: 'node-heartbeat', node, available: amounts({ cpus: cpus * 10_000 }), queued, storeUsedBytes: 0, nowMs: head.nowMs },
})
const lost = (head: Head): string[] => head.out.flatMap((each) => (each.kind === 'node-lost' ? [each.node] : []))
const views = (head: Head): View[] => head.out.flatMap((each) => (each.kind === 'view' && each.to === undefined ? [each.view] : []))
const nodeOf = (head: Head, actor: string): unknown => head.control.actors.actors.get(actor)?.node
const cluster = (): Head => new Head('h1').register('n1').register('n2', { processes: [driver] })
const actor = (head: Head, id: string, more: Partial<ActorCreate> = {}): Head => head.do({ kind: 'actor-create', process: DRIVER, create: create(id, more) })

describe('nodes', () => {
  test('that are not heard of for a lease are dead, once', () => {
    const head = cluster()
    for (let ms = 0; ms < LEASE_MS; ms += 1_000) head.tick(1_000).do(heartbeat(head, 'n1'))
    expect(lost(head)).toEqual([])
    head.tick(1_000).do(heartbeat(head, 'n1'))
    expect(lost(head)).toEqual(['n2'])
    expect(lost(head.tick(1_000))).toEqual(['n2'])
  })

  test('are not dead because the head slept', () => {
    const head = cluster()
    head.do({ kind: 'tick', nowMs: (head.nowMs += 60_000) })
    expect(lost(head)).toEqual([])
    expect(lost(head.tick(LEASE_MS + 500))).toEqual(['n1', 'n2'])
  })

  test('are not dead because the clock of the head was set forward, and die in time after it was set back', () => {
    const head = cluster().tick(LEASE_MS - 1_000)
    head.do({ kind: 'tick', nowMs: (head.nowMs += 3_000) })
    expect(lost(head)).toEqual([])
    head.do({ kind: 'tick', nowMs: (head.nowMs -= 3_600_000) })
    expect(lost(head)).toEqual([])
    expect(lost(head.tick(LEASE_MS + 500))).toEqual(['n1', 'n2'])
  })

  test('that are dead take no part any more', () => {
    const head = cluster().do({ kind: 'node-left', node: 'n1', reason: 'gone' })
    expect(head.do(heartbeat(head, 'n1')).out.at(-1)).toEqual({ kind: 'node-refused', node: 'n1', code: 'NODE_LOST', reason: 'gone' })
  })

  test('that are dead are told with the time at which that was declared, and the next head knows it too', () => {
    const head = cluster().tick(1_000)
    const diedMs = head.nowMs
    head.out = []
    head.do({ kind: 'node-left', node: 'n1', reason: 'gone' }).tick(1_000)
    expect(views(head).flatMap(({ nodes }) => nodes)).toMatchObject([{ node: 'n1', state: 'DEAD', diedMs }])
    expect(new Head('h2', head.records).control.nodes.infoOf('n1')).toMatchObject({ state: 'DEAD', diedMs })
  })

  test('are described by what changed, not more often than ten times a second, and a new one by all there is', () => {
    const head = cluster()
    expect(head.out.filter((each) => each.kind === 'view' && each.to === 'n2')).toMatchObject([
      { view: { all: true, nodes: [{ node: 'h1' }, { node: 'n1' }, { node: 'n2' }] } },
    ])
    head.out = []
    head.do({ kind: 'tick', nowMs: (head.nowMs += 250) }, heartbeat(head, 'n1', 3))
    expect(views(head)).toMatchObject([{ all: false, nodes: [{ node: 'n1', available: { cpus: 30_000 } }] }])
    head.out = []
    head.do(heartbeat(head, 'n1', 2), heartbeat(head, 'n2', 2), heartbeat(head, 'n2', 1))
    expect(views(head)).toEqual([])
    head.do({ kind: 'tick', nowMs: (head.nowMs += 250) })
    expect(views(head).map(({ nodes }) => nodes.map(({ node, available }) => [node, available?.cpus]))).toEqual([
      [
        ['n1', 20_000],
        ['n2', 10_000],
      ],
    ])
    head.out = []
    head.do(heartbeat(head, 'n2', 1), { kind: 'tick', nowMs: (head.nowMs += 250) })
    expect(views(head)).toEqual([])
    head.do({ kind: 'tick', nowMs: (head.nowMs -= 3_600_000) }, heartbeat(head, 'n2', 3))
    expect(views(head)).toMatchObject([{ nodes: [{ node: 'n2', available: { cpus: 30_000 } }] }])
  })
})

describe('actors', () => {
  test('go where there is room, near their creator while it is not half used', () => {
    const head = cluster()
    for (const id of ['a1', 'a2', 'a3']) actor(head, id, { shape: shape({ cpus: 10_000 }) })
    expect(['a1', 'a2', 'a3'].map((id) => nodeOf(head, id))).toEqual(['n2', 'n2', expect.stringMatching(/h1|n1/)])
  })

  test('that hold nothing are shared out by number', () => {
    const head = cluster()
    const nodes = ['a1', 'a2', 'a3', 'a4', 'a5', 'a6'].map((id) => nodeOf(actor(head, id, { shape: shape({}) }), id))
    expect(['h1', 'n1', 'n2'].map((node) => nodes.filter((each) => each === node).length)).toEqual([2, 2, 2])
  })

  test('that wait at a full node go to one with room after a while', () => {
    const head = cluster().do({ kind: 'node-left', node: 'h1', reason: 'not of interest here' })
    for (const node of ['n1', 'n2']) head.do(heartbeat(head, node, 0, 1))
    actor(head, 'a1', { shape: shape({ cpus: 10_000 }) })
    const first = nodeOf(head, 'a1') as string
    const other = first === 'n1' ? 'n2' : 'n1'
    head.out = []
    head.do(heartbeat(head, other, 1))
    expect(nodeOf(head.tick(250), 'a1')).toBe(first)
    head.tick(500)
    expect(head.orders()).toMatchObject([
      { to: first, kind: 'actor-release', attempt: 1 },
      { to: other, kind: 'actor-place', attempt: 2 },
    ])
    // The order crossed its placement: what was placed there ends.
    head.out = []
    head.do({ kind: 'actor-placed', node: first, actor: 'a1', attempt: 1, worker: 'w1', address: '', gpuIndices: [] })
    expect(head.orders()).toMatchObject([{ to: first, kind: 'actor-release', attempt: 1, force: true }])
    expect(head.actor('a1')[0]).toBe('PENDING')
  })

  test.each([
    ['restart on another one within their restarts', 1, ['RESTARTING', '', 1]],
    ['are dead when they have none', 0, ['DEAD', '', 0]],
  ])('of a dead node %s', (_what, maxRestarts, state) => {
    const head = actor(cluster(), 'a1', { maxRestarts, shape: shape({}, { node: 'n1', soft: true }) }).runs('a1')
    head.out = []
    head.do({ kind: 'node-left', node: 'n1', reason: 'gone' })
    expect(head.actor('a1')).toEqual(state)
    expect(head.orders().length).toBe(maxRestarts)
    if (maxRestarts === 0) expect(head.control.actors.actors.get('a1')?.cause?.detailsJson).toContain('its node n1 is gone: gone')
  })

  test('of a node that drains move, which is no restart; those that may not restart stay', () => {
    const head = cluster()
    for (const [id, maxRestarts] of [
      ['a1', 1],
      ['a2', 0],
    ] as const)
      actor(head, id, { maxRestarts, shape: shape({}, { node: 'n1', soft: true }) }).runs(id)
    head.out = []
    head.do({ kind: 'node-drain', node: 'n1', reason: 'repair' })
    expect(head.out.flatMap((each) => (each.kind === 'send' ? [[each.process, each.message.$case]] : []))).toEqual([['w-a1', 'actorTerminate']])
    head.do({ kind: 'actor-worker-lost', node: 'n1', actor: 'a1', attempt: 1, worker: 'w-a1', failure: { code: 'WORKER_CRASHED', detailsJson: '{}' } })
    expect([head.actor('a1'), head.control.actors.actors.get('a1')?.restarts]).toEqual([['RESTARTING', '', 1], 0])
    expect(head.actor('a2')).toEqual(['ALIVE', 'w-a2', 0])
  })

  test('whose workers are ended because memory is short wait longer each time before they restart', () => {
    const head = actor(cluster(), 'a1', { maxRestarts: 9, shape: shape({}, { node: 'n1' }) })
    const lost = (failure: Failure): void => {
      const { attempt } = head.control.actors.actors.get('a1')!
      const placed = { actor: 'a1', attempt, worker: 'w-a1' }
      head.do({ kind: 'actor-placed', node: 'n1', ...placed, address: '', gpuIndices: [] })
      head.do({ kind: 'actor-started', process: 'w-a1', started: { actor: 'a1', error: new Uint8Array(), errorText: '' } })
      head.out = []
      head.do({ kind: 'actor-worker-lost', node: 'n1', ...placed, failure })
    }
    const waits = (ms: number): void => {
      head.tick(ms - 250)
      expect(head.orders()).toEqual([])
      expect(head.tick(250).orders()).toMatchObject([{ to: 'n1', kind: 'actor-place' }])
    }
    const short = { code: 'OUT_OF_MEMORY', detailsJson: JSON.stringify({ memory: {} }) }
    head.runs('a1')
    for (const ms of [1_000, 2_000, 4_000]) {
      lost(short)
      waits(ms)
    }
    // Its own heap was too small: that says nothing of its node.
    lost({ code: 'OUT_OF_MEMORY', detailsJson: '{}' })
    expect(head.orders().at(-1)).toMatchObject({ kind: 'actor-place', attempt: 5 })
  })

  test('that no node can hold wait for one; those of a node that is gone do not', () => {
    const head = actor(cluster(), 'a1', { shape: shape({ custom: { tape: 10_000 } }) })
    expect([head.actor('a1')[0], head.control.actors.actors.get('a1')?.reason]).toEqual(['PENDING', 'needs 1 of "tape", which no node has now'])
    const tape = amounts({ cpus: 10_000, custom: { tape: 10_000 } })
    head.do({ kind: 'node-registered', register: { node: info('n3', { total: tape, available: tape }), processes: [], actors: [], groups: [] } })
    expect(nodeOf(head, 'a1')).toBe('n3')
    expect(actor(head, 'a2', { shape: shape({}, { node: 'n9' }) }).actor('a2')[0]).toBe('DEAD')
  })
})

describe('groups', () => {
  test('that lose a node get the lost bundles elsewhere, before new groups, and keep the others', () => {
    const head = cluster().do({ kind: 'group-create', process: DRIVER, create: group })
    const nodes = head.control.groups.groups.get('g1')?.nodes as string[]
    for (const node of nodes) head.do({ kind: 'bundles-prepared', node, group: 'g1', attempt: 1 })
    head.out = []
    const [, second] = nodes as [string, string]
    if (second === 'h1') throw new Error('the head is not to die here')
    head.do({ kind: 'node-left', node: second, reason: 'gone' })
    expect(head.control.groups.groups.get('g1')?.state).toBe('RESCHEDULING')
    const prepare = head.orders().at(-1) as { to: string; attempt: number; bundles: Map<number, unknown> }
    expect([prepare.attempt, [...prepare.bundles.keys()]]).toEqual([2, [1]])
    head.do({ kind: 'bundles-prepared', node: prepare.to, group: 'g1', attempt: 2 })
    expect(head.control.groups.groups.get('g1')).toMatchObject({ state: 'CREATED', nodes: [nodes[0], prepare.to] })
  })
})

describe('jobs', () => {
  test('are kept with their end, and nodes are told when nothing of them is left', () => {
    const head = actor(cluster(), 'a1', { detached: true, shape: shape({}, { node: 'n1' }) }).runs('a1')
    const record = (): unknown => head.control.jobs.jobs.get(DRIVER)
    expect(record()).toMatchObject({ state: 'RUNNING', node: 'n2', job: { id: DRIVER, config: JOB } })
    head.out = []
    head.do({ kind: 'process-lost', process: DRIVER, clean: true })
    expect([record(), views(head).flatMap(({ jobsEnded }) => jobsEnded)]).toMatchObject([{ state: 'SUCCEEDED', endMs: head.nowMs }, []])
    head.do({ kind: 'process-attached', process: 'd2', processKind: 'driver', pid: 1, address: '', job: JOB })
    head.do({ kind: 'actor-stop', process: 'd2', stop: { actor: 'a1', force: true, noRestart: true, reason: '' } })
    head.do({ kind: 'actor-worker-lost', node: 'n1', actor: 'a1', attempt: 1, worker: 'w-a1', failure: { code: 'X', detailsJson: '{}' } })
    expect(views(head).flatMap(({ jobsEnded }) => jobsEnded)).toEqual([DRIVER])
  })

  test('whose driver did not end in order, or whose node is gone, failed', () => {
    const record = (head: Head): unknown => head.control.jobs.jobs.get(DRIVER)
    expect(record(cluster().do({ kind: 'process-lost', process: DRIVER, clean: false }))).toMatchObject({ state: 'FAILED' })
    expect(record(cluster().do({ kind: 'node-left', node: 'n2', reason: 'gone' }))).toMatchObject({ state: 'FAILED', reason: 'its node is gone: gone' })
  })
})
