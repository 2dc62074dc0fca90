/**
 * What the tests of objects between nodes run. A module of its own, so that workers import it by its exports.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { get, init, type ObjectRef, put, remote } from '@beamline/runtime'
import { startTestCluster, type TestCluster, until } from '@beamline/runtime/testing'

export const BYTES: number = 256 * 1_048_576

const STAMP_EVERY = 65_536

/** Custom resource that the node of the n-th reader has. */
const readerOn = (index: number): string => `reader-${index}`

export interface Reading {
  /** From the question until the value is there. */
  readonly seconds: number
  /** Of what was read: the numbers that {@link putStamped} wrote are right. */
  readonly right: boolean
}

/** Reads objects on its node, and keeps nothing of them. */
export class Reader {
  /** @param box - the reference in an array, since a reference itself would be read before the call */
  async read(box: readonly [ObjectRef<Uint8Array>], stamp: number): Promise<Reading> {
    const startMs = performance.now()
    const value = await get(box[0])
    const seconds = (performance.now() - startMs) / 1000
    box[0].release()
    let right = value.length === BYTES
    for (let at = 0; at < BYTES; at += STAMP_EVERY) right &&= value[at] === stampAt(stamp, at)
    return { seconds, right }
  }

  /** What was read goes when it is collected. */
  async collect(): Promise<void> {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    for (let turn = 0; turn < 3; turn++) {
      gc()
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
}

function stampAt(stamp: number, at: number): number {
  return (stamp * 31 + at / STAMP_EVERY) % 251
}

/** A program on the first node, and a reader on each of the others. All segments are big enough for two objects at a time. */
export interface Readers extends AsyncDisposable {
  readonly cluster: TestCluster
  /**
   * Puts a new object on the first node, which all readers ask for at the same moment.
   *
   * @returns seconds: until the last reader had it, and of each reader
   */
  round(): Promise<{ readonly seconds: number; readonly each: readonly number[] }>
}

/** @param tls - between the nodes everything is encrypted */
export async function startReaders(count: number, tls: boolean = false): Promise<Readers> {
  const nodes = Array.from({ length: count + 1 }, (_, index) => (index === 0 ? {} : { resources: { [readerOn(index)]: 1 } }))
  const cluster = await startTestCluster({ nodes, cpus: 1, storeBytes: 3 * BYTES, tls })
  using _here = cluster.head.settle()
  const program = await init({ quiet: true })
  const readers = nodes.slice(1).map((_, index) => remote(Reader, { resources: { [readerOn(index + 1)]: 1 } }).remote())
  const value = new Uint8Array(BYTES)
  let stamp = 0
  return {
    cluster,
    async round() {
      stamp++
      for (let at = 0; at < BYTES; at += STAMP_EVERY) value[at] = stampAt(stamp, at)
      const ref = await put(value)
      const startMs = performance.now()
      const readings = await get(readers.map((reader) => reader.read.remote([ref], stamp)))
      const seconds = (performance.now() - startMs) / 1000
      if (!readings.every(({ right }) => right)) throw new Error('a reader got other bytes than were put')
      ref.release()
      await get(readers.map((reader) => reader.collect.remote()))
      await until('end of all copies', async () => {
        const objects = await cluster.head.list<{ bytes: number }>('objects')
        return objects.every(({ bytes }) => bytes < BYTES) || `${objects.length} objects are left`
      })
      return { seconds, each: readings.map((reading) => reading.seconds) }
    },
    async [Symbol.asyncDispose]() {
      await program[Symbol.asyncDispose]()
      await cluster[Symbol.asyncDispose]()
    },
  }
}
