/**
 * What tests made on this machine and must remove: each network or cluster of a test has an id of six hex digits, and everything that belongs to it
 * carries that id, so that it is found also after the test process was killed.
 *
 *     <tmp>/beamline-testing-<uid>/<id>.json   who made it
 *     <tmp>/bl-<id>/                           temporary folders of its nodes
 *     /dev/shm/bl-<id>/                        their stores
 *     bl<id>, bl<id>v<n>, bl<id>-<n>           bridge, links, network namespaces
 *     BEAMLINE_TEST=<id>                       in the environment of its processes
 *
 * {@link claim} removes what dead test processes left before it makes anything new.
 */
import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { output } from './shell.ts'

export const TEST_ENV = 'BEAMLINE_TEST'

interface Maker {
  readonly pid: number
  readonly started: string
}

const registryFolder = (): string => join(tmpdir(), `beamline-testing-${process.getuid?.() ?? userInfo().uid}`)
export const temporaryFolder = (id: string): string => join(tmpdir(), `bl-${id}`)
export const storeFolder = (id: string): string =>
  join(process.platform === 'linux' ? '/dev/shm' : tmpdir(), `bl-${id}${process.platform === 'linux' ? '' : '-store'}`)
export const bridgeName = (id: string): string => `bl${id}`
export const linkName = (id: string, host: number): string => `bl${id}v${host}`
export const namespaceName = (id: string, host: number): string => `bl${id}-${host}`

/** A new id, known to belong to this process. Removes what dead processes left. */
export async function claim(): Promise<string> {
  mkdirSync(registryFolder(), { recursive: true, mode: 0o700 })
  for (const file of entries(registryFolder())) {
    const id = /^([0-9a-f]{6})\.json$/.exec(file)?.[1]
    if (id !== undefined && !isAlive(readMaker(id))) await remove(id)
  }
  const id = randomBytes(3).toString('hex')
  const maker: Maker = { pid: process.pid, started: startTime(process.pid) }
  const file = join(registryFolder(), `${id}.json`)
  writeFileSync(`${file}.new`, JSON.stringify(maker))
  renameSync(`${file}.new`, file)
  return id
}

/** Ends the processes of `id` and removes its files, mounts, namespaces and links. */
export async function remove(id: string): Promise<void> {
  for (let round = processesOf(id); round.length > 0; round = processesOf(id)) {
    for (const { pid } of round) kill(pid)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  for (const mount of mountsBelow(temporaryFolder(id))) await output(['umount', '--lazy', mount])
  rmSync(temporaryFolder(id), { recursive: true, force: true })
  rmSync(storeFolder(id), { recursive: true, force: true })
  for (const name of namespacesOf(id)) await output(['ip', 'netns', 'delete', name])
  for (const name of linksOf(id)) await output(['ip', 'link', 'delete', name])
  rmSync(join(registryFolder(), `${id}.json`), { force: true })
}

export interface FoundProcess {
  readonly pid: number
  readonly command: string
  readonly environment: Readonly<Record<string, string>>
}

/** Living processes that carry the id, found on Linux only. */
export function processesOf(id: string): FoundProcess[] {
  const mark = `${TEST_ENV}=${id}`
  const found: FoundProcess[] = []
  for (const name of entries('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue
    const variables = text(`/proc/${name}/environ`).split('\0')
    // A process that ended and was not waited for has no environment any more.
    if (!variables.includes(mark)) continue
    const environment = Object.fromEntries(variables.map((variable) => [variable.split('=')[0] ?? '', variable.slice(variable.indexOf('=') + 1)]))
    found.push({ pid: Number(name), command: text(`/proc/${name}/cmdline`).replaceAll('\0', ' ').trim(), environment })
  }
  return found
}

/** Network namespaces with the id. */
export function namespacesOf(id: string): string[] {
  return entries('/run/netns').filter((name) => name.startsWith(`bl${id}-`))
}

/** Bridge and links with the id. */
export function linksOf(id: string): string[] {
  return entries('/sys/class/net').filter((name) => name === bridgeName(id) || name.startsWith(`${bridgeName(id)}v`))
}

function mountsBelow(folder: string): string[] {
  return text('/proc/mounts')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${folder}/`))
}

function readMaker(id: string): Maker | undefined {
  try {
    return JSON.parse(readFileSync(join(registryFolder(), `${id}.json`), 'utf8')) as Maker
  } catch {
    return undefined
  }
}

function isAlive(maker: Maker | undefined): boolean {
  if (maker === undefined) return false
  try {
    process.kill(maker.pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return maker.started === startTime(maker.pid)
}

/** So that a reused pid is not taken for the maker; "" where the system does not tell. */
function startTime(pid: number): string {
  const stat = text(`/proc/${pid}/stat`)
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended between the look and the signal.
  }
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
