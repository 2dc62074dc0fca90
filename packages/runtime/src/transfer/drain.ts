/**
 * Moves the primary objects of this node to others before it leaves: each is pulled by a node with room, which makes its copy the primary one, and
 * its owner is told the new place. What is here stays readable until the node leaves.
 */
import type { CopyMove, CopyMoved } from '../net/gen/mesh.ts'
import type { ObjectsMoved } from '../net/gen/node.ts'
import type { CopyStore, PrimaryObject } from './copy-store.ts'
import { objectKey } from './pull-events.ts'

/** Objects on their way to one node at a time. */
const MOVES_PER_NODE = 4

export interface DrainTarget {
  readonly node: string
  /** Room in its store, as far as is known. */
  readonly freeBytes: number
}

export interface DrainOptions {
  readonly node: string
  readonly store: CopyStore
  /** Other nodes that stay. */
  readonly targets: () => readonly DrainTarget[]
  readonly move: (node: string, message: CopyMove) => void
  readonly moved: (owner: string, message: ObjectsMoved) => void
  /** The primary copy is there now. */
  readonly handOver: (object: PrimaryObject, node: string) => void
}

export interface DrainResult {
  readonly moved: number
  /** No node could take them in time. */
  readonly failed: number
}

interface Move {
  readonly object: PrimaryObject
  readonly target: string
}

export class Drain {
  readonly #options: DrainOptions
  readonly #moves = new Map<number, Move>()
  /** By object: nodes that could not take it. */
  readonly #refused = new Map<string, Set<string>>()
  #nextRequest = 1
  #moved = 0
  #wake: () => void = () => {}

  constructor(options: DrainOptions) {
    this.#options = options
  }

  async run(deadlineMs: number): Promise<DrainResult> {
    const endMs = performance.now() + deadlineMs
    for (;;) {
      const left = this.#send()
      const waitMs = endMs - performance.now()
      if (this.#moves.size === 0 || waitMs <= 0) return { moved: this.#moved, failed: left }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, waitMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  copyMoved(node: string, { request, segment, offset, failure }: CopyMoved): void {
    const move = this.#moves.get(request)
    if (move?.target !== node) return
    this.#moves.delete(request)
    const { object } = move
    if (failure) this.#refuse(object, node)
    else {
      const { owner, object: number, bytes, label } = object
      this.#moved++
      this.#options.store.demote(object)
      this.#options.handOver(object, node)
      this.#options.moved(owner, { objects: [{ segment, offset, bytes, object: number, label, node }], from: this.#options.node })
    }
    this.#wake()
  }

  nodeLost(node: string): void {
    for (const [request, { target }] of this.#moves) if (target === node) this.#moves.delete(request)
    this.#wake()
  }

  /** @returns primary objects that are still here */
  #send(): number {
    const { store, targets, move } = this.#options
    const moving = new Set([...this.#moves.values()].map(({ object }) => objectKey(object)))
    const room = new Map(targets().map(({ node, freeBytes }) => [node, freeBytes]))
    const moves = new Map<string, number>()
    for (const { target, object } of this.#moves.values()) {
      moves.set(target, (moves.get(target) ?? 0) + 1)
      room.set(target, (room.get(target) ?? 0) - object.bytes)
    }
    const primaries = store.primaries()
    for (const object of primaries) {
      const key = objectKey(object)
      if (moving.has(key)) continue
      const refused = this.#refused.get(key)
      const able = [...room].filter(([node]) => !refused?.has(node) && (moves.get(node) ?? 0) < MOVES_PER_NODE)
      const [target] = able.sort((a, b) => b[1] - a[1])[0] ?? []
      if (target === undefined) continue
      const request = this.#nextRequest++
      this.#moves.set(request, { object, target })
      moves.set(target, (moves.get(target) ?? 0) + 1)
      room.set(target, room.get(target)! - object.bytes)
      move(target, { request, object: { owner: object.owner, object: object.object }, bytes: object.bytes, label: object.label })
    }
    return primaries.length
  }

  #refuse(object: PrimaryObject, node: string): void {
    const key = objectKey(object)
    const refused = this.#refused.get(key)
    if (refused) refused.add(node)
    else this.#refused.set(key, new Set([node]))
  }
}
