/**
 * chaos: workloads on four hosts while faults happen. Every cell of the matrix is judged by what must come out (chaos/workloads.ts), and by what is
 * left within a minute after its end: nothing.
 *
 *     npm run release-tests -- --only 'chaos-*'                        the long form, a test per fault
 *     node --conditions=@beamline/source release-tests/scripts/chaos.ts --short
 *
 *     --fault NAME,…      default: all; in the short form all but "none"
 *     --workload NAME,…   default: all
 *     --seed N            default: of the clock; printed, and the same one repeats the same faults
 *     --short             small loads and quick faults; the workloads of a fault run at the same time, and one fault after the other on one cluster
 *     --within SECONDS    start no fault after so long
 *
 * Needs network namespaces: Linux, root, iproute2, nftables.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { networkUnavailable, type Program, startTestCluster, type TestCluster, type TestNode } from '@beamline/runtime/testing'
import { report, skip } from '../src/measure.ts'
import { type Fault, FAULTS, type FaultName, LONG, SHORT } from './chaos/faults.ts'
import { type Cell, table } from './chaos/matrix.ts'
import { Random } from './chaos/random.ts'
import { type Load, SPARED, type WorkloadName, WORKLOADS } from './chaos/workloads.ts'

const { values } = parseArgs({
  options: {
    fault: { type: 'string' },
    workload: { type: 'string', default: Object.keys(WORKLOADS).join(',') },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    short: { type: 'boolean', default: false },
    within: { type: 'string', default: 'Infinity' },
  },
})
const SEED = Number(values.seed)
const IS_SHORT = values.short
const PACE = IS_SHORT ? SHORT : LONG
const WITHIN_MS = Number(values.within) * 1000
const NODES = 4
const CPUS = 2
const PROGRAM_MS = IS_SHORT ? 90_000 : 900_000
const REST_MS = 60_000

const LOADS: Readonly<Record<WorkloadName, Omit<Load, 'seed' | 'marks'>>> = IS_SHORT
  ? {
      tasks: { count: 80, width: 1, bytes: 0, holdMs: 150 },
      actors: { count: 50, width: 3, bytes: 0, holdMs: 50 },
      streaming: { count: 100, width: 3, bytes: 300_000, holdMs: 40 },
      borrowing: { count: 24, width: 1, bytes: 1_000_000, holdMs: 100 },
      pipeline: { count: 10, width: 5, bytes: 2_000_000, holdMs: 100 },
    }
  : {
      tasks: { count: 1200, width: 1, bytes: 0, holdMs: 400 },
      actors: { count: 600, width: 8, bytes: 0, holdMs: 50 },
      streaming: { count: 600, width: 6, bytes: 1_000_000, holdMs: 60 },
      borrowing: { count: 400, width: 1, bytes: 10_000_000, holdMs: 150 },
      pipeline: { count: 96, width: 16, bytes: 8_000_000, holdMs: 200 },
    }

const unavailable = await networkUnavailable()
if (unavailable !== undefined) skip(unavailable)

const folder = mkdtempSync(join(tmpdir(), 'beamline-chaos-'))
const all = Object.keys(FAULTS).filter((name) => name !== 'none' || !IS_SHORT)
const faults = names(values.fault ?? all.join(','), FAULTS)
const workloads = names(values.workload, WORKLOADS)
console.log(`seed ${SEED}: repeat with --seed ${SEED}`)
const cells: Cell[] = []
const startedMs = performance.now()
/** Goes on from fault to fault, as long as the next one needs no other nodes and all is well. */
let cluster: TestCluster | undefined
for (const [at, name] of faults.entries()) {
  if (performance.now() - startedMs > WITHIN_MS) {
    console.log(`${name}: left out, ${values.within} s are over`)
    continue
  }
  const fault: Fault = FAULTS[name]
  console.log(`\n${name}: ${fault.title}`)
  cluster ??= await startCluster(name)
  const done = await underFault(cluster, name)
  const isWell = done.every(({ failure }) => failure === '')
  if (!isWell) keepLogs(cluster, name)
  const next: Fault | undefined = FAULTS[faults[at + 1] as FaultName]
  if (!IS_SHORT || !isWell || next === undefined || next.nodes !== fault.nodes) {
    try {
      await cluster[Symbol.asyncDispose]()
    } catch (error) {
      done.push(emptyCell(name, 'end', (error as Error).message))
    }
    cluster = undefined
  }
  cells.push(...done)
}
await cluster?.[Symbol.asyncDispose]()
console.log(`\n${table(cells)}\n\nseed ${SEED}, ${Math.round((performance.now() - startedMs) / 1000)} s`)
const failed = cells.filter(({ failure }) => failure !== '')
report('cells_failed', 'cells', [failed.length])
report('seconds_to_rest_max', 's', [Math.max(...cells.map(({ secondsToRest }) => secondsToRest))])
for (const { workload, seconds, again, asked } of faults.length === 1 ? cells : []) {
  report(`${workload}_seconds`, 's', [seconds])
  report(`${workload}_asked`, 'items', [asked])
  report(`${workload}_again`, 'items', [again])
}
if (failed.length > 0) {
  console.log(`logs: ${folder}`)
  process.exitCode = 1
} else rmSync(folder, { recursive: true })

