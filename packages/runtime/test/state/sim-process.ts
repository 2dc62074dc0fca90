/**
 * Processes of a simulated cluster: drivers that demand leases, run tasks on them and use actors and groups, and workers that start actors.
 * They know what real ones know: what their daemon told them.
 */
import { JOB, shape } from './machine.ts'
import type { GroupCreate, ProcessMessage, Shape } from '../../src/net/gen/node.ts'
import type { MessageBody } from '../../src/state/events.ts'

export type ToDaemon = NonNullable<ProcessMessage['body']>

/** So many tasks of one shape. */
export interface Work {
  readonly key: number
  readonly shape: Shape
  pending: number
  done: number
}

interface HeldLease {
  readonly work: Work
  readonly worker: string
  running: boolean
  reclaimed: boolean
}

export class SimProcess {
  readonly id: string
  readonly kind: 'driver' | 'worker'
  node: string
  attach = 1
  readonly job = JOB
  readonly works: Work[] = []
  readonly leases: Map<number, HeldLease> = new Map()
  readonly groups: Map<string, { readonly create: GroupCreate; state: string }> = new Map()
  /** As this process last heard. */
  readonly actors: Map<string, { readonly detached: boolean; readonly maxRestarts: number; readonly shape: Shape; state: string; created: boolean }> = new Map()
  /** Of a worker: the actor in it. */
  actor = ''
  alive = true
  failed: string[] = []
  readonly #send: (message: ToDaemon) => void

  constructor(id: string, kind: 'driver' | 'worker', node: string, send: (message: ToDaemon) => void) {
    this.id = id
    this.kind = kind
    this.node = node
    this.#send = send
  }

  submit(key: number, of: Shape, count: number): void {
    let work = this.works.find((each) => each.key === key)
    if (work === undefined) {
      work = { key, shape: of, pending: 0, done: 0 }
      this.works.push(work)
    }
    work.pending += count
    this.#pump(work)
  }

  createActor(actor: string, detached: boolean, maxRestarts: number, of: Shape): void {
    this.actors.set(actor, { detached, maxRestarts, shape: of, state: '', created: false })
    this.#create(actor)
    this.#send({ $case: 'actorWatch', value: { actor, creates: true } })
  }

  stopActor(actor: string): void {
    this.#stopped.add(actor)
    this.#send({ $case: 'actorStop', value: { actor, force: true, noRestart: true, reason: 'the test ends' } })
  }

  createGroup(create: GroupCreate): void {
    this.groups.set(create.group, { create, state: '' })
    this.#send({ $case: 'groupCreate', value: create })
  }

  removeGroup(group: string): void {
    this.#removed.add(group)
    this.#send({ $case: 'groupRemove', value: { group } })
  }

  /** One of its leases gets on: a task ends. */
  step(random: () => number): void {
    const running = [...this.leases].filter(([, lease]) => lease.running)
    const chosen = running[Math.floor(random() * running.length)]
    if (chosen === undefined) return
    const [id, lease] = chosen
    lease.running = false
    lease.work.done++
    this.#next(id, lease)
  }

