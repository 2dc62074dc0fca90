import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { ObjectStore } from '../../src/core/object-store.ts'
import { decode, encode } from '../../src/objects/codec.ts'
import { createSegmentFile, openStoreDirectory, removeStoreDirectory } from '../../src/objects/segment-files.ts'

test('a value goes to shared memory as it was when it was given, also when room has to be waited for', async () => {
  const directory = `${existsSync('/dev/shm') ? '/dev/shm' : tmpdir()}/beamline-test-${randomBytes(4).toString('hex')}`
  openStoreDirectory(directory)
  try {
    const path = `${directory}/segment-1`
    const store: ObjectStore = new ObjectStore((message) => {
      if (message.body?.$case !== 'segmentRequest') return
      const { request, bytes } = message.body.value
      void createSegmentFile(path, bytes * 3).then(() => store.granted({ request, segment: 'segment-1', path, bytes: bytes * 3, failure: undefined }))
    })
    const array = new Float64Array(50_000)
    const places = []
    for (let i = 1; i <= 3; i++) {
      array.fill(i)
      places.push(store.write(encode(array, 'it'), { owner: 'p', object: i, address: '' }))
      if (i === 2) await Promise.all(places) // the third finds room at once
    }
    array.fill(-1)
    const values = (await Promise.all(places)).map((place) => decode(store.map(place, place, () => {})) as Float64Array)
    expect(values.map((value) => [value[0], value.at(-1)])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ])
    store.close()
  } finally {
    removeStoreDirectory(directory)
  }
})

test('a block that is read here is not written again when the node frees it, but after its last reader, and then goes back', async () => {
  const directory = `${existsSync('/dev/shm') ? '/dev/shm' : tmpdir()}/beamline-test-${randomBytes(4).toString('hex')}`
  openStoreDirectory(directory)
  try {
    const returned: string[] = []
    let segments = 0
    const store: ObjectStore = new ObjectStore(({ body }) => {
      if (body?.$case === 'segmentReturn') returned.push(body.value.segment)
      if (body?.$case !== 'segmentRequest') return
      const { request, bytes } = body.value
      const segment = `segment-${++segments}`
      const path = `${directory}/${segment}`
      void createSegmentFile(path, bytes).then(() => store.granted({ request, segment, path, bytes, failure: undefined }))
    })
    store.node = 'n'
    const encoded = (value: number): ReturnType<typeof encode> => encode(new Float64Array(50_000).fill(value), 'it')
    const first = await store.write(encoded(1), { owner: 'p', object: 1, address: '' })
    const reader = store.pins.take(first, 'get')
    const { segment, offset, bytes } = first
    const freed = { places: [{ segment, offset, bytes, node: '', owner: 'p', object: 1 }], giveBack: true }
    store.blocksFreed(freed)
    store.blocksFreed(freed)
    expect(returned).toEqual([])
    expect(store.pins.take({ ...first, object: { owner: 'p', object: 3, address: '' } }, 'get').memory).toBeUndefined()
    const second = await store.write(encoded(2), { owner: 'p', object: 2, address: '' })
    expect(second.segment).toBe('segment-2')
    const value = decode(store.map(reader.memory!, first, () => {})) as Float64Array
    expect([value[0], value.at(-1)]).toEqual([1, 1])
    reader.release()
    expect(returned).toEqual(['segment-1'])
    store.close()
  } finally {
    removeStoreDirectory(directory)
  }
})
