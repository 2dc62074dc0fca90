/**
 * What `.remote()` pays for its function. One that captures nothing that can change is captured once and then found again (aim: 1 µs); one that
 * captures a mutable object or a binding that is reassigned is read again at each call.
 */
import assert from 'node:assert/strict'
import { basename } from 'node:path'
import { load, ship } from '../src/functions/index.ts'
import { newBench, runBench } from './table.ts'

const scale = 3
const settings = { factor: 3 }
let reassigned = 1
reassigned = 3

const constant = (x: number): number => x * scale
const imported = (path: string): string => basename(path)
const mutable = (x: number): number => x * settings.factor
const rebound = (x: number): number => x * reassigned

for (const fn of [constant, mutable, rebound]) {
  const { bytes, externals } = ship(fn)
  const there = (await load(bytes, externals)) as (x: number) => number
  assert.equal(there(14), 42)
}

const bench = newBench()
bench.add('captures a constant', () => ship(constant))
bench.add('captures an import', () => ship(imported))
bench.add('captures a mutable object', () => ship(mutable))
bench.add('captures a binding that is reassigned', () => ship(rebound))
await runBench(bench)
