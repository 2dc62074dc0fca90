/** Functions of test files: vitest replaces their imports by constants of its own, which a worker must import itself. */
import { fork } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import path, { join } from 'node:path'
import * as acorn from 'acorn'
import { afterAll, expect, test } from 'vitest'
import { ship } from '../../src/functions/index.ts'
import { Shape, withSecret } from './fixtures/lib/shapes.ts'
import * as shapes from './fixtures/lib/shapes.ts'
import data from './fixtures/lib/data.json' with { type: 'json' }

const child = fork(new URL('fixtures/child.ts', import.meta.url), { serialization: 'advanced' })
afterAll(() => child.kill())
let next = 0

async function remote(fn: Function): Promise<unknown> {
  const { bytes, hash } = ship(fn)
  const id = next++
  child.send({ id, bytes, hash, args: [], entry: process.argv[1], externals: [] })
  const [{ outcome }] = (await once(child, 'message')) as [{ outcome: unknown }]
  return outcome
}

const factor = 3
const helper = (n: number): number => withSecret(n) * factor

test('an import of a builtin', async () => {
  expect(await remote(() => [path.join('a', 'b'), join('c', 'd'), new EventEmitter().listenerCount('x')])).toEqual({ value: ['a/b', 'c/d', 0] })
})

test('an import of a package', async () => {
  expect(await remote(() => acorn.parse('1', { ecmaVersion: 2024 }).type)).toEqual({ value: 'Program' })
})

test('imports of a TypeScript file, also in a captured helper', async () => {
  expect(await remote(() => [withSecret(1), helper(1), shapes.version])).toEqual({ value: [12, 36, '1.2'] })
})

test('a class of another module and one that extends it', async () => {
  class Square extends Shape {
    constructor() {
      super(4)
    }
  }
  expect(await remote(() => [new Shape(3).describe(), new Square().describe()])).toEqual({ value: ['shape of 3', 'shape of 4'] })
})

test('a module object is never sent by value', async () => {
  const holder = { shapes }
  expect(() => ship(() => holder.shapes.version)).toThrow(/shapes of variable "holder" .*(symbol|module)/)
})

test('a JSON import', async () => {
  expect(await remote(() => data.list)).toEqual({ value: [1, 2, 3] })
})

test('globals of the test runner are refused', () => {
  Object.assign(globalThis, { describeAll: () => 1 })
  expect(() => ship(() => (describeAll as () => number)())).toThrow(/"describeAll" .*is a global that this program set/)
})

declare const describeAll: unknown
