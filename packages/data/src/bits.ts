/**
 * Null bitmaps and truth values: one bit per row in Arrow, one byte per row in loops.
 */
import type { Data } from 'apache-arrow'

export const isSet = (bitmap: Uint8Array, bit: number): boolean => ((bitmap[bit >> 3] as number) & (1 << (bit & 7))) !== 0

/** One byte per row: 1 where there is a value. */
export function validityOf(data: Data): Uint8Array {
  const validity = new Uint8Array(data.length).fill(1)
  if (data.nullCount === 0) return validity
  for (let row = 0; row < data.length; row++) if (!isSet(data.nullBitmap as Uint8Array, data.offset + row)) validity[row] = 0
  return validity
}

/** The null bitmap of a new column. */
export function nullsOf(validity: Uint8Array): { readonly nullCount: number; readonly nullBitmap?: Uint8Array } {
  let valid = 0
  for (let row = 0; row < validity.length; row++) valid += validity[row] as number
  return valid === validity.length ? { nullCount: 0 } : { nullCount: validity.length - valid, nullBitmap: packBits(validity) }
}

/** One bit for each byte, which is 0 or 1. */
export function packBits(bytes: Uint8Array): Uint8Array {
  const bits = new Uint8Array((bytes.length + 7) >> 3)
  const whole = bytes.length & ~7
  for (let row = 0; row < whole; row += 8) {
    bits[row >> 3] =
      (bytes[row] as number) |
      ((bytes[row + 1] as number) << 1) |
      ((bytes[row + 2] as number) << 2) |
      ((bytes[row + 3] as number) << 3) |
      ((bytes[row + 4] as number) << 4) |
      ((bytes[row + 5] as number) << 5) |
      ((bytes[row + 6] as number) << 6) |
      ((bytes[row + 7] as number) << 7)
  }
  for (let row = whole; row < bytes.length; row++) bits[row >> 3] = (bits[row >> 3] as number) | ((bytes[row] as number) << (row & 7))
  return bits
}
