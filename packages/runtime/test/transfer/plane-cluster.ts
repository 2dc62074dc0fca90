/**
 * Object planes in processes of their own, with real sockets and segments. The test stands for daemons, processes and the mesh between the nodes:
 * it carries their messages, and may put a relay before a node's bulk server that cuts or damages what passes.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import type { NodeMessage, ObjectPinned } from '../../src/net/gen/node.ts'
import type { ObjectName } from '../../src/transfer/copy-store.ts'
import type { PlaneNode } from '../../src/transfer/object-plane.ts'
import { contentOf, type Look, type Order, type Tale } from './plane-messages.ts'

type NodeBody = NonNullable<NodeMessage['body']>

const MEMORY = process.platform === 'linux' ? '/dev/shm' : '/tmp'

export interface PlaneClusterOptions {
  readonly nodes: number
  readonly capacityBytes?: number
  readonly tlsDir?: string
  readonly env?: Readonly<Record<string, string>>
  /** Of each node; default: the same. */
  readonly tokens?: readonly string[]
  /** Every message between nodes arrives so often; default 1. */
  readonly copiesOfMessages?: number
}

export class PlaneProcess {
  readonly node: string
  readonly child: ChildProcess
  address = ''
  draining = false
  dead = false
  readonly #cluster: PlaneCluster
  readonly #orders = new Map<number, (result: unknown) => void>()
  readonly #pins = new Map<string, (pinned: ObjectPinned) => void>()
  /** Messages to processes that answer no pin. */
  readonly toProcesses: { process: string; body: NodeBody }[] = []
  #woken: () => void = () => {}
  #nextOrder = 1
  #nextPin = 1

  constructor(cluster: PlaneCluster, node: string, child: ChildProcess) {
    this.#cluster = cluster
    this.node = node
    this.child = child
    child.on('message', (tale: Tale) => this.#hear(tale))
  }

  tell(order: Order): void {
    if (this.child.connected) this.child.send(order)
  }

  async put(name: ObjectName, bytes: number): Promise<void> {
    await this.#ask((order) => ({ kind: 'put', order, name, bytes }))
  }

  /** A process of this node reads an object whose primary copy is on `primary`. */
  pin(name: ObjectName, bytes: number, primary: PlaneProcess, use = 'get', process = 'reader'): { id: number; pinned: Promise<ObjectPinned> } {
    const id = this.#nextPin++
    const pinned = new Promise<ObjectPinned>((resolve) => this.#pins.set(`${process}/${id}`, resolve))
    const place = { segment: 'somewhere', offset: 0, bytes, node: primary.node, ...name }
    this.tell({ kind: 'pin', process, pin: { pin: id, ...name, node: primary.node, place, use, ownerAddress: '' } })
    return { id, pinned }
  }

  async look(): Promise<Look> {
    return (await this.#ask((order) => ({ kind: 'look', order }))) as Look
  }

  async drain(deadlineMs: number): Promise<unknown> {
    return await this.#ask((order) => ({ kind: 'drain', order, deadlineMs }))
  }

  async close(): Promise<void> {
    await this.#ask((order) => ({ kind: 'close', order }))
  }

  /** The next message to a process that is not the answer to a pin. */
  async toProcess(): Promise<{ process: string; body: NodeBody }> {
    for (;;) {
      const message = this.toProcesses.shift()
      if (message) return message
      await new Promise<void>((resolve) => {
        this.#woken = resolve
      })
    }
  }

  async kill(): Promise<void> {
    this.dead = true
    if (this.child.exitCode !== null || this.child.signalCode !== null) return
    this.child.kill('SIGKILL')
    await once(this.child, 'exit')
  }

  #ask(make: (order: number) => Order): Promise<unknown> {
    const order = this.#nextOrder++
    return new Promise((resolve) => {
      this.#orders.set(order, resolve)
      this.tell(make(order))
    })
  }

  #hear(tale: Tale): void {
    switch (tale.kind) {
      case 'listening':
        this.address = tale.address
        this.#cluster.listening()
        break
      case 'to-node':
        for (let copy = 0; copy < this.#cluster.copiesOfMessages; copy++) {
          this.#cluster.node(tale.node)?.tell({ kind: 'mesh', from: this.node, body: tale.body })
        }
        break
      case 'to-process': {
        const { process, body } = tale
        if (body.$case === 'objectPinned') {
          const key = `${process}/${body.value.pin}`
          const resolve = this.#pins.get(key)
          if (!resolve) throw new Error(`pin ${key} was answered twice`)
          this.#pins.delete(key)
          resolve(body.value)
        } else {
          this.toProcesses.push({ process, body })
          this.#woken()
        }
        break
      }
      case 'done':
        this.#orders.get(tale.order)?.(tale.result)
        this.#orders.delete(tale.order)
        break
    }
  }
}

export class PlaneCluster {
  readonly nodes: PlaneProcess[] = []
  readonly copiesOfMessages: number
  readonly #directory: string
  readonly #relays: Relay[] = []
  #listening: () => void = () => {}

