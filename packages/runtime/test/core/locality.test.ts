import { expect, test } from 'vitest'
import type { ObjectEntry, Stored } from '../../src/core/object-entry.ts'
import { settle, World } from './world.ts'

const prefers = (world: World): (string | undefined)[] => world.demands.filter(({ wanted }) => wanted > 0).map(({ shape }) => shape?.prefers)

test('a task asks for a worker where most bytes of its arguments lie', async () => {
  const world = new World({ node: 'n0' })
  const asks = async (...args: [node: string, bytes: number][]): Promise<string | undefined> => {
    world.call(
      args.map(([node, bytes]) => world.put(node, bytes)),
      [],
    )
    await settle()
    return prefers(world).at(-1)
  }
  expect(await asks(['n0', 300_000], ['n1', 200_000])).toBe('')
  expect(await asks(['n0', 300_000], ['n1', 200_000], ['n1', 200_000])).toBe('n1')
  expect(await asks(['n0', 300_000], ['n1', 200_000], ['n2', 350_000])).toBe('n2')
  expect(await asks()).toBe('')
})

test('queues for preferred nodes go when they are empty', async () => {
  const world = new World({ node: 'n0' })
  for (let i = 0; i < 5; i++) world.call([world.put(`m${i}`)], [])
  await world.quiet()
  expect(new Set(prefers(world))).toEqual(new Set(['m0', 'm1', 'm2', 'm3', 'm4']))
  const keys = world.demands.map(({ key }) => key)
  await world.returned(5)
  // A result that is lost now asks anew.
  const [result] = world.handles.filter((entry) => entry.stored?.kind === 'place' && entry.producer?.label === 'f')
  world.references.lost(result as ObjectEntry, (result?.stored as Extract<Stored, { kind: 'place' }>).place)
  await world.quiet()
  expect(result?.stored?.kind).toBe('place')
  // The same shape gets a queue of its own again.
  world.call([world.put('m0')], [])
  await settle()
  expect(keys).not.toContain(world.demands.at(-1)?.key)
})
