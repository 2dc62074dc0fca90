/**
 * Gives an expression its types: every name is looked up in a schema, every function checked against what it is given, constants take the type of what
 * they meet. The result is what `evaluate.ts` runs. Pure; reads no rows.
 */
import { BeamlineError } from '@beamline/runtime'
import {
  Binary,
  Bool,
  DateDay,
  Decimal,
  type DataType,
  type Field,
  Float32,
  Float64,
  Int32,
  Int64,
  List,
  Null,
  type Schema,
  TimestampMillisecond,
  Type,
  Uint64,
  Utf8,
  Field as ArrowField,
} from 'apache-arrow'
import { unknownColumn } from '../unknown-column.ts'
import { type ExprNode, type FunctionName, type LiteralValue, literalText, type Options, type RowFunction, textOf } from './node.ts'
import { type Constant, commonType, constantOf, type Family, familyOf, plain, sameType, scaleOf } from './types.ts'

/** An expression with types. */
export type Bound =
  | { readonly kind: 'column'; readonly type: DataType; readonly name: string }
  | { readonly kind: 'constant'; readonly type: DataType; readonly value: Constant }
  | {
      readonly kind: 'call'
      readonly type: DataType
      readonly fn: FunctionName
      readonly args: readonly Bound[]
      readonly options: Options
      readonly text: string
    }
  | { readonly kind: 'cast'; readonly type: DataType; readonly args: readonly [Bound]; readonly strict: boolean; readonly text: string }
  | { readonly kind: 'case'; readonly type: DataType; readonly branches: readonly (readonly [when: Bound, then: Bound])[]; readonly otherwise: Bound }
  | { readonly kind: 'udf'; readonly type: DataType; readonly name: string; readonly fn: RowFunction; readonly args: readonly Bound[] }

/**
 * @param what - the step that the expression belongs to, for errors
 * @throws {@link BeamlineError} `COLUMN_NOT_FOUND` with the nearest name; `EXPRESSION_INVALID` naming the part, its types, and what would fit
 */
export function bind(node: ExprNode, schema: Schema, what: string): Bound {
  return new Binder(schema, what).bind(node)
}

/** As `bind`, for a condition. */
export function bindCondition(node: ExprNode, schema: Schema, what: string): Bound {
  const bound = bind(node, schema, what)
  if (familyOf(bound.type) === 'bool' || familyOf(bound.type) === 'null') return bound
  throw new BeamlineError('EXPRESSION_INVALID', {
    what,
    expression: textOf(node),
    reason: `it gives ${bound.type}, not bool`,
    hint: 'compare it with something, such as .gt(0) or .isNotNull()',
  })
}

const ARITHMETIC: ReadonlySet<FunctionName> = new Set(['add', 'sub', 'mul', 'floorDiv', 'mod'])
const COMPARISON: ReadonlySet<FunctionName> = new Set(['eq', 'ne', 'lt', 'le', 'gt', 'ge'])
const OF_FLOATS: ReadonlySet<FunctionName> = new Set(['div', 'pow', 'sqrt', 'exp', 'ln', 'log2', 'log10'])
const KEEPS_NUMBERS: ReadonlySet<FunctionName> = new Set(['neg', 'abs', 'sign', 'floor', 'ceil', 'trunc', 'round'])
const TEXT_RESULT: ReadonlySet<FunctionName> = new Set([
  'str.lower',
  'str.upper',
  'str.trim',
  'str.trimStart',
  'str.trimEnd',
  'str.extract',
  'str.replace',
  'str.slice',
  'str.padStart',
  'str.padEnd',
])
const BOOL_RESULT: ReadonlySet<FunctionName> = new Set(['str.contains', 'str.startsWith', 'str.endsWith', 'str.matches'])

class Binder {
  readonly #schema: Schema
  readonly #what: string

  constructor(schema: Schema, what: string) {
    this.#schema = schema
    this.#what = what
  }

