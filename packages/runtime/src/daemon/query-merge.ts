/**
 * The parts that nodes answered to one question, put together. Pure.
 */
import type { NodeInfo } from '../net/gen/mesh.ts'

/** What only the head knows. */
export const IS_OF_HEAD: ReadonlySet<string> = new Set(['actors', 'groups', 'jobs'])

type Row = Readonly<Record<string, unknown>>

interface Status {
  readonly cluster: string
  readonly nodes: readonly Row[]
  readonly drivers: readonly Row[]
  readonly leases: number
  readonly waiting: readonly Row[]
  readonly tasks: Readonly<Record<string, number>>
  readonly taskEventsDropped: number
}

interface Rows {
  readonly rows: readonly Row[]
  readonly processes?: readonly Row[]
  readonly silent: number
}

/** @param parts - by node; @param nodes - as the head describes them, also dead ones */
export function merge(topic: string, limit: number, parts: ReadonlyMap<string, unknown>, nodes: ReadonlyMap<string, NodeInfo>, head: string): unknown {
  const all = [...parts.values()]
  switch (topic) {
    case 'status': {
      const each = all as Status[]
      const total = (pick: (status: Status) => number): number => each.reduce((sum, status) => sum + pick(status), 0)
      return {
        cluster: each[0]?.cluster,
        ...(parts.get(head) as Status | undefined),
        nodes: mergeNodes(
          each.flatMap((status) => status.nodes),
          nodes,
          head,
        ),
        drivers: each.flatMap((status) => status.drivers),
        leases: total((status) => status.leases),
        waiting: each.flatMap((status) => status.waiting).slice(0, limit),
        tasks: sums(each.map((status) => status.tasks)),
        taskEventsDropped: total((status) => status.taskEventsDropped),
      }
    }
    case 'nodes':
      return mergeNodes((all as Row[][]).flat(), nodes, head)
    case 'objects':
    case 'tasks': {
      const each = all as Rows[]
      const processes = each.flatMap((part) => part.processes ?? [])
      return {
        rows: each.flatMap((part) => part.rows).slice(0, limit),
        ...(topic === 'objects' && { processes }),
        silent: each.reduce((sum, part) => sum + part.silent, 0),
      }
    }
    case 'timeline': {
      const each = all as { readonly events: readonly Row[]; readonly dropped: number }[]
      return { events: each.flatMap((part) => part.events).slice(0, limit), dropped: each.reduce((sum, part) => sum + part.dropped, 0) }
    }
    default:
      return all.some((part) => !Array.isArray(part)) ? all.find((part) => !Array.isArray(part)) : (all as Row[][]).flat().slice(0, limit)
  }
}

/** Every node that the head knows: as it described itself, else as the head last heard of it, which may have been when that one was the head. */
function mergeNodes(rows: readonly Row[], nodes: ReadonlyMap<string, NodeInfo>, theHead: string): Row[] {
  const own = new Map(rows.map((row) => [String(row['node']), row]))
  return [...nodes.values()].map(({ node, pid, host, address, state, total, available, labels, queued, cause, diedMs }) => {
    const known = own.get(node)
    if (known !== undefined) return { ...known, state: state === 'ALIVE' ? known['state'] : state }
    return { node, pid, host, address, state, head: node === theHead, total, available, labels, queued, cause: cause?.code ?? '', endMs: diedMs }
  })
}

function sums(counts: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const by: Record<string, number> = {}
  for (const each of counts) for (const [name, count] of Object.entries(each)) by[name] = (by[name] ?? 0) + count
  return by
}
