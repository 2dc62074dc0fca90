/**
 * What loops call for single values: too long to be written into each, or an error.
 */
import { BeamlineError } from '@beamline/runtime'

export function f16round(x: number): number {
  return (Math as unknown as { f16round(x: number): number }).f16round(x)
}

/** With the sign of the divisor. */
export function mod(a: number, b: number): number {
  const rest = a % b
  return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest
}

/** Halves go away from zero; decimals are those of the number's text. */
export function round(x: number, decimals: number): number {
  const size = Math.abs(x)
  // The point moves by text: as a product, 1.005 × 100 would be less than 100.5.
  const shifted = decimals === 0 ? size : Number(`${size}e${decimals}`)
  if (shifted >= Number.MAX_SAFE_INTEGER || !Number.isFinite(size)) return x
  const rounded = Number.isNaN(shifted) ? roundedText(size, decimals) : Number(`${Math.round(shifted)}e-${decimals}`)
  return x < 0 ? -rounded : rounded
}

/** Numbers that are written with an exponent of their own. */
function roundedText(size: number, decimals: number): number {
  return size >= 1 ? size : Number(size.toFixed(decimals))
}

/** A float as a decimal without its point, by its shortest text; undefined when it has more digits after the point. */
export function decimalOf(x: number, scale: number): bigint | undefined {
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(x))
  if (match === null) return undefined
  const [, sign, whole = '', fraction = '', exponent = '0'] = match
  const shift = scale - fraction.length + Number(exponent)
  const digits = BigInt(whole + fraction)
  if (shift < 0 && digits % 10n ** BigInt(-shift) !== 0n) return undefined
  const unscaled = shift < 0 ? digits / 10n ** BigInt(-shift) : digits * 10n ** BigInt(shift)
  return sign === '-' ? -unscaled : unscaled
}

export function digits(x: bigint): number {
  return String(x < 0n ? -x : x).length
}

/** An integer of so many 64-bit words, the lowest first. */
export function readDecimal(words: BigInt64Array, row: number, count: number): bigint {
  let value = words[row * count + count - 1] as bigint
  for (let word = count - 2; word >= 0; word--) {
    const low = words[row * count + word] as bigint
    // Most decimals are small: what is above is only the sign.
    value = value === low >> 63n ? low : (value << 64n) | BigInt.asUintN(64, low)
  }
  return value
}

/** As `readDecimal` reads it. */
export function writeDecimal(words: BigInt64Array, row: number, count: number, value: bigint): void {
  for (let word = 0, rest = value; word < count; word++, rest >>= 64n) words[row * count + word] = BigInt.asIntN(64, rest)
}

export function overflow(expression: string, limit: string, row: number, hint = 'cast an operand to float64 first'): never {
  throw new BeamlineError('EXPRESSION_FAILED', { expression, row, reason: `the result exceeds ${limit}`, hint })
}

export function castFailed(expression: string, type: string, value: number | bigint | string, row: number): never {
  const hint = 'round or filter before, or use tryCast, which gives null instead'
  throw new BeamlineError('EXPRESSION_FAILED', { expression, row, reason: `${value} has no exact value of type ${type}`, hint })
}
