import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SegmentDirectory } from '../../src/objects/segment-directory.ts'
import type { DirectoryEvent, DirectoryInstruction } from '../../src/objects/segment-directory-events.ts'
import { segmentBytesFor } from '../../src/objects/segment-sizes.ts'

const MiB = 1_048_576
const directoryOf = (capacityBytes: number): SegmentDirectory =>
  new SegmentDirectory({ directory: '/store', capacityBytes, fullTimeoutMs: 2_500, orphanGraceMs: 100 })

/** Hands an event over and checks the books after it. News for the object plane is left out. */
function tell(directory: SegmentDirectory, event: DirectoryEvent): DirectoryInstruction[] {
  const out = directory.handle(event)
  directory.checkInvariants()
  return out.filter(({ kind }) => kind !== 'roomChanged' && kind !== 'primariesFreed')
}

/** Requests a segment and creates its file; gives its name. */
function granted(directory: SegmentDirectory, process: string, bytes: number, request = 1): string {
  let out = tell(directory, { kind: 'segmentRequested', process, request, bytes })
  const create = out.find((instruction) => instruction.kind === 'createFile')
  if (create) out = tell(directory, { kind: 'fileCreated', segment: create.segment })
  const grant = out.find((instruction) => instruction.kind === 'grant')
  if (!grant) throw new Error(`not granted: ${JSON.stringify(out)}`)
  expect(grant).toMatchObject({ process, request, path: `/store/${grant.segment}` })
  expect(grant.bytes).toBeGreaterThanOrEqual(bytes)
  return grant.segment
}

const object = (segment: string, number: number, offset: number, bytes: number, label = 'put') => ({ segment, object: number, offset, bytes, label })

describe('room', () => {
  test('a first slab is small, later ones are larger, a large object gets a segment of about its size', () => {
    const directory = directoryOf(1024 * MiB)
    expect(tell(directory, { kind: 'segmentRequested', process: 'p', request: 1, bytes: 200_000 })).toEqual([
      { kind: 'createFile', segment: 'segment-1', path: '/store/segment-1', bytes: 16 * MiB },
    ])
    expect(tell(directory, { kind: 'fileCreated', segment: 'segment-1' })).toEqual([
      { kind: 'grant', process: 'p', request: 1, segment: 'segment-1', path: '/store/segment-1', bytes: 16 * MiB },
    ])
    expect(tell(directory, { kind: 'segmentRequested', process: 'p', request: 2, bytes: 200_000 })).toMatchObject([{ bytes: 64 * MiB }])
    expect(tell(directory, { kind: 'segmentRequested', process: 'p', request: 3, bytes: 200 * MiB + 100 })).toMatchObject([{ bytes: 208 * MiB }])
    expect(directory.usage).toMatchObject({ fileBytes: (16 + 64 + 208) * MiB, segments: 3, liveBytes: 0, waiting: 0 })
  })

  test('sizes waste at most an eighth and never fall short', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 40 }), fc.nat(3), fc.integer({ min: 2 ** 20, max: 2 ** 44 }), (bytes, held, capacity) => {
        const size = segmentBytesFor(bytes, held, capacity)
        expect(size % 4096).toBe(0)
        expect(size).toBeGreaterThanOrEqual(bytes)
        if (bytes > 16 * MiB) expect(size).toBeLessThanOrEqual(bytes * 1.125 + 4096)
      }),
    )
  })

  test('a returned segment is granted again without a new file, also to another process', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'p', 100 * MiB)
    expect(tell(directory, { kind: 'segmentReturned', process: 'p', segment })).toEqual([])
    expect(tell(directory, { kind: 'segmentRequested', process: 'q', request: 9, bytes: 99 * MiB })).toMatchObject([
      { kind: 'grant', process: 'q', request: 9, segment },
    ])
  })

  test('a spare segment that is too small makes way for one that fits', () => {
    const directory = directoryOf(300 * MiB)
    const small = granted(directory, 'p', 100 * MiB)
    tell(directory, { kind: 'segmentReturned', process: 'p', segment: small })
    expect(tell(directory, { kind: 'segmentRequested', process: 'p', request: 2, bytes: 250 * MiB })).toMatchObject([
      { kind: 'unlinkFile', segment: small, path: `/store/${small}` },
      { kind: 'createFile', bytes: 256 * MiB },
    ])
  })

  test('what is left is enough even when a segment of the usual size would not fit', () => {
    const directory = directoryOf(100 * MiB)
    granted(directory, 'p', 97 * MiB)
    expect(tell(directory, { kind: 'segmentRequested', process: 'q', request: 1, bytes: 2 * MiB })).toMatchObject([{ kind: 'createFile', bytes: 2 * MiB }])
  })

  test('a segment returned before its last free arrives is recycled with that free', () => {
    const directory = directoryOf(100 * MiB)
    const segment = granted(directory, 'p', 60 * MiB)
    tell(directory, { kind: 'objectsAdded', process: 'p', objects: [object(segment, 1, 0, 50 * MiB)] })
    tell(directory, { kind: 'segmentReturned', process: 'p', segment })
    expect(tell(directory, { kind: 'segmentRequested', process: 'q', request: 1, bytes: 60 * MiB })).toMatchObject([
      { kind: 'releaseMemory' },
      { kind: 'startTimer', afterMs: 1000 },
      { kind: 'startTimer', afterMs: 1000 },
    ])
    expect(tell(directory, { kind: 'objectsFreed', process: 'p', objects: [1] })).toMatchObject([{ kind: 'grant', process: 'q', segment }])
  })
})

