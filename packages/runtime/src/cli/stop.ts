/**
 * `beamline stop`: end a head and all that it started.
 */
import { existsSync } from 'node:fs'
import pico from 'picocolors'
import { ClusterClient } from './client.ts'
import { CommandError, EXIT } from './exit.ts'
import { print, printJson } from './output.ts'

/** The daemon gives its workers 2 s, then removes its files last. */
const GONE_MS = 10_000

export async function stop(address: string | undefined, json: boolean): Promise<void> {
  const client = await ClusterClient.connect(address)
  const { cluster, sessionDir } = client.welcome
  await client.shutdown('beamline stop')
  const deadline = performance.now() + GONE_MS
  while (existsSync(sessionDir)) {
    if (performance.now() > deadline) throw new CommandError(EXIT.failure, `cluster ${cluster} was told to stop and is still there after ${GONE_MS / 1_000} s`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  if (json) printJson({ stopped: cluster })
  else print(`${pico.green('stopped')} cluster ${cluster}`)
}