  bind(node: ExprNode): Bound {
    switch (node.kind) {
      case 'column': {
        const field = this.#schema.fields.find(({ name }) => name === node.name)
        if (field === undefined)
          throw unknownColumn(
            this.#what,
            node.name,
            this.#schema.fields.map(({ name }) => name),
          )
        return { kind: 'column', type: plain(field.type), name: node.name }
      }
      case 'literal':
        return this.#constant(node, naturalType(node.value) ?? this.#fail(node, 'it is beyond 64 bits', 'use a float'))
      case 'cast':
        return this.#cast(node)
      case 'case':
        return this.#case(node)
      case 'udf':
        return { kind: 'udf', type: node.type, name: node.name, fn: node.fn, args: node.args.map((arg) => this.#argument(arg)) }
      case 'call':
        return this.#call(node)
    }
  }

  /** A function of the user gets numbers that it was given as numbers. */
  #argument(node: ExprNode): Bound {
    if (node.kind === 'literal' && typeof node.value === 'number') return { kind: 'constant', type: new Float64(), value: node.value }
    return this.bind(node)
  }

  #call(node: Extract<ExprNode, { kind: 'call' }>): Bound {
    const { fn, options } = node
    const given = (type: DataType, args: readonly Bound[], name: FunctionName = fn): Bound => ({
      kind: 'call',
      type,
      fn: name,
      args,
      options,
      text: textOf(node),
    })
    if (fn === 'coalesce') {
      const args = this.#unify(node, this.#operands(node))
      return given((args[0] as Bound).type, args)
    }
    if (fn === 'isIn' || fn === 'list.contains') return this.#membership(node)
    const args = this.#operands(node)
    const first = args[0] as Bound
    if (fn === 'isNull' || fn === 'isNotNull') return given(new Bool(), args)
    if (fn === 'and' || fn === 'or' || fn === 'not') {
      this.#expect(node, args, ['bool'], 'compare first, such as .gt(0)')
      return given(new Bool(), args)
    }
    if (COMPARISON.has(fn)) {
      this.#comparable(node, first, args[1] as Bound)
      return given(new Bool(), args)
    }
    if (args.some(({ type }) => familyOf(type) === 'null') && !fn.startsWith('struct')) return { kind: 'constant', type: new Null(), value: null }
    if (fn === 'add' && args.every(({ type }) => familyOf(type) === 'text')) return given(new Utf8(), args, 'str.concat')
    if (ARITHMETIC.has(fn)) {
      this.#expect(node, args, ['int', 'float', 'decimal'], 'cast to a number first')
      const type = arithmeticType(fn, first.type, (args[1] as Bound).type)
      return given(type ?? this.#fail(node, `${first.type} and ${(args[1] as Bound).type} need more than 38 digits`, 'cast to float64 first'), args)
    }
    if (OF_FLOATS.has(fn)) {
      this.#expect(node, args, ['int', 'float', 'decimal'], 'cast to a number first')
      return given(args.every(({ type }) => type.typeId === Type.Float && (type as Float64).precision < 2) ? new Float32() : new Float64(), args)
    }
    if (KEEPS_NUMBERS.has(fn)) {
      this.#expect(node, args, ['int', 'float', 'decimal'], 'cast to a number first')
      if (familyOf(first.type) === 'decimal' && fn !== 'neg' && fn !== 'abs' && fn !== 'sign')
        this.#fail(node, `it is given ${first.type}`, 'cast to float64 first')
      if (fn === 'sign') return given(familyOf(first.type) === 'float' ? first.type : new Int32(), args)
      return given(familyOf(first.type) === 'int' && (fn === 'neg' || fn === 'abs') ? new Int64() : plain(first.type), args)
    }
    if (fn === 'isNaN' || fn === 'isFinite') {
      this.#expect(node, args, ['int', 'float', 'decimal'], 'cast to a number first')
      return given(new Bool(), args)
    }
    if (fn.startsWith('str.')) {
      this.#expect(node, args, ['text'], 'cast to utf8 first')
      if (fn === 'str.split') return given(new List(new ArrowField('item', new Utf8(), true)), args)
      if (TEXT_RESULT.has(fn)) return given(new Utf8(), args)
      return given(BOOL_RESULT.has(fn) ? new Bool() : new Int32(), args)
    }
    if (fn.startsWith('dt.')) return this.#time(node, first, given)
    if (fn === 'struct.field') {
      const field = (first.type.children as Field[] | undefined)?.find(({ name }) => name === options['name'])
      if (familyOf(first.type) !== 'struct' || field === undefined)
        this.#fail(node, `${first.type} has no field ${JSON.stringify(options['name'])}`, 'name one that it has')
      return given(plain((field as Field).type), args)
    }
    this.#expect(node, args, ['list'], 'only lists have items')
    const item = ((first.type.children as Field[])[0] as Field).type
    if (fn === 'list.len') return given(new Int32(), args)
    if (fn === 'list.get') return given(plain(item), args)
    return given(first.type.typeId === Type.List ? first.type : new List(new ArrowField('item', item, true)), args)
  }

  #time(node: Extract<ExprNode, { kind: 'call' }>, time: Bound, given: (type: DataType, args: readonly Bound[]) => Bound): Bound {
    const ofDay: ReadonlySet<string> = new Set(['dt.hour', 'dt.minute', 'dt.second', 'dt.millisecond'])
    this.#expect(node, [time], ofDay.has(node.fn) ? ['timestamp'] : ['timestamp', 'date'], 'cast to a timestamp first')
    const { timezone } = time.type as TimestampMillisecond
    if (familyOf(time.type) === 'timestamp' && timezone != null && !/^(UTC|Z|\+00:00|Etc\/UTC)$/i.test(timezone)) {
      this.#fail(node, `${time.type} is in the zone ${timezone}`, 'these functions know UTC only; cast to a timestamp without zone or in UTC first')
    }
    if (node.fn === 'dt.date') return given(new DateDay(), [time])
    return given(node.fn === 'dt.truncate' ? plain(time.type) : new Int32(), [time])
  }

