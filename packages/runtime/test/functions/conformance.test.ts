/**
 * The table of function shipping: every case ships a function from one plain Node process and runs it in another. The programs are in
 * fixtures/; each runs as users would run it, and prints one line per case.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { afterAll, describe, expect, test } from 'vitest'

const FIXTURES = fileURLToPath(new URL('fixtures/', import.meta.url))
const TSX = import.meta.resolve('tsx')
const bundles = await mkdtemp(join(tmpdir(), 'beamline-bundles-'))
afterAll(() => rm(bundles, { recursive: true, force: true }))

interface Case {
  readonly name: string
  readonly error: string
}

interface Outcome {
  readonly cases: readonly Case[]
  /** how many the program says it ran; undefined when it did not come that far */
  readonly count: number | undefined
  readonly output: string
}

function runProgram(file: string, nodeOptions: readonly string[] = [], env: Record<string, string> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { env: { ...process.env, NODE_OPTIONS: '', ...env }, timeout: 60_000, killSignal: 'SIGKILL' } as const
    execFile(process.execPath, [...nodeOptions, file], options, (_error, stdout, stderr) => {
      const lines = stdout.split('\n')
      const cases = lines.filter((line) => line.startsWith('CASE ')).map((line) => JSON.parse(line.slice('CASE '.length)) as Case)
      const end = /^CASES (\d+)$/m.exec(stdout)
      resolve({ cases, count: end ? Number(end[1]) : undefined, output: `${stdout}\n${stderr}` })
    })
  })
}

async function bundle(name: string, minify: boolean): Promise<string> {
  const outfile = join(bundles, minify ? 'minified' : 'plain', `${name}.mjs`)
  await build({
    entryPoints: [join(FIXTURES, `${name}.ts`)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    keepNames: true,
    minify,
    logLevel: 'error',
    loader: { '.json': 'json' },
    // what ships and runs the cases is not part of the bundled program
    plugins: [
      {
        name: 'outside',
        setup: ({ onResolve }) => {
          onResolve({ filter: /\/(harness|functions\/index)\.ts$/ }, ({ path, resolveDir }) => ({ path: join(resolveDir, path), external: true }))
        },
      },
    ],
  })
  return outfile
}

const PROGRAMS = ['closures', 'corners', 'classes', 'modules', 'refusals', 'snapshots'] as const
const ts = (name: string): string => join(FIXTURES, `${name}.ts`)

const ways: readonly { readonly how: string; readonly programs: readonly string[]; readonly start: (name: string) => Promise<Outcome> }[] = [
  { how: 'node x.ts', programs: PROGRAMS, start: (name) => runProgram(ts(name)) },
  { how: 'node --inspect x.ts', programs: ['closures', 'classes', 'refusals', 'snapshots'], start: (name) => runProgram(ts(name), ['--inspect=0']) },
  { how: 'tsx x.ts', programs: PROGRAMS, start: (name) => runProgram(ts(name), ['--import', TSX]) },
  { how: 'an esbuild bundle', programs: PROGRAMS, start: async (name) => runProgram(await bundle(name, false), [], { BEAMLINE_CASES_BUNDLED: '1' }) },
  {
    how: 'a minified esbuild bundle',
    programs: ['closures', 'corners', 'classes', 'modules'],
    start: async (name) => runProgram(await bundle(name, true), [], { BEAMLINE_CASES_BUNDLED: '1', BEAMLINE_CASES_MINIFIED: '1' }),
  },
  { how: 'tsx x.cts', programs: ['program.cts'], start: (name) => runProgram(join(FIXTURES, name), ['--import', TSX]) },
  { how: 'node x.js, x.mjs, x.cjs', programs: ['program.js', 'program.mjs', 'program.cjs'], start: (name) => runProgram(join(FIXTURES, name)) },
]

for (const { how, programs, start } of ways) {
  for (const name of programs) {
    const { cases, count, output } = await start(name)
    describe(`${how}: ${name}`, () => {
      test('the program runs to its end', () => {
        expect(count, output).toBe(cases.length)
        expect(cases.length).toBeGreaterThan(0)
      })
      test.each(cases)('$name', ({ error }) => {
        expect(error).toBe('')
      })
    })
  }
}
