/**
 * What leaves the memory of a node when room is needed: which segments to empty, and which objects to write to disk ahead of that. Pure choices.
 */
import { isClean, type NodeObject } from './object-table.ts'
import type { Segment } from './segment-table.ts'

/**
 * Segments of together at least `bytes`, if there are so many: empty ones that a process keeps, then those whose objects need no writing, then
 * those whose objects are being written, then the others; among equals the least recently used ones.
 *
 * @param write - objects that are nowhere else may be written to disk for it
 */
export function segmentsToEmpty(segments: Iterable<Segment>, bytes: number, write: boolean): Segment[] {
  const candidates: { readonly segment: Segment; readonly cost: number; readonly used: number }[] = []
  for (const segment of segments) {
    if (segment.state === 'creating' || segment.state === 'spare' || segment.emptying) continue
    if (segment.state === 'orphan' && segment.objects.size === 0) continue // it goes by itself
    let used = 0
    let cost = segment.objects.size === 0 ? 0 : 1
    let possible = true
    for (const object of segment.objects.values()) {
      const { sealed, reported, pins } = object
      const clean = isClean(object)
      possible = sealed && reported && pins.size === 0 && (write || clean)
      if (!possible) break
      if (!clean) cost = Math.max(cost, object.writing ? 2 : 3)
      used = Math.max(used, object.used)
    }
    if (possible) candidates.push({ segment, cost, used })
  }
  candidates.sort((a, b) => a.cost - b.cost || a.used - b.used)
  const chosen: Segment[] = []
  let sum = 0
  for (const { segment } of candidates) {
    if (sum >= bytes) break
    chosen.push(segment)
    sum += segment.bytes
  }
  return chosen
}

/** Cuts what is to be written into files: each takes objects until it is large or holds many. */
export function filesOf(objects: readonly NodeObject[], { bytes, objectsMax }: { readonly bytes: number; readonly objectsMax: number }): NodeObject[][] {
  const files: NodeObject[][] = []
  let room = 0
  for (const object of objects) {
    const last = files.at(-1)
    if (last && room > 0 && last.length < objectsMax) last.push(object)
    else {
      files.push([object])
      room = bytes
    }
    room -= object.bytes
  }
  return files
}
