/**
 * Fits a line with a parameter server: an actor holds the weights, and tasks compute gradients over their own part of the data, which was put into
 * shared memory once and is mapped by every worker without a copy.
 */
import { get, init, put, remote } from '@beamline/runtime'

const rows = 60_000
const shards = 4
const x = Float64Array.from({ length: rows }, (_, i) => (i % 1_000) / 1_000)
const y = x.map((value) => 3 * value - 1)

class Weights {
  #slope = 0
  #offset = 0

  read(): [number, number] {
    return [this.#slope, this.#offset]
  }

  step(gradients: [number, number][]): [number, number] {
    for (const [slope, offset] of gradients) {
      this.#slope -= slope / gradients.length
      this.#offset -= offset / gradients.length
    }
    return this.read()
  }
}

const gradient = remote((weights: [number, number], xs: Float64Array, ys: Float64Array, shard: number): [number, number] => {
  const [slope, offset] = weights
  const size = xs.length / shards
  let bySlope = 0
  let byOffset = 0
  for (let i = shard * size; i < (shard + 1) * size; i++) {
    const error = slope * xs[i]! + offset - ys[i]!
    bySlope += error * xs[i]!
    byOffset += error
  }
  return [bySlope / size, byOffset / size]
})

await using _cluster = await init()

const server = remote(Weights).remote()
const xs = await put(x)
const ys = await put(y)
let weights = server.read.remote()
for (let step = 0; step < 150; step++) {
  const gradients = await get(Array.from({ length: shards }, (_, shard) => gradient.remote(weights, xs, ys, shard)))
  weights = server.step.remote(gradients)
}
const [slope, offset] = await get(weights)
console.log(`y = ${slope.toFixed(1)} x ${offset < 0 ? '-' : '+'} ${Math.abs(offset).toFixed(1)}`)
