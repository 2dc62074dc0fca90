/**
 * What must hold in the books of a node's store after every event; checked by tests and with BEAMLINE_VALIDATE=1.
 */
import { BeamlineError } from '../errors.ts'
import { pageAlign } from './block-allocator.ts'
import type { SpillFile } from './spill-files.ts'
import { NODE, type Segment } from './segment-table.ts'
import type { StoreBooks } from './store-books.ts'

/** @throws {@link BeamlineError} `INTERNAL` when the books do not balance */
export function checkBooks({ segments, objects, files, capacityBytes }: StoreBooks): void {
  let fileBytes = 0
  let spareBytes = 0
  let inSegments = 0
  for (const segment of segments.values()) {
    fileBytes += segment.bytes
    if (segment.state === 'spare') spareBytes += segment.bytes
    inSegments += segment.objects.size
    checkSegment(segment)
  }
  let live = 0
  let dirty = 0
  let writing = 0
  let inMemory = 0
  const slices = new Map<SpillFile, number>()
  for (const object of objects.values()) {
    const { block, slice, bytes, owner, object: number } = object
    if (block) {
      if (block.segment.objects.get(block.offset) !== object) wrong(`${owner}:${number} is not where it should be`)
      inMemory++
      live += bytes
      if (!slice && object.role === 'primary') dirty += bytes
    }
    if (slice) slices.set(slice.file, (slices.get(slice.file) ?? 0) + 1)
    if (object.writing) {
      writing += bytes
      slices.set(object.writing, (slices.get(object.writing) ?? 0) + 1)
      if (!block) wrong(`${owner}:${number} is being written and has no memory`)
    }
    if (object.pins.size > 0 && !(block && object.sealed)) wrong(`${owner}:${number} is read and not in memory`)
    if (object.freed && object.pins.size === 0 && !object.writing && object.sealed) wrong(`${owner}:${number} is freed and still here`)
    if (object.sealed && !object.reported && object.pins.size === 0) wrong(`${owner}:${number} is known of nobody`)
    if (!block && !slice && object.sealed) wrong(`${owner}:${number} has no bytes`)
  }
  for (const file of files.values()) {
    const live = slices.get(file) ?? 0
    if (file.written ? file.live !== live || live === 0 : live > file.live) wrong(`spill file ${file.number} counts ${file.live} objects and has ${live}`)
  }
  for (const file of slices.keys()) if (files.get(file.number) !== file) wrong(`spill file ${file.number} is gone and has objects`)
  const { sums, idleClean, idleDirty } = objects
  if (inSegments !== inMemory) wrong(`${inSegments} objects in segments, ${inMemory} in memory`)
  if (fileBytes !== segments.fileBytes || spareBytes !== segments.spareBytes) wrong('the totals of the segments are off')
  if (live !== sums.live || dirty !== sums.dirty || writing !== sums.writing) wrong('the totals of the objects are off')
  if (fileBytes > capacityBytes) wrong(`${fileBytes} bytes of files exceed the capacity of ${capacityBytes}`)
  for (const object of [...idleClean, ...idleDirty]) {
    if (object.pins.size > 0 || !object.block || !object.sealed) wrong(`${object.owner}:${object.object} is not idle`)
  }
}

function checkSegment(segment: Segment): void {
  const { name, state, creator, objects, blocks, bytes } = segment
  let end = 0
  let taken = 0
  for (const [offset, object] of [...objects].sort(([a], [b]) => a - b)) {
    if (offset < end) wrong(`objects overlap in ${name}`)
    end = offset + object.bytes
    taken += pageAlign(object.bytes)
    if (object.block?.segment !== segment) wrong(`an object in ${name} does not know it`)
  }
  if (end > bytes) wrong(`an object ends behind ${name}`)
  if ((state === 'spare' || state === 'creating') && objects.size > 0) wrong(`${state} ${name} has objects`)
  if ((blocks !== undefined) !== (creator === NODE)) wrong(`${name} of ${creator} ${blocks ? 'has' : 'has no'} blocks`)
  if (blocks && blocks.freeBytes !== bytes - taken) wrong(`the blocks of ${name} are off`)
  if (creator === NODE && objects.size === 0) wrong(`the node keeps the empty ${name}`)
}

function wrong(what: string): never {
  throw new BeamlineError('INTERNAL', { what: `segment directory: ${what}` })
}
