/**
 * A node id lives once: a daemon that was declared dead goes on as a new node. The same process runs the same program again, with a session of its
 * own: nothing of the old node can be left in it.
 */
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { type ClusterConfig, DAEMON_CONFIG_ENV, type DaemonConfig } from './options.ts'
import { createSession } from './session.ts'

/**
 * @param found - where this node listened, and where it last knew the head
 * @returns what replaces this process; call it when everything of the old node has ended
 */
export function successor(config: DaemonConfig, found: Pick<ClusterConfig, 'headAddress' | 'lookIn' | 'port'>): () => void {
  const { token, storeDir } = config.session
  const { cluster } = config
  if (cluster === undefined) throw new Error('a cluster of one machine has nobody who declares it dead')
  return () => {
    const session = createSession({ token, joins: true, ...(storeDir.startsWith(config.session.dir) ? {} : { storeDir: storeDir.replace(/\/[^/]*$/, '') }) })
    const next: DaemonConfig = { ...config, session, cluster: { ...cluster, ...found, again: true } }
    // What it says goes to its own log: the lowest free number is the one that was just closed.
    closeSync(2)
    openSync(join(session.dir, 'logs', 'daemon.log'), 'a', 0o600)
    const argv = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
    process.execve?.(process.execPath, argv, { ...process.env, [DAEMON_CONFIG_ENV]: JSON.stringify(next) })
  }
}
