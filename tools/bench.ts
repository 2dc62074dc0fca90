/**
 * Runs every packages/<name>/bench/<thing>.bench.ts, one process each, or those whose path contains an argument: `npm run bench -- put-get`.
 * Benches are plain programs; what they measure and print is their own business.
 */
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'

const wanted = process.argv.slice(2)
const files = globSync('packages/*/bench/**/*.bench.ts')
  .sort()
  .filter((file) => wanted.length === 0 || wanted.some((word) => file.includes(word)))
if (files.length === 0) {
  console.error(wanted.length === 0 ? 'no package has a bench' : `no bench matches ${wanted.join(' or ')}`)
  process.exit(1)
}

let failed = 0
for (const file of files) {
  console.log(`\n${file}`)
  const { status } = spawnSync(process.execPath, ['--conditions=@beamline/source', '--expose-gc', file], { stdio: 'inherit' })
  if (status !== 0) failed++
}
process.exit(failed === 0 ? 0 : 1)
