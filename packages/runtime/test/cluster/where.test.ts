/** Where tasks and actors run, as users ask for it: strategy, node, labels, placement groups and their children. */
import { hostname } from 'node:os'
import { clusterInfo, get, init, kill, placementGroup, remote, shutdown } from '@beamline/runtime'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { failure } from './helpers.ts'

let node = ''
beforeAll(async () => {
  await init({ cpus: 2, quiet: true })
  node = clusterInfo().node
})
afterAll(shutdown)

const here = remote(() => 'here')

test.each([
  ['any strategy', { strategy: 'spread' }],
  ['this node', () => ({ node })],
  ['a node that is gone, softly', { node: { id: '0123456789abcdef', soft: true } }],
  ['labels that every node has', () => ({ labels: { 'beamline/node': node, 'beamline/host': `in(${hostname()},other)`, zone: '!a' } })],
] as const)('a task runs on one machine with %s', async (_what, options) => {
  expect(await get(here.options((typeof options === 'function' ? options() : options) as object).remote())).toBe('here')
})

test.each([
  ['another node', { node: '0123456789abcdef' }, /on node 0123456789abcdef/],
  ['labels that no node has', { labels: { zone: 'a' } }, /on a node with zone=a/],
  ['labels that this node must not have', { labels: { 'beamline/host': `!${hostname()}` } }, /beamline\/host=!/],
])('a task that wants %s cannot run', async (_what, options, text) => {
  const error = await failure(get(here.options(options).remote()))
  expect([error.code, error.message]).toEqual(['INFEASIBLE', expect.stringMatching(text)])
})

test.each([
  ['strategy', { strategy: 'pack' }],
  ['node', { node: '' }],
  ['labels.zone', { labels: { zone: 'in(a' } }],
  ['labels.zone', { labels: { zone: '' } }],
])('a bad %s is refused when it is named', (what, options) => {
  expect(() => here.options(options as object)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(what) }))
})

test('a group has a place of its own', async () => {
  await using group = placementGroup([{ cpus: 1 }])
  expect(() => here.options({ placementGroup: group, strategy: 'spread' })).toThrow(/one of them/)
  expect(() => placementGroup([{ cpus: 1, labels: { zone: '!' } }])).toThrow(/labels.zone/)
  expect((await failure(placementGroup([{ cpus: 1, labels: { zone: 'a' } }]).ready())).code).toBe('INFEASIBLE')
})

test('children of tasks and actors of a group that captures them join it', async () => {
  // The group has all cpus: what does not join it could only run while the parent waits, and in no bundle.
  await using group = placementGroup([{ cpus: 1 }, { cpus: 1 }], { captureChildTasks: true })
  await group.ready()
  const child = remote(() => 'child')
  class Parent {
    async run(): Promise<string> {
      return await get(child.remote())
    }
  }
  const parent = remote(async () => `${await get(child.remote())} and ${await get(remote(async () => `${await get(child.remote())} of a child`).remote())}`)
  expect(await get(parent.options({ placementGroup: group }).remote())).toBe('child and child of a child')
  const actor = remote(Parent, { placementGroup: group, cpus: 1 }).remote()
  expect(await get(actor.run.remote())).toBe('child')
  kill(actor)
})