describe('a full store', () => {
  test('more than the capacity is refused at once, with the biggest holders', () => {
    const directory = directoryOf(200 * MiB)
    const segment = granted(directory, 'driver', 150 * MiB)
    tell(directory, {
      kind: 'objectsAdded',
      process: 'driver',
      objects: [object(segment, 1, 0, 100 * MiB, 'load'), object(segment, 2, 100 * MiB, 8 * MiB, 'put'), object(segment, 3, 108 * MiB, 8 * MiB, 'put')],
    })
    const [fail] = tell(directory, { kind: 'segmentRequested', process: 'driver', request: 7, bytes: 201 * MiB })
    expect(fail).toEqual({
      kind: 'fail',
      process: 'driver',
      request: 7,
      code: 'STORE_FULL',
      details: {
        wantedBytes: 201 * MiB,
        usedBytes: directory.usage.fileBytes,
        capacityBytes: 200 * MiB,
        holders:
          '100.0 MiB in 1 object of "load" owned by driver, 16.0 MiB in 2 objects of "put" owned by driver, ' +
          `${directory.usage.fileBytes / MiB - 116}.0 MiB reserved by processes and not in use`,
        pinnedBytes: 0,
        spilledBytes: 0,
        spilling: 'writing objects to disk is switched off',
      },
    })
  })

  test('a request waits in order, asks for memory every second, and fails in the end', () => {
    const directory = directoryOf(100 * MiB)
    const segment = granted(directory, 'p', 96 * MiB)
    tell(directory, { kind: 'objectsAdded', process: 'owner', objects: [object(segment, 1, 0, 90 * MiB)] })
    expect(tell(directory, { kind: 'segmentRequested', process: 'q', request: 1, bytes: 50 * MiB })).toEqual([
      { kind: 'releaseMemory' },
      { kind: 'startTimer', timer: 1, afterMs: 1000 }, // until processes may be asked again
      { kind: 'startTimer', timer: 2, afterMs: 1000 },
    ])
    expect(tell(directory, { kind: 'segmentRequested', process: 'r', request: 1, bytes: 1 * MiB })).toEqual([{ kind: 'startTimer', timer: 3, afterMs: 1000 }])
    expect(tell(directory, { kind: 'timerRang', timer: 1 })).toEqual([])
    expect(tell(directory, { kind: 'timerRang', timer: 2 })).toMatchObject([{ kind: 'releaseMemory' }, { timer: 4 }, { timer: 5, afterMs: 1000 }])
    expect(tell(directory, { kind: 'timerRang', timer: 4 })).toEqual([])
    expect(tell(directory, { kind: 'timerRang', timer: 5 })).toMatchObject([{ kind: 'releaseMemory' }, { timer: 6 }, { timer: 7, afterMs: 500 }])
    const out = tell(directory, { kind: 'timerRang', timer: 7 })
    expect(out[0]).toMatchObject({ kind: 'fail', process: 'q', request: 1, code: 'STORE_FULL' })
    expect(out[1]).toMatchObject({ kind: 'createFile', bytes: 2 * MiB }) // r was behind it and fits
    expect(tell(directory, { kind: 'timerRang', timer: 7 })).toEqual([]) // rings twice: ignored
  })

  test('a request that waited gets the room that others give back', () => {
    const directory = directoryOf(100 * MiB)
    const segment = granted(directory, 'p', 96 * MiB)
    tell(directory, { kind: 'segmentRequested', process: 'q', request: 5, bytes: 90 * MiB })
    expect(tell(directory, { kind: 'segmentReturned', process: 'p', segment })).toMatchObject([{ kind: 'grant', process: 'q', request: 5, segment }])
  })

  test('a machine with less room than the capacity is tried twice, then named', () => {
    const directory = directoryOf(1024 * MiB)
    const spare = granted(directory, 'p', 100 * MiB)
    tell(directory, { kind: 'segmentReturned', process: 'p', segment: spare })
    const [create] = tell(directory, { kind: 'segmentRequested', process: 'p', request: 2, bytes: 300 * MiB })
    const again = tell(directory, { kind: 'fileCreated', segment: (create as { segment: string }).segment, error: 'ENOSPC' })
    expect(again).toMatchObject([{ kind: 'unlinkFile', segment: spare }, { kind: 'createFile' }])
    expect(tell(directory, { kind: 'fileCreated', segment: (again[1] as { segment: string }).segment, error: 'ENOSPC' })).toMatchObject([
      { kind: 'fail', process: 'p', request: 2, code: 'STORE_UNAVAILABLE', details: { path: '/store', reason: expect.stringContaining('ENOSPC') } },
    ])
    expect(directory.usage).toMatchObject({ fileBytes: 0, segments: 0, waiting: 0 })
  })
})

