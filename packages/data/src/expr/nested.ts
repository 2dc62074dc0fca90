/**
 * Functions of lists and structs. Items are picked by index, never read one by one.
 */
import { type Data, type DataType, Field, Int32, List, makeData, Type } from 'apache-arrow'
import { isSet, nullsOf, validityOf } from '../bits.ts'
import { takeData } from '../take.ts'
import { truthColumn } from './text.ts'

/** Where the items of each row lie in the child column. */
interface Spans {
  readonly item: Data
  readonly start: (row: number) => number
  readonly end: (row: number) => number
}

function spansOf(list: Data): Spans {
  const item = list.children[0] as Data
  if (list.type.typeId === Type.FixedSizeList) {
    const size = (list.type as DataType & { listSize: number }).listSize
    return { item, start: (row) => row * size, end: (row) => (row + 1) * size }
  }
  const offsets = list.valueOffsets
  return { item, start: (row) => Number(offsets[row]), end: (row) => Number(offsets[row + 1]) }
}

export function listLengths(list: Data): Data {
  const { start, end } = spansOf(list)
  const data = Int32Array.from({ length: list.length }, (_, row) => end(row) - start(row))
  return makeData({ type: new Int32(), length: list.length, ...nullsOf(validityOf(list)), data })
}

/** The item at `index` of each list, from the end where it is negative; null where the list is shorter. */
export function listItems(list: Data, index: number): Data {
  const { item, start, end } = spansOf(list)
  const validity = validityOf(list)
  const rows = Int32Array.from({ length: list.length }, (_, row) => {
    const at = index < 0 ? end(row) + index : start(row) + index
    return validity[row] === 1 && at >= start(row) && at < end(row) ? at : -1
  })
  return takeData(item, rows)
}

export function listSlices(list: Data, from: number, to: number | undefined): Data {
  const { item, start, end } = spansOf(list)
  const validity = validityOf(list)
  const valueOffsets = new Int32Array(list.length + 1)
  const rows: number[] = []
  for (let row = 0; row < list.length; row++) {
    if (validity[row] === 1) {
      const length = end(row) - start(row)
      const clamp = (at: number): number => Math.min(length, Math.max(0, at < 0 ? length + at : at))
      for (let at = clamp(from); at < clamp(to ?? length); at++) rows.push(start(row) + at)
    }
    valueOffsets[row + 1] = rows.length
  }
  const type = list.type.typeId === Type.List ? (list.type as List) : new List(new Field('item', item.type, true))
  return makeData({ type, length: list.length, ...nullsOf(validity), valueOffsets, child: takeData(item, Int32Array.from(rows)) })
}

/** @param found - for each item of the child column whether it is one that is looked for */
export function listsWith(list: Data, found: Uint8Array): Data {
  const { start, end } = spansOf(list)
  const any = new Uint8Array(list.length)
  for (let row = 0; row < list.length; row++) for (let at = start(row); at < end(row); at++) any[row] = (any[row] as number) | (found[at] as number)
  return truthColumn(any, nullsOf(validityOf(list)))
}

export const itemsOf = (list: Data): Data => spansOf(list).item

/** A field is null where its struct is. */
export function structField(struct: Data, name: string): Data {
  const index = (struct.type.children as Field[]).findIndex((field) => field.name === name)
  const child = struct.children[index] as Data
  if (struct.nullCount === 0) return child
  const rows = Int32Array.from({ length: struct.length }, (_, row) => (isSet(struct.nullBitmap as Uint8Array, struct.offset + row) ? row : -1))
  return takeData(child, rows)
}
