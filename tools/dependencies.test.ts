/** docs/dependencies.md says why each dependency is there: one line for each name in a package.json of the workspace, none for a name that left. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const root = new URL('..', import.meta.url).pathname
const manifests = globSync(
  ['package.json', 'packages/*/package.json', 'release-tests/package.json', 'examples/package.json', 'docs/package.json', 'tools/*/package.json'],
  { cwd: root },
)

function declared(): string[] {
  const names = new Set<string>()
  for (const file of manifests) {
    const manifest = JSON.parse(readFileSync(join(root, file), 'utf8')) as Record<string, Record<string, string> | undefined>
    for (const kind of ['dependencies', 'devDependencies', 'optionalDependencies', 'peerDependencies'])
      for (const [name, range] of Object.entries(manifest[kind] ?? {})) if (!range.startsWith('workspace:')) names.add(name)
  }
  return [...names].sort()
}

const rows = [...readFileSync(join(root, 'docs/dependencies.md'), 'utf8').matchAll(/^\| `([^`]+)` \| (.*) \|$/gm)]

test('every dependency of every package has a line that says why, and no line outlives its dependency', () => {
  expect(rows.map((row) => row[1]).sort()).toEqual(declared())
  for (const [, name, why] of rows) expect(why!.length, `the reason for ${name}`).toBeGreaterThan(15)
})

test('the lines are sorted by name', () => {
  const names = rows.map((row) => row[1])
  expect(names).toEqual([...names].sort())
})
