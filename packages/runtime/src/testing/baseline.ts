/**
 * What a test cluster uses at a moment, as facts with names, and how two moments differ: what is alive and free must be the same, what is left over may
 * not be more.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Resources } from '../net/gen/node.ts'
import { UNIT } from '../state/resources.ts'
import type { TestCluster } from './cluster.ts'
import { linksOf, namespacesOf, processesOf } from './registry.ts'

/** `same`: must be equal. `most`: may be less. */
export interface Fact {
  readonly kind: 'same' | 'most'
  readonly value: number
  /** What makes up the number, to be shown when it is too high. */
  readonly items?: readonly string[]
}

export type Baseline = ReadonlyMap<string, Fact>

interface Status {
  readonly leases: number
  readonly drivers: readonly { readonly name: string; readonly pid: number }[]
  readonly waiting: readonly { readonly label: string; readonly reason: string }[]
  readonly actors: Readonly<Record<string, number>>
  readonly groups: Readonly<Record<string, number>>
}

const ITEMS_SHOWN = 5

/** @internal */
export async function takeBaseline(cluster: TestCluster): Promise<Baseline> {
  const facts = new Map<string, Fact>()
  const same = (name: string, value: number): void => void facts.set(name, { kind: 'same', value })
  const most = (name: string, value: number | readonly string[]): void =>
    void facts.set(name, typeof value === 'number' ? { kind: 'most', value } : { kind: 'most', value: value.length, items: value })

  const alive = (await cluster.members()).filter(({ state }) => state === 'ALIVE')
  same('nodes alive', alive.length)
  for (const [name, amounts] of Object.entries(sum(alive.map(({ total }) => total)))) same(`${name} in all`, amounts)
  for (const [name, amounts] of Object.entries(sum(alive.map(({ available }) => available)))) same(`${name} free`, amounts)

  const status = await cluster.head.query<Status>('status')
  most('leases', status.leases)
  most(
    'programs',
    status.drivers.map(({ name, pid }) => `${name} (pid ${pid})`),
  )
  most(
    'waiting',
    status.waiting.map(({ label, reason }) => `${label}: ${reason}`),
  )
  most('actors', living(status.actors, ['DEAD']))
  most('groups', living(status.groups, ['REMOVED']))
  const objects = await cluster.head.list<{ object: string; bytes: number; label: string }>('objects')
  most(
    'objects',
    objects.map(({ object, bytes, label }) => `${object} (${bytes} B, ${label})`),
  )

  const processes = processesOf(cluster.id)
  for (const node of cluster.nodes) {
    const here = processes.filter(({ environment }) => environment['BEAMLINE_TMPDIR'] === node.temporary)
    most(
      `processes of node ${node.index}`,
      here.map(({ pid, command }) => `${pid} ${command}`),
    )
    // The daemon keeps empty segments for the next ones that ask; each file must be one that it knows.
    const store = alive.find((row) => row.node === node.id)?.store
    most(`bytes of segments in use on node ${node.index}`, (store?.fileBytes ?? 0) - (store?.spareBytes ?? 0))
    const stored = filesBelow(node.store).filter((file) => !isExpected(file))
    most(`files in the store of node ${node.index} that its daemon does not know`, Math.max(0, stored.length - (store?.segments ?? 0)))
    most(
      `temporary files of node ${node.index}`,
      filesBelow(node.temporary).filter((file) => !isExpected(file)),
    )
  }
  most('network namespaces', namespacesOf(cluster.id))
  most('network links', linksOf(cluster.id))
  return facts
}

/** What is not as before, one line each. */
export function differences(before: Baseline, now: Baseline): string[] {
  const lines: string[] = []
  for (const [name, fact] of now) {
    const was = before.get(name)?.value ?? 0
    if (fact.kind === 'same' ? fact.value === was : fact.value <= was) continue
    const items = fact.items === undefined ? '' : `: ${fact.items.slice(0, ITEMS_SHOWN).join(', ')}${fact.items.length > ITEMS_SHOWN ? ', …' : ''}`
    lines.push(`${name}: ${was} before, ${fact.value} now${items}`)
  }
  for (const [name, { kind, value }] of before) if (kind === 'same' && !now.has(name)) lines.push(`${name}: ${value} before, none now`)
  return lines
}

function sum(all: readonly Resources[]): Record<string, number> {
  const out: Record<string, number> = { cpus: 0, gpus: 0, memory: 0 }
  for (const { cpus, gpus, memoryBytes, custom } of all) {
    out['cpus'] = (out['cpus'] ?? 0) + cpus / UNIT
    out['gpus'] = (out['gpus'] ?? 0) + gpus / UNIT
    out['memory'] = (out['memory'] ?? 0) + memoryBytes
    for (const [name, amount] of Object.entries(custom)) out[`"${name}"`] = (out[`"${name}"`] ?? 0) + amount / UNIT
  }
  return out
}

function living(counts: Readonly<Record<string, number>>, ended: readonly string[]): number {
  return Object.entries(counts).reduce((total, [state, count]) => total + (ended.includes(state) ? 0 : count), 0)
}

/** Logs grow; compiled code and the code of programs are cached. */
function isExpected(file: string): boolean {
  return /(^|\/)logs\/|(^|\/)(compile-cache|packages)\/|^driver-\d+\.mjs$/.test(file)
}

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
}
