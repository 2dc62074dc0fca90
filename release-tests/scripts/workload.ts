/**
 * What the release tests run on the cluster: no-op tasks and actors, and tasks and actors that are clients themselves.
 * A module of its own, so that workers import it by its exports. Values are two bytes, as in the reference system's suite.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { get, put, remote } from '@beamline/runtime'
import type { ActorHandle, ObjectRef } from '@beamline/runtime'
import { processReport } from '@beamline/runtime/testing'
import { collectGarbage, type ProcessHeap } from '../src/heap.ts'

/** The payload of every no-op. */
export const OK = 'ok'

export const smallValue = remote(function smallValue(): string {
  return OK
})

/** `count` puts of a small value, one after the other. */
export const putSmallValues = remote(async function putSmallValues(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) (await put(0)).release()
})

/** `count` puts of a fresh array of zeros. */
export const putLargeValues = remote(async function putLargeValues(count: number, bytes: number): Promise<void> {
  for (let index = 0; index < count; index += 1) (await put(new Uint8Array(bytes))).release()
})

/** A list of references to as many small objects. */
export const listOfRefs = remote(async function listOfRefs(count: number): Promise<ObjectRef<number>[]> {
  return Promise.all(Array.from({ length: count }, () => put(1)))
})

export class Server {
  smallValue(): string {
    return OK
  }

  smallValueWithArg(_argument: number): string {
    return OK
  }

  /** Submit tasks and wait for them: an actor as a client. */
  async submitTasks(count: number): Promise<void> {
    await get(Array.from({ length: count }, () => smallValue.remote()))
  }
}

export class AsyncServer {
  async smallValue(): Promise<string> {
    return OK
  }

  async smallValueWithArg(_argument: number): Promise<string> {
    return OK
  }
}

/** An actor that calls other actors. */
export class Client {
  readonly #servers: readonly ActorHandle<Server | AsyncServer>[]

  constructor(servers: readonly ActorHandle<Server | AsyncServer>[]) {
    this.#servers = servers
  }

  async callEach(count: number): Promise<void> {
    await get(this.#servers.flatMap((server) => Array.from({ length: count }, () => server.smallValue.remote())))
  }

  async callEachWithRef(count: number): Promise<void> {
    using ref = await put(0)
    await get(this.#servers.flatMap((server) => Array.from({ length: count }, () => server.smallValueWithArg.remote(ref))))
  }
}

/** `count` calls, spread evenly over the actors: a task as a client. */
export const callInTurn = remote(async function callInTurn(servers: readonly ActorHandle<Server | AsyncServer>[], count: number): Promise<void> {
  await get(
    Array.from({ length: count }, (_, index) => {
      const server = servers[index % servers.length]
      if (server === undefined) throw new RangeError('no servers')
      return server.smallValue.remote()
    }),
  )
})

/** What the worker that runs this holds, after a garbage collection. It stays for `ms`, so that as many calls as there are workers reach them all. */
export const holdings = remote(async function holdings(ms: number): Promise<ProcessHeap & { readonly references: number }> {
  const heap = await collectGarbage()
  const { ownedObjects, borrowedObjects } = processReport()
  await delay(ms)
  return { ...heap, references: ownedObjects + borrowedObjects }
})

/** Bytes in shared memory as an argument, and bytes of the same size as a result. */
export const echoBytes = remote(function echoBytes(bytes: Uint8Array): Uint8Array {
  return bytes.slice()
})

/** A reference inside an argument: the task borrows the object. */
export const readNested = remote(async function readNested({ ref }: { readonly ref: ObjectRef<Uint8Array> }): Promise<number> {
  return (await get(ref)).byteLength
})
