/**
 * Evaluates everything in an expression that is a number, a truth value or a time in one loop over the rows, without columns in between.
 *
 * The loop is compiled from the bound expression: one local variable per operation, one branch per null check, so that V8 sees plain arithmetic on typed
 * arrays (about 2 ns per operation and row). It exists in two forms. The `fast` one holds 64-bit integers, times and decimals in JavaScript numbers and
 * gives up at the first value beyond 2^53; the `exact` one holds them in BigInts (some 20 times slower) and then runs instead. Both give the same results.
 *
 * No text of the user gets into the source: names and messages are handed over beside it.
 */
import { compileFunction } from 'node:vm'
import { BeamlineError } from '@beamline/runtime'
import { type Data, type DataType, type Decimal, makeData, Type } from 'apache-arrow'
import type { Bound } from './bind.ts'
import type { FunctionName, LiteralValue } from './node.ts'
import { type Constant, constantOf, familyOf, isScalar, isWide, perSecond, rangeOf, scaleOf } from './types.ts'

/** The rows are evaluated as a whole; `validity` has one byte per row. */
export interface Evaluated {
  readonly values: ArrayBufferView
  readonly validity: Uint8Array | undefined
}

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
const IN_LOOP: ReadonlySet<string> = new Set([
  ...Object.keys(COMPARE),
  ...Object.keys(OPERATOR),
  ...Object.keys(MATH),
  ...['floorDiv', 'mod', 'neg', 'abs', 'sign', 'pow', 'round', 'isNaN', 'isFinite', 'and', 'or', 'not', 'eq', 'ne', 'isNull', 'isNotNull', 'isIn', 'coalesce'],
])

/**
 * Whether the loop can hold the value itself. What it cannot is a leaf: a column that something else evaluates first. Of a `case` or `coalesce` every part must
 * be in the loop, so that nothing is evaluated for rows that do not ask for it.
 */
export function inLoop(bound: Bound): boolean {
  const scalar = (one: Bound): boolean => isScalar(one.type) || familyOf(one.type) === 'null'
  switch (bound.kind) {
    case 'column':
      return false
    case 'constant':
      return scalar(bound)
    case 'udf':
      return false
    case 'cast':
      return scalar(bound) && scalar(bound.args[0])
    case 'case':
      return scalar(bound) && [...bound.branches.flat(), bound.otherwise].every(wholly)
    case 'call':
      if (!IN_LOOP.has(bound.fn) || !scalar(bound)) return false
      if (bound.fn === 'isNull' || bound.fn === 'isNotNull') return true
      return bound.args.every(scalar) && (bound.fn !== 'coalesce' || bound.args.every(wholly))
  }
}

/** In the loop down to columns and constants. */
function wholly(bound: Bound): boolean {
  if (bound.kind === 'column') return isScalar(bound.type)
  if (!inLoop(bound)) return false
  if (bound.kind === 'case') return true
  return bound.kind === 'constant' || (bound as Extract<Bound, { args: unknown }>).args.every(wholly)
}

/** A value in the loop: the names (or constants) that hold it and say whether it is there. */
interface Code {
  readonly value: string
  readonly valid: string
}

const NULL: Code = { value: '0', valid: 'false' }

class LoopSource {
  readonly constants: unknown[] = []
  readonly #exact: boolean
  readonly #leaves: readonly Bound[]
  readonly #hasNulls: (leaf: number) => boolean
  readonly #lines: string[] = []
  #known = new Map<Bound, Code>()
  #names = 0

  constructor(exact: boolean, leaves: readonly Bound[], hasNulls: (leaf: number) => boolean) {
    this.#exact = exact
    this.#leaves = leaves
    this.#hasNulls = hasNulls
  }

