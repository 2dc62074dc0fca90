/** How a program ships the functions of its entry file, and of modules. */
import { execFile } from 'node:child_process'
import { copyFileSync, rmSync } from 'node:fs'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'

const ENTRY = new URL('./fixtures/entry.ts', import.meta.url).pathname
const LATE_CLASS = new URL('./fixtures/late-class.ts', import.meta.url).pathname
const COPY = new URL('./fixtures/entry-copy.ts', import.meta.url).pathname

afterAll(() => rmSync(COPY, { force: true }))

/** What the program prints. */
async function run(file: string, flags: readonly string[] = [], args: readonly string[] = []): Promise<unknown> {
  const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=@beamline/source', ...flags, file, ...args])
  return JSON.parse(stdout)
}

test('a file that is as it was when the program started is read from the disk, without a debugger', async () => {
  expect(await run(ENTRY)).toEqual({ values: [6, 9, 5], debugged: false })
})

test('of a file that was written just before the start V8 is asked what it runs', async () => {
  copyFileSync(ENTRY, COPY)
  expect(await run(COPY)).toEqual({ values: [6, 9, 5], debugged: true })
})

test('of a file that is gone since the start V8 is asked what it runs', async () => {
  copyFileSync(ENTRY, COPY)
  expect(await run(COPY, [], ['gone'])).toEqual({ values: [6, 9, 5], debugged: true })
})

test('where other code may have translated the file V8 is asked what it runs', async () => {
  expect(await run(ENTRY, ['--import', 'data:text/javascript,'])).toEqual({ values: [6, 9, 5], debugged: true })
})

test('a function that is not in the file under whose name V8 knows it is captured as V8 knows it', async () => {
  expect(await run(ENTRY, [], ['elsewhere'])).toEqual({ values: [6, 9, 42], debugged: true })
})

test('arguments of a class that the module of the function registers arrive at a worker that has yet to load it', async () => {
  expect(await run(LATE_CLASS)).toEqual({ task: 27, actor: 28 })
})