  receive(message: MessageBody): void {
    switch (message.$case) {
      case 'leaseGranted': {
        const { key, lease, worker, again } = message.value
        if (again && this.leases.has(lease)) return
        if (again && this.#returned.has(lease)) return this.#send({ $case: 'leaseReturn', value: { lease, retire: false } })
        const work = this.works.find((each) => each.key === key)
        if (work === undefined) return this.#send({ $case: 'leaseReturn', value: { lease, retire: false } })
        this.#demanded.set(key, Math.max(0, (this.#demanded.get(key) ?? 0) - 1))
        const held = { work, worker, running: false, reclaimed: false }
        this.leases.set(lease, held)
        this.#next(lease, held)
        return
      }
      case 'leaseReclaim': {
        const held = this.leases.get(message.value.lease)
        if (held === undefined) return
        held.reclaimed = true
        if (!held.running) this.#giveBack(message.value.lease)
        this.#pump(held.work)
        return
      }
      case 'workerLost':
        for (const lease of message.value.leases) this.#lose(lease)
        return
      case 'nodeLost':
        for (const lease of [...this.leases.keys()]) if (Math.floor(lease / 2 ** 32) === message.value.number) this.#lose(lease)
        return
      case 'controlLost':
        if (message.value.lost) return
        for (const [actor, { created }] of this.actors) {
          if (!created) this.#create(actor)
          this.#send({ $case: 'actorWatch', value: { actor, creates: !created } })
        }
        for (const { create, state } of this.groups.values()) if (state !== 'REMOVED') this.#send({ $case: 'groupCreate', value: create })
        // What has no answer is asked for again until its effect is seen.
        for (const actor of this.#stopped) this.stopActor(actor)
        for (const group of this.#removed) this.removeGroup(group)
        return
      case 'actorCreated': {
        const known = this.actors.get(message.value.actor)
        if (known !== undefined) known.created = true
        return
      }
      case 'actorState': {
        const known = this.actors.get(message.value.actor)
        if (known !== undefined) known.state = message.value.state
        return
      }
      case 'groupState': {
        const known = this.groups.get(message.value.group)
        if (known !== undefined) known.state = message.value.state
        return
      }
      case 'infeasible':
        if (!message.value.waits) {
          this.failed.push(message.value.text)
          const work = this.works.find((each) => each.key === message.value.key)
          if (work === undefined) return
          work.pending = 0
          this.#pump(work)
        }
        return
      case 'actorStart':
        this.actor = message.value.actor
        this.#send({ $case: 'actorStarted', value: { actor: this.actor, error: new Uint8Array(), errorText: '' } })
        return
      default:
        return
    }
  }

  /** Its daemon is another one. What it holds on the old node is lost. */
  attachedAgain(number: number | undefined): void {
    this.receive({ $case: 'nodeLost', value: { node: '', number: number ?? -1, cause: undefined, survivors: [] } })
    this.#demanded.clear()
    for (const work of this.works) this.#pump(work)
    this.receive({ $case: 'controlLost', value: { lost: false, reason: '' } })
  }

  readonly #returned: Set<number> = new Set()
  readonly #demanded: Map<number, number> = new Map()
  readonly #stopped: Set<string> = new Set()
  readonly #removed: Set<string> = new Set()

  #create(actor: string): void {
    const known = this.actors.get(actor)
    if (known === undefined) return
    const { detached, maxRestarts, shape: of } = known
    const value = { actor, name: '', namespace: '', className: 'A', detached, getIfExists: false, maxRestarts, shape: of, request: 1, stopTimeoutMs: 1_000 }
    this.#send({ $case: 'actorCreate', value: { ...value, creation: new Uint8Array(), handle: new Uint8Array() } })
  }

  #next(id: number, lease: HeldLease): void {
    if (lease.work.pending > 0 && !lease.reclaimed) {
      lease.work.pending--
      lease.running = true
    } else this.#giveBack(id)
    this.#pump(lease.work)
  }

  #giveBack(id: number): void {
    this.leases.delete(id)
    this.#returned.add(id)
    this.#send({ $case: 'leaseReturn', value: { lease: id, retire: false } })
  }

  #lose(id: number): void {
    const lease = this.leases.get(id)
    if (lease === undefined) return
    this.leases.delete(id)
    if (lease.running) lease.work.pending++
    this.#pump(lease.work)
  }

  #pump(work: Work): void {
    const wanted = Math.min(work.pending, 64)
    if (wanted === (this.#demanded.get(work.key) ?? 0)) return
    this.#demanded.set(work.key, wanted)
    const { key, shape: of, pending } = work
    this.#send({ $case: 'leaseDemand', value: { key, shape: of, wanted, backlog: pending, label: `f${key}`, seen: 0 } })
  }
}

export const cpus = (count: number, more: Partial<Shape> = {}): Shape => shape({ cpus: count * 10_000 }, more)