  /** The whole function: `(rows, leaves, constants, out, validity, help)`. */
  compile(root: Bound): { readonly source: string; readonly nullable: boolean } {
    const code = this.#emit(root)
    const store = [...this.#storing(root.type, code)]
    const heads = this.#leaves.map(
      (_, i) => `const l${i} = leaves[${i}], v${i} = l${i}.values, w${i} = l${i}.words, u${i} = l${i}.unsigned, b${i} = l${i}.bits, o${i} = l${i}.offset`,
    )
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
    if (type.typeId === Type.Decimal) {
      if (this.#exact) return [`help.writeWords(out, i * 4, ${value})`]
      return [
        `const hi = Math.floor(${value} / 4294967296)`,
        `out[4 * i] = ${value}`,
        'out[4 * i + 1] = hi',
        'out[4 * i + 2] = out[4 * i + 3] = hi < 0 ? -1 : 0',
      ]
    }
    if (!isWide(type)) return [`out[i] = ${value}`]
    return this.#exact ? [`out[i] = ${value}`] : [`out[2 * i] = ${value}`, `out[2 * i + 1] = Math.floor(${value} / 4294967296)`]
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
    const text = typeof value === 'bigint' ? this.#wideConstant(value) : Object.is(value, -0) ? '-0' : String(value)
    return { value: text.startsWith('-') ? `(${text})` : text, valid: 'true' }
  }

  #wideConstant(value: bigint): string {
    if (this.#exact) return `${value}n`
    if (BigInt(Number(value)) !== value || Math.abs(Number(value)) > Number.MAX_SAFE_INTEGER) this.#line('throw help.beyond')
    return String(Number(value))
  }

  #leaf(bound: Bound): Code {
    const { type } = bound
    if (familyOf(type) === 'null') return NULL
    const index = leafIndex(this.#leaves, bound)
    const at = `o${index} + i`
    const valid = this.#hasNulls(index) ? this.#let(`(b${index}[(${at}) >> 3] >> ((${at}) & 7) & 1) !== 0`) : 'true'
    const read = (): string => {
      if (familyOf(type) === 'bool') return `(v${index}[(${at}) >> 3] >> ((${at}) & 7) & 1) !== 0`
      if (!isWide(type)) return `v${index}[i]`
      const words = type.typeId === Type.Decimal ? (type as Decimal).bitWidth / 32 : 2
      if (this.#exact) return words === 2 ? `v${index}[i]` : `help.readWords(u${index}, i * ${words}, ${words})`
      const unsigned = type.typeId === Type.Int && !(type as DataType & { isSigned: boolean }).isSigned
      const high = this.#let(`${unsigned ? 'u' : 'w'}${index}[${words} * i + 1]`)
      const beyond = [`${high} > 2097151`, ...(unsigned ? [] : [`${high} < -2097151`])]
      for (let word = 2; word < words; word++) beyond.push(`w${index}[${words} * i + ${word}] !== ${high} >> 31`)
      this.#line(`if (${valid === 'true' ? '' : `${valid} && `}(${beyond.join(' || ')})) throw help.beyond`)
      return `${high} * 4294967296 + u${index}[${words} * i]`
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
    const m = this.#scaled(x, a, scale ?? scaleOf(x.type), valid)
    const n = this.#scaled(y, b, scale ?? scaleOf(y.type), valid)
    return this.#checked(bound, valid, `${m} ${OPERATOR[fn]} ${n}`)
  }

  /** 64-bit results must stay in their range. */
  #checked(bound: Bound & { readonly text: string }, valid: string, term: string): Code {
    const value = this.#variable(this.#exact ? '0n' : '0')
    const least = bound.type.typeId === Type.Int && rangeOf(bound.type)[0] === 0n ? '0' : '-9007199254740991'
    const check = this.#exact ? this.#rangeCheck(bound, value) : `if (${value} > 9007199254740991 || ${value} < ${least}) throw help.beyond`
    this.#line(this.#given(valid, `${value} = ${term}; ${check}`))
    return { value, valid }
  }

  #rangeCheck(bound: Bound & { readonly text: string }, value: string): string {
    const decimal = bound.type.typeId === Type.Decimal
    const [min, max] = decimal ? [-(10n ** 38n) + 1n, 10n ** 38n - 1n] : rangeOf(bound.type)
    return `if (${value} > ${max}n || ${value} < ${min}n) help.overflow(${this.#text(bound.text)}, '${decimal ? '38 digits' : 'the range of 64-bit integers'}', i)`
  }

  #integerDivision(bound: Extract<Bound, { kind: 'call' }>, a: Code, b: Code, valid: string): Code {
    const [x, y] = bound.args as [Bound, Bound]
    const zero = this.#exact ? '0n' : '0'
    const [m, n] = [this.#asWhole(x, a), this.#asWhole(y, b)]
    const divisible = this.#let(`${valid} && ${n} != 0`)
    const value = this.#variable(zero)
    const rest = this.#variable(zero)
    this.#line(`if (${divisible}) {`)
    this.#line(`${rest} = ${m} % ${n}`, `if (${rest} != 0 && (${rest} < 0) !== (${n} < 0)) ${rest} += ${n}`)
    if (bound.fn === 'mod') this.#line(`${value} = ${rest}`)
    else if (this.#exact) this.#line(`${value} = (${m} - ${rest}) / ${n}`, this.#rangeCheck(bound, value))
    else this.#line(`${value} = ${m} - ${rest}`, `if (${value} > 9007199254740991 || ${value} < -9007199254740991) throw help.beyond`, `${value} /= ${n}`)
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
      m = this.#inUnit(x, a, unit, valid)
      n = this.#inUnit(y, b, unit, valid)
    } else if (families.includes('decimal')) {
      if (families.includes('float')) [m, n] = [this.#asNumber(x, a), this.#asNumber(y, b)]
      else {
        const scale = Math.max(scaleOf(x.type), scaleOf(y.type))
        m = this.#scaled(x, a, scale, valid)
        n = this.#scaled(y, b, scale, valid)
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
    const members = constants.filter((value) => value !== undefined).map((value) => (typeof value === 'bigint' && !this.#exact ? Number(value) : value))
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
    const zero = familyOf(type) === 'bool' ? 'false' : isWide(type) && this.#exact ? '0n' : '0'
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
    const refuse = bound.strict ? `help.castFailed(${this.#text(bound.text)}, '${type}', ${from.value}, i)` : `${result.valid} = false`
    const into = (whole: string): void => {
      this.#line(`${value} = ${whole}`)
      if (isWide(type) && !this.#exact) this.#line(`if (${value} > 9007199254740991 || ${value} < -9007199254740991) throw help.beyond`)
    }
    if (source === 'float' && target === 'int') {
      const [min, max] = rangeOf(type)
      this.#line(
        `if (!Number.isInteger(${from.value}) || ${from.value} < ${min} || ${from.value} ${isWide(type) ? `>= ${max + 1n}` : `> ${max}`}) ${refuse}`,
        'else {',
      )
      into(isWide(type) && this.#exact ? `BigInt(${from.value})` : from.value)
      this.#line('}')
    } else if (source === 'float') {
      const parsed = this.#let(`help.decimalOf(${from.value}, ${scaleOf(type)})`)
      this.#line(`if (${parsed} === undefined || help.digits(${parsed}) > ${(type as Decimal).precision}) ${refuse}`, 'else {')
      into(this.#exact ? parsed : `Number(${parsed})`)
      this.#line('}')
    } else {
      const [times, over] = ratioOf(arg.type, type)
      const whole = this.#let(this.#asWhole(arg, from))
      const product = this.#let(times === 1n ? whole : `${whole} * ${this.#whole(times)}`)
      if (!this.#exact && times !== 1n) this.#line(`if (${product} > 9007199254740991 || ${product} < -9007199254740991) throw help.beyond`)
      const quotient = over === 1n ? product : `${product} / ${this.#whole(over)}`
      const limits = target === 'int' ? rangeOf(type) : target === 'decimal' ? decimalRange(type as Decimal) : isWide(type) ? rangeOf64 : rangeOf32
      const tests = over === 1n ? [] : [`${product} % ${this.#whole(over)} != 0`]
      const result64 = this.#let(over === 1n || this.#exact ? quotient : `Math.floor(${quotient})`)
      tests.push(`${result64} < ${this.#bound(limits[0])}`, `${result64} > ${this.#bound(limits[1])}`)
      this.#line(`if (${tests.join(' || ')}) ${refuse}`, 'else {')
      into(isWide(type) || !this.#exact ? result64 : `Number(${result64})`)
      this.#line('}')
    }
    this.#line('}')
    return from.valid === 'true' && bound.strict ? { value, valid: 'true' } : result
  }

  #whole(value: bigint): string {
    return this.#exact ? `${value}n` : `${value}`
  }

  #bound(value: bigint): string {
    return this.#exact ? `${value}n` : String(Number(value))
  }

  /** An integer, time or truth value as the loop counts in 64 bits: a bigint in the exact form. */
  #asWhole(bound: Bound, { value }: Code, term = value): string {
    if (familyOf(bound.type) === 'bool') return this.#exact ? `(${term} ? 1n : 0n)` : `(${term} ? 1 : 0)`
    return !this.#exact || isWide(bound.type) ? term : `BigInt(${term})`
  }

  #asNumber(bound: Bound, { value }: Code): string {
    if (familyOf(bound.type) === 'bool') return `(${value} ? 1 : 0)`
    const number = this.#exact && isWide(bound.type) ? `Number(${value})` : value
    const scale = scaleOf(bound.type)
    return scale > 0 ? `(${number} / ${10 ** scale})` : number
  }

  /** With so many digits after the point. */
  #scaled(bound: Bound, code: Code, scale: number, valid: string): string {
    return this.#multiplied(this.#asWhole(bound, code), 10n ** BigInt(scale - scaleOf(bound.type)), valid)
  }

  #inUnit(bound: Bound, code: Code, unit: number, valid: string): string {
    const days = familyOf(bound.type) === 'date' && !isWide(bound.type)
    return this.#multiplied(this.#asWhole(bound, code), days ? 86_400n * BigInt(unit) : BigInt(unit / unitOf(bound.type)), valid)
  }

  #multiplied(term: string, factor: bigint, valid: string): string {
    if (factor === 1n) return term
    if (this.#exact) return this.#let(`${term} * ${factor}n`)
    const product = this.#let(`${term} * ${factor}`)
    this.#line(this.#given(valid, `if (${product} > 9007199254740991 || ${product} < -9007199254740991) throw help.beyond`))
    return product
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

/** Thrown by a fast loop that met a value which numbers do not hold. */
const BEYOND = Symbol('beyond 2^53')

const HELP = {
  beyond: BEYOND,
  f16round: (x: number): number => (Math as unknown as { f16round(x: number): number }).f16round(x),
  mod(a: number, b: number): number {
    const rest = a % b
    return rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest
  },
  round(x: number, decimals: number): number {
    if (decimals === 0) return x < 0 ? -Math.round(-x) : Math.round(x)
    const shifted = Number(`${Math.abs(x)}e${decimals}`)
    const rounded = Number.isNaN(shifted) ? roundedOf(Math.abs(x), decimals) : Number(`${Math.round(shifted)}e-${decimals}`)
    return x < 0 ? -rounded : rounded
  },
  /** A float as a decimal without its point, by its shortest text; undefined when it has more digits after the point. */
  decimalOf(x: number, scale: number): bigint | undefined {
    const match = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(x))
    if (match === null) return undefined
    const [, sign, whole = '', fraction = '', exponent = '0'] = match
    const shift = scale - fraction.length + Number(exponent)
    const digits = BigInt(whole + fraction)
    if (shift < 0 && digits % 10n ** BigInt(-shift) !== 0n) return undefined
    const unscaled = shift < 0 ? digits / 10n ** BigInt(-shift) : digits * 10n ** BigInt(shift)
    return sign === '-' ? -unscaled : unscaled
  },
  digits: (x: bigint): number => String(x < 0n ? -x : x).length,
  readWords(words: Uint32Array, at: number, count: number): bigint {
    let value = 0n
    for (let word = count - 1; word >= 0; word--) value = (value << 32n) | BigInt(words[at + word] as number)
    return BigInt.asIntN(32 * count, value)
  },
  writeWords(words: Int32Array, at: number, value: bigint): void {
    for (let word = 0, rest = value; word < 4; word++, rest >>= 32n) words[at + word] = Number(BigInt.asIntN(32, rest))
  },
  overflow(expression: string, limit: string, row: number): never {
    throw new BeamlineError('EXPRESSION_FAILED', { expression, row, reason: `the result exceeds ${limit}`, hint: 'cast an operand to float64 first' })
  },
  castFailed(expression: string, type: string, value: number | bigint, row: number): never {
    throw castError(expression, type, String(value), row)
  },
}

/** Very large and very small numbers have a text with an exponent of its own. */
function roundedOf(x: number, decimals: number): number {
  return x >= 1e15 ? x : Number(x.toFixed(decimals))
}

export function castError(expression: string, type: string, value: string, row: number): BeamlineError {
  const hint = 'round or filter before, or use tryCast, which gives null instead'
  return new BeamlineError('EXPRESSION_FAILED', { expression, row, reason: `${value} has no exact value of type ${type}`, hint })
}

type LoopFunction = (
  rows: number,
  leaves: readonly LeafView[],
  constants: readonly unknown[],
  out: ArrayBufferView,
  validity: Uint8Array | undefined,
  help: typeof HELP,
) => void

interface LeafView {
  readonly values: unknown
  readonly words: Int32Array | undefined
  readonly unsigned: Uint32Array | undefined
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
  const data: Data[] = []
  const leaves: Bound[] = []
  collect(root, leaves)
  for (const bound of leaves) data.push(leaf(bound))
  try {
    return run(root, rows, leaves, data, false)
  } catch (error) {
    if (error !== BEYOND) throw error
    return run(root, rows, leaves, data, true)
  }
}

/** Columns are one leaf however often they are named. */
function leafIndex(leaves: readonly Bound[], bound: Bound): number {
  return bound.kind === 'column' ? leaves.findIndex((leaf) => leaf.kind === 'column' && leaf.name === bound.name) : leaves.indexOf(bound)
}

function collect(bound: Bound, into: Bound[]): void {
  if (bound.kind === 'constant') return
  const add = (leaf: Bound): void => {
    if (leafIndex(into, leaf) < 0) into.push(leaf)
  }
  if (!inLoop(bound)) add(bound)
  else if (bound.kind === 'case') for (const part of [...bound.branches.flat(), bound.otherwise]) collect(part, into)
  else if (bound.kind === 'call' || bound.kind === 'cast') {
    for (const arg of bound.args) {
      if (isScalar(arg.type) || familyOf(arg.type) === 'null') collect(arg, into)
      else add(arg)
    }
  }
}

function run(root: Bound, rows: number, leaves: readonly Bound[], data: readonly Data[], exact: boolean): Evaluated {
  const source = new LoopSource(exact, leaves, (index) => (data[index] as Data).nullCount > 0)
  const { source: text, nullable } = source.compile(root)
  let loop = compiled.get(text)
  if (loop === undefined) {
    if (compiled.size >= COMPILED_MAX) compiled.clear()
    loop = compileFunction(text, ['rows', 'leaves', 'constants', 'out', 'validity', 'help']) as LoopFunction
    compiled.set(text, loop)
  }
  const out = outputOf(root.type, rows, exact)
  const validity = nullable ? new Uint8Array(rows).fill(1) : undefined
  loop(rows, data.map(viewOf), source.constants, out, validity, HELP)
  return { values: out, validity }
}

function viewOf(data: Data): LeafView {
  const { values } = data
  const bits = (data.nullBitmap as Uint8Array | undefined) ?? undefined
  if (!ArrayBuffer.isView(values)) return { values: undefined, words: undefined, unsigned: undefined, bits, offset: data.offset }
  const view = values as Uint8Array
  const halves = data.type.typeId === Type.Float && (values as unknown) instanceof Uint16Array
  const wide = isWide(data.type)
  return {
    values: halves ? new Float16Array(view.buffer as ArrayBuffer, view.byteOffset, view.length) : values,
    words: wide ? new Int32Array(view.buffer, view.byteOffset, view.byteLength >> 2) : undefined,
    unsigned: wide ? new Uint32Array(view.buffer, view.byteOffset, view.byteLength >> 2) : undefined,
    bits,
    offset: data.offset,
  }
}

function outputOf(type: DataType, rows: number, exact: boolean): ArrayBufferView {
  if (familyOf(type) === 'bool') return new Uint8Array(rows)
  if (type.typeId === Type.Decimal) return new Int32Array(4 * rows)
  const { ArrayType } = type as DataType & { ArrayType: new (length: number | ArrayBuffer) => ArrayBufferView }
  if (ArrayType === (Uint16Array as unknown) && type.typeId === Type.Float) return new Float16Array(rows)
  if (isWide(type)) {
    const array = new ArrayType(rows)
    return exact ? array : new Int32Array(array.buffer)
  }
  return new ArrayType(rows)
}

/** What a loop gave, as a column. */
export function columnOf(type: DataType, rows: number, { values, validity }: Evaluated): Data {
  const nulls = validity === undefined ? { nullCount: 0 } : nullsOf(validity)
  if (familyOf(type) === 'null') return makeData({ type, length: rows } as never)
  if (familyOf(type) === 'bool') return makeData({ type, length: rows, ...nulls, data: packBits(values as Uint8Array) } as never)
  const { ArrayType } = type as DataType & { ArrayType: new (buffer: ArrayBufferLike) => ArrayBufferView }
  return makeData({ type, length: rows, ...nulls, data: new ArrayType(values.buffer) } as never)
}

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
