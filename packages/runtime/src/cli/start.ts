/**
 * `beamline start`: a node daemon that stays, for programs with `init({ address: 'auto' })`: the head of a cluster, or a node that joins one.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import pico from 'picocolors'
import type { DaemonOptions, SpillOptions } from '../daemon/options.ts'
import { findCurrentHead, sessionsRoot } from '../daemon/session.ts'
import { type DaemonHandle, startDaemon } from '../daemon/start.ts'
import { CommandError, EXIT } from './exit.ts'
import { print, printJson } from './output.ts'

export interface StartOptions extends Omit<DaemonOptions, 'token' | 'execArgv' | 'workerEntry' | 'spill'>, SpillFlags {
  readonly tokenFile?: string
  readonly tls?: boolean
}

interface SpillFlags {
  /** False: `--no-spill`. */
  readonly spill?: boolean | undefined
  readonly spillDir?: readonly string[] | undefined
  readonly spillQuota?: number | undefined
  /** BUCKET or BUCKET/PREFIX. */
  readonly spillS3?: string | undefined
  readonly spillS3Endpoint?: string | undefined
}

export async function start(
  { tokenFile, tls = false, spill: spills, spillDir, spillQuota, spillS3, spillS3Endpoint, ...options }: StartOptions,
  json: boolean,
): Promise<void> {
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
  const spill = spillOf({ spill: spills, spillDir, spillQuota, spillS3, spillS3Endpoint })
  const tlsDir = await certificates(options.tlsDir, tls)
  const daemon = await startDaemon({
    ...options,
    ...(spill !== undefined && { spill }),
    ...(head && { store: storeUrl(options.store) }),
    ...(token !== undefined && { token }),
    ...(tlsDir !== undefined && { tlsDir }),
    embedded: false,
  })
  const { address, cluster, node, sessionDir, storeDir, pid, mesh } = daemon
  if (json) return printJson({ address, cluster, node, sessionDir, storeDir, pid, mesh, tokenFile: join(sessionDir, 'token') })
  describe(daemon, head, options)
}

/** Places for spill files, as flags name them. */
function spillOf({ spill = true, spillDir, spillQuota, spillS3, spillS3Endpoint }: SpillFlags): SpillOptions | false | undefined {
  const wanted = [spillDir, spillQuota, spillS3, spillS3Endpoint].some((flag) => flag !== undefined)
  if (!spill && wanted) throw new CommandError(EXIT.usage, 'either --no-spill or places to spill to')
  if (spillS3 === undefined && spillS3Endpoint !== undefined) throw new CommandError(EXIT.usage, '--spill-s3-endpoint needs --spill-s3 BUCKET/PREFIX')
  if (spillS3 !== undefined && (spillDir ?? spillQuota) !== undefined) {
    throw new CommandError(EXIT.usage, 'either --spill-s3 or folders (--spill-dir, --spill-quota)')
  }
  // Not made here: it may be the mount point of a disk that is not there.
  const missing = spillDir?.find((folder) => !existsSync(folder))
  if (missing !== undefined) throw new CommandError(EXIT.failure, `--spill-dir: there is no folder ${resolve(missing)}`)
  if (!spill) return false
  if (!wanted) return undefined
  if (spillS3 === undefined) return { ...(spillDir && { directories: spillDir }), ...(spillQuota !== undefined && { quotaBytes: spillQuota }) }
  const [bucket = '', ...prefix] = spillS3.split('/').filter((part) => part !== '')
  if (bucket === '') throw new CommandError(EXIT.usage, '--spill-s3 must look like BUCKET or BUCKET/PREFIX')
  const s3 = { bucket, ...(prefix.length > 0 && { prefix: prefix.join('/') }), ...(spillS3Endpoint !== undefined && { endpoint: spillS3Endpoint }) }
  return { s3 }
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
