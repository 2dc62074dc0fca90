/**
 * Evaluates everything in an expression that is a number, a truth value or a time in one loop over the rows, without columns in between.
 *
 * The loop is compiled from the bound expression: `loop-source.ts` writes it.
 */
import { compileFunction } from 'node:vm'
import { type Data, type DataType, type Decimal, makeData, Type } from 'apache-arrow'
import { nullsOf, packBits } from '../bits.ts'
import type { Bound } from './bind.ts'
import { castFailed, decimalOf, digits, f16round, mod, overflow, readDecimal, round, writeDecimal } from './loop-help.ts'
import { leavesOf } from './loop-parts.ts'
import { LoopSource } from './loop-source.ts'
import { familyOf } from './types.ts'

/** The rows are evaluated as a whole; `validity` has one byte per row. */
export interface Evaluated {
  readonly values: ArrayBufferView
  readonly validity: Uint8Array | undefined
}

const HELP = { castFailed, decimalOf, digits, f16round, mod, overflow, readDecimal, round, writeDecimal }

type LoopFunction = (
  rows: number,
  leaves: readonly LeafView[],
  constants: readonly unknown[],
  out: ArrayBufferView,
  validity: Uint8Array | undefined,
  helper: typeof HELP,
) => void

interface LeafView {
  readonly values: unknown
  readonly bits: Uint8Array | undefined
  readonly offset: number
}

/** Loops by their source: a worker meets the same few again and again. */
const compiled = new Map<string, LoopFunction>()
const COMPILED_MAX = 512

/**
 * @param leaf - gives the column of a part that the loop cannot hold
 * @throws {@link BeamlineError} `EXPRESSION_FAILED` naming the row
 */
export function runLoop(root: Bound, rows: number, leaf: (bound: Bound) => Data): Evaluated {
  const leaves = leavesOf(root)
  const data = leaves.map(leaf)
  const source = new LoopSource(leaves, (index) => (data[index] as Data).nullCount > 0)
  const { source: text, nullable } = source.compile(root)
  let loop = compiled.get(text)
  if (loop === undefined) {
    if (compiled.size >= COMPILED_MAX) compiled.clear()
    loop = compileFunction(text, ['rows', 'leaves', 'constants', 'out', 'validity', 'help']) as LoopFunction
    compiled.set(text, loop)
  }
  const out = outputOf(root.type, rows)
  const validity = nullable ? new Uint8Array(rows).fill(1) : undefined
  loop(rows, data.map(viewOf), source.constants, out, validity, HELP)
  return { values: out, validity }
}

function viewOf(data: Data): LeafView {
  return {
    values: ArrayBuffer.isView(data.values) ? valuesOf(data.type as DataType, data.values) : undefined,
    bits: (data.nullBitmap as Uint8Array | undefined) ?? undefined,
    offset: data.offset,
  }
}

/** Half floats and decimals are kept as the bits that they are made of. */
function valuesOf(type: DataType, values: ArrayBufferView): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = values
  if (type.typeId === Type.Float && values instanceof Uint16Array) return new Float16Array(buffer as ArrayBuffer, byteOffset, values.length)
  if (type.typeId !== Type.Decimal) return values
  return byteOffset % 8 === 0 ? new BigInt64Array(buffer, byteOffset, byteLength / 8) : new BigInt64Array(buffer.slice(byteOffset, byteOffset + byteLength))
}

function outputOf(type: DataType, rows: number): ArrayBufferView {
  if (familyOf(type) === 'bool') return new Uint8Array(rows)
  if (type.typeId === Type.Decimal) return new BigInt64Array((rows * (type as Decimal).bitWidth) / 64)
  const { ArrayType } = type as DataType & { ArrayType: new (length: number) => ArrayBufferView }
  return type.typeId === Type.Float && ArrayType === (Uint16Array as unknown) ? new Float16Array(rows) : new ArrayType(rows)
}

/** What a loop gave, as a column. */
export function columnOf(type: DataType, rows: number, { values, validity }: Evaluated): Data {
  const nulls = validity === undefined ? { nullCount: 0 } : nullsOf(validity)
  if (familyOf(type) === 'null') return makeData({ type, length: rows } as never)
  if (familyOf(type) === 'bool') return makeData({ type, length: rows, ...nulls, data: packBits(values as Uint8Array) } as never)
  const { ArrayType } = type as DataType & { ArrayType: new (buffer: ArrayBufferLike) => ArrayBufferView }
  return makeData({ type, length: rows, ...nulls, data: new ArrayType(values.buffer) } as never)
}
