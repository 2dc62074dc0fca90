/**
 * Packed code as a node daemon deals with it: what programs here give, what other daemons ask, and what workers here run from.
 */
import { hostname } from 'node:os'
import type { MeshMessage } from '../net/gen/mesh.ts'
import type { Assign, Failure, PackagePut } from '../net/gen/node.ts'
import { type BlobStore, PackageBlobs } from './package-blobs.ts'
import { PackageCache } from './package-cache.ts'
import { PackageExchange } from './package-exchange.ts'

type MeshBody = NonNullable<MeshMessage['body']>

export interface NodePackagesOptions {
  /** Where packages are unpacked: the first that has room. */
  readonly dirs: readonly string[]
  /** At the head: where they are kept, or what is where. */
  readonly store: BlobStore | undefined
  /** At the head: URL of the place for them; "": the store. */
  readonly place: string
  readonly toHead: (body: MeshBody) => void
  readonly toNode: (node: string, body: MeshBody) => void
}

export class NodePackages {
  readonly #exchange: PackageExchange
  readonly #cache: PackageCache
  readonly #blobs: PackageBlobs | undefined

  constructor({ dirs, store, place, toHead, toNode }: NodePackagesOptions) {
    const blobs = store && new PackageBlobs({ store, place })
    this.#blobs = blobs
    this.#exchange = new PackageExchange({ blobs, toHead, toNode })
    this.#cache = new PackageCache({ dirs, fetch: (digest) => this.#exchange.fetch(digest) })
  }

  /** A part from a process of this node. @returns what to answer, if anything */
  put(process: string, part: PackagePut): Promise<{ readonly failure: Failure | undefined } | undefined> {
    return this.#exchange.put(process, part)
  }

  /** @returns false: the message is about something else */
  message(node: string, body: MeshBody): boolean {
    return this.#exchange.message(node, body)
  }

  /** The assignment of a worker with the folder of its code, or with the reason for which there is none. */
  async place(assign: Assign): Promise<Assign> {
    try {
      return { ...assign, packageDir: await this.#cache.folder(assign.package, assign.job) }
    } catch (error) {
      const hint = 'start the program again, so that its code is stored anew'
      const details = { what: `the code of ${assign.root}`, path: assign.package, host: hostname(), reason: (error as Error).message, hint }
      return { ...assign, failure: { code: 'ENVIRONMENT_INVALID', detailsJson: JSON.stringify(details) } }
    }
  }

  jobEnded(job: string): void {
    this.#cache.jobEnded(job)
  }

  /** At the head, when its cluster ends: nothing is kept. */
  async clear(): Promise<void> {
    await this.#blobs?.clear()
  }

  /** A process of this node, or another node, is gone. */
  gone(sender: string): void {
    this.#exchange.forget(sender)
  }
}
