/** The programs in README.md run as they stand there. A comment `// value: …` or `// value` after a console.log is what that line must print. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROOT, runProgram } from './program.ts'

const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')
const programs = [...readme.matchAll(/^## (.+)\n\n```ts\n([\s\S]*?)^```$/gm)].map(([, title, source]) => ({ title: title!, source: source! }))

test('README.md has a program for tasks and actors and one for data', () => {
  expect(programs.map(({ title }) => title)).toEqual(['Tasks and actors', 'Data'])
})

test.each(programs)('the program under "$title" prints what its comments say', async ({ title, source }) => {
  const promised = [...source.matchAll(/^console\.log\(.*\) \/\/ ([^:\n]+)/gm)].map((match) => match[1])
  expect(promised.length).toBeGreaterThan(0)
  // Below examples/, where both packages are dependencies; out/ is not in git.
  const folder = join(ROOT, 'examples/out')
  mkdirSync(folder, { recursive: true })
  const file = join(folder, `readme-${title.toLowerCase().replaceAll(' ', '-')}.ts`)
  writeFileSync(file, source)
  const { code, stdout, stderr } = await runProgram(file, 50_000)
  expect({ code, stderr, lines: stdout.trimEnd().split('\n') }).toEqual({ code: 0, stderr: '', lines: promised })
})
