/** Which code travels, under which name, and what is too much. */
import { readFileSync, readlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { BeamlineError } from '../../src/errors.ts'
import { codeFiles } from '../../src/packages/code-files.ts'
import { findCodeRoot } from '../../src/packages/code-root.ts'
import { packCode } from '../../src/packages/pack.ts'
import { PackageCache } from '../../src/packages/package-cache.ts'
import { folder } from './folder.ts'

const paths = (root: string): string[] => codeFiles(root).map(({ path }) => path)

test('the code root is the git repository, else the workspace, else the package, else the folder of the entry file', () => {
  const repository = folder({ '.git/HEAD': '', 'apps/a/package.json': '{}', 'apps/a/src/main.ts': '' })
  expect(findCodeRoot(join(repository, 'apps/a/src/main.ts'))).toEqual({ root: repository, isLoose: false })
  const workspace = folder({ 'package.json': '{"workspaces":["apps/*"]}', 'apps/a/package.json': '{}', 'apps/a/src/main.ts': '' })
  expect(findCodeRoot(join(workspace, 'apps/a/src/main.ts'))).toEqual({ root: workspace, isLoose: false })
  const pnpm = folder({ 'pnpm-workspace.yaml': '', 'apps/a/package.json': '{}', 'apps/a/main.ts': '' })
  expect(findCodeRoot(join(pnpm, 'apps/a/main.ts'))).toEqual({ root: pnpm, isLoose: false })
  const single = folder({ 'package.json': '{}', 'src/main.ts': '' })
  expect(findCodeRoot(join(single, 'src/main.ts'))).toEqual({ root: single, isLoose: false })
  const loose = folder({ 'src/main.ts': '' })
  expect(findCodeRoot(join(loose, 'src/main.ts'))).toEqual({ root: join(loose, 'src'), isLoose: true })
})

test('of a script that belongs to nothing only the code beside it travels', () => {
  const root = folder({ 'main.ts': '', 'lib.mjs': '', 'options.json': '', 'photo.jpg': '', 'other/thing.ts': '', 'link.ts': '-> main.ts' })
  expect(codeFiles(root, true).map(({ path }) => path)).toEqual(['lib.mjs', 'main.ts', 'options.json'])
})

test('.gitignore files decide, deeper ones over higher ones; .git and node_modules never travel', () => {
  const root = folder({
    '.git/config': '',
    '.gitignore': '*.log\n/data/\nbuild\n!keep.log\n',
    'a.log': '',
    'keep.log': '',
    'data/big.bin': '',
    'src/data/small.bin': '',
    'src/main.ts': '',
    'src/build/x.js': '',
    'src/.gitignore': '!a.log\nsecret.*\n',
    'src/a.log': '',
    'src/secret.txt': '',
    'node_modules/x/index.js': '',
    'src/node_modules/y/index.js': '',
    '.env': '',
  })
  expect(paths(root)).toEqual(['.env', '.gitignore', 'keep.log', 'src/.gitignore', 'src/a.log', 'src/data/small.bin', 'src/main.ts'])
})

test('links inside travel as links, files elsewhere as files, folders elsewhere not', () => {
  const elsewhere = folder({ 'shared.json': '{"shared":1}', 'more/x.ts': '' })
  const root = folder({
    'lib/x.ts': '',
    'x.ts': '-> lib/x.ts',
    lib2: '-> lib',
    'shared.json': `-> ${elsewhere}/shared.json`,
    more: `-> ${elsewhere}/more`,
    'gone.ts': '-> nowhere.ts',
    'lost.ts': '-> /nowhere/lost.ts',
  })
  expect(codeFiles(root)).toEqual([
    { path: 'gone.ts', bytes: 0, link: 'nowhere.ts' },
    { path: 'lib/x.ts', bytes: 0, link: undefined },
    { path: 'lib2', bytes: 0, link: 'lib' },
    { path: 'shared.json', bytes: 12, link: undefined },
    { path: 'x.ts', bytes: 0, link: 'lib/x.ts' },
  ])
})

test('equal code has one name, whenever and wherever it was written; other code has another', () => {
  const files = { 'main.ts': 'export const a = 1\n', '@scope/b.ts': 'export const b = 2\n', 'c.bin': Buffer.alloc(200_000, 7) }
  const first = folder(files)
  const second = folder(Object.fromEntries(Object.entries(files).reverse()))
  utimesSync(join(second, 'main.ts'), 1, 1)
  const digest = packCode({ root: first, isLoose: false }).digest
  expect(digest).toMatch(/^[0-9a-f]{64}$/)
  expect(packCode({ root: second, isLoose: false }).digest).toBe(digest)
  writeFileSync(join(second, 'main.ts'), 'export const a = 2\n')
  expect(packCode({ root: second, isLoose: false }).digest).not.toBe(digest)
})

test('what is packed is unpacked byte by byte, with its links', async () => {
  const content = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 31) % 251))
  const elsewhere = folder({ 'shared.json': '{"shared":1}' })
  const root = folder({ 'a/b/main.ts': 'main', '@scope/x.bin': content, 'link.ts': '-> a/b/main.ts', 'shared.json': `-> ${elsewhere}/shared.json`, empty: '' })
  const { digest, bytes } = packCode({ root, isLoose: false })
  const cache = new PackageCache({ dirs: [join(folder(), 'packages')], fetch: async () => bytes })
  const unpacked = await cache.folder(digest, 'job')
  expect(paths(unpacked)).toEqual(['@scope/x.bin', 'a/b/main.ts', 'empty', 'link.ts', 'shared.json'])
  expect(readFileSync(join(unpacked, '@scope/x.bin')).equals(content)).toBe(true)
  expect(readlinkSync(join(unpacked, 'link.ts'))).toBe('a/b/main.ts')
  expect(readFileSync(join(unpacked, 'shared.json'), 'utf8')).toBe('{"shared":1}')
})

test('code over the limit is refused, and the largest files are named', () => {
  const root = folder({ 'main.ts': '', 'data/model.bin': Buffer.alloc(3 << 20), 'data/small.bin': Buffer.alloc(1 << 20) })
  const refused = (() => {
    try {
      packCode({ root, isLoose: false }, 2 << 20)
    } catch (error) {
      return error
    }
    return undefined
  })()
  expect(BeamlineError.is(refused, 'CODE_TOO_LARGE')).toBe(true)
  expect((refused as Error).message).toContain('3 files of 4.0 MiB together, 2.0 MiB at most; the largest: data/model.bin (3.0 MiB), data/small.bin (1.0 MiB)')
})
