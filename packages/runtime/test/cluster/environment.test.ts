/** env of tasks, actors and the program: variables, working directory, modules; and what is said when something is missing. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BeamlineError, get, init, remote, shutdown } from '@beamline/runtime'

let dir: string
beforeAll(async () => {
  dir = realpathSync(mkdtempSync(join(tmpdir(), 'beamline-env-')))
  mkdirSync(join(dir, 'inner'))
  writeFileSync(join(dir, 'job.mjs'), "globalThis.jobModule = 'loaded'\n")
  writeFileSync(
    join(dir, 'setup.mjs'),
    'globalThis.setUp = (globalThis.setUp ?? 0) + 1\nawait new Promise((resolve) => setTimeout(resolve, 50))\nglobalThis.ready = true\n',
  )
  writeFileSync(join(dir, 'broken.mjs'), "throw new Error('broken on purpose')\n")
  await init({ cpus: 2, quiet: true, env: { vars: { OF_THE_JOB: 'job' }, modules: [join(dir, 'job.mjs')] } })
})
afterAll(async () => {
  await shutdown()
  rmSync(dir, { recursive: true })
})

async function refused(call: Promise<unknown>): Promise<BeamlineError> {
  const error: unknown = await call.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(BeamlineError.is(error)).toBe(true)
  return error as BeamlineError
}

const surroundings = (): object => {
  const { jobModule, setUp, ready } = globalThis as { jobModule?: string; setUp?: number; ready?: boolean }
  return { cwd: process.cwd(), pid: process.pid, jobModule, setUp, ready }
}

test('tasks of different environments have workers of their own, and those of equal ones share', async () => {
  const task = remote(surroundings) as unknown as { options(options: object): { remote(): never }; remote(): never }
  const at = async (env: object): Promise<{ cwd: string; pid: number }> => (await get(task.options({ env }).remote())) as { cwd: string; pid: number }
  const inner = await at({ workingDir: join(dir, 'inner') })
  expect(inner.cwd).toBe(join(dir, 'inner'))
  expect((await at({ workingDir: join(dir, 'inner') })).pid).toBe(inner.pid)
  const outer = await at({ workingDir: dir })
  expect(outer.cwd).toBe(dir)
  expect(outer.pid).not.toBe(inner.pid)
  expect((await at({ workingDir: dir, vars: { A: '1' } })).pid).not.toBe(outer.pid)
})

test('modules are imported before the first task, those of the program first, and once', async () => {
  const task = remote(surroundings, { env: { workingDir: dir, modules: ['./setup.mjs'] } })
  for (let i = 0; i < 3; i++) expect(await get(task.remote())).toMatchObject({ jobModule: 'loaded', setUp: 1, ready: true })
})

test('an actor has its environment, too', async () => {
  class Place {
    where(): object {
      return { cwd: process.cwd(), variable: process.env['A'], ready: (globalThis as { ready?: boolean }).ready }
    }
  }
  const place = remote(Place, { env: { vars: { A: 'b' }, workingDir: dir, modules: [join(dir, 'setup.mjs')] } }).remote()
  expect(await get(place.where.remote())).toEqual({ cwd: dir, variable: 'b', ready: true })
})

test('what a worker compiled is there for the next ones while it lives', async () => {
  const folder = join(dir, 'compiled')
  class Idle {
    pid(): number {
      return process.pid
    }
  }
  const idle = remote(Idle, { env: { vars: { NODE_COMPILE_CACHE: folder } } }).remote()
  const pid = await get(idle.pid.remote())
  await expect.poll(() => existsSync(folder) && readdirSync(folder, { recursive: true }).length > 50, { timeout: 10_000 }).toBe(true)
  expect(await get(idle.pid.remote())).toBe(pid)
})

describe('what is missing fails the tasks that need it, before they run', () => {
  const marker = (): string => join(dir, 'ran')
  const mark = remote((path: string) => process.getBuiltinModule('node:fs').writeFileSync(path, '')) as unknown as {
    options(options: object): { remote(path: string): never }
  }
  const run = async (env: object): Promise<BeamlineError> => await refused(get(mark.options({ env }).remote(marker())) as Promise<unknown>)

  test('a working directory', async () => {
    const error = await run({ workingDir: join(dir, 'gone') })
    expect(error).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { path: join(dir, 'gone'), reason: 'it does not exist' } })
  })

  test('once it is there, tasks run', async () => {
    const task = remote(() => process.cwd(), { env: { workingDir: join(dir, 'late') } })
    expect((await refused(get(task.remote()))).code).toBe('ENVIRONMENT_INVALID')
    mkdirSync(join(dir, 'late'))
    expect(await get(task.remote())).toBe(join(dir, 'late'))
  })

  test('a file in its place', async () => {
    const error = await run({ workingDir: join(dir, 'job.mjs') })
    expect(error).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { path: join(dir, 'job.mjs'), reason: 'it is not a folder' } })
  })

  test('a module that is a file', async () => {
    const error = await run({ workingDir: dir, modules: ['./gone.mjs'] })
    expect(error).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { what: 'module "./gone.mjs"', path: join(dir, 'gone.mjs') } })
  })

  test('a package', async () => {
    const error = await run({ workingDir: dir, modules: ['no-such-package'] })
    expect(error).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { path: join(dir, 'node_modules/no-such-package') } })
    expect(error.message).toContain("Cannot find package 'no-such-package'")
  })

  test('a module that throws', async () => {
    const error = await run({ workingDir: dir, modules: ['./broken.mjs'] })
    expect(error).toMatchObject({ code: 'ENVIRONMENT_INVALID', details: { reason: 'importing it failed: broken on purpose' } })
  })

  test('an actor of such an environment says so when it is called', async () => {
    class Nothing {
      call(): number {
        return 1
      }
    }
    const actor = remote(Nothing, { env: { workingDir: join(dir, 'gone') } }).remote()
    const error = await refused(get(actor.call.remote()) as Promise<unknown>)
    expect(error.code).toBe('ACTOR_DIED')
    expect(error.message).toContain(`the working directory ${join(dir, 'gone')} cannot be used`)
  })

  afterAll(() => {
    expect(() => process.getBuiltinModule('node:fs').statSync(marker())).toThrow()
  })
})

test.each([
  [{ COLOUR: 'red' }, /option "COLOUR" of env .* expected one of vars, workingDir, modules/],
  [{ vars: { A: 1 } }, /env\.vars\.A is 1; expected a string/],
  [{ workingDir: '' }, /env\.workingDir/],
  [{ modules: 'x' }, /env\.modules/],
])('%o is refused when the function is declared', (env, text) => {
  expect(() => remote(() => 1, { env } as object)).toThrow(text)
})
