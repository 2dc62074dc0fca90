/**
 * Putting 800 MiB into shared memory that this process has written before, and mapping it again. Sketch: the copy decides, about 11 GB/s, so a put should
 * reach 0.7 of a plain copy into the same mapping; mapping is a system call and a page table, 0.1 ms, plus what V8's garbage collector makes of
 * 800 MiB more "external memory". The first put into fresh pages is shown apart: it is what recycling of segments avoids.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { decode, encode, write } from '../src/objects/codec.ts'
import { createSegmentFile, removeStoreDirectory } from '../src/objects/segment-files.ts'
import { type Block, ObjectMapper, SegmentPool } from '../src/objects/segments.ts'

const BYTES = 800 * 1_048_576
const ROUNDS = 15

const directory = mkdtempSync(`${existsSync('/dev/shm') ? '/dev/shm' : tmpdir()}/beamline-bench-`)
const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!
const gigabytes = (milliseconds: number): string => `${(BYTES / milliseconds / 1e6).toFixed(2)} GB/s`

/** Milliseconds of each of a few rounds of `run`; `clean` is not timed. */
async function time(run: () => unknown, clean: () => unknown = () => {}, rounds: number = ROUNDS): Promise<number> {
  const taken: number[] = []
  for (let i = 0; i < rounds; i++) {
    const start = performance.now()
    const result = run()
    if (result instanceof Promise) await result
    taken.push(performance.now() - start)
    await clean()
  }
  return median(taken)
}

try {
  const pool = new SegmentPool(
    async (bytes) => {
      const path = `${directory}/segment-${bytes}`
      await createSegmentFile(path, bytes)
      return { segment: path, path, bytes }
    },
    () => {},
  )
  const value = { weights: new Float64Array(BYTES / 8).fill(1.5) }
  let block: Block | undefined
  const put = async (): Promise<void> => {
    const encoded = encode(value, 'weights')
    const allocated = pool.allocate(encoded.byteLength)
    block = allocated instanceof Promise ? await allocated : allocated
    write(encoded, block.view)
  }
  const free = (): void => pool.free(block!.segment, block!.offset, block!.bytes)

  const fresh = await time(put, free, 1)
  await put()
  const target = block!.view
  const bytes = new Uint8Array(value.weights.buffer, 0, target.length - 64)
  const copy = await time(() => target.set(bytes))
  free()
  const warm = await time(put, free)
  await put()

  const mapper = new ObjectMapper()
  let mapped: { weights: Float64Array } | undefined
  const map = (): void => {
    mapped = decode(mapper.map(block!, () => {})) as { weights: Float64Array }
  }
  const get = await time(map, () => {
    assert.equal(mapped!.weights.at(-1), 1.5)
    mapped = undefined
    return new Promise((resolve) => setImmediate(resolve))
  })

  console.log(`put of 800 MiB, fresh pages    ${fresh.toFixed(0)} ms   ${gigabytes(fresh)}`)
  console.log(`copy into warm mapping         ${copy.toFixed(1)} ms   ${gigabytes(copy)}`)
  console.log(`put of 800 MiB, warm           ${warm.toFixed(1)} ms   ${gigabytes(warm)}   ${(copy / warm).toFixed(2)} of the copy`)
  console.log(`map and decode it              ${get.toFixed(2)} ms`)
} finally {
  removeStoreDirectory(directory)
}
