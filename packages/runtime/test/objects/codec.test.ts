import { createHook } from 'node:async_hooks'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { BeamlineError } from '../../src/errors.ts'
import { decode, encode, encodeInline, write } from '../../src/objects/codec.ts'
import { Encoder } from '../../src/objects/encoder.ts'
import { registerClass, registerType } from '../../src/objects/registry.ts'
import { difference } from './same-value.ts'

const roundTrip = (value: unknown): unknown => decode(encodeInline(value, 'the value'))

/** Through shared memory: encoded and written in two steps. */
function throughMemory(value: unknown): unknown {
  const encoded = encode(value, 'the value')
  const target = new Uint8Array(encoded.byteLength)
  write(encoded, target)
  return decode(target)
}

function refusal(value: unknown): BeamlineError<'NOT_SERIALIZABLE'> {
  try {
    encodeInline(value, 'the value')
  } catch (error) {
    if (BeamlineError.is(error, 'NOT_SERIALIZABLE')) return error
    throw error
  }
  throw new Error('it was not refused')
}

const shared = { shared: true }
const cyclic: Record<string, unknown> = { name: 'cycle', list: [1] }
cyclic['self'] = cyclic
;(cyclic['list'] as unknown[]).push(cyclic)
const cyclicMap = new Map<unknown, unknown>()
cyclicMap.set(cyclicMap, new Set([cyclicMap]))
const overlapping = new ArrayBuffer(32)
const sparse: unknown[] = [1]
sparse[70_000] = 2
sparse.length = 4_000_000_000
const named = Object.assign([1, 2, 3], { total: 6, nested: shared, again: shared })
const longNamed = Object.assign(
  Array.from({ length: 100 }, (_, i) => `${i}`),
  { total: 6 },
)
const withOwnStackless = new Error('no stack')
delete withOwnStackless.stack

function linked(n: number): object[] {
  const items = Array.from({ length: n }, (_, i) => ({ i, previous: undefined as object | undefined, next: undefined as object | undefined }))
  items.forEach((item, i) => {
    item.previous = items[i - 1]
    item.next = items[(i + 1) % n]
  })
  return items.toReversed()
}

