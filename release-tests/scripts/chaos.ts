/**
 * chaos: workloads on four hosts while faults happen. Every cell of the matrix is judged by what must come out (chaos/workloads.ts), and by what is
 * left within a minute after its end: nothing. A cell whose work no fault met has shown nothing: the table says so, and the long form fails.
 *
 *     npm run release-tests -- --only 'chaos-*'                        the long form, a test per fault
 *     node --conditions=@beamline/source release-tests/scripts/chaos.ts --short
 *
 *     --fault NAME,…      default: all; in the short form all but "none"
 *     --workload NAME,…   default: all
 *     --seed N            default: of the clock; printed, and the same one repeats the same faults
 *     --short             small loads and quick faults; the workloads of a fault run at the same time, and one fault after the other on one cluster
 *     --load FACTOR       default: 1; of the number of tasks, reports, items, pairs and blocks
 *     --within SECONDS    start no fault after so long: those that are left out fail
 *
 * The last line is the table as JSON.
 *
 * Needs network namespaces: Linux, root, iproute2, nftables.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Baseline, networkUnavailable, type Program, startTestCluster, type TestCluster, type TestNode } from '@beamline/runtime/testing'
import { report, skip } from '../src/measure.ts'
import { type BusyWorker, type Fault, FAULTS, type FaultName, LONG, SHORT } from './chaos/faults.ts'
import { type Cell, table, wasUnmet } from './chaos/matrix.ts'
import { Random } from './chaos/random.ts'
import { type Load, SPARED, type WorkloadName, WORKLOADS } from './chaos/workloads.ts'

const { values } = parseArgs({
  options: {
    fault: { type: 'string' },
    workload: { type: 'string', default: Object.keys(WORKLOADS).join(',') },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    short: { type: 'boolean', default: false },
    load: { type: 'string', default: '1' },
    within: { type: 'string', default: 'Infinity' },
  },
})
const SEED = Number(values.seed)
const IS_SHORT = values.short
const PACE = IS_SHORT ? SHORT : LONG
const FACTOR = Number(values.load)
const WITHIN_MS = Number(values.within) * 1000
const NODES = 4
const CPUS = 2
const PROGRAM_MS = IS_SHORT ? 90_000 : 900_000
const REST_MS = 60_000

const LOADS: Readonly<Record<WorkloadName, Omit<Load, 'seed' | 'marks'>>> = IS_SHORT
  ? {
      tasks: { count: 60, width: 1, bytes: 0, holdMs: 300 },
      actors: { count: 40, width: 4, bytes: 0, holdMs: 150 },
      streaming: { count: 60, width: 4, bytes: 300_000, holdMs: 100 },
      borrowing: { count: 24, width: 1, bytes: 1_000_000, holdMs: 100 },
      pipeline: { count: 10, width: 5, bytes: 2_000_000, holdMs: 200 },
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
/** What it had in use when it was new. */
let before: Baseline | undefined
for (const [at, name] of faults.entries()) {
  if (performance.now() - startedMs > WITHIN_MS) {
    cells.push(...workloads.map((workload) => emptyCell(name, workload, `left out: ${values.within} s were over`)))
    continue
  }
  const fault: Fault = FAULTS[name]
  console.log(`\n${name}: ${fault.title}`)
  cluster ??= await startCluster(name)
  before ??= await cluster.baseline()
  const done = await underFault(cluster, before, name)
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
    before = undefined
  }
  cells.push(...done)
}
await cluster?.[Symbol.asyncDispose]()
const seconds = Math.round((performance.now() - startedMs) / 1000)
console.log(`\n${table(cells)}\n\nseed ${SEED}, ${seconds} s\n`)
const failed = cells.filter(({ failure }) => failure !== '')
report('cells_failed', 'cells', [failed.length])
report('seconds_to_rest_max', 's', [Math.max(...cells.map(({ secondsToRest }) => secondsToRest))])
for (const { fault: _fault, workload, failure: _failure, secondsToRest: _rest, seconds, ...counts } of faults.length === 1 ? cells : []) {
  report(`${workload}_seconds`, 's', [seconds])
  for (const [name, count] of Object.entries(counts)) report(`${workload}_${name}`, 'times', [count])
}
if (failed.length > 0) {
  console.log(`logs: ${folder}`)
  process.exitCode = 1
} else rmSync(folder, { recursive: true })
console.log(JSON.stringify({ seed: SEED, short: IS_SHORT, load: FACTOR, seconds, cells }))

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
    ...fault.nodes?.(PACE),
  })
}

/** All workloads under one fault. */
async function underFault(cluster: TestCluster, before: Baseline, name: FaultName): Promise<Cell[]> {
  const done: Cell[] = []
  try {
    const rounds = IS_SHORT ? [workloads] : workloads.map((workload) => [workload])
    for (const round of rounds) done.push(...(await runTogether(cluster, before, name, round)))
  } catch (error) {
    // The cluster is not what it was: what is left of the round cannot be judged.
    const missing = workloads.filter((workload) => !done.some((cell) => cell.workload === workload))
    for (const workload of missing) done.push(emptyCell(name, workload, `${(error as Error).message}`))
  }
  return done
}

function emptyCell(fault: string, workload: string, failure: string): Cell {
  return { fault, workload, failure, faults: 0, met: 0, asked: 0, retries: 0, restarts: 0, reconstructions: 0, again: 0, seconds: 0, secondsToRest: 0 }
}

/** A program and what happened to it so far. */
interface Running {
  readonly workload: WorkloadName
  readonly program: Program
  process: string
  faults: number
  met: number
}

