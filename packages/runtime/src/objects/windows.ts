/**
 * Which stretches of which ArrayBuffers a value needs: views that overlap share one window, disjoint ones do not.
 *
 * So a slice of a large batch, or a Buffer out of Node's pool, ships its own bytes and not its neighbours'.
 */
import { WINDOW_INLINE_MAX } from './format.ts'

/** The binary data of one value, in the order in which it was met. Bounds are bytes of the ArrayBuffer. */
export interface Views {
  readonly buffers: readonly ArrayBuffer[]
  readonly starts: readonly number[]
  readonly ends: readonly number[]
  /** The ArrayBuffer itself is in the value: all of its views share one window over all of it. */
  readonly whole: ReadonlySet<ArrayBuffer> | undefined
}

export interface Windows {
  readonly windows: readonly Uint8Array[]
  /** Per view: its window, and the byte in it where the view begins. */
  readonly windowOf: readonly number[]
  readonly offsets: readonly number[]
  /** Bytes of the windows that travel inside the trailer. */
  readonly inlineBytes: number
}

export function cutWindows({ buffers, starts, ends, whole }: Views): Windows {
  const windows: Uint8Array[] = []
  const windowOf = new Array<number>(buffers.length)
  const offsets = new Array<number>(buffers.length)
  let inlineBytes = 0
  const cut = (buffer: ArrayBuffer, start: number, end: number): void => {
    windows.push(new Uint8Array(buffer, start, end - start))
    if (end - start <= WINDOW_INLINE_MAX) inlineBytes += end - start
  }
  const place = (view: number, windowStart: number): void => {
    windowOf[view] = windows.length - 1
    offsets[view] = starts[view]! - windowStart
  }
  for (const [buffer, views] of groupByBuffer(buffers)) {
    if (whole?.has(buffer)) {
      cut(buffer, 0, buffer.byteLength)
      for (const view of views) place(view, 0)
      continue
    }
    views.sort((a, b) => starts[a]! - starts[b]! || ends[b]! - ends[a]!)
    for (let i = 0; i < views.length; ) {
      let start = starts[views[i]!]!
      let end = ends[views[i]!]!
      let next = i + 1
      while (next < views.length && starts[views[next]!]! < end) end = Math.max(end, ends[views[next++]!]!)
      if (next - i > 1) start -= start % 8 // a wide element type must stay aligned in a window that a narrow one opened
      cut(buffer, start, end)
      for (; i < next; i++) place(views[i]!, start)
    }
  }
  return { windows, windowOf, offsets, inlineBytes }
}

function groupByBuffer(buffers: readonly ArrayBuffer[]): Iterable<[ArrayBuffer, number[]]> {
  if (buffers.length === 1) return [[buffers[0]!, [0]]]
  const groups = new Map<ArrayBuffer, number[]>()
  for (let i = 0; i < buffers.length; i++) {
    const group = groups.get(buffers[i]!)
    if (group) group.push(i)
    else groups.set(buffers[i]!, [i])
  }
  return groups
}
