/** What leaves the memory of a node and when, as exact instructions of the segment directory. */
import { describe, expect, test } from 'vitest'
import { SegmentDirectory } from '../../src/objects/segment-directory.ts'
import type { DirectoryEvent, DirectoryInstruction, Use } from '../../src/objects/segment-directory-events.ts'
import { SPILL_RULES } from '../../src/objects/spiller.ts'

const MiB = 1_048_576

/** A directory of 100 MiB and a process "p" that fills it with objects of 10 MiB, each in a segment of its own. */
class Store {
  readonly directory = new SegmentDirectory({
    directory: '/store',
    capacityBytes: 100 * MiB,
    fullTimeoutMs: 2_000,
    spill: { ...SPILL_RULES, fileBytes: 20 * MiB },
  })
  #request = 0
  #pin = 0
  readonly places = new Map<number, { segment: string; offset: number; bytes: number }>()

  tell(event: DirectoryEvent): DirectoryInstruction[] {
    const out = this.directory.handle(event)
    this.directory.checkInvariants()
    return out.filter(({ kind }) => !['roomChanged', 'primariesFreed', 'startTimer', 'releaseMemory'].includes(kind))
  }

  request(bytes: number = 10 * MiB): DirectoryInstruction[] {
    return this.tell({ kind: 'segmentRequested', process: 'p', request: ++this.#request, bytes })
  }

  /** Objects with these numbers, one after the other. @returns what the last of them set off */
  put(...numbers: number[]): DirectoryInstruction[] {
    let out: DirectoryInstruction[] = []
    for (const object of numbers) {
      let grant = this.request().find(({ kind }) => kind === 'createFile' || kind === 'grant')
      if (grant?.kind === 'createFile') grant = this.tell({ kind: 'fileCreated', segment: grant.segment }).find(({ kind }) => kind === 'grant')
      if (grant?.kind !== 'grant') throw new Error(`no room for ${object}`)
      out = this.add(object, grant.segment)
    }
    return out
  }

  add(object: number, segment: string): DirectoryInstruction[] {
    const place = { segment, offset: 0, bytes: 10 * MiB }
    this.places.set(object, place)
    return this.tell({ kind: 'objectsAdded', process: 'p', objects: [{ ...place, object, label: 'put' }] })
  }

  pin(object: number, use: Use = 'get'): DirectoryInstruction[] {
    return this.tell({ kind: 'pinned', process: 'reader', pin: ++this.#pin, owner: 'p', object, place: this.places.get(object), use })
  }

  unpin(pin: number): DirectoryInstruction[] {
    return this.tell({ kind: 'unpinned', process: 'reader', pins: [pin] })
  }

  free(...objects: number[]): DirectoryInstruction[] {
    return this.tell({ kind: 'objectsFreed', process: 'p', objects })
  }

  giveBack(segment: string): DirectoryInstruction[] {
    return this.tell({ kind: 'segmentReturned', process: 'p', segment })
  }

  written(file: number, error?: string): DirectoryInstruction[] {
    return this.tell({ kind: 'objectsWritten', file, ...(error !== undefined && { error }) })
  }

  /** Takes all that leaves the memory, as a creator would. */
  giveBackFreed(out: readonly DirectoryInstruction[]): DirectoryInstruction[] {
    return out.flatMap((each) => (each.kind === 'blocksFreed' ? each.blocks.flatMap(({ segment }) => this.giveBack(segment)) : []))
  }

  /** 1 is on disk only, 2 to 11 fill the memory, 2 is also on disk. */
  static withOneOnDisk(): Store {
    const store = new Store()
    store.put(...full, 9)
    store.written(1)
    store.put(10)
    const [grant] = store.giveBackFreed(store.request())
    if (grant?.kind !== 'grant') throw new Error('no room')
    store.add(11, grant.segment)
    return store
  }
}

const full = [1, 2, 3, 4, 5, 6, 7, 8]

test('over the threshold the objects used least recently are written, and stay in memory until room is needed', () => {
  const store = new Store()
  store.put(...full)
  store.pin(1)
  store.unpin(1)
  // 90 of 100 MiB: as many are written as are over 80, and at least an eighth of the capacity.
  expect(store.put(9)).toMatchObject([{ kind: 'writeObjects', file: 1, objects: [store.places.get(2), store.places.get(3)] }])
  expect(store.written(1)).toEqual([])
  expect(store.directory.usage).toMatchObject({ liveBytes: 90 * MiB, spilledBytes: 0, spillFileBytes: 20 * MiB })
  // Room is needed: what is on disk leaves at once.
  expect(store.request(20 * MiB)).toMatchObject([
    { kind: 'blocksFreed', process: 'p', blocks: [{ ...store.places.get(2), owner: 'p', object: 2 }], giveBack: true },
  ])
  expect(store.directory.usage).toMatchObject({ liveBytes: 80 * MiB, spilledBytes: 10 * MiB, spilledObjects: 1 })
  expect(store.giveBack(store.places.get(2)!.segment)).toMatchObject([{ kind: 'unlinkFile' }, { kind: 'createFile', bytes: 20 * MiB }])
})

test('a request that finds only objects that are nowhere else waits until they are written', () => {
  const store = new Store()
  store.put(...full)
  expect(store.request(30 * MiB)).toMatchObject([{ kind: 'writeObjects', file: 1, objects: [store.places.get(1)] }])
  const freed = store.written(1)
  expect(freed[0]).toMatchObject({ kind: 'blocksFreed', blocks: [{ object: 1 }], giveBack: true })
  expect(store.giveBackFreed(freed)).toEqual([]) // what is on disk must find room to come back: more is written first
  expect(store.written(2)).toMatchObject([{ kind: 'unlinkFile' }, { kind: 'createFile', bytes: 30 * MiB }])
})

test('what is being written already is waited for before more is chosen', () => {
  const store = new Store()
  store.put(...full, 9)
  expect(store.request(30 * MiB)).toEqual([])
  expect(store.written(1)[0]).toMatchObject({ kind: 'blocksFreed', blocks: [{ object: 1 }, { object: 2 }] })
})

test('copies of objects of other nodes go first, and are not written anywhere', () => {
  const store = new Store()
  store.put(...full)
  store.tell({ kind: 'copyRequested', owner: 'far', object: 1, bytes: 10 * MiB, urgent: false })
  const segment = 'segment-9'
  expect(store.tell({ kind: 'fileCreated', segment })).toMatchObject([{ kind: 'copyGranted', owner: 'far', object: 1 }])
  store.tell({ kind: 'copySealed', owner: 'far', object: 1 })
  expect(store.directory.roomBytes).toBe(20 * MiB)
  expect(store.request(20 * MiB)).toMatchObject([
    { kind: 'unlinkFile', segment },
    { kind: 'createFile', bytes: 20 * MiB },
  ])
  expect(store.directory.find({ owner: 'far', object: 1 })).toBeUndefined()
})

test('room for a copy takes nothing from primary objects, unless a reader is blocked on it', () => {
  const store = new Store()
  store.put(...full)
  expect(store.tell({ kind: 'copyRequested', owner: 'far', object: 1, bytes: 30 * MiB, urgent: false })).toMatchObject([
    { kind: 'copyRefused', code: 'STORE_FULL' },
  ])
  expect(store.tell({ kind: 'copyRequested', owner: 'far', object: 1, bytes: 30 * MiB, urgent: true })).toMatchObject([{ kind: 'writeObjects' }])
})

describe('readers', () => {
  test('an object that somebody begins to read while it is written stays in memory; another one leaves', () => {
    const store = new Store()
    store.put(...full, 9)
    expect(store.request(30 * MiB)).toEqual([])
    expect(store.pin(1)).toMatchObject([
      { kind: 'pinned', memory: store.places.get(1) },
      { kind: 'writeObjects', objects: [store.places.get(3)] },
    ])
    expect(store.written(1)[0]).toMatchObject({ kind: 'blocksFreed', blocks: [{ object: 2 }] })
    expect(store.directory.objects().find(({ object }) => object === 1)).toMatchObject({ spilled: false, pins: 1 })
  })

  test('an object on disk comes back into a segment of the node', () => {
    const store = Store.withOneOnDisk()
    expect(store.directory.objects().filter(({ spilled }) => spilled)).toMatchObject([{ object: 1, segment: '' }])
    const freed = store.pin(1)
    expect(freed).toMatchObject([{ kind: 'blocksFreed', blocks: [{ object: 2 }] }])
    const [read] = store.giveBackFreed(freed)
    expect(read).toMatchObject({ kind: 'readObject', owner: 'p', object: 1, file: 1, from: 0, memory: { bytes: 10 * MiB } })
    expect(store.tell({ kind: 'objectRead', owner: 'p', object: 1 })).toMatchObject([{ kind: 'pinned', process: 'reader' }])
    expect(store.directory.usage).toMatchObject({ restoredBytes: 10 * MiB, pinnedBytes: 10 * MiB })
  })

  test('a file that cannot be read loses the object, and says how', () => {
    const store = Store.withOneOnDisk()
    store.giveBackFreed(store.pin(1))
    const lost = [{ kind: 'pinFailed', code: 'OBJECT_LOST', details: { object: 'p:1', reason: expect.stringContaining('cannot be read back: EIO') } }]
    expect(store.tell({ kind: 'objectRead', owner: 'p', object: 1, error: 'EIO' })).toMatchObject(lost)
    expect(store.pin(1)).toMatchObject([{ ...lost[0], details: { object: 'p:1', reason: expect.stringMatching(/EIO, 0.0 s ago$/) } }])
  })

  test('tasks that have not started take a quarter of the memory for their arguments, and the rest waits its turn', () => {
    const store = new Store()
    store.put(...full)
    expect(store.pin(1, 'argument')).toMatchObject([{ kind: 'pinned' }])
    expect(store.pin(2, 'argument')).toMatchObject([{ kind: 'pinned' }])
    expect(store.pin(3, 'argument')).toEqual([])
    expect(store.pin(4, 'argument')).toEqual([])
    expect(store.pin(4)).toMatchObject([
      { kind: 'pinned', pin: 5 },
      { kind: 'pinned', pin: 4 },
    ]) // somebody reads it now anyway
    expect(store.unpin(1)).toMatchObject([{ kind: 'pinned', pin: 3 }])
  })

  test('who waits for an object whose block was used again learns that it is gone, and no memory is taken for it', () => {
    const store = new Store()
    store.put(...full)
    store.pin(1, 'argument')
    store.pin(2, 'argument')
    expect(store.pin(3, 'argument')).toEqual([])
    store.places.set(9, store.places.get(3)!) // its owner released 3 and wrote 9 there; a reader of 9 is the first to say so
    expect(store.pin(9)).toMatchObject([
      { kind: 'pinFailed', pin: 3, code: 'OBJECT_LOST', details: { object: 'p:3', reason: expect.stringContaining('its memory was used again') } },
      { kind: 'pinned', pin: 4 },
    ])
    expect(store.unpin(1)).toEqual([])
    expect(store.directory.usage).toMatchObject({ objects: 8, waiting: 0, liveBytes: 80 * MiB })
  })
})

describe('files', () => {
  test('a file goes when the last object in it is freed', () => {
    const store = new Store()
    store.put(...full, 9)
    store.written(1)
    store.free(1)
    expect(store.directory.usage.spillFileBytes).toBe(20 * MiB)
    expect(store.free(2)).toEqual([{ kind: 'removeFile', file: 1 }])
    expect(store.directory.usage.spillFileBytes).toBe(0)
  })

  test('an object that is freed while it is written leaves nothing behind', () => {
    const store = new Store()
    store.put(...full, 9)
    store.free(1, 2)
    expect(store.directory.usage.liveBytes).toBe(90 * MiB) // the writer still reads it
    expect(store.written(1)).toEqual([{ kind: 'removeFile', file: 1 }])
    expect(store.directory.usage).toMatchObject({ liveBytes: 70 * MiB, spillFileBytes: 0 })
  })

  test('small objects share files, as many as the rules say', () => {
    const directory = new SegmentDirectory({ directory: '/store', capacityBytes: 64 * MiB, spill: { ...SPILL_RULES, fileObjectsMax: 30 } })
    const [create] = directory.handle({ kind: 'segmentRequested', process: 'p', request: 1, bytes: 60 * MiB })
    const { segment } = create as { segment: string }
    directory.handle({ kind: 'fileCreated', segment })
    const objects = Array.from({ length: 60 }, (_, at) => ({ segment, offset: at * MiB, bytes: MiB, object: at, label: 'put' }))
    const writes = directory.handle({ kind: 'objectsAdded', process: 'p', objects }).filter(({ kind }) => kind === 'writeObjects')
    expect(writes.map((write) => (write as unknown as { objects: unknown[] }).objects.length)).toEqual([9])
    directory.checkInvariants()
  })
})

test('a write that fails is not repeated for a while, and what finds no room then hears why', () => {
  const store = new Store()
  store.put(...full, 9)
  const timers: number[] = []
  const tell = (event: DirectoryEvent): DirectoryInstruction[] => {
    const out = store.directory.handle(event)
    store.directory.checkInvariants()
    for (const each of out) if (each.kind === 'startTimer') timers.push(each.timer)
    return out
  }
  tell({ kind: 'objectsWritten', file: 1, error: 'the disk is full' })
  tell({ kind: 'segmentRequested', process: 'p', request: 99, bytes: 30 * MiB })
  const [retry, ...waits] = timers.splice(0)
  let out: DirectoryInstruction[] = []
  for (let timer: number | undefined = waits.at(-1); timer !== undefined && !out.some(({ kind }) => kind === 'fail'); timer = timers.pop()) {
    out = tell({ kind: 'timerRang', timer })
  }
  expect(out).toContainEqual(
    expect.objectContaining({
      kind: 'fail',
      code: 'STORE_FULL',
      details: expect.objectContaining({ spilling: 'the disk is full', spilledBytes: 0, pinnedBytes: 0 }),
    }),
  )
  expect(tell({ kind: 'timerRang', timer: retry! })).toMatchObject([{ kind: 'writeObjects', file: 2 }])
})