const exact: Record<string, unknown> = {
  undefined: undefined,
  null: null,
  booleans: [true, false],
  'minus zero': -0,
  'minus zero among integers': [1, 2, 3, 4, 5, 6, 7, 8, -0],
  'not a number and infinities': [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  'integers around every boundary': [0, 127, 128, 255, 256, 32_767, 32_768, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 53 - 1].flatMap((n) => [
    n,
    -n,
    n + 1,
    -n - 1,
  ]),
  fractions: [0.1, -1.5, Number.MIN_VALUE, Number.MAX_VALUE, Number.EPSILON],
  'big integers': [0n, 1n, -1n, 2n ** 63n - 1n, 2n ** 63n, -(2n ** 63n), -(2n ** 63n) - 1n, 2n ** 64n, 7n ** 500n, -(7n ** 500n)],
  'strings of every length around the boundaries': [0, 1, 2, 3, 4, 5, 62, 63, 64, 65, 127, 128, 16_384].map((n) => 'x'.repeat(n)),
  'Latin-1, Unicode, emoji': ['é', 'é'.repeat(100), '€', '𝄞', '👩‍👩‍👧‍👦'.repeat(30)],
  'lone surrogates': ['\ud800', 'a\udfffb', '\ud800'.repeat(100)],
  'a string with a zero character': 'a\0b',
  'an empty array and object': [[], {}],
  holes: [, 1, , , 2, ,],
  'a hole behind packed numbers': [[1, 2, 3, 4, 5, 6, 7, 8], , [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5], , ,],
  'only holes': new Array(5),
  'a hole is not undefined': [undefined, , undefined],
  'four billion holes': sparse,
  'an array with named properties': named,
  'a long array with named properties': longNamed,
  'the result of a regular expression': /(?<year>\d+)-(\d+)/d.exec('on 2026-11'),
  'packed integers': Array.from({ length: 1000 }, (_, i) => i - 500),
  'packed floats': Array.from({ length: 1000 }, (_, i) => i / 3),
  'mixed numbers and strings': Array.from({ length: 100 }, (_, i) => (i === 99 ? 'last' : i)),
  'undefined is not missing': { a: undefined, b: null },
  'property order': { z: 1, a: 2, 10: 'ten', 2: 'two', m: 3 },
  'many objects of one shape': Array.from({ length: 300 }, (_, i) => ({ id: i, name: `n${i}`, ok: i % 2 === 0 })),
  'many objects of one shape with strange keys': Array.from({ length: 50 }, (_, i) => ({ '': i, '"\\\n\u2028\ud800': [i], 'a b': null, '1': i / 3 })),
  'many objects with the key __proto__': Array.from({ length: 50 }, (_, i) => JSON.parse(`{"x": ${i}, "__proto__": {"y": ${i}}}`)),
  'a long list linked in both directions': linked(60),
  'more shapes than are remembered': Array.from({ length: 200 }, (_, i) => ({ [`key${i}`]: i, common: 1 })),
  'an object with a thousand keys, twice': [0, 1].map(() => Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`k${i}`, i]))),
  'the key __proto__': JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1, "hasOwnProperty": 2}'),
  'the key __proto__ in a null-prototype object': Object.assign(Object.create(null), JSON.parse('{"a": 1}')),
  'an empty key and strange keys': { '': 1, ' ': 2, é: 3, '\ud800': 4, ['x'.repeat(100)]: 5 },
  'an object without a prototype': Object.assign(Object.create(null), { b: 1, a: 2 }),
  'the same object twice': [shared, shared, { shared }],
  'a cycle': cyclic,
  'a map that is its own key': cyclicMap,
  'a map with every kind of key': new Map<unknown, unknown>([
    [1, 'a'],
    ['1', 'b'],
    [shared, 'c'],
    [Number.NaN, 'd'],
    [null, shared],
    [undefined, 1],
    [-0, 2],
  ]),
  'a set in its order': new Set([3, 1, 2, 'a', shared]),
  dates: [new Date(0), new Date(Number.NaN), new Date(8.64e15), new Date('1969-07-20T20:17:40Z')],
  'regular expressions': [/a/, /[/\]]+/giu, /(?<n>x)/dsy, new RegExp('')],
  'boxed primitives': [Object(1), Object('text'), Object(false), Object(5n), Object('')],
  URLs: [new URL('https://user:pw@example.com:8443/a%20b?q=1#f'), new URL('file:///etc/hosts')],
  'an ArrayBuffer': new Uint8Array([1, 2, 3]).buffer,
  'an empty ArrayBuffer and empty views of it': [
    new ArrayBuffer(0),
    new Uint8Array(0),
    new Float64Array(0),
    Buffer.alloc(0),
    new DataView(new ArrayBuffer(4), 2, 0),
  ],
  'typed arrays of every kind': [
    Int8Array,
    Uint8Array,
    Uint8ClampedArray,
    Int16Array,
    Uint16Array,
    Int32Array,
    Uint32Array,
    Float32Array,
    Float64Array,
    Float16Array,
  ].flatMap((Class) => [Class.from([1, 0, 3]), new Class(2000).fill(7)]),
  'big integer arrays': [BigInt64Array.from([1n, -1n]), new BigUint64Array(1000).fill(2n ** 64n - 1n)],
  'a DataView in the middle of its buffer': new DataView(Uint8Array.from({ length: 100 }, (_, i) => i).buffer, 10, 20),
  'Buffers, pooled and not': [Buffer.from('hello'), Buffer.alloc(10_000, 5)],
  'views that overlap': [new Uint8Array(overlapping, 3, 9), new Float64Array(overlapping, 8, 2), new Uint8Array(overlapping, 20, 4)],
  'a view beside its own buffer': [new Uint8Array(overlapping, 3, 9), overlapping, new Float64Array(overlapping)],
  'the same array twice': [overlapping, overlapping, ...Array(2).fill(new Float32Array(3000))],
  'an error without a stack': withOwnStackless,
}

