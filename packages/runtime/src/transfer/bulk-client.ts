/**
 * The receiving side of the object plane: fetches of chunks from other nodes, over connections that are kept for a while.
 */
import { debug } from '../debug.ts'
import { type Answer, Connection, type ConnectionConfig } from './bulk-connection.ts'
import type { BulkRequest } from './bulk-protocol.ts'
import type { ChunkRange, Chunks } from './chunks.ts'
import type { FetchOutcome } from './pull-events.ts'

/** Connections that nobody uses are kept, so many of them per node, until they end by themselves. */
const IDLE_MAX = 4
/** A chunk that arrives damaged so often is not going to arrive. */
const DAMAGED_MAX = 3
/** One core encrypts one stream: with TLS the chunks of an object come over several. Parts smaller than this are not worth a connection. */
const TLS_STREAMS = 4
const TLS_PART_CHUNKS_MIN = 2

const log = debug('transfer')

export interface FetchOptions {
  readonly node: string
  /** HOST:PORT of its bulk server. */
  readonly address: string
  readonly request: Omit<BulkRequest, 'have' | 'wanted'>
  readonly memory: Uint8Array
  /** Those that are missing are fetched and added. */
  readonly chunks: Chunks
  readonly signal: AbortSignal
}

export class BulkClient {
  readonly #config: ConnectionConfig
  readonly #connections = new Set<Connection>()
  /** By node, the one used last at the end. */
  readonly #idle = new Map<string, Connection[]>()
  #receivedBytes = 0
  #damaged = 0

  constructor(config: ConnectionConfig) {
    this.#config = config
  }

  /** Bytes on the wire, and chunks that arrived damaged and were fetched again. */
  get counts(): { receivedBytes: number; damaged: number; connections: number } {
    let receivedBytes = this.#receivedBytes
    for (const connection of this.#connections) receivedBytes += connection.receivedBytes
    return { receivedBytes, damaged: this.#damaged, connections: this.#connections.size }
  }

  /** Never rejects. When `signal` aborts, nothing is written to the memory from that moment on. */
  async fetch(options: FetchOptions): Promise<FetchOutcome> {
    const { chunks, signal } = options
    const damaged = new Map<number, number>()
    do {
      const missing = chunks.missing()
      const parts = this.#config.tls ? split(missing) : [missing]
      const answers = await Promise.all(parts.map((wanted) => this.#ask(options, wanted, damaged)))
      if (signal.aborted) return { kind: 'cut', reason: 'stopped' }
      for (const answer of answers) if (answer.kind !== 'end') return answer
      for (const [index, times] of damaged) {
        if (times >= DAMAGED_MAX) return { kind: 'gone', reason: `chunk ${index} arrived with a wrong checksum ${times} times` }
      }
    } while (!chunks.whole)
    return { kind: 'whole' }
  }

  /** Ends the connections to a node that is dead. */
  drop(node: string): void {
    for (const connection of this.#connections) if (connection.node === node) connection.end(`node ${node} is dead`)
  }

  /** Ends every connection; resolves when they are closed. */
  async close(): Promise<void> {
    const connections = [...this.#connections]
    for (const connection of connections) connection.end('this node stops')
    await Promise.all(connections.map(({ closed }) => closed))
  }

  async #ask(options: FetchOptions, wanted: readonly ChunkRange[], damaged: Map<number, number>): Promise<Answer> {
    const { node, address, request, memory, chunks, signal } = options
    const connection = this.#take(node) ?? (await this.#open(node, address))
    const stop = (): void => connection.end('stopped')
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop)
    const answer = await connection.ask({ ...request, have: chunks.count, wanted }, memory, chunks, (index) => {
      this.#damaged++
      damaged.set(index, (damaged.get(index) ?? 0) + 1)
      log(() => `chunk ${index} of ${request.owner}:${request.object} arrived damaged from node ${node}`)
    })
    signal.removeEventListener('abort', stop)
    this.#keep(connection)
    return answer
  }

  async #open(node: string, address: string): Promise<Connection> {
    const connection = await Connection.open(node, address, this.#config)
    this.#connections.add(connection)
    void connection.closed.then(() => this.#closed(connection))
    return connection
  }

  #take(node: string): Connection | undefined {
    const idle = this.#idle.get(node)
    for (let connection = idle?.pop(); connection; connection = idle?.pop()) if (connection.usable) return connection
    return undefined
  }

  #keep(connection: Connection): void {
    if (!connection.usable) return
    const idle = this.#idle.get(connection.node)?.filter(({ usable }) => usable) ?? []
    if (idle.length >= IDLE_MAX) return connection.end('it is not needed')
    this.#idle.set(connection.node, [...idle, connection])
  }

  #closed(connection: Connection): void {
    this.#connections.delete(connection)
    this.#receivedBytes += connection.receivedBytes
    const idle = this.#idle.get(connection.node)?.filter(({ usable }) => usable)
    if (idle?.length) this.#idle.set(connection.node, idle)
    else this.#idle.delete(connection.node)
  }
}

/** Cuts ranges into parts of about equal size. */
function split(ranges: readonly ChunkRange[]): ChunkRange[][] {
  const total = ranges.reduce((sum, [, count]) => sum + count, 0)
  const streams = Math.max(1, Math.min(TLS_STREAMS, Math.floor(total / TLS_PART_CHUNKS_MIN)))
  const parts: ChunkRange[][] = Array.from({ length: streams }, () => [])
  const share = Math.ceil(total / streams)
  let part = 0
  let room = share
  for (const [first, count] of ranges) {
    for (let start = first; start < first + count; ) {
      const taken = Math.min(room, first + count - start)
      parts[part]!.push([start, taken])
      start += taken
      room -= taken
      if (room === 0 && part < streams - 1) {
        part++
        room = share
      }
    }
  }
  return parts.filter((ranges, index) => ranges.length > 0 || index === 0)
}