  #cast(node: Extract<ExprNode, { kind: 'cast' }>): Bound {
    const arg = this.bind(node.arg)
    if (sameType(arg.type, node.type)) return arg
    if (!castable(arg.type, node.type)) this.#fail(node, `${arg.type} has no meaning as ${node.type}`, "see the table of casts in the package's README")
    return { kind: 'cast', type: node.type, args: [arg], strict: node.strict, text: textOf(node) }
  }

  #case(node: Extract<ExprNode, { kind: 'case' }>): Bound {
    const conditions = node.branches.map(([when]) => {
      const bound = this.bind(when)
      if (!['bool', 'null'].includes(familyOf(bound.type))) this.#fail(when, `it gives ${bound.type}, not bool`, 'compare it with something')
      return bound
    })
    const values = this.#unify(node, this.#bindAll([...node.branches.map(([, then]) => then), node.otherwise]))
    const otherwise = values.at(-1) as Bound
    return { kind: 'case', type: otherwise.type, branches: conditions.map((when, i) => [when, values[i] as Bound] as const), otherwise }
  }

  #membership(node: Extract<ExprNode, { kind: 'call' }>): Bound {
    const arg = this.bind(node.args[0] as ExprNode)
    if (node.fn === 'list.contains') this.#expect(node, [arg], ['list'], 'only lists have items')
    const type = node.fn === 'list.contains' ? ((arg.type.children as Field[])[0] as Field).type : arg.type
    const values = node.options['values'] as readonly LiteralValue[]
    for (const value of values) {
      const natural = naturalType(value)
      if (natural === undefined || !kin(familyOf(natural), familyOf(type)))
        this.#fail(node, `${literalText(value)} is not comparable with ${type}`, 'give values of its kind')
    }
    return { kind: 'call', type: new Bool(), fn: node.fn, args: [arg], options: node.options, text: textOf(node) }
  }

  #operands(node: Extract<ExprNode, { kind: 'call' }>): Bound[] {
    return this.#bindAll(node.args)
  }

  /** Constants take the type of the first operand that has one of its own, where it holds them exactly. */
  #bindAll(nodes: readonly ExprNode[]): Bound[] {
    const bound = nodes.map((node) => (node.kind === 'literal' ? undefined : this.bind(node)))
    const lead = bound.find((one) => one !== undefined && familyOf(one.type) !== 'null')
    return nodes.map((node, i) => {
      if (bound[i] !== undefined) return bound[i] as Bound
      const { value } = node as Extract<ExprNode, { kind: 'literal' }>
      const type = lead === undefined ? undefined : plain(lead.type)
      const constant = type === undefined ? undefined : constantOf(value, type)
      return constant === undefined || type === undefined ? this.bind(node) : { kind: 'constant', type, value: constant }
    })
  }

  /** All of one type, by exact casts where numbers differ. */
  #unify(node: ExprNode, args: readonly Bound[]): Bound[] {
    let type: DataType = new Null()
    for (const arg of args) {
      const next = commonType(type, plain(arg.type))
      if (next === undefined) this.#fail(node, `its values are ${type} and ${arg.type}`, 'cast them to one type')
      type = next as DataType
    }
    return args.map((arg) => {
      if (sameType(arg.type, type)) return arg
      if (arg.kind === 'constant' && arg.value === null) return { ...arg, type }
      return { kind: 'cast', type, args: [arg], strict: true, text: textOf(node) }
    })
  }

  #constant(node: Extract<ExprNode, { kind: 'literal' }>, type: DataType): Bound {
    return { kind: 'constant', type, value: constantOf(node.value, type) as Constant }
  }

  #comparable(node: ExprNode, a: Bound, b: Bound): void {
    const [x, y] = [familyOf(a.type), familyOf(b.type)]
    if (!kin(x, y) || x === 'struct' || x === 'other' || x === 'list') {
      const dates = [x, y].some((family) => family === 'date' || family === 'timestamp') && [x, y].includes('text')
      this.#fail(node, `${a.type} and ${b.type} cannot be compared`, dates ? 'compare with a Date, such as new Date("2024-05-01")' : 'cast one of them')
    }
    if ((x === 'time' || x === 'duration') && !sameType(a.type, b.type)) this.#fail(node, `${a.type} and ${b.type} cannot be compared`, 'cast one of them')
    const zones = [a, b]
      .filter(({ type, kind }) => familyOf(type) === 'timestamp' && kind !== 'constant')
      .map(({ type }) => (type as TimestampMillisecond).timezone ?? '')
    if (zones.length === 2 && (zones[0] === '') !== (zones[1] === ''))
      this.#fail(node, `${a.type} has ${zones[0] === '' ? 'no' : 'a'} zone and ${b.type} has ${zones[1] === '' ? 'none' : 'one'}`, 'cast one of them')
  }

  #expect(node: ExprNode, args: readonly Bound[], families: readonly Family[], hint: string): void {
    for (const { type } of args) {
      const family = familyOf(type)
      if (family !== 'null' && !families.includes(family)) this.#fail(node, `it takes ${families.join(' or ')}, and is given ${type}`, hint)
    }
  }

  #fail(node: ExprNode, reason: string, hint: string): never {
    throw new BeamlineError('EXPRESSION_INVALID', { what: this.#what, expression: textOf(node), reason, hint })
  }
}

