/**
 * The nodes of a cluster as its head describes them, also dead ones.
 */
import type { NodeInfo } from '../net/gen/mesh.ts'
import type { Failure } from '../net/gen/node.ts'

export class KnownNodes {
  readonly #self: string
  readonly #nodes: Map<string, NodeInfo> = new Map()

  constructor(self: string) {
    this.#self = self
  }

  get all(): ReadonlyMap<string, NodeInfo> {
    return this.#nodes
  }

  /** Those that live, without this one. */
  get others(): NodeInfo[] {
    return [...this.#nodes.values()].filter(({ node, state }) => state !== 'DEAD' && node !== this.#self)
  }

  see({ all, nodes }: { readonly all: boolean; readonly nodes: readonly NodeInfo[] }): void {
    if (all) this.#nodes.clear()
    for (const node of nodes) this.#know(node)
  }

  died(node: string, cause: Failure): void {
    const known = this.#nodes.get(node)
    if (known !== undefined) this.#nodes.set(node, { ...known, state: 'DEAD', cause })
  }

  isKnown(node: string): boolean {
    return this.#nodes.has(node)
  }

  isDead(node: string): boolean {
    return this.#nodes.get(node)?.state === 'DEAD'
  }

  /** Undefined while it lives, or is not known. */
  whyDead(node: string): string | undefined {
    const known = this.#nodes.get(node)
    return known?.state === 'DEAD' ? (known.cause?.code ?? 'NODE_LOST') : undefined
  }

  /** Of a dead node a view has no more than the end: what it was is kept for lists. */
  #know(info: NodeInfo): void {
    const known = this.#nodes.get(info.node)
    const { state, cause, diedMs } = info
    this.#nodes.set(info.node, state === 'DEAD' && known !== undefined ? { ...known, state, cause, diedMs } : info)
  }
}