test('a request whose file could not be made keeps its place in the queue', () => {
  const directory = directoryOf(100 * MiB)
  const [create] = tell(directory, { kind: 'segmentRequested', process: 'p', request: 1, bytes: 60 * MiB })
  tell(directory, { kind: 'segmentRequested', process: 'q', request: 2, bytes: 60 * MiB })
  const again = tell(directory, { kind: 'fileCreated', segment: (create as { segment: string }).segment, error: 'ENOSPC' })
  const [retry] = again.filter(({ kind }) => kind === 'createFile') as { segment: string }[]
  expect(tell(directory, { kind: 'fileCreated', segment: retry!.segment })).toMatchObject([{ kind: 'grant', process: 'p', request: 1 }])
})

test('only the process that holds a segment can return it', () => {
  const directory = directoryOf(100 * MiB)
  const segment = granted(directory, 'p', MiB)
  tell(directory, { kind: 'segmentReturned', process: 'stranger', segment })
  expect(granted(directory, 'q', MiB)).not.toBe(segment)
})

describe('objects', () => {
  test('what an owner frees is told to the process that wrote it, and only to it', () => {
    const directory = directoryOf(1024 * MiB)
    const a = granted(directory, 'worker', MiB)
    const b = granted(directory, 'driver', MiB)
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [object(a, 1, 0, 200_000), object(b, 2, 0, 300_000)] })
    expect(directory.objects()).toMatchObject([
      { object: 2, owner: 'driver', creator: 'driver' },
      { object: 1, owner: 'driver', creator: 'worker' },
    ])
    const freed = { kind: 'objectsFreed' as const, objects: [1, 2] }
    expect(tell(directory, { ...freed, process: 'stranger' })).toEqual([])
    expect(tell(directory, { ...freed, process: 'driver' })).toEqual([
      { kind: 'blocksFreed', process: 'worker', blocks: [{ segment: a, offset: 0, bytes: 200_000, owner: 'driver', object: 1 }], giveBack: false },
    ])
    expect(directory.usage).toMatchObject({ objects: 0, liveBytes: 0 })
    expect(tell(directory, { ...freed, process: 'driver' })).toEqual([])
  })

  test('a block that was reused before its old owner reported it free belongs to the new one', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'worker', MiB)
    tell(directory, { kind: 'objectsAdded', process: 'worker', objects: [object(segment, 1, 0, 400_000)] })
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [object(segment, 1, 4096, 200_000)] })
    tell(directory, { kind: 'objectsFreed', process: 'worker', objects: [1] })
    expect(directory.objects()).toMatchObject([{ owner: 'driver', offset: 4096 }])
  })

  test('objects outside their segment, in no segment, or in one without a file are ignored', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'p', MiB)
    const objects = [object(segment, 1, 16 * MiB - 4096, 8192), object('segment-99', 2, 0, 10)]
    tell(directory, { kind: 'objectsAdded', process: 'p', objects })
    expect(directory.usage.objects).toBe(0)
  })
})

