/**
 * Who has copies of this node's objects, who is reading them from here now, and where others are sent meanwhile. Pure.
 *
 * A node sends an object to few readers at a time, and not much more often than those who have a copy: the other readers are sent to nodes that
 * hold it or are getting it, in turn. So an object that many want spreads like a tree, and its first source sends it hardly more often than anybody.
 */
import { CHUNK_BYTES } from './chunks.ts'

/** Readers of one object at a time. */
const READERS_MAX = 2
/** Objects of one chunk are over before anybody could pass them on. */
const READERS_OF_SMALL_MAX = 16
/** How many more readers than anybody with a copy a node serves itself. */
const SERVED_MORE = 2
/** Nodes that a reader is told of; some may have evicted their copies. */
const REFERRED_MAX = 4

interface Reader {
  /** Connections. */
  streams: number
  sentBytes: number
}

interface Entry {
  /** Nodes with a whole copy. They may have evicted it since. */
  readonly copies: Set<string>
  readonly readers: Map<string, Reader>
  /** How many readers were sent to each node, and how many were served here. */
  readonly sentTo: Map<string, number>
  served: number
}

export class Referrals {
  readonly #entries = new Map<string, Entry>()

  /**
   * @param arriving - of an object that is still on its way here: chunks that are here, chunks that the reader has, and nodes that read from the reader
   * @returns undefined: `node` may read it here and counts as a reader until {@link done}; else whom it may ask instead
   */
  admit(
    key: string,
    bytes: number,
    node: string,
    arriving?: { readonly here: number; readonly have: number; readonly feeds: number },
  ): readonly string[] | undefined {
    // Who is not ahead of the reader is no use to it, and might wait for the reader itself.
    if (arriving && (arriving.here < arriving.have || (arriving.here === arriving.have && arriving.feeds > 0))) return []
    const entry = this.#entry(key)
    entry.copies.delete(node)
    const reader = entry.readers.get(node)
    if (reader) {
      reader.streams++
      return undefined
    }
    const large = bytes > CHUNK_BYTES
    const others = this.#others(entry, node)
    const turn = large && others.some((other) => entry.copies.has(other) && (entry.sentTo.get(other) ?? 0) + SERVED_MORE <= entry.served)
    if (turn || entry.readers.size >= (large ? READERS_MAX : READERS_OF_SMALL_MAX)) {
      for (const first of others.slice(0, 1)) entry.sentTo.set(first, (entry.sentTo.get(first) ?? 0) + 1)
      return others
    }
    entry.readers.set(node, { streams: 1, sentBytes: 0 })
    entry.served++
    return undefined
  }

  sent(key: string, node: string, bytes: number): void {
    const reader = this.#entries.get(key)?.readers.get(node)
    if (reader) reader.sentBytes += bytes
  }

  done(key: string, node: string): void {
    const entry = this.#entries.get(key)
    const reader = entry?.readers.get(node)
    if (!entry || !reader || --reader.streams > 0) return
    entry.readers.delete(node)
    this.#forgetEmpty(key, entry)
  }

  /** `node` holds a whole copy, and is to be told when the object is freed. */
  addCopy(key: string, node: string): void {
    this.#entry(key).copies.add(node)
  }

  copies(key: string): readonly string[] {
    return [...(this.#entries.get(key)?.copies ?? [])]
  }

  /** The object is gone from here, freed or moved. @returns nodes that hold copies */
  forget(key: string): readonly string[] {
    const copies = this.copies(key)
    const entry = this.#entries.get(key)
    entry?.copies.clear()
    if (entry) this.#forgetEmpty(key, entry)
    return copies
  }

  nodeLost(node: string): void {
    for (const [key, entry] of this.#entries) {
      entry.copies.delete(node)
      entry.sentTo.delete(node)
      this.#forgetEmpty(key, entry)
    }
  }

  /** Objects with copies or readers. */
  get size(): number {
    return this.#entries.size
  }

  /** Those that were sent the fewest readers first; of equals the whole copies, then whoever has got most. */
  #others({ copies, readers, sentTo }: Entry, node: string): string[] {
    const burden = (other: string): number => sentTo.get(other) ?? 0
    const progress = (other: string): number => (copies.has(other) ? Number.POSITIVE_INFINITY : (readers.get(other)?.sentBytes ?? 0))
    const others = [...new Set([...copies, ...readers.keys()])].filter((other) => other !== node)
    return others.sort((a, b) => burden(a) - burden(b) || progress(b) - progress(a)).slice(0, REFERRED_MAX)
  }

  #entry(key: string): Entry {
    let entry = this.#entries.get(key)
    if (!entry) {
      entry = { copies: new Set(), readers: new Map(), sentTo: new Map(), served: 0 }
      this.#entries.set(key, entry)
    }
    return entry
  }

  #forgetEmpty(key: string, { copies, readers }: Entry): void {
    if (copies.size === 0 && readers.size === 0) this.#entries.delete(key)
  }
}
