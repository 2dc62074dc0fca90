/**
 * `beamline status`: what a cluster has, what is in use, and what waits for what.
 */
import pico from 'picocolors'
import type { Resources } from '../net/gen/node.ts'
import type { StoreUsage } from '../objects/segment-directory-events.ts'
import { formatBytes, UNIT } from '../state/resources.ts'
import { ClusterClient } from './client.ts'
import { clean, colourState, formatMs, note, print, printJson } from './output.ts'

interface NodeRow {
  readonly node: string
  readonly pid: number
  readonly host: string
  readonly address: string
  readonly state: string
  readonly head: boolean
  readonly total: Resources
  readonly available: Resources
  readonly labels: Readonly<Record<string, string>>
  readonly cause?: string
  /** Absent: the node did not answer, or is dead. */
  readonly workers?: Readonly<Record<string, number>>
  readonly store?: StoreUsage
  readonly queued: number
}

interface Status {
  readonly cluster: string
  /** Absent, like actors and groups: the head did not answer. */
  readonly uptimeMs?: number
  readonly nodes: readonly NodeRow[]
  readonly drivers: readonly { readonly driver: string; readonly pid: number; readonly name: string }[]
  readonly leases: number
  readonly waiting: readonly {
    readonly kind: string
    readonly label: string
    readonly reason: string
    readonly wanted: number
    readonly backlog?: number
    readonly waitedMs: number
  }[]
  readonly actors?: Readonly<Record<string, number>>
  readonly groups?: Readonly<Record<string, number>>
  readonly tasks: Readonly<Record<string, number>>
}

function counts(by: Readonly<Record<string, number>> | undefined): string {
  if (by === undefined) return 'not known: the head does not answer'
  const parts = Object.entries(by).map(([state, count]) => `${count.toLocaleString('en-US')} ${state.toLowerCase()}`)
  return parts.join(', ') || 'none'
}

function usage(total: Resources, available: Resources): string {
  const parts = [`${(total.cpus - available.cpus) / UNIT} of ${total.cpus / UNIT} cpus`]
  if (total.gpus > 0) parts.push(`${(total.gpus - available.gpus) / UNIT} of ${total.gpus / UNIT} gpus`)
  parts.push(`${formatBytes(total.memoryBytes - available.memoryBytes)} of ${formatBytes(total.memoryBytes)} memory`)
  for (const [name, amount] of Object.entries(total.custom))
    parts.push(`${(amount - (available.custom[name] ?? 0)) / UNIT} of ${amount / UNIT} "${clean(name)}"`)
  return parts.join(', ')
}

function printNode({ node, pid, host, state, head, total, available, labels, workers, store, queued, cause = '' }: NodeRow): void {
  const facts = [
    ...(pid === 0 ? [] : [`pid ${pid} on ${clean(host)}`]),
    ...(head ? ['head'] : []),
    ...Object.entries(labels).map(([name, value]) => clean(`${name}=${value}`)),
  ]
  print(`node ${node} ${colourState(state)}${facts.length === 0 ? '' : ` (${facts.join(', ')})`}${cause === '' ? '' : ` ${cause}`}`)
  if (state === 'DEAD') return
  print(`  in use   ${usage(total, available)}`)
  if (workers !== undefined) print(`  workers  ${counts(workers)}; ${queued} in its queue`)
  if (store !== undefined) print(`  store    ${storeUsage(store)}`)
}

/** What takes no room is left out. */
function storeUsage(store: StoreUsage): string {
  const inMemory = store.objects - store.spilledObjects
  const parts = [
    store.pinnedBytes > 0 ? `${formatBytes(store.pinnedBytes)} being read` : '',
    store.copyBytes > 0 ? `${formatBytes(store.copyBytes)} copies from other nodes` : '',
  ].filter((part) => part !== '')
  const reserved = `${formatBytes(store.fileBytes)} of ${formatBytes(store.capacityBytes)} reserved`
  const memory = `${formatBytes(store.liveBytes)} in ${inMemory} objects${parts.length === 0 ? '' : ` (${parts.join(', ')})`}, ${reserved}`
  if (store.spillFileBytes === 0) return memory
  return `${memory}; ${formatBytes(store.spilledBytes)} in ${store.spilledObjects} objects spilled, spill files ${formatBytes(store.spillFileBytes)}`
}

export async function status(address: string | undefined, json: boolean): Promise<void> {
  await using client = await ClusterClient.connect(address)
  const answer = await client.query<Status>('status', 0)
  if (json) return printJson({ address: client.address, ...answer, silent: [...client.silent] })
  print(`${pico.bold(`cluster ${answer.cluster}`)} at ${client.address}${answer.uptimeMs === undefined ? '' : `, up for ${formatMs(answer.uptimeMs)}`}`)
  for (const node of answer.nodes) printNode(node)
  for (const node of client.silent) note(`node ${node} did not answer; what it knows is missing`)
  print(`drivers  ${answer.drivers.map((driver) => `${clean(driver.name)} (pid ${driver.pid})`).join(', ') || 'none'}`)
  print(`actors   ${counts(answer.actors)}`)
  print(`groups   ${counts(answer.groups)}`)
  print(`tasks    ${counts(answer.tasks)}; ${answer.leases} leases`)
  if (answer.waiting.length === 0) return
  print(pico.yellow('waiting'))
  for (const entry of answer.waiting) {
    const backlog = entry.backlog === undefined ? '' : ` (${entry.backlog} queued)`
    print(`  ${clean(entry.label)}${backlog} for ${formatMs(entry.waitedMs)}: ${clean(entry.reason)}`)
  }
}