describe('pins', () => {
  const pin = (directory: SegmentDirectory, process: string, number: number, place: ReturnType<typeof object>, owner = 'driver') =>
    tell(directory, { kind: 'pinned', process, pin: number, owner, object: place.object, place, use: 'get' })

  test('an object is pinned where it lies, also before its owner reports it', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'worker', MiB)
    const place = object(segment, 1, 4096, 200_000)
    expect(pin(directory, 'reader', 7, place)).toEqual([
      { kind: 'pinned', process: 'reader', pin: 7, memory: { path: `/store/${segment}`, segment, segmentBytes: 16 * MiB, offset: 4096, bytes: 200_000 } },
    ])
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [place] })
    expect(directory.objects()).toMatchObject([{ owner: 'driver', label: 'put' }])
    expect(tell(directory, { kind: 'unpinned', process: 'reader', pins: [7] })).toEqual([])
    expect(directory.usage.objects).toBe(1)
  })

  test('a freed block is told to its creator when nobody reads it any more', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'worker', MiB)
    const place = object(segment, 1, 0, 200_000)
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [place] })
    for (const reader of ['a', 'b']) pin(directory, reader, 1, place)
    expect(tell(directory, { kind: 'objectsFreed', process: 'driver', objects: [1] })).toEqual([])
    expect(tell(directory, { kind: 'unpinned', process: 'a', pins: [1] })).toEqual([])
    expect(tell(directory, { kind: 'processGone', process: 'b' })).toMatchObject([{ kind: 'blocksFreed', process: 'worker', blocks: [{ segment, object: 1 }] }])
    expect(directory.usage.objects).toBe(0)
  })

  test('what is not there cannot be pinned', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'worker', MiB)
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [object(segment, 1, 0, 200_000)] })
    const lost = [{ kind: 'pinFailed', process: 'reader', pin: 1, code: 'OBJECT_LOST' }]
    expect(pin(directory, 'reader', 1, object('segment-99', 9, 0, 200_000))).toMatchObject(lost)
    expect(pin(directory, 'reader', 1, object(segment, 2, 0, 200_000))).toMatchObject(lost)
    expect(pin(directory, 'reader', 1, object(segment, 3, 16 * MiB, 4096))).toMatchObject(lost)
  })
})

describe('death', () => {
  test('the segment of a dead writer is removed when the owners had time to report and freed what they own', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'worker', MiB)
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [object(segment, 1, 0, 200_000)] })
    expect(tell(directory, { kind: 'processGone', process: 'worker' })).toEqual([{ kind: 'startTimer', timer: 1, afterMs: 100 }])
    tell(directory, { kind: 'objectsAdded', process: 'driver', objects: [object(segment, 2, 204_800, 200_000)] })
    expect(tell(directory, { kind: 'timerRang', timer: 1 })).toEqual([])
    expect(directory.objects()).toMatchObject([{ creator: '' }, { creator: '' }])
    expect(tell(directory, { kind: 'objectsFreed', process: 'driver', objects: [1, 2] })).toMatchObject([{ kind: 'unlinkFile', segment }])
    expect(directory.usage.fileBytes).toBe(0)
  })

  test('blocks of a dead owner are free once nobody reads them', () => {
    const directory = directoryOf(1024 * MiB)
    const segment = granted(directory, 'writer', MiB)
    const [first, second] = [object(segment, 1, 0, 200_000), object(segment, 2, 204_800, 200_000)]
    tell(directory, { kind: 'objectsAdded', process: 'owner', objects: [first!, second!] })
    tell(directory, { kind: 'pinned', process: 'reader', pin: 1, owner: 'owner', object: 1, place: first, use: 'get' })
    expect(tell(directory, { kind: 'processGone', process: 'owner' })).toMatchObject([
      { kind: 'blocksFreed', process: 'writer', blocks: [{ segment, object: 2 }] },
    ])
    expect(tell(directory, { kind: 'pinned', process: 'other', pin: 1, owner: 'owner', object: 2, place: second, use: 'get' })).toMatchObject([
      { kind: 'pinFailed', code: 'OBJECT_LOST', details: { object: 'owner:2', reason: expect.stringMatching(/^its owner owner died, .* s ago$/) } },
    ])
    expect(tell(directory, { kind: 'unpinned', process: 'reader', pins: [1] })).toMatchObject([
      { kind: 'blocksFreed', process: 'writer', blocks: [{ segment, object: 1 }] },
    ])
    tell(directory, { kind: 'segmentReturned', process: 'writer', segment })
    expect(granted(directory, 'next', MiB)).toBe(segment)
  })

  test('a file made for a process that died meanwhile serves the next one', () => {
    const directory = directoryOf(1024 * MiB)
    const [create] = tell(directory, { kind: 'segmentRequested', process: 'p', request: 1, bytes: MiB })
    tell(directory, { kind: 'processGone', process: 'p' })
    const { segment } = create as { segment: string }
    expect(tell(directory, { kind: 'fileCreated', segment })).toEqual([])
    expect(granted(directory, 'q', MiB)).toBe(segment)
  })
})
