/**
 * Entry of the node daemon's process. Order matters for the cold start: the first workers are spawned before anything heavy (gRPC) is
 * loaded, so that they load their modules while the daemon loads its own.
 */
import { flushCompileCache } from 'node:module'
import { loadOwn } from '../own-imports.ts'
import { DAEMON_CONFIG_ENV, type DaemonConfig } from './options.ts'
import { removeSession } from './session.ts'

/** When it has loaded what it needs for its first tasks. */
const SETTLED_MS = 1_000

const config = JSON.parse(process.env[DAEMON_CONFIG_ENV] ?? 'null') as DaemonConfig | null
delete process.env[DAEMON_CONFIG_ENV]
if (config === null) {
  process.stderr.write('this file is started by Beamline; use `beamline start --head`\n')
  process.exit(2)
}
// Its log may be on a full disk.
process.stderr.on('error', () => {})
// Until the daemon is there to end in order, a signal ends this process with what it made: it may wait for a head for a minute.
const giveUp = (): void => {
  removeSession(config.session)
  process.exit(1)
}
process.on('SIGTERM', giveUp)
// In a cluster of several machines the workers come later: the id and the token of the cluster are told by its head, or its store.
const cluster = config.cluster === undefined ? undefined : await (await loadOwn(() => import('./open-cluster.ts'))).openCluster(config)
const settled = cluster?.config ?? config
const { launchWorkers } = await loadOwn(() => import('./launch.ts'))
const workers = launchWorkers(settled, cluster?.host)
const { Daemon } = await loadOwn(() => import('./daemon.ts'))
const daemon = new Daemon(settled, workers, cluster)
process.off('SIGTERM', giveUp)
await daemon.listen()
// Not at its end only: it may be killed.
setTimeout(flushCompileCache, SETTLED_MS).unref()
