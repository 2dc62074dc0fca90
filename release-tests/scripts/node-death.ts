/**
 * node-death: a node loses its network while tasks and actors run on it. How long until the head has declared it dead (`--node-timeout-ms`, 10 s by default), and
 * how long after that until all that ran there runs elsewhere. Needs network namespaces.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { networkUnavailable, startTestCluster, type TestNode, until } from '@beamline/runtime/testing'
import { SMOKE, report, skip } from '../src/measure.ts'

const NODE_TIMEOUT_MS = SMOKE ? 3_000 : 10_000
const ROUNDS = SMOKE ? 1 : 3
const TASKS = 8
const ACTORS = 8
const FOR_EVER_MS = 3_600_000

const unavailable = await networkUnavailable()
if (unavailable !== undefined) skip(unavailable)
const folder = mkdtempSync(join(tmpdir(), 'node-death-'))
const noticed: number[] = []
const elsewhere: number[] = []
try {
  for (let round = 0; round < ROUNDS; round++) await once(round)
  report('noticed_s', 's', noticed)
  report('elsewhere_s', 's', elsewhere)
} finally {
  rmSync(folder, { recursive: true })
}

interface Start {
  readonly name: string
  readonly node: string
  readonly atMs: number
}

/** What said last that it starts, by its name. */
function lastStarts(file: string): Map<string, Start> {
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  const starts = lines.map((line) => line.split(' ') as [string, string, string]).map(([name, node, atMs]) => ({ name, node, atMs: Number(atMs) }))
  return new Map(starts.map((start) => [start.name, start]))
}

async function once(round: number): Promise<void> {
  await using cluster = await startTestCluster({ nodes: 4, isolation: 'netns', cpus: 6, storeBytes: 64 << 20, nodeTimeoutMs: NODE_TIMEOUT_MS })
  const [, home, , doomed] = cluster.nodes as [TestNode, TestNode, TestNode, TestNode]
  // A program must listen where it says that it lives: this one stays outside and a driver does the work.
  const file = join(folder, `round-${round}`)
  writeFileSync(file, '')
  const driver = home.driver(import.meta.filename.replace(/node-death\./, 'node-death-driver.'), {
    args: [file, String(TASKS), String(ACTORS), String(FOR_EVER_MS)],
  })
  const before = await until(
    'work on all nodes',
    () => {
      const seen = lastStarts(file)
      return seen.size === TASKS + ACTORS ? seen : `${seen.size} of ${TASKS + ACTORS} run`
    },
    { everyMs: 10 },
  )
  const there = [...before.values()].filter(({ node }) => node === String(doomed.index)).map(({ name }) => name)
  if (there.length === 0) throw new Error(`nothing runs on node ${doomed.index}: ${[...before.values()].map(({ node }) => node).join(' ')}`)
  const deadId = doomed.id
  // All on one machine: its clock is the clock of all nodes.
  const cutMs = Date.now()
  await doomed.host?.cut()
  await cluster.waitDead(deadId)
  const diedMs = (await cluster.members()).find(({ node }) => node === deadId)?.endMs
  if (diedMs === undefined) throw new Error(`the head does not say when node ${deadId} died`)
  const after = await until('work elsewhere', () => {
    const now = lastStarts(file)
    const left = there.filter((name) => now.get(name)?.node === String(doomed.index))
    return left.length === 0 ? now : `${left.join(', ')} still where they were`
  })
  const lastMs = Math.max(...there.map((name) => after.get(name)?.atMs ?? 0))
  noticed.push((diedMs - cutMs) / 1000)
  elsewhere.push((lastMs - diedMs) / 1000)
  await driver[Symbol.asyncDispose]()
}
