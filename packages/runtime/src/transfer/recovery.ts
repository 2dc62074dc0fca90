/**
 * Finds a copy of an object whose primary copy is lost, and makes it the primary one: every node is asked, and the first that has a copy is told to
 * keep it. What the others have becomes known there, however late they answer, so that it goes when the object is freed.
 */
import type { CopyFound, CopyWanted } from '../net/gen/mesh.ts'
import type { ObjectRecover, ObjectRecovered } from '../net/gen/node.ts'
import type { CopyStore, ObjectName, TheirPlace } from './copy-store.ts'

export interface RecoveryOptions {
  readonly node: string
  readonly store: CopyStore
  /** Other nodes that live. */
  readonly nodes: () => readonly string[]
  readonly ask: (node: string, message: CopyWanted) => void
  readonly answer: (node: string, message: CopyFound) => void
  readonly recovered: (process: string, message: ObjectRecovered) => void
  /** `holder` has a copy of an object whose primary copy is on `node`. */
  readonly copyKnown: (node: string, name: ObjectName, holder: string) => void
}

interface Search {
  readonly request: number
  readonly process: string
  readonly recover: ObjectRecover
  readonly name: ObjectName
  /** Nodes that have not answered. */
  readonly asked: Set<string>
  /** They have a copy, in the order of their answers. */
  readonly found: string[]
  /** Told to make its copy the primary one. */
  chosen: string | undefined
  done: boolean
}

export class Recovery {
  readonly #options: RecoveryOptions
  readonly #searches = new Map<number, Search>()
  #nextRequest = 1

  constructor(options: RecoveryOptions) {
    this.#options = options
  }

  /** Searches that are not over. */
  get size(): number {
    return this.#searches.size
  }

  recover(process: string, recover: ObjectRecover): void {
    const { node, store, nodes } = this.#options
    const name = { owner: process, object: recover.object }
    const others = nodes().filter((other) => other !== recover.lostNode && other !== node)
    const search: Search = { request: this.#nextRequest++, process, recover, name, asked: new Set(others), found: [], chosen: undefined, done: false }
    this.#searches.set(search.request, search)
    if (store.find(name)) search.found.push(node)
    for (const other of others) this.#ask(search, other, false)
    this.#go(search)
  }

  /** Another node asks this one. */
  wanted(node: string, { request, object, promote, label }: CopyWanted): void {
    if (!object) return
    const { store, answer } = this.#options
    const has = store.find(object) !== undefined
    const place = has && promote ? store.promote(object, label) : undefined
    const segment = promote ? (place?.segment ?? '') : has ? 'here' : ''
    answer(node, { request, object, segment, offset: place?.offset ?? 0, bytes: place?.bytes ?? 0, promoted: promote })
  }

  found(node: string, { request, segment, offset, bytes, promoted }: CopyFound): void {
    const search = this.#searches.get(request)
    if (!search) return
    if (promoted) {
      if (search.chosen !== node || search.done) return
      if (segment) this.#settle(search, node, { segment, offset, bytes })
      else search.chosen = undefined // it was evicted in between
    } else if (search.asked.delete(node) && segment) {
      if (search.done && search.chosen) this.#options.copyKnown(search.chosen, search.name, node)
      else search.found.push(node)
    }
    this.#go(search)
  }

  nodeLost(node: string): void {
    for (const search of [...this.#searches.values()]) {
      search.asked.delete(node)
      const index = search.found.indexOf(node)
      if (index >= 0) search.found.splice(index, 1)
      if (search.chosen === node && !search.done) search.chosen = undefined
      this.#go(search)
    }
  }

  /** The owner is dead. */
  processGone(process: string): void {
    for (const [request, search] of this.#searches) if (search.process === process) this.#searches.delete(request)
  }

  #go(search: Search): void {
    const { node, store } = this.#options
    while (!search.done && search.chosen === undefined) {
      const next = search.found.shift()
      if (next === undefined) {
        if (search.asked.size > 0) return
        this.#settle(search, undefined, undefined)
      } else if (next === node) {
        const place = store.promote(search.name, search.recover.label)
        if (place) this.#settle(search, node, place)
      } else {
        search.chosen = next
        this.#ask(search, next, true)
      }
    }
    if (search.done && search.asked.size === 0) this.#searches.delete(search.request)
  }

  #ask({ request, name, recover }: Search, node: string, promote: boolean): void {
    this.#options.ask(node, { request, object: name, promote, bytes: recover.bytes, label: recover.label, ownerNode: this.#options.node })
  }

  #settle(search: Search, node: string | undefined, place: TheirPlace | undefined): void {
    search.done = true
    search.chosen = node
    const { request } = search.recover
    this.#options.recovered(search.process, { request, node: node ?? '', segment: place?.segment ?? '', offset: place?.offset ?? 0, failure: undefined })
    if (node !== undefined) for (const holder of search.found.splice(0)) this.#options.copyKnown(node, search.name, holder)
  }
}
