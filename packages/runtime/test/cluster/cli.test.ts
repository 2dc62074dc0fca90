/** The command line as scripts use it: arguments in; status, stdout and stderr out. */
import { ANYWHERE } from '../shapes.ts'
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chromeTrace } from '../../src/cli/timeline.ts'
import { eventually, isClean, isGone, StandInDriver } from '../daemon/stand-in.ts'

const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname
const folder = process.env['BEAMLINE_TMPDIR'] ?? ''

interface Result {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

async function beamline(args: string[], env: Record<string, string> = {}): Promise<Result> {
  const child = spawn(process.execPath, ['--conditions=@beamline/source', MAIN, ...args], {
    env: { ...process.env, ...env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const status = await new Promise<number>((resolve) => child.on('close', (code) => resolve(code ?? -1)))
  return { status, stdout, stderr }
}

let head: { address: string; cluster: string; node: string; sessionDir: string; storeDir: string; pid: number; tokenFile: string }

test('without a cluster every question ends with status 3', async () => {
  for (const args of [['status'], ['list', 'tasks', '--json'], ['timeline'], ['stop'], ['status', '--address', 'unix:/nowhere/node.sock']]) {
    const { status, stdout, stderr } = await beamline(args)
    expect([status, stdout]).toEqual([3, ''])
    expect(stderr).toMatch(/no head runs|no cluster answers/)
  }
})

test('a wrong command line ends with status 2 and says what is wrong', async () => {
  for (const [args, text] of [
    [['lisst'], /unknown command 'lisst'/],
    [['list', 'cats'], /Allowed choices are tasks/],
    [['start'], /--head/],
    [['start', '--head', '--cpus', 'many'], /not negative/],
    [['list', 'tasks', '--limit', '-1'], /whole number/],
    [['start', '--head', '--resources', 'tape'], /name=amount/],
    [['start', '--head', '--no-spill', '--spill-quota', '1'], /either --no-spill or places to spill to/],
    [['start', '--head', '--spill-s3', 'bucket', '--spill-dir', folder], /either --spill-s3 or folders/],
    [['start', '--head', '--spill-s3-endpoint', 'http://127.0.0.1:1'], /--spill-s3-endpoint needs --spill-s3/],
    [['start', '--head', '--spill-s3', '/'], /BUCKET\/PREFIX/],
  ] as const) {
    const { status, stderr } = await beamline([...args])
    expect([args, status]).toEqual([args, 2])
    expect(stderr).toMatch(text)
  }
  expect((await beamline(['--help'])).status).toBe(0)
  expect((await beamline(['--version'])).stdout.trim()).toMatch(/^\d+\.\d+\.\d+$/)
})

test('a value that no cluster can have ends with status 1', async () => {
  expect(await beamline(['start', '--head', '--spill-dir', '/nowhere'])).toMatchObject({
    status: 1,
    stderr: 'error: --spill-dir: there is no folder /nowhere\n',
  })
  for (const [flags, text] of [
    [['--head', '--resources', 'gpus=1'], 'resources.gpus is 1; expected the option "gpus" itself'],
    [['--head', '--port', '70000'], 'port is 70000; expected at most 65535'],
    [['--head', '--host', '0.0.0.0', '--insecure'], 'host is "0.0.0.0"; expected the one address at which other machines reach this one'],
    [['--head', '--host', '::', '--tls'], 'host is "::"; expected the one address at which other machines reach this one'],
    [['--head', '--node-timeout-ms', '999'], 'nodeTimeoutMs is 999; expected 1000 or more'],
    [['--head', '--node-timeout-ms', '3000', '--heartbeat-ms', '1001'], 'heartbeatMs is 1001; expected 1 to 1000, a third of nodeTimeoutMs'],
    [['--address', '127.0.0.1:1', '--heartbeat-ms', '1'], 'heartbeatMs is 1; expected nothing at a node that joins: its head tells it'],
  ] as const) {
    const { status, stderr } = await beamline(['start', ...flags], { BEAMLINE_TOKEN: 'token' })
    expect([status, stderr]).toEqual([1, `error: ${text}\n`])
  }
})

describe('with a head that runs', () => {
  beforeAll(async () => {
    const { status, stdout, stderr } = await beamline([
      'start',
      '--head',
      '--cpus',
      '2',
      '--gpus',
      '0',
      '--resources',
      'tape=2',
      '--store-bytes',
      '67108864',
      '--no-spill',
      '--memory-limit-bytes',
      '8000000000',
      '--json',
    ])
    expect([status, stderr]).toEqual([0, ''])
    head = JSON.parse(stdout) as typeof head
  })

  afterAll(async () => {
    const { status, stdout } = await beamline(['stop', '--json'])
    expect([status, JSON.parse(stdout)]).toEqual([0, { stopped: head.cluster }])
    await eventually(() => isGone(head.pid) && isClean(head), 'the head is gone')
  })

  test('it survives the command that started it, and a second one is refused', async () => {
    expect(isGone(head.pid)).toBe(false)
    expect(JSON.stringify(head)).not.toContain(readFileSync(head.tokenFile, 'utf8'))
    const { status, stderr } = await beamline(['start', '--head'])
    expect([status, stderr]).toEqual([1, expect.stringContaining(`a head runs already at ${head.address}`)])
  })

  test('status tells what there is, for people and for programs', async () => {
    const { status, stdout } = await beamline(['status', '--json'])
    expect([status, JSON.parse(stdout)]).toMatchObject([
      0,
      { cluster: head.cluster, address: head.address, nodes: [{ total: { cpus: 20_000, custom: { tape: 20_000 } } }], drivers: [], waiting: [] },
    ])
    const text = (await beamline(['status', '--address', head.address])).stdout
    expect(text).toContain(`cluster ${head.cluster} at ${head.address}`)
    expect(text).toMatch(/in use +0 of 2 cpus, .*, 0 of 2 "tape"/)
    expect(text).toMatch(/store +0 B in 0 objects, 0 B of 64\.0 MiB reserved\n/)
  })

  test('a node that cannot be drained is named, with those that could be', async () => {
    const { node } = head
    for (const wanted of ['', 'nobody']) {
      const { status, stderr } = await beamline(['drain', wanted])
      expect([status, stderr]).toEqual([1, `error: there is no node ${JSON.stringify(wanted)}; there are ${node}\n`])
    }
    const { status, stderr } = await beamline(['drain', node.slice(0, 6)])
    expect([status, stderr]).toEqual([
      1,
      `error: the node to drain is ${node}, the head; expected another node: the cluster ends with its head; \`beamline stop\` ends it\n`,
    ])
  })

  test('a wrong token ends with status 1', async () => {
    const { status, stderr } = await beamline(['status'], { BEAMLINE_TOKEN: 'wrong' })
    expect([status, stderr]).toEqual([1, expect.stringContaining('refused the token')])
  })

  test('lists show what drivers and workers do, without control characters', async () => {
    const driver = new StandInDriver({ address: head.address, token: readFileSync(head.tokenFile, 'utf8') }, { job: { name: 'a\u001b[31mpp.ts' } })
    driver.send({
      $case: 'leaseDemand',
      value: {
        key: 1,
        shape: { resources: { cpus: 10_000, gpus: 0, memoryBytes: 0, custom: {} }, env: {}, placementGroup: '', bundle: -1, ...ANYWHERE },
        wanted: 1,
        backlog: 1,
        seen: 0,
        label: 'sum',
      },
    })
    const { worker } = await driver.next('leaseGranted')
    const event = { task: `${driver.id}:1`, name: 'sum', worker, owner: driver.id, startMs: 1_000, endMs: 1_250, state: 'FINISHED', errorCode: '' }
    driver.send({
      $case: 'taskEvents',
      value: { events: [event, { ...event, task: `${driver.id}:2`, startMs: 500, state: 'FAILED', errorCode: 'WORKER_CRASHED' }], dropped: 0, number: 1 },
    })
    await driver.query('status')
    const rows = async (topic: string): Promise<unknown> => JSON.parse((await beamline(['list', topic, '--json'])).stdout)
    expect(await rows('leases')).toMatchObject([{ label: 'sum', worker, holder: driver.id }])
    expect(await rows('nodes')).toMatchObject([{ state: 'ALIVE', head: true }])
    expect(await rows('drivers')).toMatchObject([{ driver: driver.id, name: 'a\u001b[31mpp.ts' }])
    expect(await rows('tasks')).toMatchObject([{ state: 'FAILED', errorCode: 'WORKER_CRASHED' }, { state: 'FINISHED' }])
    expect((await beamline(['list', 'drivers'])).stdout).not.toContain('\u001b')
    const { stdout } = await beamline(['list', 'tasks', '--limit', '1'])
    expect(stdout.split('\n')[0]).toMatch(/^TASK +NAME +STATE +WORKER +TIME +ERROR$/)
    expect(stdout.split('\n')[1]).toMatch(new RegExp(`^${driver.id}:2 +sum +FAILED +${worker} +750 ms +WORKER_CRASHED$`))
    expect((await beamline(['list', 'workers'])).stdout).toMatch(new RegExp(`${worker} +[0-9a-f]{16} +\\d+ +leased +sum +1 +${driver.id}`))
    const file = join(folder, 'trace.json')
    expect((await beamline(['timeline', '-o', file])).status).toBe(0)
    const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as { traceEvents: object[] }
    expect(traceEvents.slice(2)).toMatchObject([
      { name: 'sum', ph: 'X', ts: 500_000, dur: 750_000, cat: 'FAILED', args: { error: 'WORKER_CRASHED' } },
      { name: 'sum', ph: 'X', ts: 1_000_000, dur: 250_000 },
    ])
    driver.link.close()
    await driver.link.closed
  })

  test('run gives the program its arguments and the head, and ends with its status', async () => {
    const program = join(folder, 'program.mjs')
    writeFileSync(program, 'console.log(process.env.BEAMLINE_ADDRESS, process.argv.slice(2).join()); process.exitCode = 42')
    expect(await beamline(['run', program, '--json', '-x', 'y'])).toMatchObject({ status: 42, stdout: `${head.address} --json,-x,y\n` })
    writeFileSync(program, 'process.kill(process.pid, "SIGTERM"); setInterval(() => {}, 1000)')
    expect((await beamline(['run', program])).status).toBe(143)
    expect((await beamline(['run', join(folder, 'none.mjs')])).status).toBe(1)
  })
})

test('run without a head lets the program have its own', async () => {
  const program = join(folder, 'alone.mjs')
  writeFileSync(program, 'console.log(process.env.BEAMLINE_ADDRESS)')
  expect(await beamline(['run', program])).toMatchObject({ status: 0, stdout: 'undefined\n' })
})

test('a trace has one row per worker, in order of time', () => {
  const event = { task: 'o:1', name: 'f', worker: 'w1', owner: 'o', startMs: 2, endMs: 3, state: 'FINISHED', errorCode: '' }
  expect(chromeTrace([event, { ...event, worker: 'w2', startMs: 1, endMs: 0.5 }], 'c')).toEqual([
    { name: 'process_name', ph: 'M', pid: 1, tid: 0, args: { name: 'beamline c' } },
    { name: 'thread_name', ph: 'M', pid: 1, tid: 1, args: { name: 'worker w2' } },
    { name: 'f', ph: 'X', pid: 1, tid: 1, ts: 1_000, dur: 0, cat: 'FINISHED', args: { task: 'o:1', owner: 'o', state: 'FINISHED' } },
    { name: 'thread_name', ph: 'M', pid: 1, tid: 2, args: { name: 'worker w1' } },
    { name: 'f', ph: 'X', pid: 1, tid: 2, ts: 2_000, dur: 1_000, cat: 'FINISHED', args: { task: 'o:1', owner: 'o', state: 'FINISHED' } },
  ])
})
