/**
 * What a worker process is told at its start: the environment variable BEAMLINE_WORKER, a JSON object.
 *
 * Its stdin is the lifeline to the daemon: one line `listening` when the daemon's socket accepts connections (a worker must not dial
 * before, because gRPC waits a second after a refused connection), then nothing; its end means that the daemon is gone and the worker must exit.
 */
export const WORKER_BOOTSTRAP_ENV = 'BEAMLINE_WORKER'
export const LISTENING_LINE = 'listening'
/** In front of a task's name, at the beginning of what it prints; the end of the line ends the name. */
export const OUTPUT_MARK = '\u0001beamline task '
/** Every worker has its session's folder here and hands it on to what it starts: who cleans up after a dead daemon finds them by it. */
export const SESSION_ENV = 'BEAMLINE_SESSION'

export interface WorkerBootstrap {
  /** Its process id: what its Hello must say. */
  readonly process: string
  /** Address of the node's socket, `unix:/…/node.sock`. */
  readonly address: string
  readonly token: string
  readonly sessionDir: string
  readonly storeDir: string
  readonly cluster: string
  readonly node: string
  /** Address on which it listens for processes of other nodes; "": there are none. */
  readonly host: string
  /** Folder with the certificates of the cluster; "": no TLS. */
  readonly tlsDir: string
}
