/** A daemon with stand-in workers, and a driver made of a link only, for tests of the daemon alone. */
import { ANYWHERE } from '../shapes.ts'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { type DaemonHandle, type StartDaemonOptions, startDaemon } from '../../src/daemon/start.ts'
import type { JobConfig, NodeMessage, ProcessMessage, Resources, Shape } from '../../src/net/gen/node.ts'
import { dial } from '../../src/net/dial.ts'
import { type Link, NODE_SERVICE } from '../../src/net/link.ts'
import type { MessageBody } from '../../src/state/events.ts'

export type Case = MessageBody['$case']
export type ValueOf<C extends Case> = Extract<MessageBody, { $case: C }>['value']

export const newId = (): string => randomBytes(8).toString('hex')
export const CPU: Resources = { cpus: 10_000, gpus: 0, memoryBytes: 0, custom: {} }
export const shapeOf = (resources: Partial<Resources> = CPU, env: Record<string, string> = {}, placementGroup: string = '', bundle: number = -1): Shape => ({
  resources: { cpus: 0, gpus: 0, memoryBytes: 0, custom: {}, ...resources },
  env,
  placementGroup,
  bundle,
  ...ANYWHERE,
})

export async function startTestDaemon(options: Partial<StartDaemonOptions> = {}): Promise<DaemonHandle & AsyncDisposable> {
  const workerEntry = new URL('./stand-in-worker.ts', import.meta.url).pathname
  process.env['BEAMLINE_VALIDATE'] = '1'
  const daemon = await startDaemon({ embedded: true, cpus: 2, gpus: 0, storeBytes: 64 * 1024 * 1024, execArgv: [], workerEntry, ...options })
  return Object.assign(daemon, { [Symbol.asyncDispose]: () => daemon.stop() })
}

/** Everything that arrives is kept; `next` waits for a message of one kind that was not taken yet. */
export class StandInDriver {
  readonly id: string
  readonly link: Link<ProcessMessage, NodeMessage>
  readonly #arrived: MessageBody[] = []
  #waiters: (() => void)[] = []
  #closed: Error | undefined | false = false

  constructor(daemon: { address: string; token: string }, options: { kind?: string; id?: string; pid?: number; job?: Partial<JobConfig> } = {}) {
    this.id = options.id ?? newId()
    this.link = dial(NODE_SERVICE, daemon.address, daemon.token)
    this.link.onMessage(({ body }) => {
      if (body === undefined) return
      this.#arrived.push(body)
      this.#wake()
    })
    this.link.onClose((error) => {
      this.#closed = error
      this.#wake()
    })
    const job = {
      name: 'test.ts',
      namespace: '',
      cwd: process.cwd(),
      entry: '/test.ts',
      execArgv: [],
      env: {},
      logToDriver: true,
      package: '',
      root: '',
      modules: [],
      ...options.job,
    }
    const kind = options.kind ?? 'driver'
    this.send({
      $case: 'hello',
      value: { process: this.id, kind, pid: options.pid ?? process.pid, address: '', job: kind === 'driver' ? job : undefined, attach: 1 },
    })
  }

  send(body: NonNullable<ProcessMessage['body']>): void {
    this.link.send({ body })
  }

  demand(key: number, wanted: number, shape: Shape = shapeOf()): void {
    this.send({ $case: 'leaseDemand', value: { key, shape, wanted, backlog: wanted, label: `task ${key}`, seen: 0 } })
  }

  /** The next message of this kind, in order of arrival; rejects when the link closes or after `timeoutMs`. */
  async next<C extends Case>(kind: C, accept: (value: ValueOf<C>) => boolean = () => true, timeoutMs: number = 5_000): Promise<ValueOf<C>> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const index = this.#arrived.findIndex((body) => body.$case === kind && accept(body.value as ValueOf<C>))
      if (index >= 0) return (this.#arrived.splice(index, 1)[0] as unknown as { value: ValueOf<C> }).value
      if (this.#closed !== false) throw new Error(`the link closed while a test waited for ${kind}: ${this.#closed?.message}`)
      const left = deadline - performance.now()
      if (left <= 0) throw new Error(`no ${kind} in ${timeoutMs} ms; waiting: ${this.#arrived.map((body) => body.$case).join(', ')}`)
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#waiters.push(resolve)
      const timer = setTimeout(resolve, left)
      await promise
      clearTimeout(timer)
    }
  }

  /** How many messages of a kind have arrived and were not taken. */
  count(kind: Case): number {
    return this.#arrived.filter((body) => body.$case === kind).length
  }

  async query<T>(what: string, limit: number = 100): Promise<T> {
    const request = Math.floor(Math.random() * 2 ** 31)
    this.send({ $case: 'query', value: { request, what, limit } })
    return JSON.parse((await this.next('queryReply', (reply) => reply.request === request)).json) as T
  }

  #wake(): void {
    for (const waiter of this.#waiters.splice(0)) waiter()
  }
}

/** True once no such process exists. */
export function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return false
  } catch {
    return true
  }
}

/** Waits (polling: the system tells nobody) until `holds`; for the end of processes that are not ours. */
export async function eventually(holds: () => boolean, what: string, timeoutMs: number = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!holds()) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export const isClean = (daemon: { sessionDir: string; storeDir: string }): boolean => !existsSync(daemon.sessionDir) && !existsSync(daemon.storeDir)
