/** The runner as a process: exit codes, output, files, and that nothing survives a script. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { runScript } from '../../src/script-process.ts'

const RUNNER = path.resolve(import.meta.dirname, '../../run.ts')
const FIXTURES = path.join(import.meta.dirname, 'fixtures')
const SCRIPT = path.join(FIXTURES, 'script.ts')
const PYTHON = findPython()

let folder: string
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'release-runner-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

function declare(tests: Record<string, string>): string {
  const file = path.join(folder, 'tests.yaml')
  const text = Object.entries(tests).map(
    ([name, fields]) => `- name: ${name}\n  group: g\n  frequency: nightly\n  timeout: 20s\n  script: ${SCRIPT}\n${fields.replaceAll(/^/gm, '  ')}\n`,
  )
  writeFileSync(file, text.join(''))
  return file
}

async function run(spec: string, args: readonly string[] = [], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(process.execPath, [RUNNER, '--spec', spec, '--results', folder, '--runtime', 'source', ...args], {
    env: { ...process.env, BEAMLINE_PEER_PYTHON: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout, stderr }
}

function findPython(): string | undefined {
  try {
    return execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}

/** A zombie is dead: in a container nobody may collect orphans. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return process.platform !== 'linux' || !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'latin1'))
  } catch {
    return false
  }
}

test('a run whose budgets are met exits with 0, prints plain text, and writes results and history', async () => {
  const spec = declare({ good: 'args: [report, "1", "3", "2"]\nbudgets: { m: { direction: higher, value: 2 } }' })
  const json = path.join(folder, 'out.json')
  const { code, stdout, stderr } = await run(spec, ['--json', json])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(/^good {2}pass {2}[\d.]+ s\n/)
  expect(stdout).toMatch(/ {2}m +2 +0\.816 {2}\/s +≥ 2 +1 {2}pass\n/)
  expect(stdout).toMatch(/1 passed, 0 failed, 0 skipped\n$/)
  expect(stdout).not.toContain('\x1b')
  const results = JSON.parse(readFileSync(json, 'utf8'))
  expect(results).toMatchObject({
    node: process.version,
    smoke: false,
    runtime: 'source',
    cpu: expect.any(String),
    commit: expect.stringMatching(/^[0-9a-f]{40}$|^unknown$/),
  })
  expect(new Date(results.date).getTime()).toBeGreaterThan(Date.now() - 60_000)
  expect(results.tests).toMatchObject([{ name: 'good', status: 'pass', metrics: [{ name: 'm', unit: '/s', samples: [1, 3, 2], mean: 2, median: 2 }] }])
  const history = readFileSync(path.join(folder, 'history.jsonl'), 'utf8').trimEnd().split('\n')
  expect(history.map((line) => JSON.parse(line).metrics)).toEqual([{ 'good/m': { unit: '/s', median: 2 } }])
})

test('a missed budget exits with 1, and the other tests still run', async () => {
  const spec = declare({ bad: 'args: [report, "1"]\nbudgets: { m: { direction: higher, value: 2 } }', good: 'args: [report, "1"]' })
  const { code, stdout } = await run(spec)
  expect(code).toBe(1)
  expect(stdout).toContain('1 of 1 budgets missed: m')
  expect(stdout).toMatch(/1 passed, 1 failed, 0 skipped\n$/)
})

test('a crash exits with 1, shows the last output, and keeps what was measured before', async () => {
  const { code, stdout } = await run(declare({ bad: 'args: [crash, "5"]' }))
  expect(code).toBe(1)
  expect(stdout).toMatch(/^bad {2}crash/)
  expect(stdout).toContain('exited with code 1')
  expect(stdout).toContain('| Error: the script failed')
  expect(stdout).toMatch(/ {2}m +5 /)
})

test('a script that hangs is killed at its timeout', async () => {
  const spec = declare({ bad: 'args: [hang]' })
  writeFileSync(spec, readFileSync(spec, 'utf8').replace('timeout: 20s', 'timeout: 1s'))
  const { code, stdout } = await run(spec)
  expect(code).toBe(1)
  expect(stdout).toMatch(/^bad {2}timeout .*\n {2}still running after 1 s\n/)
  const hang = await runScript({ command: process.execPath, args: [SCRIPT, 'hang', '5'], cwd: folder, env: process.env, timeoutMs: 1500 })
  expect(hang).toMatchObject({ ending: { kind: 'timeout', afterMs: 1500 }, metrics: [{ name: 'm', samples: [5] }], leftBehind: [] })
  expect(isAlive(Number(/script (\d+)/.exec(hang.tail)?.[1]))).toBe(false)
})

test.runIf(process.platform === 'linux')('a process that outlives its script is killed, and is a failure', async () => {
  const left = await runScript({ command: process.execPath, args: [SCRIPT, 'leave'], cwd: folder, env: process.env, timeoutMs: 20_000, graceMs: 300 })
  const pid = Number(/left (\d+)/.exec(left.tail)?.[1])
  expect(left.leftBehind).toEqual([expect.stringMatching(new RegExp(`^${pid} \\(.*SIGTERM`))])
  expect(isAlive(pid)).toBe(false)
})

test('a script that cannot run here is skipped and no failure', async () => {
  const { code, stdout } = await run(declare({ no: 'args: [skip]\nbudgets: { m: { direction: higher, value: 1 } }' }))
  expect(code).toBe(0)
  expect(stdout).toMatch(/^no {2}skip .*\n {2}not on this machine\n/)
  expect(stdout).toMatch(/0 passed, 0 failed, 1 skipped\n$/)
})

test('a script that cannot start is a crash', async () => {
  const missing = await runScript({ command: path.join(folder, 'nothing'), args: [], cwd: folder, env: process.env, timeoutMs: 5000 })
  expect(missing).toMatchObject({ ending: { kind: 'not-started', reason: expect.stringContaining('ENOENT') }, leftBehind: [] })
})

test('the last line is kept even without a newline', async () => {
  const ended = await runScript({ command: process.execPath, args: [SCRIPT, 'garbage'], cwd: folder, env: process.env, timeoutMs: 20_000 })
  expect(ended.tail).toContain('no newline at the end')
})

test('wrong declarations and wrong usage exit with 2 and say what is wrong', async () => {
  const spec = declare({ bad: 'retries: 3' })
  const wrong = await run(spec)
  expect(wrong.code).toBe(2)
  expect(wrong.stderr).toContain('tests.yaml:1: test "bad": unknown field "retries"')
  const good = declare({ good: 'args: [report, "1"]' })
  expect(await run(good, ['--fast'])).toMatchObject({ code: 2, stderr: expect.stringContaining("Unknown option '--fast'") })
  expect(await run(good, ['--only', 'nothing*'])).toMatchObject({ code: 2, stderr: 'no test matches "nothing*"\n' })
  expect(await run(good, ['--smoke'])).toMatchObject({ code: 2, stderr: 'no test matches and has a smoke form\n' })
  expect(await run(path.join(folder, 'none.yaml'))).toMatchObject({ code: 2, stderr: expect.stringContaining('none.yaml') })
})

test('--list and --only choose without running; manual tests need to be named', async () => {
  const spec = declare({ 'a-one': 'args: [crash]', 'a-two': 'args: [crash]', 'b-one': 'args: [crash]' })
  writeFileSync(spec, readFileSync(spec, 'utf8').replace('name: a-two\n  group: g\n  frequency: nightly', 'name: a-two\n  group: g\n  frequency: manual'))
  const names = async (...args: string[]): Promise<string[]> =>
    (await run(spec, ['--list', ...args])).stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.split(' ')[0] ?? '')
  expect(await names()).toEqual(['a-one', 'b-one'])
  expect(await names('--only', 'a-*')).toEqual(['a-one', 'a-two'])
  expect(await names('--only', 'g')).toEqual(['a-one', 'a-two', 'b-one'])
})

test('--compare prints the change against earlier runs', async () => {
  await run(declare({ good: 'args: [report, "100"]' }))
  const second = await run(declare({ good: 'args: [report, "50"]' }), ['--compare'])
  expect(second.stdout).toMatch(/ {2}good\/m +50 +100 {2}\/s +1 +-50 % {2}worse\n/)
})

test('the smoke form reaches the script, and a metric filter leaves the history alone', async () => {
  const spec = declare({ good: 'args: [report, "1"]\nsmoke: { args: [report, "7"] }' })
  const { code, stdout } = await run(spec, ['--smoke', '--metrics', 'm'])
  expect(code).toBe(0)
  expect(stdout).toMatch(/ {2}m +7 /)
  expect(() => readFileSync(path.join(folder, 'history.jsonl'))).toThrow('ENOENT')
  expect((await run(spec, ['--metrics', 'x*'])).stdout).not.toMatch(/ {2}m +1 /)
})

test('Ctrl-C kills the running script and exits with 130', async () => {
  const spec = declare({ long: 'args: [hang]' })
  const child = spawn(process.execPath, [RUNNER, '--spec', spec, '--results', folder, '--runtime', 'source', '--verbose'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const [line] = (await once(child.stderr.setEncoding('utf8'), 'data')) as [string]
  child.kill('SIGINT')
  const [code] = (await once(child, 'exit')) as [number | null]
  expect(code).toBe(130)
  expect(isAlive(Number(/script (\d+)/.exec(line)?.[1]))).toBe(false)
})

test.runIf(PYTHON !== undefined)('a peer that runs becomes a column', async () => {
  const spec = declare({ good: `args: [report, "10"]\npeer: { system: Other, script: ${path.join(FIXTURES, 'peer.py')} }` })
  const { code, stdout } = await run(spec, [], { BEAMLINE_PEER_PYTHON: PYTHON ?? '' })
  expect(code).toBe(0)
  expect(stdout).toMatch(/ {2}m +10 .* 2 +5\n/)
})

test('a peer is skipped, with a reason, without a Python and with one that lacks the system', async () => {
  const peer = path.resolve(import.meta.dirname, '../../peers/ray_core.py')
  const spec = declare({ good: `args: [report, "10"]\npeer: { system: Ray, script: ${peer}, args: [cold-start] }` })
  const without = await run(spec)
  expect(without.code).toBe(0)
  expect(without.stdout).toContain('Ray: skipped: BEAMLINE_PEER_PYTHON is not set')
  if (PYTHON === undefined) return
  // A module of that name that cannot be imported stands for a Python without Ray, whatever this machine's has.
  writeFileSync(path.join(folder, 'ray.py'), 'raise ImportError("no ray here")\n')
  const lacking = await run(spec, [], { BEAMLINE_PEER_PYTHON: PYTHON, PYTHONPATH: folder })
  expect(lacking.code).toBe(0)
  expect(lacking.stdout).toContain('Ray: skipped: this Python has no ray: no ray here')
})
