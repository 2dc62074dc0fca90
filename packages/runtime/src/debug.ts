/**
 * Debug output by namespace: `BEAMLINE_DEBUG=core,daemon node app.ts`, or `*` for all. Off, a call costs one test.
 *
 * Namespaces: `core` (tasks, leases, objects of one process), `exec` (a worker's runs), `daemon` (leases, workers,
 * actors of the node).
 */
const wanted = new Set((process.env['BEAMLINE_DEBUG'] ?? '').split(',').filter(Boolean))

export type Debug = ((text: () => string) => void) & { readonly enabled: boolean }

/** A logger of one namespace; the text is only made when someone listens. */
export function debug(namespace: string): Debug {
  const enabled = wanted.has(namespace) || wanted.has('*')
  const log = (text: () => string): void => {
    if (enabled) process.stderr.write(`[${namespace} ${process.pid} ${performance.now().toFixed(1)}] ${text()}\n`)
  }
  return Object.assign(log, { enabled })
}
