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

/** Milliseconds of one run. */
async function time(run: () => unknown): Promise<number> {
  const start = performance.now()
  const result = run()
  if (result instanceof Promise) await result
  return performance.now() - start
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

  const mapper = new ObjectMapper()
  let mapped: { weights: Float64Array } | undefined
  const map = (): void => {
    mapped = decode(mapper.map(block!, () => {})) as { weights: Float64Array }
  }

  const fresh = await time(put)
  const bytes = new Uint8Array(value.weights.buffer)
  const copies: number[] = []
  const puts: number[] = []
  const gets: number[] = []
  // In turn, so that whatever else the machine does falls on all of them.
  for (let i = 0; i < ROUNDS; i++) {
    copies.push(await time(() => block!.view.set(bytes)))
    free()
    puts.push(await time(put))
    gets.push(await time(map))
    assert.equal(mapped!.weights.at(-1), 1.5)
    mapped = undefined
    await new Promise((resolve) => setImmediate(resolve))
  }
  const [copy, warm, get] = [copies, puts, gets].map(median) as [number, number, number]

  console.log(`put of 800 MiB, fresh pages    ${fresh.toFixed(0)} ms   ${gigabytes(fresh)}`)
  console.log(`copy into warm mapping         ${copy.toFixed(1)} ms   ${gigabytes(copy)}`)
  console.log(`put of 800 MiB, warm           ${warm.toFixed(1)} ms   ${gigabytes(warm)}   ${(copy / warm).toFixed(2)} of the copy`)
  console.log(`map and decode it              ${get.toFixed(2)} ms`)
} finally {
  removeStoreDirectory(directory)
}
