import { globSync } from 'node:fs'
import { expect, test } from 'vitest'
import { ROOT, runProgram } from './program.ts'

const EXAMPLES: Record<string, RegExp> = {
  'examples/digits/demo.ts': /\b1,787 of 1,797\b/,
  'examples/monte-carlo.ts': /^pi is about 3\.14, from 16 tasks$/m,
  'examples/parameter-server.ts': /^y = 3\.0 x - 1\.0$/m,
  'examples/streaming.ts': /^the first primes: 2 3 5 7 11 13 17 19 23 29$/m,
}

test('every example has a line that is asserted', () => {
  expect(globSync(['examples/*.ts', 'examples/*/demo.ts'], { cwd: ROOT }).sort()).toEqual(Object.keys(EXAMPLES))
})

test.each(Object.entries(EXAMPLES))('%s prints its line and ends', async (file, line) => {
  const { code, stdout, stderr } = await runProgram(file, 50_000)
  expect(stdout, stderr).toMatch(line)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})