describe('exactly what went in comes out', () => {
  for (const [name, value] of Object.entries(exact)) {
    test(name, () => {
      expect(difference(value, roundTrip(value))).toBeUndefined()
      expect(difference(value, throughMemory(value))).toBeUndefined()
    })
  }

  test('wherever in the buffer of the encoder it begins', () => {
    for (const [name, value] of Object.entries(exact)) {
      if (encodeInline(value, name).length > 4_000) continue
      for (let before = 0; before < 100; before++) {
        const encoder = new Encoder() // begins with a buffer of 32 KiB
        const pair = ['y'.repeat(32_768 - 24 - before), value]
        encoder.writeValue(pair)
        encoder.writeTrailer()
        expect(difference(pair, decode(encoder.finish(encoder.form))), `${name}, ${before} bytes before the end`).toBeUndefined()
      }
    }
  })

  const string = fc.oneof(
    fc.string(),
    fc.string({ unit: 'binary', maxLength: 100 }),
    fc.array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 90 }).map((codes) => String.fromCharCode(...codes)),
  )
  const anything = fc.anything({
    key: fc.oneof(string, fc.constantFrom('__proto__', 'constructor', 'toString', '0', 'length')),
    values: [string, fc.integer(), fc.double(), fc.maxSafeInteger(), fc.boolean(), fc.constantFrom(null, undefined, -0, Number.NaN), fc.bigInt()],
    withBigInt: true,
    withBoxedValues: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: true,
    withSparseArray: true,
    withTypedArray: true,
    maxDepth: 4,
  })

  test('whatever it is', () => {
    fc.assert(
      fc.property(anything, (value) => {
        expect(difference(value, roundTrip(value))).toBeUndefined()
        expect(difference(value, throughMemory(value))).toBeUndefined()
      }),
      { numRuns: 500 },
    )
  })

  test('however its objects refer to each other', () => {
    const node = fc.constantFrom('array', 'object', 'map', 'set', 'null-prototype', 'error')
    const graph = fc.record({
      nodes: fc.array(node, { minLength: 1, maxLength: 30 }),
      edges: fc.array(fc.tuple(fc.nat(29), fc.nat(29)), { maxLength: 80 }),
    })
    fc.assert(
      fc.property(graph, ({ nodes, edges }) => {
        const root = buildGraph(nodes, edges)
        expect(difference(root, roundTrip(root))).toBeUndefined()
      }),
      { numRuns: 300 },
    )
  })
})

function buildGraph(nodes: readonly string[], edges: readonly (readonly [number, number])[]): unknown[] {
  const made = nodes.map((kind): object => {
    if (kind === 'array') return []
    if (kind === 'map') return new Map()
    if (kind === 'set') return new Set()
    if (kind === 'error') return new RangeError('node')
    return kind === 'object' ? {} : Object.create(null)
  })
  edges.forEach(([from, to], i) => {
    const a = made[from % made.length]!
    const b = made[to % made.length]!
    if (Array.isArray(a)) a.push(b)
    else if (a instanceof Map) a.set(b, i)
    else if (a instanceof Set) a.add(b)
    else Object.assign(a, { [`edge${i}`]: b })
  })
  return made
}

