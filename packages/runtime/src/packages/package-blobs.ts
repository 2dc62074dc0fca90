/**
 * Packed code of a cluster. In the control store `packages/DIGEST` says how long it is and where; it is there in parts, `package/DIGEST/N`, or as one
 * file in the place that the cluster has for packages. What `packages/` names is complete: that is written last and deleted first. Beyond a quota what
 * was stored longest ago goes: a program that still runs from that would fail on nodes that have not fetched it yet.
 */
import { LIMITS } from '../limits.ts'
import { openPlace, type PackagePlace, withPlace } from './package-place.ts'

/** The part of a control store that this uses. */
export interface BlobStore {
  /** Of all packages together. */
  readonly quotaBytes: number
  get(key: string): Promise<{ readonly value: Uint8Array } | undefined>
  scan(prefix: string): Promise<readonly { readonly key: string; readonly value: Uint8Array }[]>
  /** All or none; `undefined` deletes. */
  write(batch: readonly { readonly key: string; readonly value: Uint8Array | undefined }[]): Promise<unknown>
}

/** For a cluster whose head keeps nothing. */
export function blobsInMemory(): BlobStore {
  const values = new Map<string, Uint8Array>()
  return {
    quotaBytes: LIMITS.packageMemoryBytes,
    get: async (key) => {
      const value = values.get(key)
      return value && { value }
    },
    scan: async (prefix) => [...values].filter(([key]) => key.startsWith(prefix)).map(([key, value]) => ({ key, value })),
    write: async (batch) => {
      for (const { key, value } of batch) {
        if (value) values.set(key, value)
        else values.delete(key)
      }
    },
  }
}

interface Stored {
  readonly bytes: number
  readonly partBytes: number
  readonly storedMs: number
  /** URL of its place; "": its parts are in the store. */
  readonly place: string
}

export interface PackageBlobsOptions {
  readonly store: BlobStore
  /** URL of a place for what comes; default: the store itself. */
  readonly place?: string
  readonly partBytes?: number
}

/** What is at an offset, or the URL of the place that has all of it. */
export interface BlobPart {
  readonly chunk: Uint8Array
  readonly bytes: number
  readonly place: string
}

const NOTHING = new Uint8Array()

const headKey = (digest: string): string => `packages/${digest}`
const partKey = (digest: string, part: number): string => `package/${digest}/${part}`
const fileName = (digest: string): string => `${digest}.tgz`

/** Straight from the place that has it. */
export function readPlace(place: string, digest: string, bytes: number): Promise<Uint8Array> {
  return withPlace(place, (opened) => opened.read(fileName(digest), 0, bytes))
}

export class PackageBlobs {
  readonly #store: BlobStore
  readonly #place: string
  readonly #opened: PackagePlace | undefined
  readonly #partBytes: number

  constructor({ store, place = '', partBytes = LIMITS.packageChunkBytes }: PackageBlobsOptions) {
    this.#store = store
    this.#place = place
    this.#opened = place === '' ? undefined : openPlace(place)
    this.#partBytes = partBytes
  }

  /** Done at once when it is there already. */
  async put(digest: string, bytes: Uint8Array): Promise<void> {
    if (await this.has(digest)) return
    const partBytes = this.#partBytes
    if (this.#opened) await this.#opened.write(fileName(digest), bytes)
    else
      for (let part = 0; part * partBytes < bytes.length; part++)
        await this.#store.write([{ key: partKey(digest, part), value: bytes.subarray(part * partBytes, (part + 1) * partBytes) }])
    const stored: Stored = { bytes: bytes.length, partBytes, storedMs: Date.now(), place: this.#place }
    await this.#store.write([{ key: headKey(digest), value: Buffer.from(JSON.stringify(stored)) }])
    await this.#shrink(digest)
  }

  /** What is at `offset`, which the parts before end at. */
  async part(digest: string, offset: number): Promise<BlobPart | undefined> {
    const stored = await this.#find(digest)
    if (!stored) return undefined
    const { bytes, place } = stored
    if (place !== '') return { chunk: NOTHING, bytes, place }
    const found = await this.#store.get(partKey(digest, Math.floor(offset / stored.partBytes)))
    return found && { chunk: found.value.subarray(offset % stored.partBytes), bytes, place }
  }

  /** Whether it is where it would be put now. Others may remove what is in a place: it is asked. */
  async has(digest: string): Promise<boolean> {
    const stored = await this.#find(digest)
    if (stored?.place !== this.#place) return false
    if (!this.#opened) return true
    try {
      await this.#opened.read(fileName(digest), stored.bytes - 1, 1)
      return true
    } catch {
      return false
    }
  }

  async get(digest: string): Promise<Uint8Array | undefined> {
    const parts: Uint8Array[] = []
    for (let offset = 0; ; ) {
      const part = await this.part(digest, offset)
      if (!part) return undefined
      if (part.place !== '') return readPlace(part.place, digest, part.bytes)
      parts.push(part.chunk)
      offset += part.chunk.length
      if (offset >= part.bytes) return Buffer.concat(parts)
    }
  }

  async #find(digest: string): Promise<Stored | undefined> {
    const found = await this.#store.get(headKey(digest))
    return found && parse(found.value)
  }

  /** All of them. */
  async clear(): Promise<void> {
    for (const stored of await this.#list()) await this.#remove(stored)
  }

  async #list(): Promise<(Stored & { readonly digest: string })[]> {
    return (await this.#store.scan(headKey(''))).map(({ key, value }) => ({ digest: key.slice(headKey('').length), ...parse(value) }))
  }

  async #remove({ digest, bytes, partBytes, place }: Stored & { readonly digest: string }): Promise<void> {
    await this.#store.write([{ key: headKey(digest), value: undefined }])
    if (place !== '') return withPlace(place, (opened) => opened.remove(fileName(digest)))
    await this.#store.write(Array.from({ length: Math.ceil(bytes / partBytes) }, (_, part) => ({ key: partKey(digest, part), value: undefined })))
  }

  get #quotaBytes(): number {
    return this.#opened ? LIMITS.packagePlaceBytes : this.#store.quotaBytes
  }

  async #shrink(newest: string): Promise<void> {
    const all = await this.#list()
    let total = all.reduce((sum, { bytes }) => sum + bytes, 0)
    for (const stored of all.toSorted((a, b) => a.storedMs - b.storedMs)) {
      if (total <= this.#quotaBytes) return
      if (stored.digest === newest) continue
      total -= stored.bytes
      await this.#remove(stored)
    }
  }
}

function parse(value: Uint8Array): Stored {
  return JSON.parse(Buffer.from(value).toString()) as Stored
}
