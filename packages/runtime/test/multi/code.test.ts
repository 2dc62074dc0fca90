/** Code of a program on nodes that do not have it: packed, fetched once, under the paths that the program knows. */
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestCluster, type TestCluster, type TestNode } from '../../src/testing/index.ts'

let cluster: TestCluster
let head: TestNode
let other: TestNode
let app: string

const FILES = {
  'package.json': '{"name":"app","type":"module","dependencies":{"greeter":"*"}}',
  '.gitignore': 'data/\nnode_modules/\nignored.ts\n',
  'ignored.ts': 'export const hidden = () => 1\n',
  'data/big.bin': 'x'.repeat(100_000),
  'node_modules/greeter/package.json': '{"name":"greeter","type":"module","exports":"./index.js"}',
  'node_modules/greeter/index.js': 'export const greeting = "hello"\n',
  'lib/square.ts': [
    "import { readFileSync } from 'node:fs'",
    "import { clusterInfo } from '@beamline/runtime'",
    "import { greeting } from 'greeter'",
    'export const version = 1',
    'export function square(x: number) {',
    "  const factor = Number(readFileSync(new URL('../factor.txt', import.meta.url), 'utf8'))",
    '  return { result: x * x * factor, greeting, version, node: clusterInfo().node, url: import.meta.url, cwd: process.cwd() }',
    '}',
  ].join('\n'),
  'factor.txt': '3',
  'setup.ts': "process.env['SET_UP'] = 'yes'\n",
  'main.ts': [
    "import { existsSync, writeFileSync } from 'node:fs'",
    "import { get, init, remote } from '@beamline/runtime'",
    "import { tell } from '@beamline/runtime/testing'",
    "import { square } from './lib/square.ts'",
    "const { file, env, then } = JSON.parse(process.argv[2] ?? '{}')",
    'await init({ env })',
    '// What changes after init is not what runs.',
    "if (file) writeFileSync(new URL('./lib/square.ts', import.meta.url), file)",
    'const there = { resources: { tape: 0.001 } }',
    'const nested = remote((x: number) => square(x))',
    'const tasks = {',
    '  direct: remote(square, there),',
    '  closure: remote((x: number) => ({ ...square(x), setUp: process.env.SET_UP, sees: existsSync("data/big.bin") }), there),',
    '  sentOn: remote(async (x: number) => await get(nested.remote(x)), there),',
    '}',
    'try {',
    "  tell('done', Object.fromEntries(await Promise.all(Object.entries(tasks).map(async ([name, task]) => [name, await get(task.remote(2))]))))",
    '} catch (error) {',
    "  tell('failed', { code: error.code, details: error.details, message: error.message })",
    '}',
  ].join('\n'),
}

beforeAll(async () => {
  app = realpathSync(mkdtempSync(join(tmpdir(), 'beamline-app-')))
  for (const [path, text] of Object.entries(FILES)) {
    mkdirSync(dirname(join(app, path)), { recursive: true })
    writeFileSync(join(app, path), text)
  }
  mkdirSync(join(app, 'node_modules/@beamline'))
  symlinkSync(new URL('../..', import.meta.url).pathname, join(app, 'node_modules/@beamline/runtime'))
  cluster = await startTestCluster({ nodes: [{ cpus: 1 }, { cpus: 2, resources: { tape: 1 } }] })
  ;[head, other] = cluster.nodes as [TestNode, TestNode]
})

afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
  rmSync(app, { recursive: true })
})

interface Answer {
  readonly result: number
  readonly greeting: string
  readonly version: number
  readonly node: string
  readonly url: string
  readonly cwd: string
}

async function run(options: object, event: string): Promise<Record<string, unknown>> {
  const driver = head.driver(join(app, 'main.ts'), { args: [JSON.stringify(options)], cwd: app })
  const told = await driver.event(event)
  await driver.exited
  return told as unknown as Record<string, unknown>
}

test('tasks on a node run the code that the program had when it joined, unpacked there, and not what is at its path', async () => {
  const changed = FILES['lib/square.ts'].replace('version = 1', 'version = 2')
  const told = (await run({ file: changed, env: { modules: ['./setup.ts'] } }, 'done')) as unknown as Record<string, Answer & { setUp: string; sees: boolean }>
  writeFileSync(join(app, 'lib/square.ts'), FILES['lib/square.ts'])
  for (const name of ['direct', 'closure']) expect(told[name]).toMatchObject({ result: 12, greeting: 'hello', version: 1, node: other.id })
  expect(told['closure']).toMatchObject({ setUp: 'yes', sees: false })
  const { cwd, url } = told['direct'] as Answer
  expect(cwd).toMatch(/\/packages\/[0-9a-f]{64}$/)
  expect(url).toBe(`file://${cwd}/lib/square.ts`)
  expect(told['sentOn']).toMatchObject({ result: 12 })
  expect(readdirSync(dirname(cwd))).toHaveLength(1)
  expect(readdirSync(cwd)).not.toContain('data')
})

