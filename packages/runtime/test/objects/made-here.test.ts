/** An object is made on a node, again, while a copy of it is on its way there: one of both stays, whole, and whoever reads gets it. */
import { describe, expect, test } from 'vitest'
import { SegmentDirectory } from '../../src/objects/segment-directory.ts'
import type { DirectoryEvent, DirectoryInstruction } from '../../src/objects/segment-directory-events.ts'

const MiB = 1_048_576
const name = { owner: 'owner', object: 7 }
const copyMemory = { segment: 'segment-2', offset: 0, bytes: 10 * MiB }
const place = { segment: 'segment-1', offset: 0, bytes: 10 * MiB }

/** A writer holds a segment with what it made; a copy of that is arriving, `granted` memory or not. */
class Store {
  readonly directory = new SegmentDirectory({ directory: '/store', capacityBytes: 100 * MiB })

  constructor(granted: boolean) {
    this.tell({ kind: 'segmentRequested', process: 'writer', request: 1, bytes: 10 * MiB })
    this.tell({ kind: 'fileCreated', segment: 'segment-1' })
    this.tell({ kind: 'copyRequested', ...name, bytes: 10 * MiB, urgent: true })
    if (granted) expect(this.tell({ kind: 'fileCreated', segment: 'segment-2' })).toMatchObject([{ kind: 'copyGranted', memory: copyMemory }])
  }

  tell(event: DirectoryEvent): DirectoryInstruction[] {
    const out = this.directory.handle(event)
    this.directory.checkInvariants()
    return out.filter(({ kind }) => kind !== 'startTimer' && kind !== 'releaseMemory' && kind !== 'roomChanged')
  }

  /** The owner reports what was made here. */
  report(): DirectoryInstruction[] {
    return this.tell({ kind: 'objectsAdded', process: name.owner, objects: [{ ...place, object: name.object, label: 'made' }] })
  }

  pin(pin: number): DirectoryInstruction[] {
    return this.tell({ kind: 'pinned', process: 'reader', pin, ...name, place, use: 'get' })
  }

  get rows(): object[] {
    return this.directory.objects()
  }
}

const dropsBlock = { kind: 'blocksFreed', process: 'writer', blocks: [{ ...place, ...name }], giveBack: false }

describe('while the bytes of the copy arrive', () => {
  test('once it is whole the copy is the object, and the other one goes', () => {
    const store = new Store(true)
    expect(store.report()).toEqual([])
    expect(store.pin(1)).toEqual([])
    expect(store.tell({ kind: 'copySealed', ...name })).toMatchObject([dropsBlock, { kind: 'pinned', pin: 1, memory: copyMemory }])
    expect(store.rows).toMatchObject([{ ...copyMemory, label: 'made', role: 'primary', pins: 1 }])
    expect(store.directory.find(name)).toBe('primary')
  })

  test('when it does not arrive the one that was made here is the object', () => {
    const store = new Store(true)
    store.report()
    expect(store.pin(1)).toEqual([])
    expect(store.tell({ kind: 'copyFailed', ...name })).toMatchObject([{ kind: 'pinned', pin: 1, memory: place }])
    expect(store.rows).toMatchObject([{ ...place, label: 'made', role: 'primary', pins: 1 }])
  })

  test('a reader that knows of it before its owner has said so waits too', () => {
    const store = new Store(true)
    expect(store.pin(1)).toEqual([])
    expect(store.tell({ kind: 'copyFailed', ...name })).toMatchObject([{ kind: 'pinned', pin: 1, memory: place }])
    store.report()
    expect(store.rows).toMatchObject([{ ...place, label: 'made', role: 'primary', pins: 1 }])
  })

  test('that the lost one was freed elsewhere means nothing for the one that was made here', () => {
    const store = new Store(true)
    store.report()
    expect(store.tell({ kind: 'copiesDropped', names: [name] })).toEqual([])
    store.tell({ kind: 'copySealed', ...name })
    expect(store.rows).toMatchObject([{ role: 'primary' }])
  })

  test('when its owner frees it both are gone', () => {
    const store = new Store(true)
    store.report()
    expect(store.tell({ kind: 'objectsFreed', process: name.owner, objects: [name.object] })).toMatchObject([
      dropsBlock,
      { kind: 'primariesFreed', names: [name] },
    ])
    expect(store.tell({ kind: 'copySealed', ...name })).toEqual([])
    expect(store.rows).toEqual([])
  })
})

describe('before the copy has memory', () => {
  test('it is given up, and the one that was made here is the object at once', () => {
    const store = new Store(false)
    expect(store.report()).toMatchObject([{ kind: 'copyRefused', ...name, code: 'STORE_UNAVAILABLE' }])
    expect(store.pin(1)).toMatchObject([{ kind: 'pinned', memory: place }])
    expect(store.tell({ kind: 'fileCreated', segment: 'segment-2' })).toEqual([])
    expect(store.rows).toMatchObject([{ ...place, role: 'primary' }])
  })

  test('also when a reader knows of it first', () => {
    const store = new Store(false)
    expect(store.pin(1)).toMatchObject([
      { kind: 'copyRefused', ...name },
      { kind: 'pinned', pin: 1, memory: place },
    ])
  })
})
