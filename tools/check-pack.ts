/**
 * What someone who installs a package would get: builds `dist/`, then lets publint and "are the types wrong" look at each package that is published
 * (not private), and runs an example on what was built, where everything else here runs on sources. Ends with 1 when any of it finds anything.
 */
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'

function run(command: string, args: string[], cwd: string): boolean {
  const { status } = spawnSync(command, args, { cwd, stdio: 'inherit' })
  return status === 0
}

const bin = new URL('../node_modules/.bin/', import.meta.url).pathname
const root = new URL('..', import.meta.url).pathname
if (!run(`${bin}tsc`, ['-b'], root)) process.exit(1)

let failed = 0
for (const manifest of globSync('packages/*/package.json', { cwd: root }).sort()) {
  if ((JSON.parse(readFileSync(`${root}${manifest}`, 'utf8')) as { private?: boolean }).private) continue
  const folder = `${root}${dirname(manifest)}`
  console.log(`\n${dirname(manifest)}`)
  if (!run(`${bin}publint`, ['--strict', '--pack', 'npm'], folder)) failed++
  if (!run(`${bin}attw`, ['--pack', '.', '--profile', 'esm-only', '--no-emoji'], folder)) failed++
}

console.log('\nexamples/digits/demo.ts on dist/')
if (!run(process.execPath, ['examples/digits/demo.ts'], root)) failed++
process.exit(failed === 0 ? 0 : 1)
