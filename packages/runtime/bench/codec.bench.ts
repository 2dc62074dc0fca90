/**
 * Values to bytes and back, with `v8.serialize` on the same values as a yardstick. Small values are on the path of every task: 1 µs is the aim; for large
 * arrays the copy decides, about 10 GB/s into warm memory.
 */
import assert from 'node:assert/strict'
import { deserialize, serialize } from 'node:v8'
import { decode, encode, encodeInline, write } from '../src/objects/codec.ts'
import { newBench, runBench } from './table.ts'

const values: Record<string, unknown> = {
  'a number': 42,
  'a short string': 'a short string',
  'a small object': { id: 17, name: 'seventeen', tags: ['a', 'b'], nested: { at: 1.5, on: true } },
  '100 small objects': Array.from({ length: 100 }, (_, id) => ({ id, name: `row ${id}`, score: id / 3 })),
  'a Map of 100': new Map(Array.from({ length: 100 }, (_, i) => [`key ${i}`, i])),
  'Float64Array, 64 KiB': Float64Array.from({ length: 8_192 }, (_, i) => i),
}

const bench = newBench()
for (const [name, value] of Object.entries(values)) {
  assert.deepEqual(decode(encodeInline(value, name)), value)
  bench.add(`${name}: there and back`, () => decode(encodeInline(value, name)))
  bench.add(`${name}: v8.serialize`, () => deserialize(serialize(value)))
}

const large = { weights: Float32Array.from({ length: 4 * 1_048_576 }, (_, i) => i) }
const target = new Uint8Array(encode(large, 'weights').byteLength)
bench.add('Float32Array, 16 MiB: encode and write', () => write(encode(large, 'weights'), target))
write(encode(large, 'weights'), target)
assert.deepEqual(decode(target), large)

await runBench(bench)
