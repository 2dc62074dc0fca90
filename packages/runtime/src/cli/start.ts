/**
 * `beamline start --head`: a node daemon that stays, for programs with `init({ address: 'auto' })`.
 */
import { join } from 'node:path'
import pico from 'picocolors'
import type { DaemonOptions } from '../daemon/options.ts'
import { findCurrentHead } from '../daemon/session.ts'
import { startDaemon } from '../daemon/start.ts'
import { CommandError, EXIT } from './exit.ts'
import { print, printJson } from './output.ts'

export async function start(options: DaemonOptions, json: boolean): Promise<void> {
  const running = findCurrentHead()
  if (running !== undefined) throw new CommandError(EXIT.failure, `a head runs already at ${running.address} (pid ${running.pid}); \`beamline stop\` ends it`)
  const { address, cluster, node, sessionDir, storeDir, pid } = await startDaemon({ ...options, embedded: false })
  if (json) return printJson({ address, cluster, node, sessionDir, storeDir, pid, tokenFile: join(sessionDir, 'token') })
  print(`${pico.green('started')} head ${cluster} (pid ${pid})`)
  print(`  address  ${address}`)
  print(`  logs     ${join(sessionDir, 'logs')}`)
  print(
    `\nPrograms of this user attach with ${pico.bold("init({ address: 'auto' })")} or ${pico.bold('BEAMLINE_ADDRESS=auto')}; ${pico.bold('beamline stop')} ends it.`,
  )
}
