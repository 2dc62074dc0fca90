/**
 * `beamline drain NODE`: the node gets no new work, finishes what it runs, and leaves. Says what it waits for until then.
 */
import pico from 'picocolors'
import { ClusterClient } from './client.ts'
import { CommandError, EXIT } from './exit.ts'
import { note, print, printJson } from './output.ts'

const LOOK_MS = 2_000

export async function drain(
  wanted: string,
  { deadlineMs, reason }: { deadlineMs: number; reason: string },
  address: string | undefined,
  json: boolean,
): Promise<void> {
  await using client = await ClusterClient.connect(address)
  const nodes = await client.query<{ node: string; state: string }[]>('nodes', 0)
  const named = nodes.filter(({ node, state }) => wanted !== '' && node.startsWith(wanted) && state !== 'DEAD')
  const [node] = named
  if (node === undefined)
    throw new CommandError(
      EXIT.failure,
      `there is no node ${JSON.stringify(wanted)}; there are ${nodes
        .filter(({ state }) => state !== 'DEAD')
        .map((each) => each.node)
        .join(', ')}`,
    )
  if (named.length > 1) throw new CommandError(EXIT.failure, `${wanted} could be ${named.map((each) => each.node).join(', ')}`)
  const startedAt = performance.now()
  let last = ''
  const progress = async (): Promise<void> => {
    const workers = await client.query<{ node: string; state: string; doing: string }[]>('workers', 0)
    const busy = workers.filter((worker) => worker.node === node.node && worker.state !== 'idle' && worker.state !== 'starting')
    const text = busy.length === 0 ? 'its objects move' : `${busy.length} workers run: ${[...new Set(busy.map(({ doing }) => doing))].slice(0, 5).join(', ')}`
    if (text !== last) note(text)
    last = text
  }
  const timer = json ? undefined : setInterval(() => void progress().catch(() => undefined), LOOK_MS)
  try {
    await client.drain(node.node, deadlineMs, reason)
  } finally {
    clearInterval(timer)
  }
  const ms = Math.round(performance.now() - startedAt)
  if (json) printJson({ drained: node.node, ms })
  else print(`${pico.green('drained')} node ${node.node}`)
}