async function runTogether(cluster: TestCluster, before: Baseline, name: FaultName, round: readonly WorkloadName[]): Promise<Cell[]> {
  const fault: Fault = FAULTS[name]
  await fault.prepare?.(cluster)
  const all = await Promise.all(round.map((workload) => start(cluster, name, workload)))
  const stop = new AbortController()
  const startMs = performance.now()
  const faults = fault.run({
    cluster,
    random: new Random(SEED + Object.keys(FAULTS).indexOf(name)),
    pace: PACE,
    signal: stop.signal,
    happened: (what) => {
      console.log(`  ${((performance.now() - startMs) / 1000).toFixed(1).padStart(6)} s  ${what}`)
      return met(all.filter(runs))
    },
    unmet: (workers) =>
      all.filter((each) => runs(each) && each.met === 0 && (workers ?? [{ job: each.process }]).some(({ job }) => job === each.process)).length,
  })
  const ended = Promise.all(all.map((running) => outcome(cluster, running, name))).finally(() => stop.abort())
  const [outcomes] = await Promise.all([ended, faults])
  await cluster.waitForNodes(NODES, { withinMs: REST_MS })
  const endMs = performance.now()
  const unrest = await cluster.expectBaseline(before, { withinMs: REST_MS }).then(
    () => '',
    (error: unknown) => (error as Error).message,
  )
  const secondsToRest = (performance.now() - endMs) / 1000
  const actors = await cluster.head.list<{ owner: string; restarts: number }>('actors')
  return outcomes.map((cell, index): Cell => {
    const { process, faults, met } = all[index] as Running
    const restarts = actors.reduce((sum, actor) => sum + (actor.owner === process ? actor.restarts : 0), 0)
    const counted = { ...cell, faults, met, restarts, secondsToRest }
    const unmet = !IS_SHORT && wasUnmet(counted) ? 'no fault met it: it was too small, or ended too early' : ''
    return { ...counted, failure: [cell.failure, unrest, unmet].filter(Boolean).join('\n') }
  })
}

async function start(cluster: TestCluster, fault: FaultName, workload: WorkloadName): Promise<Running> {
  const { count, ...rest } = LOADS[workload]
  const load: Load = { ...rest, count: Math.ceil(count * FACTOR), seed: SEED, marks: join(folder, `${fault}-${workload}.marks`) }
  const file = new URL(`chaos/workload.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url).pathname
  const program = (cluster.nodes[1] as TestNode).driver(file, { args: [workload, JSON.stringify(load)] })
  const { process } = await program.event('started')
  return { workload, program, process: String(process), faults: 0, met: 0 }
}

function runs({ program }: Running): boolean {
  return program.exit === undefined
}

/** A fault happens to these: what it returns is told the workers whose work it met. */
function met(running: readonly Running[]): (workers: readonly BusyWorker[]) => void {
  for (const each of running) each.faults++
  const unmet = new Set(running)
  return (workers) => {
    const jobs = new Set(workers.map(({ job }) => job))
    for (const each of unmet) {
      if (!jobs.has(each.process)) continue
      each.met++
      unmet.delete(each)
    }
  }
}

async function outcome(cluster: TestCluster, { workload, program }: Running, fault: FaultName): Promise<Cell> {
  const startMs = performance.now()
  const exit = await Promise.race([program.exited, delay(PROGRAM_MS, undefined, { ref: false })])
  const seconds = (performance.now() - startMs) / 1000
  const told = program.events.find(({ event }) => event === 'outcome') as
    | (Partial<Pick<Cell, 'asked' | 'retries' | 'reconstructions' | 'again'>> & {
        readonly wrong?: string
      })
    | undefined
  const { wrong = '', asked = 0, retries = 0, reconstructions = 0, again = 0 } = told ?? {}
  let failure = wrong
  if (exit === undefined) failure = `it did not end within ${PROGRAM_MS / 1000} s`
  else if (exit.code !== 0 && failure === '') failure = `it ended with ${exit.signal ?? exit.code}`
  if (failure !== '') {
    failure += `\n${program.stderr.trim().split('\n').slice(-15).join('\n')}`
    writeFileSync(join(folder, `${fault}-${workload}.txt`), `${program.stdout}\n${program.stderr}`)
  }
  if (exit === undefined) {
    await keepState(cluster, `${fault}-${workload}`)
    await program[Symbol.asyncDispose]()
  }
  console.log(`  ${workload}: ${failure === '' ? 'ok' : 'FAILED'} after ${seconds.toFixed(1)} s`)
  return { ...emptyCell(fault, workload, failure), asked, retries, reconstructions, again, seconds }
}

/** What the cluster says of itself while a program does not end. */
async function keepState(cluster: TestCluster, name: string): Promise<void> {
  const topics = ['nodes', 'tasks', 'waiting', 'leases', 'workers', 'actors', 'objects'] as const
  const answers = await Promise.allSettled(topics.map((topic) => cluster.head.query<unknown>(topic)))
  const state = topics.map((topic, index) => [topic, answers[index]] as const)
  writeFileSync(join(folder, `${name}.state.json`), JSON.stringify(Object.fromEntries(state), undefined, 1))
}

function keepLogs(cluster: TestCluster, name: FaultName): void {
  for (const node of cluster.nodes) {
    const target = join(folder, name)
    mkdirSync(target, { recursive: true })
    writeFileSync(join(target, `node-${node.index}.log`), node.log())
  }
}
