/**
 * Whether packages/runtime/src/net/gen is what its .proto files generate: generates again into a temporary folder and compares byte by byte, so that
 * it says the same on a clean checkout and in the middle of an edit. `--write` puts the new files in place.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const runtime = new URL('../packages/runtime', import.meta.url).pathname
const committed = join(runtime, 'src/net/gen')
const scratch = mkdtempSync(join(tmpdir(), 'beamline-generated-'))
try {
  const { status } = spawnSync(join(runtime, 'node_modules/.bin/buf'), ['generate', 'src/net/proto', '--output', scratch], { cwd: runtime, stdio: 'inherit' })
  if (status !== 0) process.exit(1)
  const generated = join(scratch, 'src/net/gen')
  if (process.argv.includes('--write')) {
    rmSync(committed, { recursive: true })
    cpSync(generated, committed, { recursive: true })
  }
  const names = [...new Set([...readdirSync(committed), ...readdirSync(generated)])].sort()
  const stale = names.filter((name) => read(join(committed, name)) !== read(join(generated, name)))
  for (const name of stale)
    console.error(`packages/runtime/src/net/gen/${name} is not what src/net/proto generates; run \`npm run check:generated -- --write\``)
  process.exitCode = stale.length === 0 ? 0 : 1
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
