/**
 * Estimates pi on every core: each task throws darts with its own seed, and results are taken in the order in which they finish.
 */
import { get, init, type ObjectRef, remote, wait } from '@beamline/runtime'

const tasks = 16
const darts = 200_000

const throwDarts = remote((seed: number): number => {
  let state = seed
  const random = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
  let inside = 0
  for (let i = 0; i < darts; i++) if (random() ** 2 + random() ** 2 < 1) inside++
  return inside
})

await using _cluster = await init()

let pending: readonly ObjectRef<number>[] = Array.from({ length: tasks }, (_, seed) => throwDarts.remote(seed))
let inside = 0
while (pending.length > 0) {
  const next = await wait(pending, { count: 1 })
  for (const count of await get(next.ready)) inside += count
  pending = next.pending
}
console.log(`pi is about ${((4 * inside) / (tasks * darts)).toFixed(2)}, from ${tasks} tasks`)
