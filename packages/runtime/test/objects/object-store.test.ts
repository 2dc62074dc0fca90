import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { describe, expect, onTestFinished, test } from 'vitest'
import { ObjectStore } from '../../src/core/object-store.ts'
import type { Ref } from '../../src/net/gen/peer.ts'
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

describe('at another node', () => {
  const [first, second] = [1, 2].map((object) => ({ owner: 'p', object, address: '' })) as [Ref, Ref]
  const encoded = (value: number): ReturnType<typeof encode> => encode(new Float64Array(50_000).fill(value), 'it')

  /** Segments are granted until `hold`, and those that were asked for since by `grant`. No other node has a copy of anything. */
  function start(): { store: ObjectStore; hold: () => void; grant: () => Promise<void> } {
    const directory = `${existsSync('/dev/shm') ? '/dev/shm' : tmpdir()}/beamline-test-${randomBytes(4).toString('hex')}`
    openStoreDirectory(directory)
    onTestFinished(() => removeStoreDirectory(directory))
    let held: (() => Promise<void>)[] | undefined
    let segments = 0
    const store: ObjectStore = new ObjectStore(({ body }) => {
      if (body?.$case === 'objectRecover') {
        const { request } = body.value
        queueMicrotask(() => store.recovered({ request, node: '', segment: '', offset: 0, failure: undefined }))
      }
      if (body?.$case !== 'segmentRequest') return
      const { request, bytes } = body.value
      const segment = `segment-${++segments}`
      const path = `${directory}/${segment}`
      const grant = async (): Promise<void> => {
        await createSegmentFile(path, bytes)
        store.granted({ request, segment, path, bytes, failure: undefined })
      }
      if (held) held.push(grant)
      else void grant()
    })
    store.node = 'n'
    const hold = (): void => {
      held = []
    }
    const grant = async (): Promise<void> => {
      for (const each of held?.splice(0) ?? []) await each()
    }
    return { store, hold, grant }
  }

  test('an object is taken from the memory before, but not where its block was used for another one', async () => {
    const { store } = start()
    const spilled = await store.write(encoded(1), first)
    const { segment, offset, bytes } = spilled
    store.blocksFreed({ places: [{ segment, offset, bytes, node: '', owner: 'p', object: 1 }], giveBack: false })
    const kept = await store.write(encoded(2), second)
    expect([kept.segment, kept.offset]).toEqual([segment, offset])
    store.attachedAgain('m', [])
    expect([store.wroteBefore(spilled), store.wroteBefore(kept)]).toEqual([false, true])
    expect(await store.findCopy(spilled, first, 'it')).toBeUndefined()
    const copy = (await store.findCopy(kept, second, 'it'))!
    const value = decode(store.map(copy, copy, () => {})) as Float64Array
    expect([copy.node, value[0], value.at(-1)]).toEqual(['m', 2, 2])
    store.close()
  })

  test('an object is lost when that node is gone too before there was room for it', async () => {
    const { store, hold, grant } = start()
    const kept = await store.write(encoded(1), first)
    store.attachedAgain('m', [])
    hold()
    const copy = store.findCopy(kept, first, 'it')
    await store.ready()
    store.attachedAgain('k', [])
    await grant()
    expect(await copy).toBeUndefined()
    store.close()
  })
})
