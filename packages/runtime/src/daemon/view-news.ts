/**
 * Views that are to be told together: of each node and group what was said last, in one.
 */
import type { View } from '../state/events.ts'

export class ViewNews {
  readonly #nodes: Map<string, View['nodes'][number]> = new Map()
  readonly #groups: Map<string, View['groups'][number]> = new Map()
  readonly #jobs: Set<string> = new Set()

  add(view: View): void {
    for (const node of view.nodes) this.#nodes.set(node.node, node)
    for (const group of view.groups) this.#groups.set(group.group, group)
    for (const job of view.jobsEnded) this.#jobs.add(job)
  }

  /** What is known of one group that was not told yet. It is told again with the rest. */
  ofGroup(id: string): View | undefined {
    const group = this.#groups.get(id)
    return group === undefined ? undefined : { all: false, nodes: [], groups: [group], jobsEnded: [] }
  }

  take(): View | undefined {
    if (this.#nodes.size + this.#groups.size + this.#jobs.size === 0) return undefined
    const view = { all: false, nodes: [...this.#nodes.values()], groups: [...this.#groups.values()], jobsEnded: [...this.#jobs] }
    this.#nodes.clear()
    this.#groups.clear()
    this.#jobs.clear()
    return view
  }
}