const NUMBERS: ReadonlySet<Family> = new Set(['int', 'float', 'decimal'])
const DAYS: ReadonlySet<Family> = new Set(['date', 'timestamp'])

function kin(a: Family, b: Family): boolean {
  return a === b || a === 'null' || b === 'null' || (NUMBERS.has(a) && NUMBERS.has(b)) || (DAYS.has(a) && DAYS.has(b))
}

function naturalType(value: LiteralValue): DataType | undefined {
  if (value === null) return new Null()
  if (typeof value === 'boolean') return new Bool()
  if (typeof value === 'string') return new Utf8()
  if (value instanceof Date) return new TimestampMillisecond()
  if (value instanceof Uint8Array) return new Binary()
  if (typeof value === 'number') return Number.isSafeInteger(value) && !Object.is(value, -0) ? new Int64() : new Float64()
  if (BigInt.asIntN(64, value) === value) return new Int64()
  return BigInt.asUintN(64, value) === value ? new Uint64() : undefined
}

function arithmeticType(fn: FunctionName, a: DataType, b: DataType): DataType | undefined {
  const families = [familyOf(a), familyOf(b)]
  if (families.includes('float')) return [a, b].every((type) => type.typeId === Type.Float && (type as Float64).precision < 2) ? new Float32() : new Float64()
  if (families.includes('decimal')) {
    if (fn === 'floorDiv' || fn === 'mod') return new Float64()
    const scale = fn === 'mul' ? scaleOf(a) + scaleOf(b) : Math.max(scaleOf(a), scaleOf(b))
    return scale > 38 ? undefined : new Decimal(scale, 38, 128)
  }
  return [a, b].every((type) => !(type as Int64).isSigned && (type as Int64).bitWidth === 64) ? new Uint64() : new Int64()
}

const CASTS: Partial<Record<Family, readonly Family[]>> = {
  bool: ['int', 'float', 'text'],
  int: ['bool', 'int', 'float', 'decimal', 'text', 'timestamp', 'date', 'time', 'duration'],
  float: ['int', 'float', 'decimal', 'text'],
  decimal: ['int', 'float', 'decimal', 'text'],
  text: ['bool', 'int', 'float', 'decimal', 'text', 'timestamp', 'date', 'binary'],
  binary: ['text', 'binary'],
  date: ['int', 'date', 'timestamp', 'text'],
  timestamp: ['int', 'date', 'timestamp', 'text'],
  time: ['int'],
  duration: ['int'],
}

function castable(from: DataType, to: DataType): boolean {
  const family = familyOf(from)
  if (to.typeId === Type.Dictionary) return false
  if (to.typeId === Type.FixedSizeBinary || to.typeId === Type.LargeBinary) return false
  if (to.typeId === Type.Decimal && (to as Decimal).bitWidth !== 128) return false
  return family === 'null' || (CASTS[family]?.includes(familyOf(to)) ?? false)
}
