/**
 * An expression as plain data: what the builders of `expression.ts` make, what plans hold, and what travels to workers.
 */
import type { DataType } from 'apache-arrow'

/** A value that stands for itself in an expression. */
export type LiteralValue = number | bigint | string | boolean | Date | Uint8Array | null

/** Functions of numbers and truth values: evaluated together in one loop over the rows. */
export type ScalarFunction =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'floorDiv'
  | 'mod'
  | 'neg'
  | 'abs'
  | 'sign'
  | 'pow'
  | 'sqrt'
  | 'exp'
  | 'ln'
  | 'log2'
  | 'log10'
  | 'floor'
  | 'ceil'
  | 'trunc'
  | 'round'
  | 'isNaN'
  | 'isFinite'
  | 'and'
  | 'or'
  | 'not'

/** Functions that take values of every type. */
export type AnyTypeFunction = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge' | 'isNull' | 'isNotNull' | 'isIn' | 'coalesce'

/** Functions of whole columns: text, times, lists and structs. */
export type ColumnFunction =
  | 'str.len'
  | 'str.byteLen'
  | 'str.lower'
  | 'str.upper'
  | 'str.trim'
  | 'str.trimStart'
  | 'str.trimEnd'
  | 'str.contains'
  | 'str.startsWith'
  | 'str.endsWith'
  | 'str.matches'
  | 'str.extract'
  | 'str.replace'
  | 'str.slice'
  | 'str.split'
  | 'str.padStart'
  | 'str.padEnd'
  | 'str.concat'
  | 'dt.year'
  | 'dt.quarter'
  | 'dt.month'
  | 'dt.day'
  | 'dt.hour'
  | 'dt.minute'
  | 'dt.second'
  | 'dt.millisecond'
  | 'dt.weekday'
  | 'dt.dayOfYear'
  | 'dt.date'
  | 'dt.truncate'
  | 'list.len'
  | 'list.get'
  | 'list.slice'
  | 'list.contains'
  | 'struct.field'

export type FunctionName = ScalarFunction | AnyTypeFunction | ColumnFunction

/** What a function takes beside columns; constant over the rows. */
export type Options = Readonly<Record<string, string | number | boolean | RegExp | readonly LiteralValue[] | undefined>>

// biome-ignore lint/suspicious/noExplicitAny: functions of the user take the values that they expect
export type RowFunction = (...values: any[]) => unknown

export type ExprNode =
  | { readonly kind: 'column'; readonly name: string }
  | { readonly kind: 'literal'; readonly value: LiteralValue }
  | { readonly kind: 'call'; readonly fn: FunctionName; readonly args: readonly ExprNode[]; readonly options: Options }
  | { readonly kind: 'cast'; readonly arg: ExprNode; readonly type: DataType; readonly strict: boolean }
  | { readonly kind: 'case'; readonly branches: readonly (readonly [when: ExprNode, then: ExprNode])[]; readonly otherwise: ExprNode }
  | { readonly kind: 'udf'; readonly name: string; readonly fn: RowFunction; readonly args: readonly ExprNode[]; readonly type: DataType }

export function childrenOf(node: ExprNode): readonly ExprNode[] {
  switch (node.kind) {
    case 'column':
    case 'literal':
      return []
    case 'cast':
      return [node.arg]
    case 'case':
      return [...node.branches.flat(), node.otherwise]
    default:
      return node.args
  }
}

/** The columns that an expression reads, each once, in the order of the text. */
export function columnsOf(node: ExprNode, into: Set<string> = new Set()): Set<string> {
  if (node.kind === 'column') into.add(node.name)
  for (const child of childrenOf(node)) columnsOf(child, into)
  return into
}

/** The operands of nested `and`s: rows pass when each of them is true. */
export function conjunctsOf(node: ExprNode): readonly ExprNode[] {
  return node.kind === 'call' && node.fn === 'and' ? node.args.flatMap(conjunctsOf) : [node]
}

/** Whether it means the same wherever it is evaluated: functions of the user may not. */
export function isPure(node: ExprNode): boolean {
  return node.kind !== 'udf' && childrenOf(node).every(isPure)
}

/** `node` with columns replaced by what they stand for. */
export function substitute(node: ExprNode, meaning: (name: string) => ExprNode | undefined): ExprNode {
  const inner = (child: ExprNode): ExprNode => substitute(child, meaning)
  switch (node.kind) {
    case 'column':
      return meaning(node.name) ?? node
    case 'literal':
      return node
    case 'cast':
      return { ...node, arg: inner(node.arg) }
    case 'case':
      return { ...node, branches: node.branches.map(([when, then]) => [inner(when), inner(then)] as const), otherwise: inner(node.otherwise) }
    default:
      return { ...node, args: node.args.map(inner) }
  }
}

const INFIX: Partial<Record<FunctionName, string>> = {
  add: '+',
  sub: '-',
  mul: '*',
  div: '/',
  floorDiv: '//',
  mod: '%',
  eq: '=',
  ne: '!=',
  lt: '<',
  le: '<=',
  gt: '>',
  ge: '>=',
  and: 'and',
  or: 'or',
}

/** As people write it; for plans and errors. */
export function textOf(node: ExprNode): string {
  switch (node.kind) {
    case 'column':
      return node.name
    case 'literal':
      return literalText(node.value)
    case 'cast':
      return `${node.strict ? 'cast' : 'tryCast'}(${textOf(node.arg)}, ${node.type})`
    case 'case':
      return `case ${node.branches.map(([when, then]) => `when ${textOf(when)} then ${textOf(then)}`).join(' ')} otherwise ${textOf(node.otherwise)} end`
    case 'udf':
      return `${node.name}(${node.args.map(textOf).join(', ')})`
    case 'call': {
      const infix = INFIX[node.fn]
      if (infix !== undefined) return node.args.map(operandText).join(` ${infix} `)
      if (node.fn === 'not') return `not ${operandText(node.args[0] as ExprNode)}`
      if (node.fn === 'neg') return `-${operandText(node.args[0] as ExprNode)}`
      const options = Object.values(node.options).filter((value) => value !== undefined)
      return `${node.fn}(${[...node.args.map(textOf), ...options.map(optionText)].join(', ')})`
    }
  }
}

function operandText(node: ExprNode): string {
  const text = textOf(node)
  return node.kind === 'call' && INFIX[node.fn] !== undefined ? `(${text})` : text
}

function optionText(value: Options[string]): string {
  if (Array.isArray(value))
    return value.length > 5 ? `[${value.slice(0, 5).map(literalText).join(', ')}, … ${value.length}]` : `[${value.map(literalText).join(', ')}]`
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

export function literalText(value: LiteralValue): string {
  if (typeof value === 'string') return JSON.stringify(value)
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return `${value.length} bytes`
  return String(value)
}