describe('errors', () => {
  class QuotaError extends RangeError {
    readonly used: number
    constructor(message: string, used: number, options?: ErrorOptions) {
      super(message, options)
      this.name = 'QuotaError'
      this.used = used
    }
  }

  test('built-in errors keep message, stack, cause and own fields, in order and visibility', () => {
    const cause = Object.assign(new TypeError('inner'), { code: 'E_INNER' })
    for (const error of [
      new Error('outer', { cause }),
      new Error(),
      new SyntaxError('x'),
      new AggregateError([cause, 1], 'many'),
      new SuppressedError(cause, 2, 'two'),
    ]) {
      expect(difference(error, roundTrip(error))).toBeUndefined()
    }
  })

  test('an error class that the receiver does not know keeps its name, its base class and its fields', () => {
    const back = roundTrip(new QuotaError('full', 5, { cause: 'disk' })) as QuotaError
    expect(back).toBeInstanceOf(RangeError)
    expect({ ...back, message: back.message, cause: back.cause, className: back.constructor.name }).toEqual({
      name: 'QuotaError',
      used: 5,
      message: 'full',
      cause: 'disk',
      className: 'QuotaError',
    })
    expect(back.stack).toContain('QuotaError')
    expect(Object.getPrototypeOf(roundTrip(new QuotaError('again', 1)))).toBe(Object.getPrototypeOf(back))
  })

  test('a name that comes from the prototype is kept', () => {
    class Named extends Error {}
    Named.prototype.name = 'Renamed'
    expect(String(roundTrip(new Named('text')))).toBe('Renamed: text')
  })

  test('a registered error class comes back as that class', () => {
    class Registered extends Error {
      readonly code = 7
      describe(): string {
        return `code ${this.code}`
      }
    }
    registerClass(Registered)
    const error = new Registered('text', { cause: shared })
    const back = roundTrip(error) as Registered
    expect(difference(error, back)).toBeUndefined()
    expect(back.describe()).toBe('code 7')
  })

  test('an error of Beamline comes back as one, also inside a value and as a cause', () => {
    const error = new BeamlineError('OBJECT_LOST', { object: 'p:1', reason: 'test' }, { cause: new TypeError('inner') })
    const back = roundTrip([error, new Error('outer', { cause: error })]) as [BeamlineError<'OBJECT_LOST'>, Error]
    expect(BeamlineError.is(back[0], 'OBJECT_LOST')).toBe(true)
    expect([back[0].message, back[0].details, back[0].stack]).toEqual([error.message, error.details, error.stack])
    expect(back[0].cause).toBeInstanceOf(TypeError)
    expect(back[1].cause).toBe(back[0])
  })

  test('a DOMException keeps name, code and stack', () => {
    const error = new DOMException('stop', 'AbortError')
    const back = roundTrip(error) as DOMException
    expect([back.name, back.message, back.code, back.stack]).toEqual(['AbortError', 'stop', 20, error.stack])
    expect(back).toBeInstanceOf(DOMException)
  })
})

