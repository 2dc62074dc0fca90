/**
 * `beamline start`: a node daemon that stays, for programs with `init({ address: 'auto' })`: the head of a cluster, or a node that joins one.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import pico from 'picocolors'
import type { DaemonOptions } from '../daemon/options.ts'
import { findCurrentHead, sessionsRoot } from '../daemon/session.ts'
import { type DaemonHandle, startDaemon } from '../daemon/start.ts'
import { CommandError, EXIT } from './exit.ts'
import { print, printJson } from './output.ts'

export interface StartOptions extends Omit<DaemonOptions, 'token' | 'execArgv' | 'workerEntry'> {
  readonly tokenFile?: string
  readonly tls?: boolean
}

export async function start({ tokenFile, tls = false, ...options }: StartOptions, json: boolean): Promise<void> {
  const head = options.head === true
  const running = head ? findCurrentHead() : undefined
  if (running !== undefined) throw new CommandError(EXIT.failure, `a head runs already at ${running.address} (pid ${running.pid}); \`beamline stop\` ends it`)
  const token = readToken(tokenFile)
  if (!head && token === undefined) {
    throw new CommandError(
      EXIT.failure,
      'a node that joins needs the token of the cluster: --token-file PATH, or BEAMLINE_TOKEN; the head said where its file is',
    )
  }
  const tlsDir = await certificates(options.tlsDir, tls)
  const daemon = await startDaemon({
    ...options,
    ...(head && { store: storeUrl(options.store) }),
    ...(token !== undefined && { token }),
    ...(tlsDir !== undefined && { tlsDir }),
    embedded: false,
  })
  const { address, cluster, node, sessionDir, storeDir, pid, mesh } = daemon
  if (json) return printJson({ address, cluster, node, sessionDir, storeDir, pid, mesh, tokenFile: join(sessionDir, 'token') })
  describe(daemon, head, options)
}

function describe({ address, cluster, node, sessionDir, pid, mesh, tlsDir }: DaemonHandle, head: boolean, { address: joined, insecure }: StartOptions): void {
  print(`${pico.green('started')} ${head ? `head of cluster ${cluster}` : `node ${node} in cluster ${cluster} of ${joined}`} (pid ${pid})`)
  print(`  address  ${address}`)
  print(`  node     ${node} at ${mesh}`)
  print(`  logs     ${join(sessionDir, 'logs')}`)
  if (head) {
    const security = tlsDir === '' ? (insecure === true ? ' --insecure' : '') : ` --tls-dir ${tlsDir}`
    print(`  token    ${join(sessionDir, 'token')}`)
    print(`\nOther machines join with a copy of the token file${tlsDir === '' ? '' : ` and of ${tlsDir}`}:`)
    print(`  ${pico.bold(`beamline start --address ${mesh} --token-file PATH${security}`)}`)
  }
  print(
    `\nPrograms of this user attach with ${pico.bold("init({ address: 'auto' })")} or ${pico.bold('BEAMLINE_ADDRESS=auto')}; ${pico.bold('beamline stop')} ends it.`,
  )
}

function readToken(path: string | undefined): string | undefined {
  if (path === undefined) return process.env['BEAMLINE_TOKEN'] || undefined
  try {
    const token = readFileSync(path, 'utf8').trim()
    if (token !== '') return token
  } catch (error) {
    throw new CommandError(EXIT.failure, `the token cannot be read: ${(error as Error).message}`)
  }
  throw new CommandError(EXIT.failure, `there is no token in ${path}`)
}

/** A head that comes back finds its cluster again, without being told where. */
function storeUrl(wanted: string | undefined): string {
  if (wanted === undefined) return `sqlite:${join(sessionsRoot(), 'control.sqlite')}`
  return wanted.startsWith('sqlite:') && !wanted.startsWith('sqlite:/') ? `sqlite:${resolve(wanted.slice('sqlite:'.length))}` : wanted
}

async function certificates(dir: string | undefined, wanted: boolean): Promise<string | undefined> {
  if (dir === undefined && !wanted) return undefined
  const folder = dir === undefined ? join(sessionsRoot(), 'tls') : resolve(dir)
  if (wanted && !existsSync(join(folder, 'ca.pem'))) {
    const { generateTls } = await import('../net/tls.ts')
    await generateTls(folder)
  }
  return folder
}
