import { expect, test } from 'vitest'
import { inheritedFlags } from '../../src/daemon/inherited-flags.ts'

test.each([
  [
    'loaders, conditions and limits go on',
    ['--import', 'tsx', '--conditions=x', '--max-old-space-size=100', '-r', './a.cjs'],
    ['--import', 'tsx', '--conditions=x', '--max-old-space-size=100', '-r', './a.cjs'],
  ],
  ['the text of a program does not', ['--input-type=module', '-e', 'await init()', '--no-warnings'], ['--no-warnings']],
  ['nor does printed text', ['-p', '1 + 1', '--expose-gc'], ['--expose-gc']],
  ['nor a debugger, which has one port', ['--inspect=0', '--inspect-brk=127.0.0.1:9229', '--inspect', '--inspect-port', '1', '--expose-gc'], ['--expose-gc']],
  ['nor watching and testing', ['--watch', '--watch-path', './src', '--test', '--test-name-pattern', 'x', '--expose-gc'], ['--expose-gc']],
  ['a flag after a valueless one is kept', ['--inspect', '--expose-gc'], ['--expose-gc']],
])('%s', (_, given, expected) => {
  expect(inheritedFlags(given)).toEqual(expected)
})
