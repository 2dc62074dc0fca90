/**
 * A node id lives once: a daemon that was declared dead goes on as a new node. The same process runs the same program again, with a session of its
 * own: nothing of the old node can be left in it.
 */
import { DAEMON_CONFIG_ENV, type DaemonConfig, MEMORY_STORE } from './options.ts'
import { createSession } from './session.ts'

/** @returns what replaces this process; call it when everything of the old node has ended */
export function successor(config: DaemonConfig, headAddress: string): () => void {
  const { token, storeDir } = config.session
  const { cluster } = config
  if (cluster === undefined) throw new Error('a cluster of one machine has nobody who declares it dead')
  return () => {
    const session = createSession({ token, joins: true, ...(storeDir.startsWith(config.session.dir) ? {} : { storeDir: storeDir.replace(/\/[^/]*$/, '') }) })
    // A head that lost its lease is a node like others from now on.
    const next: DaemonConfig = { ...config, session, cluster: { ...cluster, head: false, headAddress, store: MEMORY_STORE, joinMs: cluster.headTimeoutMs } }
    const argv = [process.execPath, ...process.execArgv, ...process.argv.slice(1)]
    process.execve?.(process.execPath, argv, { ...process.env, [DAEMON_CONFIG_ENV]: JSON.stringify(next) })
  }
}
