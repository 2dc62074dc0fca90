/**
 * How a daemon of several machines begins: it listens for other daemons and finds the cluster, or founds it, which settles the cluster's id and token.
 */
import { BeamlineError } from '../errors.ts'
import { checkListen } from '../net/endpoint.ts'
import { faultsOfEnvironment } from '../net/faults.ts'
import { ClusterEdge } from './cluster-edge.ts'
import { HeadStore } from './head.ts'
import { localAddressTo } from './membership.ts'
import type { Mesh } from './mesh.ts'
import { type ClusterConfig, type DaemonConfig, MEMORY_STORE } from './options.ts'
import { adoptSession, removeSession } from './session.ts'

/**
 * A daemon that was the head and lost its lease leads again, or joins whoever leads now. When something is in the way it says what on stderr, leaves
 * nothing and ends this process.
 */
export async function openCluster(config: DaemonConfig): Promise<ClusterEdge> {
  const cluster = config.cluster as ClusterConfig
  try {
    return await open(config, cluster)
  } catch (error) {
    if (cluster.again && cluster.head && BeamlineError.is(error, 'HEAD_EXISTS')) {
      return await openCluster({ ...config, cluster: { ...cluster, head: false, headAddress: error.details.address, store: MEMORY_STORE } })
    }
    process.stderr.write(`${BeamlineError.is(error) ? error.message : (error as Error).stack}\n`)
    // Whoever starts a daemon reads its last lines and removes its files; one that begins again has nobody.
    if (cluster.again) removeSession(config.session)
    process.exit(1)
  }
}

async function open(config: DaemonConfig, cluster: ClusterConfig): Promise<ClusterEdge> {
  const tls = cluster.tlsDir === '' ? undefined : await import('../net/tls.ts').then(({ loadTls, tlsFilesIn }) => loadTls(tlsFilesIn(cluster.tlsDir)))
  const host = cluster.host || (await localAddressTo(cluster.headAddress)) || '127.0.0.1'
  checkListen(`${host}:${cluster.port}`, tls !== undefined, cluster.insecure)
  faultsOfEnvironment() // refuses what it cannot read now, not at the first message
  const head = cluster.head && cluster.store !== MEMORY_STORE ? await openHead(config, cluster) : undefined
  const session = head === undefined ? config.session : adoptSession(config.session, head.identity)
  const edge = new ClusterEdge({ config: { ...config, session }, cluster, host, tls, head })
  try {
    await reserve(edge.mesh, host, cluster)
    await edge.open()
    return edge
  } catch (error) {
    await Promise.all([edge.mesh.close(), head?.close(false)])
    throw error
  }
}

function openHead({ session }: DaemonConfig, { store, nodeTimeoutMs }: ClusterConfig): Promise<HeadStore> {
  const warn = (text: string): void => void process.stderr.write(`${text}\n`)
  return HeadStore.open({ url: store, nodeTimeoutMs, warn, fresh: { cluster: session.cluster, token: session.token } })
}

async function reserve(mesh: Mesh, host: string, { port, portWished }: ClusterConfig): Promise<void> {
  try {
    await mesh.reserve(host, portWished || port)
  } catch (error) {
    if (portWished === 0 || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
      throw new BeamlineError('START_FAILED', { what: `the daemon at ${host}:${port}`, reason: (error as Error).message }, { cause: error })
    }
    await mesh.reserve(host, 0)
  }
}