describe('registered classes', () => {
  class Point {
    x: number
    y: number
    peer: Point | undefined
    constructor(x: number, y: number) {
      this.x = x
      this.y = y
    }
    get length(): number {
      return Math.hypot(this.x, this.y)
    }
  }
  registerClass(Point)

  class Secret {
    #text: string
    constructor(text: string) {
      this.#text = text
    }
    reveal(): string {
      return this.#text
    }
  }

  test('come back as instances, also in a cycle', () => {
    const point = new Point(3, 4)
    point.peer = point
    const back = roundTrip([point, point]) as [Point, Point]
    expect(difference([point, point], back)).toBeUndefined()
    expect(back[0].length).toBe(5)
  })

  test('with #private members need encode and decode', () => {
    expect(() => registerClass(Secret)).toThrow(/has the private member #text; expected encode and decode functions/)
    class Looks {
      color = '#fff' // no private member
    }
    registerClass(Looks)
    registerClass(Secret, { encode: (secret) => secret.reveal(), decode: (text: string) => new Secret(text) })
    const secret = new Secret('hidden')
    const [a, b] = roundTrip([secret, secret]) as [Secret, Secret]
    expect(a.reveal()).toBe('hidden')
    expect(a).toBe(b)
  })

  test('of a subclass are refused until it is registered', () => {
    class Point3 extends Point {
      z = 1
    }
    expect(refusal([new Point3(1, 2)]).message).toContain('$[0] is an instance of Point3; call registerClass(Point3)')
    registerClass(Point3)
    expect((roundTrip(new Point3(1, 2)) as Point3).z).toBe(1)
  })

  test('that extend a built-in need encode and decode', () => {
    class Grid extends Map<string, number> {}
    expect(() => registerClass(Grid)).toThrow(/extends the built-in Map/)
  })

  test('that reach themselves through their encode function are refused', () => {
    class Loop {
      self: Loop = this
    }
    registerClass(Loop, { encode: (loop) => ({ self: loop.self }), decode: () => new Loop() })
    expect(refusal({ loop: new Loop() }).details.path).toBe('$.loop<encoded>.self')
  })

  test('unknown to the receiver are an error with their name', () => {
    const bytes = encodeInline(new Point(1, 2), 'it')
    bytes.set(Buffer.from('Joint'), Buffer.from(bytes).indexOf('Point'))
    expect(() => decode(bytes)).toThrow(expect.objectContaining({ code: 'CLASS_NOT_REGISTERED', details: { className: 'Joint' } }))
  })

  test('two different classes cannot share a name', () => {
    const other = {
      Point: class Point {
        other = true
      },
    }.Point
    expect(() => registerClass(other)).toThrow(/another name/)
    registerClass(other, { name: 'other.Point' })
    expect(roundTrip(new other())).toBeInstanceOf(other)
  })

  test('types are recognised by their brand', () => {
    const brand = Symbol.for('test.celsius')
    const make = (degrees: number): object => Object.create({ [brand]: true }, { degrees: { value: degrees } })
    registerType<{ degrees: number }>({
      name: 'test.celsius',
      matches: (value) => brand in value,
      encode: ({ degrees }) => degrees,
      decode: (degrees: number) => make(degrees) as { degrees: number },
    })
    expect(roundTrip(make(21))).toMatchObject({ degrees: 21 })
    const again = { name: 'test.celsius', matches: (value: object) => brand in value, encode: () => 'new', decode: (text: string) => ({ text }) }
    registerType(again)
    expect(roundTrip(make(21))).toEqual({ text: 'new' })
    expect(() => registerType({ ...again, name: 'Point' })).toThrow(/another name/)
  })
})

describe('externals', () => {
  const brand: unique symbol = Symbol.for('beamline.external') as never
  class Handle {
    readonly [brand] = true
    id: number
    constructor(id: number) {
      this.id = id
    }
  }

  test('functions and branded objects go through the table and keep their identity', () => {
    const table: object[] = []
    const f = (): number => 1
    const handle = new Handle(1)
    const value = { f, again: f, list: [handle, new Handle(2), handle] }
    const bytes = encodeInline(value, 'it', (external) => table.push(external) - 1)
    expect(table).toEqual([f, handle, value.list[1]])
    expect(difference(value.list, (decode(bytes, (index) => table[index]) as typeof value).list)).toBeUndefined()
    expect((decode(bytes, (index) => table[index]) as typeof value).again).toBe(f)
  })

  test('what externalize throws arrives unchanged, and the next value is encoded as ever', () => {
    const error = new Error('mine')
    const fail = (): number => {
      throw error
    }
    expect(() => encodeInline([1, () => 2], 'it', fail)).toThrow(error)
    expect(roundTrip([1, 2])).toEqual([1, 2])
  })

  test('externalize may itself encode', () => {
    const inner: unknown[] = []
    const bytes = encodeInline({ a: [() => 1], b: 'after' }, 'it', () => inner.push(roundTrip({ nested: ['x'] })) - 1)
    expect(inner).toEqual([{ nested: ['x'] }])
    expect(decode(bytes, () => 'external')).toEqual({ a: ['external'], b: 'after' })
  })
})

describe('what cannot travel is refused with its path, why, and what to do', () => {
  class Session {
    open = true
  }
  const resizable = new ArrayBuffer(8, { maxByteLength: 16 })
  const moved = new ArrayBuffer(8)
  structuredClone(moved, { transfer: [moved] })
  const deep: unknown[] = []
  for (let i = 0, at = deep; i < 3000; i++) at.push((at = []))
  const extraDate = Object.assign(new Date(), { zone: 'UTC' })

  const cases: readonly (readonly [string, unknown, string, RegExp])[] = [
    ['a function', { on: { done: () => 1 } }, '$.on.done', /is a function/],
    ['a symbol', [Symbol('x')], '$[0]', /is a symbol/],
    ['a symbol key', { a: { [Symbol('x')]: 1 } }, '$.a', /key is a symbol/],
    ['an unregistered instance', { layers: [0, 1, 2, { session: new Session() }] }, '$.layers[3].session', /instance of Session; call registerClass/],
    [
      'a getter',
      {
        a: {
          get b() {
            return 1
          },
        },
      },
      '$.a.b',
      /getter/,
    ],
    ['a setter', [{ set b(_: number) {} }], '$[0].b', /setter/],
    ['a hidden property', { a: Object.defineProperty({}, 'h', { value: 1 }) }, '$.a', /non-enumerable property "h"/],
    ['a Proxy', { p: new Proxy({}, {}) }, '$.p', /is a Proxy/],
    ['a Proxy of an array', [new Proxy([], {})], '$[0]', /is a Proxy/],
    ['a Promise', [Promise.resolve(1)], '$[0]', /is a Promise; await it/],
    ['a WeakMap', new Map([['cache', new WeakMap()]]), '$.get("cache")', /is a WeakMap/],
    ['a WeakSet', new WeakSet(), '$', /is a WeakSet/],
    ['a WeakRef', new Set([[new WeakRef({})]]), '$<item of a Set>[0]', /is a WeakRef/],
    ['a running generator', (function* () {})(), '$', /generator/],
    ['an iterator', [new Map().entries()], '$[0]', /iterator/],
    ['a SharedArrayBuffer', [new SharedArrayBuffer(8)], '$[0]', /SharedArrayBuffer/],
    ['a view of a SharedArrayBuffer', { a: new Int32Array(new SharedArrayBuffer(8)) }, '$.a', /SharedArrayBuffer/],
    ['a resizable ArrayBuffer', [resizable], '$[0]', /resizable/],
    ['a view of one', [new Uint8Array(resizable)], '$[0]', /resizable/],
    ['a transferred ArrayBuffer', [moved], '$[0]', /transferred away/],
    ['a typed array with an extra property', [Object.assign(new Uint8Array(3), { shape: [3] })], '$[0]', /extra property "shape"/],
    ['a long one', Object.assign(new Float32Array(300), { shape: [3] }), '$', /extra property "shape"/],
    ['a Date with an extra property', [extraDate], '$[0]', /extra property "zone"/],
    ['a subclass of Map', new (class Cache extends Map {})(), '$', /instance of Cache/],
    ['a subclass of Array', [new (class Stack extends Array {})()], '$[0]', /instance of Stack/],
    ['an object that inherits from another', Object.create({ inherited: 1 }), '$', /prototype is another object/],
    ['an impostor', [Object.create(Map.prototype)], '$[0]', /inherits from Map and is none/],
    ['the global object', globalThis, '$', /./],
    ['a namespace object', Math, '$', /non-enumerable/],
    ['a stream', { out: process.stdout }, '$.out', /instance of/],
    ['a hook', [createHook({})], '$[0]', /instance of AsyncHook/],
    ['a field of an error', Object.assign(new Error('x'), { socket: new Session() }), '$.socket', /instance of Session/],
    ['the cause of an error', new Error('x', { cause: () => 1 }), '$.cause', /is a function/],
    ['a key that is no name', { 'a-b': [{ 'c d': () => 1 }] }, '$["a-b"][0]["c d"]', /is a function/],
    ['too deep a structure', deep, `$${'[0]'.repeat(20)} … ${'[0]'.repeat(20)}`, /more than 2,000 levels deep/],
  ]
  for (const [name, value, path, message] of cases) {
    test(name, () => {
      const { details, message: text } = refusal(value)
      expect(details.path).toBe(path)
      expect(text).toMatch(message)
      expect(details.what).toBe('the value')
      expect(details.hint.length).toBeGreaterThan(10)
    })
  }

  test('arguments objects', () => {
    const value = (function f(..._: number[]) {
      return arguments
    })(1, 2)
    expect(refusal(value).message).toMatch(/non-enumerable|symbol/)
  })

  test('a structure as deep as allowed comes back', () => {
    const root: unknown[] = []
    let at = root
    for (let i = 1; i < 2000; i++) {
      const next: unknown[] = []
      at.push(next)
      at = next
    }
    let depth = 0
    for (let level = roundTrip(root) as unknown[] | undefined; level; level = level[0] as unknown[] | undefined) depth++
    expect(depth).toBe(2000)
  })

  test('a refusal leaves nothing behind', () => {
    const part = { big: new Float64Array(1000) }
    expect(() => encodeInline([part, () => 1], 'it')).toThrow()
    expect(encodeInline('x', 'it').length).toBe(3)
    expect(difference([part, part], roundTrip([part, part]))).toBeUndefined()
  })
})

describe('bytes', () => {
  test('a slice of a large buffer ships its own bytes only', () => {
    const large = new Float32Array(1_000_000)
    expect(encode(large.subarray(10, 2010), 'it').byteLength).toBeLessThan(8300)
    expect(encode([large.subarray(0, 2000), large.subarray(900_000, 902_000)], 'it').byteLength).toBeLessThan(16_500)
    const back = throughMemory(large.subarray(10, 2010)) as Float32Array
    expect([back.byteOffset, back.buffer.byteLength]).toEqual([0, 8000])
  })

  test('views that shared memory still do', () => {
    const buffer = new ArrayBuffer(20_000)
    const [a, b] = throughMemory([new Uint8Array(buffer, 1, 12_000), new Uint16Array(buffer, 8, 5000)]) as [Uint8Array, Uint16Array]
    b[0] = 0x0101
    expect([a[7], a[8]]).toEqual([1, 1])
  })

  test('out-of-band buffers begin at multiples of 64', () => {
    const value = [new Uint8Array(5001).fill(1), new Float64Array(1000).fill(2), 'text', new Uint8Array(4097).fill(3)]
    const encoded = encode(value, 'it')
    expect(encoded.buffers.map((buffer) => buffer.byteLength)).toEqual([5001, 8000, 4097])
    const target = new Uint8Array(encoded.byteLength).fill(0xaa)
    write(encoded, target)
    for (const [fill, length] of [
      [1, 5001],
      [3, 4097],
    ] as const) {
      const at = Buffer.from(target.buffer).indexOf(Buffer.alloc(length, fill))
      expect(at % 64).toBe(0)
    }
    expect(difference(value, decode(target))).toBeUndefined()
  })

  test('decoded data does not depend on the message that brought it', () => {
    const bytes = encodeInline([new Uint8Array([1, 2, 3]), new Float64Array(2000).fill(1)], 'it')
    const back = decode(bytes) as [Uint8Array, Float64Array]
    bytes.fill(0xff)
    expect([[...back[0]], back[1][1999]]).toEqual([[1, 2, 3], 1])
  })

  test('a small result keeps at most 4 KiB alive', () => {
    for (const value of [1, 'x'.repeat(100), 'x'.repeat(1000), { a: [1, 2, 3] }]) {
      expect(encodeInline(value, 'it').buffer.byteLength).toBeLessThanOrEqual(4096)
    }
    const larger = encodeInline('x'.repeat(5000), 'it')
    expect(larger.buffer.byteLength).toBe(larger.length)
  })

  test('results do not overwrite each other', () => {
    const all = Array.from({ length: 2000 }, (_, i) => encodeInline({ i, text: 'x'.repeat(i % 300) }, 'it'))
    all.forEach((bytes, i) => expect(decode(bytes)).toEqual({ i, text: 'x'.repeat(i % 300) }))
  })

  test('unknown bytes are an error, not a value', () => {
    expect(() => decode(new Uint8Array([9, 1]))).toThrow(/unknown form 9/)
    expect(() => decode(new Uint8Array([1, 0xff]))).toThrow(/unknown tag 0xff/)
  })
})
