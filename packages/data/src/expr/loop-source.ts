/**
 * Writes the loop of an expression: one local variable per operation, one branch per null check, so that V8 sees plain arithmetic on typed arrays.
 *
 * 64-bit integers, times and decimals are BigInts, which V8 keeps in registers while they fit (a row takes about 1 ns to compare, 10 to add); everything else is a number.
 * No text of the user gets into the source: names and messages are handed over as constants beside it.
 */
import { type DataType, type Decimal, Type } from 'apache-arrow'
import type { Bound } from './bind.ts'
import { inLoop, leafIndex } from './loop-parts.ts'
import type { FunctionName, LiteralValue } from './node.ts'
import { type Constant, constantOf, familyOf, isScalar, isWide, perSecond, rangeOf, scaleOf } from './types.ts'

const COMPARE: Partial<Record<FunctionName, string>> = { lt: '<', le: '<=', gt: '>', ge: '>=' }
const OPERATOR: Partial<Record<FunctionName, string>> = { add: '+', sub: '-', mul: '*', div: '/' }
const MATH: Partial<Record<FunctionName, string>> = {
  sqrt: 'Math.sqrt',
  exp: 'Math.exp',
  ln: 'Math.log',
  log2: 'Math.log2',
  log10: 'Math.log10',
  floor: 'Math.floor',
  ceil: 'Math.ceil',
  trunc: 'Math.trunc',
}
/** A value in the loop: the names (or constants) that hold it and say whether it is there. */
interface Code {
  readonly value: string
  readonly valid: string
}

const NULL: Code = { value: '0', valid: 'false' }

export class LoopSource {
  readonly constants: unknown[] = []
  readonly #leaves: readonly Bound[]
  readonly #hasNulls: (leaf: number) => boolean
  readonly #lines: string[] = []
  #known = new Map<Bound, Code>()
  #names = 0

  constructor(leaves: readonly Bound[], hasNulls: (leaf: number) => boolean) {
    this.#leaves = leaves
    this.#hasNulls = hasNulls
  }

  /** The whole function: `(rows, leaves, constants, out, validity, help)`. */
  compile(root: Bound): { readonly source: string; readonly nullable: boolean } {
    const code = this.#emit(root)
    const store = [...this.#storing(root.type, code)]
    const heads = this.#leaves.map((_, i) => `const l${i} = leaves[${i}], v${i} = l${i}.values, b${i} = l${i}.bits, o${i} = l${i}.offset`)
    const constants = this.constants.map((_, i) => `const c${i} = constants[${i}]`)
    const nullable = code.valid !== 'true'
    const body = nullable ? [`if (${code.valid}) {`, ...store, '} else validity[i] = 0'] : store
    return {
      nullable,
      source: ['"use strict"', ...heads, ...constants, 'for (let i = 0; i < rows; i++) {', ...this.#lines, ...body, '}'].join('\n'),
    }
  }

  #storing(type: DataType, { value }: Code): readonly string[] {
    if (familyOf(type) === 'bool') return [`out[i] = ${value} ? 1 : 0`]
    return [type.typeId === Type.Decimal ? `help.writeDecimal(out, i, ${(type as Decimal).bitWidth / 64}, ${value})` : `out[i] = ${value}`]
  }

  #emit(bound: Bound): Code {
    const known = this.#known.get(bound)
    if (known !== undefined) return known
    const code = this.#fresh(bound)
    this.#known.set(bound, code)
    return code
  }

