/**
 * The runner's edge: reads the declarations, starts the scripts one after the other, prints, writes the results. What is a pass is decided in judge.ts.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus, platform, release, totalmem } from 'node:os'
import path from 'node:path'
import { type HistoryEntry, type RunInfo, compare, historyEntry, parseHistory } from './history.ts'
import { type PeerResult, type ScriptRun, type TestResult, exitCode, judge, judgePeer } from './judge.ts'
import { type RunnerOptions, USAGE, parseOptions } from './options.ts'
import { ENV } from './protocol.ts'
import { runScript } from './script-process.ts'
import { type ReleaseTest, SpecError, parseSpec } from './spec.ts'
import { formatNumber, renderChanges, renderTest } from './table.ts'
import { summarize } from './statistics.ts'

const HERE = path.resolve(import.meta.dirname, '..')
const ROOT = path.resolve(HERE, '..')

/** Where the runner writes to and how. */
export interface Terminal {
  readonly stdout: NodeJS.WriteStream
  readonly stderr: NodeJS.WriteStream
  /** Aborting stops the running script, kills what it started, and makes {@link main} reject. */
  readonly signal: AbortSignal
}

/** Run what the arguments ask for and return the process's exit code. */
export async function main(argv: readonly string[], terminal: Terminal): Promise<number> {
  let options: RunnerOptions
  let tests: ReleaseTest[]
  try {
    options = parseOptions(argv, { spec: path.join(HERE, 'release_tests.yaml'), results: path.join(HERE, 'results') })
    if (options.help) return print(terminal, USAGE)
    tests = select(parseSpec(readFileSync(options.spec, 'utf8'), path.relative('.', options.spec), { smoke: options.smoke }), options.only)
  } catch (error) {
    if (!(error instanceof SpecError) && !(error instanceof TypeError) && !isNoSuchFile(error)) throw error
    terminal.stderr.write(`${error.message}\n`)
    return 2
  }
  if (options.list) return print(terminal, tests.map(listLine).join('\n'))
  if (tests.length === 0) {
    terminal.stderr.write(`no test matches${options.only === undefined ? '' : ` "${options.only}"`}${options.smoke ? ' and has a smoke form' : ''}\n`)
    return 2
  }
  if (options.runtime === 'dist' && !build(terminal)) return 2

  const color = terminal.stdout.isTTY && process.env.NO_COLOR === undefined
  const results: TestResult[] = []
  for (const test of tests) {
    const result = await runTest(test, options, terminal)
    results.push(result)
    const shown = options.metrics === undefined ? test : { ...test, excluded: {} }
    terminal.stdout.write(`${renderTest(shown, result, { color })}\n\n`)
  }
  const info = runInfo(options)
  const historyFile = path.join(options.results, 'history.jsonl')
  const entry = historyEntry(info, results)
  if (options.compare) terminal.stdout.write(`${renderChanges(compare(entry, readHistory(historyFile)), { color })}\n\n`)
  // A run of some metrics is no run of the test: it would make the history uneven.
  if (options.metrics === undefined) {
    mkdirSync(options.results, { recursive: true })
    appendFileSync(historyFile, `${JSON.stringify(entry)}\n`)
  }
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify({ ...info, tests: results }, null, 2)}\n`)
  const passed = results.filter((result) => result.status === 'pass').length
  const skipped = results.filter((result) => result.status === 'skip').length
  terminal.stdout.write(`${passed} passed, ${results.length - passed - skipped} failed, ${skipped} skipped\n`)
  return exitCode(results)
}

/** Tests whose name or group matches; without a glob all but the "manual" ones. */
export function select(tests: readonly ReleaseTest[], only: string | undefined): ReleaseTest[] {
  if (only === undefined) return tests.filter((test) => test.frequency !== 'manual')
  return tests.filter((test) => path.matchesGlob(test.name, only) || path.matchesGlob(test.group, only))
}

async function runTest(test: ReleaseTest, options: RunnerOptions, terminal: Terminal): Promise<TestResult> {
  const directory = path.dirname(path.resolve(options.spec))
  const conditions = options.runtime === 'source' ? ['--conditions=@beamline/source'] : []
  const start = (command: string, args: readonly string[], label: string): Promise<ScriptRun> =>
    runScript({
      command,
      args,
      cwd: directory,
      env: {
        ...process.env,
        ...test.env,
        ...(options.smoke ? { [ENV.smoke]: '1' } : {}),
        ...(options.metrics === undefined ? {} : { [ENV.only]: options.metrics }),
      },
      timeoutMs: test.timeoutMs,
      signal: terminal.signal,
      onMetric: (metric) => progress(terminal, `${label}  ${metric.name} ${formatNumber(summarize(metric.samples).median)} ${metric.unit}`),
      ...(options.verbose ? { onLine: (line: string) => terminal.stderr.write(`${line}\n`) } : {}),
    })
  progress(terminal, test.name)
  const run = await start(process.execPath, [...conditions, ...test.nodeArgs, path.resolve(directory, test.script), ...test.args], test.name)
  const result = judge(test, run, options.metrics)
  const python = process.env.BEAMLINE_PEER_PYTHON
  let peer: PeerResult | undefined
  if (test.peer !== undefined && python !== undefined && python !== '') {
    progress(terminal, `${test.name} on ${test.peer.system}`)
    peer = judgePeer(test.peer.system, await start(python, [path.resolve(directory, test.peer.script), ...test.peer.args], test.peer.system))
  } else if (test.peer !== undefined) {
    peer = { system: test.peer.system, status: 'skip', reason: 'BEAMLINE_PEER_PYTHON is not set', metrics: [] }
  }
  progress(terminal, '')
  return peer === undefined ? result : { ...result, peer }
}

/** One line that the next one overwrites; nothing where that is not possible. */
function progress({ stderr }: Terminal, text: string): void {
  if (stderr.isTTY) stderr.write(`\r\x1b[K${text.slice(0, Math.max(1, stderr.columns - 1))}`)
}

function print({ stdout }: Terminal, text: string): 0 {
  stdout.write(`${text}\n`)
  return 0
}

function listLine(test: ReleaseTest): string {
  return `${test.name}  [${test.group}, ${test.frequency}, ${test.timeoutMs / 1000} s, ${Object.keys(test.budgets).length} budgets]`
}

/** Bring dist/ up to date, so that the numbers belong to these sources. */
function build({ stderr }: Terminal): boolean {
  const { status, stdout } = spawnSync('tsc', ['-b'], {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, PATH: `${binPath()}${path.delimiter}${process.env.PATH}` },
  })
  if (status === 0) return true
  stderr.write(`${stdout}\nthe packages do not compile; --runtime source measures the sources as they are\n`)
  return false
}

function binPath(): string {
  return path.join(ROOT, 'node_modules', '.bin')
}

function runInfo({ smoke, runtime }: RunnerOptions): RunInfo {
  return {
    date: new Date().toISOString(),
    commit: git('rev-parse', 'HEAD') || 'unknown',
    dirty: git('status', '--porcelain') !== '',
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${platform()} ${release()}`,
    smoke,
    runtime,
  }
}

/** Output of a git command, empty where there is no repository. */
function git(...args: string[]): string {
  try {
    return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return ''
  }
}

function readHistory(file: string): HistoryEntry[] {
  try {
    return parseHistory(readFileSync(file, 'utf8'))
  } catch (error) {
    if (isNoSuchFile(error)) return []
    throw error
  }
}

function isNoSuchFile(error: unknown): error is Error {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