test('a second program with the same code finds it on the node', async () => {
  const first = (await run({}, 'done')) as unknown as Record<string, Answer>
  const again = (await run({}, 'done')) as unknown as Record<string, Answer>
  expect(again['direct']?.cwd).toBe(first['direct']?.cwd)
})

test('a module that a node does not have is said with its path before any task runs', async () => {
  const failed = await run({ env: { modules: ['nowhere'] } }, 'failed')
  expect(failed).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { what: 'module "nowhere"' } })
  expect((failed['details'] as { path: string }).path).toMatch(/\/packages\/[0-9a-f]{64}\/node_modules\/nowhere$/)
})

test('a function that imports what .gitignore keeps from travelling fails with the path, before it runs', async () => {
  const main = join(app, 'hidden.ts')
  writeFileSync(
    main,
    [
      "import { get, init, remote } from '@beamline/runtime'",
      "import { tell } from '@beamline/runtime/testing'",
      "import { hidden } from './ignored.ts'",
      'await init()',
      'const task = remote(() => hidden(), { resources: { tape: 1 } })',
      "await get(task.remote()).catch((error) => tell('failed', { code: error.code, details: error.details }))",
    ].join('\n'),
  )
  const driver = head.driver(main, { cwd: app })
  const failed = (await driver.event('failed')) as unknown as { code: string; details: { what: string; path: string } }
  await driver.exited
  expect(failed).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { what: 'module "./ignored.ts"' } })
  expect(failed.details.path).toMatch(/\/packages\/[0-9a-f]{64}\/ignored\.ts$/)
})

test('a working directory inside the code is found in its copy', async () => {
  const told = (await run({ env: { workingDir: app } }, 'done')) as unknown as Record<string, Answer>
  expect(told['direct']?.cwd).toMatch(/\/packages\/[0-9a-f]{64}$/)
})

test('a node that needs the code for the first time after the head was killed gets it from the head that came back', async () => {
  await using three = await startTestCluster({ nodes: [{ cpus: 0 }, { cpus: 1 }, { cpus: 1, resources: { tape: 1 } }] })
  const [first, second, third] = three.nodes as [TestNode, TestNode, TestNode]
  const main = join(app, 'later.ts')
  writeFileSync(
    main,
    [
      "import { get, init, remote } from '@beamline/runtime'",
      "import { tell } from '@beamline/runtime/testing'",
      "import { square } from './lib/square.ts'",
      'await init()',
      "tell('ready')",
      "await new Promise((resolve) => process.stdin.once('data', resolve))",
      'process.stdin.destroy()',
      "tell('done', await get(remote(square, { resources: { tape: 1 } }).remote(3)))",
    ].join('\n'),
  )
  const driver = second.driver(main, { cwd: app })
  await driver.event('ready')
  await first.kill('SIGKILL')
  await first.start()
  driver.write('go\n')
  expect(await driver.event('done')).toMatchObject({ result: 27, node: third.id, cwd: expect.stringMatching(/\/packages\/[0-9a-f]{64}$/) })
  expect((await driver.exited).code).toBe(0)
})

test('code is kept in the folder that the head was told, from where nodes read it, until the cluster ends', async () => {
  const kept = join(app, 'data', 'kept')
  mkdirSync(kept, { recursive: true })
  await using own = await startTestCluster({
    nodes: [
      { cpus: 0, args: ['--packages', `file://${kept}`] },
      { cpus: 1, resources: { tape: 1 } },
    ],
  })
  const [first, second] = own.nodes as [TestNode, TestNode]
  const driver = first.driver(join(app, 'main.ts'), { args: ['{}'], cwd: app })
  const { direct } = (await driver.event('done')) as unknown as Record<string, Answer>
  await driver.exited
  expect(direct).toMatchObject({ result: 12, node: second.id })
  const [folder] = readdirSync(kept) as [string]
  expect(readdirSync(join(kept, folder))).toEqual([`${direct?.cwd.split('/').at(-1)}.tgz`])
  await first.cli('stop', '--cluster')
  expect(readdirSync(join(kept, folder))).toEqual([])
})

test('a place for packages that cannot be one is refused before a daemon starts', async () => {
  const failed = await startTestCluster({ nodes: [{ cpus: 1, args: ['--packages', 'file:///nowhere/at/all'] }] }).catch((error: Error) => error)
  expect(String(failed)).toMatch(/packages is "file:\/\/\/nowhere\/at\/all" \(ENOENT.*\); expected s3:\/\/BUCKET\/PREFIX, or file:\/\/\/FOLDER/)
})
