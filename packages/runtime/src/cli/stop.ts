/**
 * `beamline stop`: end the daemons of this machine and all that they started; with `--cluster` those of the other machines too.
 */
import { existsSync } from 'node:fs'
import pico from 'picocolors'
import { localDaemons } from '../daemon/session.ts'
import { ClusterClient } from './client.ts'
import { CommandError, EXIT } from './exit.ts'
import { print, printJson } from './output.ts'

/** The daemon gives its workers 2 s, then removes its files last. */
const GONE_MS = 10_000

export async function stop(address: string | undefined, everywhere: boolean, json: boolean): Promise<void> {
  const first = await ClusterClient.connect(address)
  const { cluster } = first.welcome
  if (everywhere && !(await first.shutdownOthers('beamline stop --cluster'))) {
    first.close()
    throw new CommandError(EXIT.failure, 'the head of this cluster is on another machine: `beamline stop --cluster` there ends all')
  }
  // The others of this cluster that run here: those that joined first, the head last.
  const others =
    address === undefined || address === 'auto' ? localDaemons().filter((each) => each.stays && each.cluster === cluster && each.address !== first.address) : []
  for (const other of others.reverse()) {
    const client = await ClusterClient.connect(other.address).catch(() => undefined)
    if (client !== undefined) await end(client, everywhere)
  }
  await end(first, everywhere)
  if (json) printJson({ stopped: cluster })
  else print(`${pico.green('stopped')} ${everywhere ? '' : others.length > 0 ? `${others.length + 1} nodes of ` : ''}cluster ${cluster}`)
}

async function end(client: ClusterClient, everywhere: boolean): Promise<void> {
  const { sessionDir, node } = client.welcome
  await client.shutdown('beamline stop', everywhere)
  const deadline = performance.now() + GONE_MS
  while (existsSync(sessionDir)) {
    if (performance.now() > deadline) throw new CommandError(EXIT.failure, `node ${node} was told to stop and is still there after ${GONE_MS / 1_000} s`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
