/** Free names by text alone: each snippet's last function, and what it takes from outside. */
import { expect, test } from 'vitest'
import { analyseScript } from '../../src/functions/scope-analysis.ts'
import { encloses } from '../../src/functions/scopes.ts'

function freeNamesOf(source: string, isModule = true): string[] {
  const { functions, references } = analyseScript(source, isModule)
  const site = functions.filter((f) => source.slice(f.start, f.end).includes('TARGET')).at(0)
  if (!site) throw new Error('no function mentions TARGET')
  const inside = references.filter((r) => r.start >= site.bodyStart && r.end <= site.end && r.name !== 'TARGET')
  return [...new Set(inside.filter((r) => !r.binding || encloses(r.binding.scope, site.outerScope)).map((r) => r.name))].sort()
}

test.each([
  ['locals are not free', '() => { TARGET; let a = 1; const b = a; var c = b; return c + d }', ['d']],
  ['var and function hoisting', '() => { TARGET; x; f(); { var x; function f() {} } }', ['f']],
  ['a block function is hoisted in sloppy code', '() => { TARGET; f(); { function f() {} } }', [], false],
  ['property names, labels and keys', '() => { TARGET; a: for (;;) break a; return o.b + { c: 1 }.c }', ['o']],
  ['shorthand and computed keys', '() => { TARGET; return { a, [b]: 1 } }', ['a', 'b']],
  ['patterns with defaults', '({ a = b, c: { d = a }, ...e }, [f = g]) => { TARGET; return a + d + e + f }', ['b', 'g']],
  ['catch variables end with their block', '() => { TARGET; try {} catch ({ e }) { e } e }', ['e']],
  ['a default parameter does not see a var of the body', '(f = () => x) => { TARGET; var x }', ['x']],
  ['loop heads', '() => { TARGET; for (const [k, v = k] of list) k; for (i in o); return k }', ['i', 'k', 'list', 'o']],
  ['a named function expression knows itself', '(function self() { TARGET; return self })', []],
  ['a declaration takes its own name from outside', 'function self() { TARGET; return self }', ['self']],
  ['a class knows itself', 'class C extends Base { static s = C; m() { TARGET; return other } }', ['Base', 'other']],
  ['class fields, static blocks and private names', 'class C { #p = a; [k] = b; static { c } m(o) { TARGET; return #p in o } }', ['a', 'b', 'c', 'k']],
  ['a computed key is not part of the method', 'const o = { [key]() { TARGET; return v } }', ['v']],
  ['templates, tags, optional chaining and new', '() => { TARGET; return tag`${a}` + b?.c?.(d) + new E().f }', ['E', 'a', 'b', 'd', 'tag']],
  ['typeof and undeclared names are references', '() => { TARGET; return typeof a }', ['a']],
  ['imports are names of the module', 'import a, { b as c } from "m"; () => { TARGET; return a + c }', ['a', 'c']],
  ['import attributes and export names are not', '() => { TARGET; return import("m", { with: { type } }) }', ['type']],
] as const)('%s', (_, source, expected, isModule: boolean = true) => {
  expect(freeNamesOf(source, isModule)).toEqual([...expected])
})

test('assignments of every form make a binding reassigned', () => {
  const source = 'let a, b, c, d, e, f, g = 1; a = 1; b++; [c] = []; ({ d } = {}); for (e of []); f ??= 1; g'
  const { top } = analyseScript(source, true)
  expect([...top.bindings.values()].filter((binding) => binding.reassigned).map((binding) => binding.name)).toEqual(['a', 'b', 'c', 'd', 'e', 'f'])
})

test('exports are listed by exported and local name', () => {
  const source = 'export const { a, b: [c] } = o; const d = 1; export { d as e }; export default function f() {} export class G {}'
  expect(Object.fromEntries(analyseScript(source, true).exports)).toEqual({ a: 'a', c: 'c', e: 'd', default: 'f', G: 'G' })
})