  #fresh(bound: Bound): Code {
    if (bound.kind === 'constant') return this.#constant(bound.value)
    if (!inLoop(bound)) return this.#leaf(bound)
    switch (bound.kind) {
      case 'case':
        return this.#choice(bound.branches, bound.otherwise, bound.type)
      case 'cast':
        return this.#cast(bound)
      case 'call':
        return this.#call(bound)
      default:
        throw new Error(`${bound.kind} is a leaf`)
    }
  }

  #constant(value: Constant): Code {
    if (value === null) return NULL
    const text = typeof value === 'bigint' ? `${value}n` : Object.is(value, -0) ? '-0' : String(value)
    return { value: text.startsWith('-') ? `(${text})` : text, valid: 'true' }
  }

  #leaf(bound: Bound): Code {
    const { type } = bound
    if (familyOf(type) === 'null') return NULL
    const index = leafIndex(this.#leaves, bound)
    const at = `o${index} + i`
    const valid = this.#hasNulls(index) ? this.#let(`(b${index}[(${at}) >> 3] >> ((${at}) & 7) & 1) !== 0`) : 'true'
    const read = (): string => {
      if (familyOf(type) === 'bool') return `(v${index}[(${at}) >> 3] >> ((${at}) & 7) & 1) !== 0`
      return type.typeId === Type.Decimal ? `help.readDecimal(v${index}, i, ${(type as Decimal).bitWidth / 64})` : `v${index}[i]`
    }
    return { value: this.#let(read()), valid }
  }

  #call(bound: Extract<Bound, { kind: 'call' }>): Code {
    const { fn, type, args } = bound
    if (fn === 'isNull' || fn === 'isNotNull') {
      const arg = args[0] as Bound
      const { valid } = isScalar(arg.type) || familyOf(arg.type) === 'null' ? this.#emit(arg) : this.#validityOnly(arg)
      return { value: fn === 'isNull' ? this.#let(`!${valid}`) : valid, valid: 'true' }
    }
    if (fn === 'coalesce') return this.#coalesce(args, type)
    const codes = args.map((arg) => this.#emit(arg))
    if (fn === 'and' || fn === 'or') return this.#logic(fn, codes[0] as Code, codes[1] as Code)
    const valid = this.#all(codes)
    if (valid === 'false') return NULL
    const [a, b] = codes as [Code, Code]
    const [x, y] = args as [Bound, Bound]
    if (fn === 'not') return this.#value(valid, `!${a.value}`, 'false')
    if (fn === 'isIn') return this.#isIn(bound, a)
    if (fn === 'eq' || fn === 'ne' || COMPARE[fn] !== undefined) return this.#compare(fn, x, a, y, b, valid)
    const float = familyOf(type) === 'float'
    if (fn === 'isNaN') return this.#value(valid, familyOf(x.type) === 'float' ? `${a.value} !== ${a.value}` : 'false', 'false')
    if (fn === 'isFinite') return this.#value(valid, familyOf(x.type) === 'float' ? `Number.isFinite(${a.value})` : 'true', 'false')
    if (fn === 'sign') return this.#value(valid, familyOf(x.type) === 'float' ? `Math.sign(${a.value})` : `(${a.value} > 0 ? 1 : ${a.value} < 0 ? -1 : 0)`, '0')
    if (fn === 'neg' || fn === 'abs') {
      if (float) return this.#value(valid, fn === 'neg' ? `-${a.value}` : `Math.abs(${a.value})`, '0')
      return this.#checked(bound, valid, this.#asWhole(x, a, fn === 'neg' ? `-${a.value}` : `(${a.value} < 0 ? -${a.value} : ${a.value})`))
    }
    if (fn === 'floor' || fn === 'ceil' || fn === 'trunc' || fn === 'round') {
      if (!float) return a
      return this.#value(valid, this.#rounded(type, fn === 'round' ? `help.round(${a.value}, ${bound.options['decimals']})` : `${MATH[fn]}(${a.value})`), '0')
    }
    if (float) {
      const [m, n] = [this.#asNumber(x, a), y === undefined ? '' : this.#asNumber(y, b)]
      const term = (): string => {
        if (fn === 'floorDiv') return `Math.floor(${m} / ${n})`
        if (fn === 'mod') return `help.mod(${m}, ${n})`
        if (fn === 'pow') return `Math.pow(${m}, ${n})`
        return OPERATOR[fn] === undefined ? `${MATH[fn]}(${m})` : `${m} ${OPERATOR[fn]} ${n}`
      }
      return this.#value(valid, this.#rounded(type, term()), '0')
    }
    if (fn === 'floorDiv' || fn === 'mod') return this.#integerDivision(bound, a, b, valid)
    const scale = fn === 'mul' ? undefined : scaleOf(type)
    const m = this.#scaled(x, a, scale ?? scaleOf(x.type))
    const n = this.#scaled(y, b, scale ?? scaleOf(y.type))
    return this.#checked(bound, valid, `${m} ${OPERATOR[fn]} ${n}`)
  }

  /** 64-bit results must stay in their range. */
  #checked(bound: Bound & { readonly text: string }, valid: string, term: string): Code {
    const value = this.#variable('0n')
    this.#line(this.#given(valid, `${value} = ${term}; ${this.#rangeCheck(bound, value)}`))
    return { value, valid }
  }

  #rangeCheck(bound: Bound & { readonly text: string }, value: string): string {
    const decimal = bound.type.typeId === Type.Decimal
    const [min, max] = decimal ? [-(10n ** 38n) + 1n, 10n ** 38n - 1n] : rangeOf(bound.type)
    return `if (${value} > ${max}n || ${value} < ${min}n) help.overflow(${this.#text(bound.text)}, '${decimal ? '38 digits' : 'the range of 64-bit integers'}', i)`
  }

  #integerDivision(bound: Extract<Bound, { kind: 'call' }>, a: Code, b: Code, valid: string): Code {
    const [x, y] = bound.args as [Bound, Bound]
    const [m, n] = [this.#asWhole(x, a), this.#asWhole(y, b)]
    const divisible = this.#let(`${valid} && ${n} != 0`)
    const value = this.#variable('0n')
    const rest = this.#variable('0n')
    this.#line(`if (${divisible}) {`)
    this.#line(`${rest} = ${m} % ${n}`, `if (${rest} != 0 && (${rest} < 0) !== (${n} < 0)) ${rest} += ${n}`)
    this.#line(`${value} = ${bound.fn === 'mod' ? rest : `(${m} - ${rest}) / ${n}`}`, this.#rangeCheck(bound, value))
    this.#line('}')
    return { value, valid: divisible }
  }

  #logic(fn: 'and' | 'or', a: Code, b: Code): Code {
    const both = this.#all([a, b])
    const decides = fn === 'and' ? '!' : ''
    const half = (code: Code): string => `(${code.valid} && ${decides}${code.value})`
    const decided = this.#let(`${half(a)} || ${half(b)}`)
    const value = fn === 'and' ? this.#let(`!${decided}`) : decided
    return { value, valid: both === 'true' ? 'true' : this.#let(`${both} || ${decided}`) }
  }

  #compare(fn: FunctionName, x: Bound, a: Code, y: Bound, b: Code, valid: string): Code {
    const families = [familyOf(x.type), familyOf(y.type)]
    let [m, n] = [a.value, b.value]
    if (families.includes('date') || families.includes('timestamp')) {
      const unit = Math.max(unitOf(x.type), unitOf(y.type))
      m = this.#inUnit(x, a, unit)
      n = this.#inUnit(y, b, unit)
    } else if (families.includes('decimal')) {
      if (families.includes('float')) [m, n] = [this.#asNumber(x, a), this.#asNumber(y, b)]
      else {
        const scale = Math.max(scaleOf(x.type), scaleOf(y.type))
        m = this.#scaled(x, a, scale)
        n = this.#scaled(y, b, scale)
      }
    }
    const floats = families.includes('float')
    // Loosely: a bigint may meet a number.
    const equal = floats ? `(${m} == ${n} || (${m} !== ${m} && ${n} !== ${n}))` : `${m} == ${n}`
    const less = (p: string, q: string): string => (floats ? `(${p} < ${q} || (${q} !== ${q} && ${p} === ${p}))` : `${p} < ${q}`)
    const terms: Partial<Record<FunctionName, string>> = {
      eq: equal,
      ne: `!(${equal})`,
      lt: less(m, n),
      le: `!${floats ? less(n, m) : `(${n} < ${m})`}`,
      gt: less(n, m),
      ge: `!${floats ? less(m, n) : `(${m} < ${n})`}`,
    }
    return this.#value(valid, terms[fn] as string, 'false')
  }

  #isIn(bound: Extract<Bound, { kind: 'call' }>, a: Code): Code {
    const { type } = bound.args[0] as Bound
    const values = bound.options['values'] as readonly LiteralValue[]
    const constants = values.filter((value) => value !== null).map((value) => constantOf(value, type))
    const members = constants.filter((value) => value !== undefined)
    const found = this.#value(a.valid, `c${this.constants.push(new Set(members)) - 1}.has(${a.value})`, 'false')
    return values.includes(null) ? { value: found.value, valid: this.#let(`${a.valid} && ${found.value}`) } : found
  }

  #coalesce(args: readonly Bound[], type: DataType): Code {
    const [first, ...rest] = args as [Bound, ...Bound[]]
    const code = this.#emit(first)
    if (rest.length === 0 || code.valid === 'true') return code
    const result = this.#result(type)
    this.#line(`if (${code.valid}) { ${result.valid} = true; ${result.value} = ${code.value} } else {`)
    this.#inner(() => this.#assign(result, this.#coalesce(rest, type)))
    this.#line('}')
    return result
  }

  #choice(branches: Extract<Bound, { kind: 'case' }>['branches'], otherwise: Bound, type: DataType): Code {
    const [branch, ...rest] = branches
    if (branch === undefined) return this.#emit(otherwise)
    const [when, then] = branch
    const condition = this.#emit(when)
    const result = this.#result(type)
    this.#line(`if (${condition.valid} && ${condition.value}) {`)
    this.#inner(() => this.#assign(result, this.#emit(then)))
    this.#line('} else {')
    this.#inner(() => this.#assign(result, this.#choice(rest, otherwise, type)))
    this.#line('}')
    return result
  }

  #result(type: DataType): Code {
    const zero = familyOf(type) === 'bool' ? 'false' : isWide(type) ? '0n' : '0'
    return { value: this.#variable(zero), valid: this.#variable('false') }
  }

  #assign(to: Code, from: Code): void {
    this.#line(`${to.valid} = ${from.valid}; if (${to.valid}) ${to.value} = ${from.value}`)
  }

  /** What is named inside a block is unknown after it. */
  #inner(emit: () => void): void {
    const outer = this.#known
    this.#known = new Map(outer)
    emit()
    this.#known = outer
  }

  #cast(bound: Extract<Bound, { kind: 'cast' }>): Code {
    const [arg] = bound.args
    const from = this.#emit(arg)
    if (from.valid === 'false') return NULL
    const { type } = bound
    const [source, target] = [familyOf(arg.type), familyOf(type)]
    if (target === 'float') return this.#value(from.valid, this.#rounded(type, this.#asNumber(arg, from)), '0')
    if (target === 'bool') return this.#value(from.valid, `${from.value} != 0`, 'false')
    const result = this.#result(type)
    const value = result.value
    this.#line(this.#given(from.valid, ''), '{')
    this.#line(`${result.valid} = true`)
    const refuse = bound.strict
      ? `help.castFailed(${this.#text(bound.text)}, '${type}', ${scaleOf(arg.type) > 0 ? this.#asNumber(arg, from) : from.value}, i)`
      : `${result.valid} = false`
    if (source === 'float' && target === 'int') {
      const [min, max] = rangeOf(type)
      this.#line(
        `if (!Number.isInteger(${from.value}) || ${from.value} < ${min} || ${from.value} ${isWide(type) ? `>= ${max + 1n}` : `> ${max}`}) ${refuse}`,
        'else {',
      )
      this.#line(`${value} = ${isWide(type) ? `BigInt(${from.value})` : from.value}`)
      this.#line('}')
    } else if (source === 'float') {
      const parsed = this.#let(`help.decimalOf(${from.value}, ${scaleOf(type)})`)
      this.#line(`if (${parsed} === undefined || help.digits(${parsed}) > ${(type as Decimal).precision}) ${refuse}`, 'else {')
      this.#line(`${value} = ${parsed}`)
      this.#line('}')
    } else {
      const [times, over] = ratioOf(arg.type, type)
      const whole = this.#let(this.#asWhole(arg, from))
      const product = this.#let(times === 1n ? whole : `${whole} * ${times}n`)
      const quotient = over === 1n ? product : `${product} / ${over}n`
      const limits = target === 'int' ? rangeOf(type) : target === 'decimal' ? decimalRange(type as Decimal) : isWide(type) ? rangeOf64 : rangeOf32
      const tests = over === 1n ? [] : [`${product} % ${over}n != 0`]
      const result64 = this.#let(quotient)
      tests.push(`${result64} < ${limits[0]}n`, `${result64} > ${limits[1]}n`)
      this.#line(`if (${tests.join(' || ')}) ${refuse}`, 'else {')
      this.#line(`${value} = ${isWide(type) ? result64 : `Number(${result64})`}`)
      this.#line('}')
    }
    this.#line('}')
    return from.valid === 'true' && bound.strict ? { value, valid: 'true' } : result
  }

  /** An integer, time or truth value as a bigint. */
  #asWhole(bound: Bound, { value }: Code, term = value): string {
    if (familyOf(bound.type) === 'bool') return `(${term} ? 1n : 0n)`
    return isWide(bound.type) ? term : `BigInt(${term})`
  }

  #asNumber(bound: Bound, { value }: Code): string {
    if (familyOf(bound.type) === 'bool') return `(${value} ? 1 : 0)`
    const number = isWide(bound.type) ? `Number(${value})` : value
    const scale = scaleOf(bound.type)
    return scale > 0 ? `(${number} / ${10 ** scale})` : number
  }

  /** With so many digits after the point. */
  #scaled(bound: Bound, code: Code, scale: number): string {
    return this.#multiplied(this.#asWhole(bound, code), 10n ** BigInt(scale - scaleOf(bound.type)))
  }

  #inUnit(bound: Bound, code: Code, unit: number): string {
    const days = familyOf(bound.type) === 'date' && !isWide(bound.type)
    return this.#multiplied(this.#asWhole(bound, code), days ? 86_400n * BigInt(unit) : BigInt(unit / unitOf(bound.type)))
  }

  #multiplied(term: string, factor: bigint): string {
    if (factor === 1n) return term
    return this.#let(`${term} * ${factor}n`)
  }

  #rounded(type: DataType, term: string): string {
    const { precision } = type as DataType & { precision: number }
    return precision === 2 ? term : precision === 1 ? `Math.fround(${term})` : `help.f16round(${term})`
  }

  #validityOnly(arg: Bound): Code {
    const index = leafIndex(this.#leaves, arg)
    return { value: '0', valid: this.#hasNulls(index) ? this.#let(`(b${index}[(o${index} + i) >> 3] >> ((o${index} + i) & 7) & 1) !== 0`) : 'true' }
  }

  #all(codes: readonly Code[]): string {
    const names = [...new Set(codes.map(({ valid }) => valid))].filter((valid) => valid !== 'true')
    if (names.includes('false')) return 'false'
    if (names.length === 0) return 'true'
    return names.length === 1 ? (names[0] as string) : this.#let(names.join(' && '))
  }

  /** The term is only evaluated where it is valid. */
  #value(valid: string, term: string, otherwise: string): Code {
    return { value: this.#let(valid === 'true' ? term : `${valid} ? ${term} : ${otherwise}`), valid }
  }

  #given(valid: string, statement: string): string {
    if (valid === 'true') return statement
    return statement === '' ? `if (${valid})` : `if (${valid}) { ${statement} }`
  }

  #text(text: string): string {
    return `c${this.constants.push(text) - 1}`
  }

  #let(term: string): string {
    if (/^(\w+|\(-\w+\))$/.test(term)) return term
    const name = `t${this.#names++}`
    this.#line(`const ${name} = ${term}`)
    return name
  }

  #variable(initial: string): string {
    const name = `t${this.#names++}`
    this.#line(`let ${name} = ${initial}`)
    return name
  }

  #line(...lines: string[]): void {
    this.#lines.push(...lines)
  }
}