  private constructor(copiesOfMessages: number) {
    this.copiesOfMessages = copiesOfMessages
    this.#directory = mkdtempSync(join(MEMORY, 'beamline-transfer-'))
  }

  static async start({ nodes, capacityBytes = 2 ** 30, tlsDir = '', env = {}, tokens = [], copiesOfMessages = 1 }: PlaneClusterOptions): Promise<PlaneCluster> {
    const cluster = new PlaneCluster(copiesOfMessages)
    for (let index = 0; index < nodes; index++) {
      const node = `node${index}`
      const directory = join(cluster.#directory, node)
      mkdirSync(directory)
      const args = [node, directory, tokens[index] ?? 'secret', String(capacityBytes), tlsDir]
      const program = new URL('./fixtures/plane-node.ts', import.meta.url).pathname
      const child = fork(program, args, { execArgv: ['--conditions=@beamline/source'], env: { ...process.env, ...env } })
      cluster.nodes.push(new PlaneProcess(cluster, node, child))
    }
    while (cluster.nodes.some(({ address }) => !address)) {
      await new Promise<void>((resolve) => {
        cluster.#listening = resolve
      })
    }
    cluster.introduce()
    return cluster
  }

  listening(): void {
    this.#listening()
  }

  node(name: string): PlaneProcess | undefined {
    return this.nodes.find(({ node, dead }) => node === name && !dead)
  }

  /** Tells everybody who there is; readers of `instead` use its relay. */
  introduce(instead: ReadonlyMap<PlaneProcess, Relay> = new Map()): void {
    for (const node of this.nodes) {
      const others = this.nodes.filter((other) => other !== node && !other.dead)
      const nodes = others.map((other): PlaneNode => {
        const bulkAddress = instead.get(other)?.address ?? other.address
        return { node: other.node, bulkAddress, draining: other.draining, freeBytes: 2 ** 30 }
      })
      node.tell({ kind: 'nodes', nodes })
    }
  }

  async relay(target: PlaneProcess): Promise<Relay> {
    const relay = await Relay.start(target.address)
    this.#relays.push(relay)
    this.introduce(new Map([[target, relay]]))
    return relay
  }

  async kill(node: PlaneProcess): Promise<void> {
    await node.kill()
    for (const other of this.nodes) if (!other.dead) other.tell({ kind: 'node-lost', node: node.node })
    this.introduce()
  }

  async stop(): Promise<void> {
    for (const relay of this.#relays) relay.close()
    await Promise.all(
      this.nodes.map(async ({ child }) => {
        if (child.exitCode !== null || child.signalCode !== null) return
        const exited = once(child, 'exit')
        child.disconnect()
        await exited
      }),
    )
    rmSync(this.#directory, { recursive: true })
  }
}

/** Passes connections on, and does to the bytes of the source what it is told. */
export class Relay {
  address = ''
  /** Bytes that came from the source. */
  bytes = 0
  connections = 0
  /** Called with the bytes and their position among all of the source; returns false to cut all connections. */
  onBytes: (bytes: Buffer, position: number) => boolean = () => true
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(server: Server) {
    this.#server = server
  }

  static async start(target: string): Promise<Relay> {
    const [host, port] = target.split(':')
    const server = createServer((reader) => {
      relay.connections++
      const source = connect({ host, port: Number(port) })
      for (const socket of [reader, source]) {
        relay.#sockets.add(socket)
        socket.on('error', () => {})
        socket.on('close', () => {
          relay.#sockets.delete(socket)
          reader.destroy()
          source.destroy()
        })
      }
      reader.pipe(source)
      source.on('data', (bytes: Buffer) => {
        const passes = relay.onBytes(bytes, relay.bytes)
        relay.bytes += bytes.length
        if (!passes) return relay.cut()
        if (!reader.write(bytes)) {
          source.pause()
          reader.once('drain', () => source.resume())
        }
      })
    })
    const relay = new Relay(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    relay.address = `127.0.0.1:${(server.address() as { port: number }).port}`
    return relay
  }

  /** From now on the connections that there are bring nothing more, and do not break either. */
  swallow(): void {
    for (const socket of this.#sockets) {
      socket.removeAllListeners('data')
      socket.unpipe()
      socket.pause()
    }
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  close(): void {
    this.cut()
    this.#server.close()
  }
}

/** Whether the memory that a pin was answered with holds exactly the object. */
export function holds({ path, offset, bytes, failure }: ObjectPinned, name: ObjectName): boolean {
  if (failure) throw new Error(`${failure.code}: ${failure.detailsJson}`)
  const content = Buffer.alloc(bytes)
  const file = openSync(path, 'r')
  try {
    for (let at = 0; at < bytes; ) at += readSync(file, content, at, bytes - at, offset + at)
  } finally {
    closeSync(file)
  }
  return content.equals(contentOf(name, bytes))
}