/** The names of a list, of those that there are. */
function names<N extends string>(list: string, known: Readonly<Record<N, unknown>>): N[] {
  return list.split(',').map((name) => {
    if (!Object.hasOwn(known, name)) throw new RangeError(`"${name}" is none of ${Object.keys(known).join(', ')}`)
    return name as N
  })
}

function startCluster(name: FaultName): Promise<TestCluster> {
  const fault: Fault = FAULTS[name]
  return startTestCluster({
    isolation: 'netns',
    store: `sqlite:${join(folder, `${name}.sqlite`)}`,
    nodes: Array.from({ length: NODES }, (_, index) => (index === 1 ? { resources: { [SPARED]: 1 } } : {})),
    cpus: CPUS,
    idleTimeoutMs: 2_000,
    nodeTimeoutMs: PACE.nodeTimeoutMs,
    ...fault.nodes,
  })
}

/** All workloads under one fault. */
async function underFault(cluster: TestCluster, name: FaultName): Promise<Cell[]> {
  const done: Cell[] = []
  try {
    const rounds = IS_SHORT ? [workloads] : workloads.map((workload) => [workload])
    for (const round of rounds) done.push(...(await runTogether(cluster, name, round)))
  } catch (error) {
    // The cluster is not what it was: what is left of the round cannot be judged.
    const missing = workloads.filter((workload) => !done.some((cell) => cell.workload === workload))
    for (const workload of missing) done.push(emptyCell(name, workload, `${(error as Error).message}`))
  }
  return done
}

function emptyCell(fault: string, workload: string, failure: string): Cell {
  return { fault, workload, failure, faults: 0, asked: 0, again: 0, seconds: 0, secondsToRest: 0 }
}

async function runTogether(cluster: TestCluster, name: FaultName, round: readonly WorkloadName[]): Promise<Cell[]> {
  const before = await cluster.baseline()
  const node = cluster.nodes[1] as TestNode
  const programs = round.map((workload) => {
    const load: Load = { ...LOADS[workload], seed: SEED, marks: join(folder, `${name}-${workload}.marks`) }
    const file = new URL(`chaos/workload.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url).pathname
    return { workload, program: node.driver(file, { args: [workload, JSON.stringify(load)] }) }
  })
  await Promise.all(programs.map(({ program }) => program.event('started')))
  const stop = new AbortController()
  const startMs = performance.now()
  const happened: string[] = []
  const random = new Random(SEED + Object.keys(FAULTS).indexOf(name))
  const fault = FAULTS[name].run({
    cluster,
    random,
    pace: PACE,
    signal: stop.signal,
    happened: (what) => {
      happened.push(what)
      console.log(`  ${((performance.now() - startMs) / 1000).toFixed(1).padStart(6)} s  ${what}`)
    },
  })
  fault.catch(() => undefined) // awaited below
  const outcomes = await Promise.all(programs.map(({ workload, program }) => outcome(workload, program, name)))
  stop.abort()
  await fault
  await cluster.waitForNodes(NODES, { withinMs: REST_MS })
  const endMs = performance.now()
  const unrest = await cluster.expectBaseline(before, { withinMs: REST_MS }).then(
    () => '',
    (error: unknown) => (error as Error).message,
  )
  const secondsToRest = (performance.now() - endMs) / 1000
  const missing = name !== 'none' && happened.length === 0 ? 'the program ended before anything happened' : ''
  return outcomes.map((cell) => ({ ...cell, faults: happened.length, secondsToRest, failure: [cell.failure, unrest, missing].filter(Boolean).join('\n') }))
}

async function outcome(workload: WorkloadName, program: Program, fault: FaultName): Promise<Cell> {
  const startMs = performance.now()
  const exit = await Promise.race([program.exited, delay(PROGRAM_MS, undefined, { ref: false })])
  const seconds = (performance.now() - startMs) / 1000
  const told = program.events.find(({ event }) => event === 'outcome') as { asked?: number; again?: number; wrong?: string } | undefined
  let failure = told?.wrong ?? ''
  if (exit === undefined) failure = `it did not end within ${PROGRAM_MS / 1000} s`
  else if (exit.code !== 0 && failure === '') failure = `it ended with ${exit.signal ?? exit.code}`
  if (failure !== '') {
    failure += `\n${program.stderr.trim().split('\n').slice(-15).join('\n')}`
    writeFileSync(join(folder, `${fault}-${workload}.txt`), `${program.stdout}\n${program.stderr}`)
  }
  if (exit === undefined) await program[Symbol.asyncDispose]()
  console.log(`  ${workload}: ${failure === '' ? 'ok' : 'FAILED'} after ${seconds.toFixed(1)} s`)
  return { fault, workload, failure, faults: 0, asked: told?.asked ?? 0, again: told?.again ?? 0, seconds, secondsToRest: 0 }
}

function keepLogs(cluster: TestCluster, name: FaultName): void {
  for (const node of cluster.nodes) {
    const target = join(folder, name)
    mkdirSync(target, { recursive: true })
    writeFileSync(join(target, `node-${node.index}.log`), node.log())
  }
}