const rangeOf64 = [-(2n ** 63n), 2n ** 63n - 1n] as const
const rangeOf32 = [-(2n ** 31n), 2n ** 31n - 1n] as const

function decimalRange({ precision }: Decimal): readonly [bigint, bigint] {
  const max = 10n ** BigInt(precision) - 1n
  return [-max, max]
}

/** Units per second of a date or timestamp; days count as seconds, since a larger unit is always there to compare with. */
function unitOf(type: DataType): number {
  if (familyOf(type) === 'date') return isWide(type) ? 1_000 : 1
  return perSecond(type)
}

/** By what a value is multiplied, and then divided without a rest, to become another type. */
function ratioOf(from: DataType, to: DataType): readonly [times: bigint, over: bigint] {
  const [source, target] = [familyOf(from), familyOf(to)]
  const reduced = (times: bigint, over: bigint): readonly [bigint, bigint] => (times >= over ? [times / over, 1n] : [1n, over / times])
  if (source === 'decimal' || target === 'decimal') return reduced(10n ** BigInt(scaleOf(to)), 10n ** BigInt(scaleOf(from)))
  const timed = (family: string): boolean => family === 'date' || family === 'timestamp'
  if (!timed(source) || !timed(target)) return [1n, 1n]
  const perDay = (type: DataType): bigint => (familyOf(type) === 'date' && !isWide(type) ? 1n : 86_400n * BigInt(unitOf(type)))
  return reduced(perDay(to), perDay(from))
}
