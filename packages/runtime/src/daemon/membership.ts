/**
 * A node's place in a cluster whose head is elsewhere: it registers, sends heartbeats, finds the head again after that was restarted, and says when
 * this node must end its workers because it may have been declared dead (state/fence.ts).
 */
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { debug } from '../debug.ts'
import { BeamlineError } from '../errors.ts'
import type { Heartbeat, HeartbeatSeen, Register, Registered } from '../net/gen/mesh.ts'
import { Fence } from '../state/fence.ts'
import type { HeadRecord } from '../store/head-lease.ts'
import type { Mesh } from './mesh.ts'
import type { ClusterConfig } from './options.ts'

const log = debug('membership')

/** Between attempts to reach a head. */
const RETRY_MS = 200
/** How often a node looks whether it has something new to say. */
const LOOK_MS = 100
/** A connection that is neither taken nor refused in this time counts as silence. */
const PROBE_MS = 1_000
const STORE_MS = 1_000
/** How long the first contact may take. */
const JOIN_MS = 15_000

export interface MembershipOptions {
  readonly config: ClusterConfig
  readonly mesh: Mesh
  /** What the head must know of this node, at this moment. */
  readonly register: () => Register
  readonly heartbeat: () => Omit<Heartbeat, 'sequence'>
  /** A head took this node in, for the first time or again. */
  readonly registered: (registered: Registered, again: boolean) => void
  /** No head answers; requests wait. */
  readonly headLost: (reason: string) => void
  /** This node must not have workers any more. Called once. */
  readonly fenced: (reason: string) => void
}

export class Membership {
  readonly #options: MembershipOptions
  /** HOST:PORT and node of the head. */
  #address: string
  #head = ''
  #cluster = ''
  #fence: Fence | undefined
  #heartbeatMs = 0
  #epoch = 0
  #sequence = 0
  /** What the last heartbeat said of this node, and when. */
  #told = ''
  #toldMs = 0
  /** When the heartbeats without an answer were sent. */
  readonly #sent: Map<number, number> = new Map()
  #registerSentMs = 0
  #heardMs = 0
  #ticker: NodeJS.Timeout | undefined
  #probing = false
  #meeting = false
  /** URL of the control store when this node can look into it. */
  #store: string
  #over = false

  constructor(options: MembershipOptions) {
    this.#options = options
    this.#address = options.config.headAddress
    this.#store = options.config.lookIn
  }

  get head(): string {
    return this.#head
  }

  get headAddress(): string {
    return this.#address
  }

  /** URL of the store in which this node can look for the head; "": there is none. */
  get lookIn(): string {
    return this.#store
  }

  get cluster(): string {
    return this.#cluster
  }

  /** Find the head: the daemon at the address, or the one that it names. */
  async find(): Promise<void> {
    const { again, headTimeoutMs } = this.#options.config
    const deadline = performance.now() + (again ? headTimeoutMs : JOIN_MS)
    for (;;) {
      try {
        await this.#meet(this.#address)
        return
      } catch (error) {
        if (BeamlineError.is(error) || performance.now() > deadline) {
          if (BeamlineError.is(error)) throw error
          throw new BeamlineError(
            'START_FAILED',
            { what: 'the node', reason: `no daemon answers at ${this.#address}: ${(error as Error).message}` },
            { cause: error },
          )
        }
        const other = await this.#lookUp()
        if (other !== undefined && other !== 'unknown') this.#address = other.address
        await delay(RETRY_MS)
      }
    }
  }

  /** Register, and keep on saying that this node lives. */
  start(): void {
    this.#register()
    this.#ticker = setInterval(() => this.#tick(), LOOK_MS)
  }

  stop(): void {
    this.#over = true
    clearInterval(this.#ticker)
  }

  registered(node: string, registered: Registered): void {
    const now = performance.now()
    const { leaseMs, heartbeatMs, epoch, store } = registered
    // A head of an older epoch was followed by another: it has nothing to say any more.
    if (node !== this.#head || epoch < this.#epoch) return
    const again = this.#fence !== undefined
    if (this.#expired(now)) return
    // Another head may have other times.
    this.#fence = new Fence({ leaseMs, headTimeoutMs: this.#options.config.headTimeoutMs }, this.#registerSentMs)
    this.#heartbeatMs = heartbeatMs
    this.#heardMs = now
    this.#epoch = epoch
    this.#store = store
    this.#sent.clear()
    log(() => `registered ${again ? 'again ' : ''}at ${node} in epoch ${epoch}`)
    this.#options.registered(registered, again)
  }

  seen(node: string, { sequence, epoch }: HeartbeatSeen): void {
    const sent = this.#sent.get(sequence)
    if (node !== this.#head || epoch !== this.#epoch || sent === undefined || this.#expired(performance.now())) return
    for (const earlier of this.#sent.keys()) if (earlier <= sequence) this.#sent.delete(earlier)
    this.#heardMs = performance.now()
    this.#fence?.renewed(sent)
  }

  /** Whether this node may still act. Asked before it does anything, since it may have been stopped for long. */
  check(): boolean {
    return this.#fence === undefined || !this.#expired(performance.now())
  }

  /** The head says that this node is dead, or of another cluster. */
  refused(reason: string): void {
    this.#end(`the head refused it: ${reason}`)
  }

  /** The link to a node is over. */
  lost(node: string): void {
    if (node !== this.#head || this.#over) return
    this.#options.headLost('its daemon is gone')
    void this.#meetAgain()
  }

  #register(): void {
    this.#registerSentMs = performance.now()
    this.#options.mesh.send(this.#head, { $case: 'register', value: this.#options.register() })
  }

  #tick(): void {
    const now = performance.now()
    if (this.#over || this.#fence === undefined || this.#expired(now)) return
    const heartbeatMs = this.#heartbeatMs
    const load = this.#options.heartbeat()
    const news = JSON.stringify([load.available, load.queued])
    // Others decide by what this node offers: they hear of it at the next look, not at the next heartbeat.
    const due = news !== this.#told || now - Math.max(this.#toldMs, this.#registerSentMs) >= heartbeatMs
    if (due && !this.#meeting) {
      const sequence = ++this.#sequence
      this.#told = news
      this.#toldMs = now
      this.#sent.set(sequence, now)
      if (this.#sent.size > 1_000) this.#sent.delete(this.#sent.keys().next().value as number)
      this.#options.mesh.send(this.#head, { $case: 'heartbeat', value: { ...load, sequence } })
    }
    if (now - this.#heardMs > heartbeatMs + RETRY_MS) void this.#probe()
  }

  #expired(now: number): boolean {
    if (this.#over) return true
    if (this.#fence?.expired(now) !== true) return false
    this.#end(`it heard nothing from the head at ${this.#address} for ${Math.round(now - this.#heardMs)} ms`)
    return true
  }

  #end(reason: string): void {
    if (this.#over) return
    this.stop()
    log(() => `fenced: ${reason}`)
    this.#options.fenced(reason)
  }

  /** Silent, or nobody there? And is there another head, if the store can be asked. */
  async #probe(): Promise<void> {
    if (this.#probing || this.#over) return
    this.#probing = true
    try {
      const triedMs = performance.now()
      const other = await this.#lookUp()
      if (other === 'unknown') return
      if (other !== undefined && (other.address !== this.#address || other.node !== this.#head)) {
        this.#options.mesh.drop(this.#head, 'another head decides')
        this.#address = other.address
        this.#options.headLost(`another head decides, at ${other.address}`)
        return void this.#meetAgain()
      }
      if (await isRefused(this.#address)) this.#fence?.refused(triedMs, performance.now())
    } finally {
      this.#probing = false
    }
  }

  /** Who holds the head's lease; `unknown`: the store does not tell. */
  async #lookUp(): Promise<HeadRecord | undefined | 'unknown'> {
    if (this.#store === '') return undefined
    try {
      const [{ openStore }, { HEAD_KEY, decodeHead }] = await Promise.all([import('../store/open-store.ts'), import('../store/head-lease.ts')])
      const store = await openStore(this.#store, { retryMs: STORE_MS, warn: () => {} })
      try {
        const entry = await store.get(HEAD_KEY)
        return entry === undefined ? undefined : decodeHead(entry)
      } finally {
        void store.close()
      }
    } catch (error) {
      log(() => `the control store does not tell who is the head: ${(error as Error).message}`)
      return 'unknown'
    }
  }

  async #meetAgain(): Promise<void> {
    if (this.#meeting) return
    this.#meeting = true
    try {
      while (!this.#over) {
        try {
          await this.#meet(this.#address)
          break
        } catch (error) {
          if (BeamlineError.is(error, 'CLUSTER_REFUSED') || BeamlineError.is(error, 'UNAUTHENTICATED')) return this.refused(error.message)
          await delay(RETRY_MS)
        }
      }
    } finally {
      this.#meeting = false
    }
    if (!this.#over) this.#register()
  }

  async #meet(address: string): Promise<void> {
    let met = await this.#options.mesh.meet(address)
    this.#address = address
    if (met.head !== '' && met.head !== address && met.head !== met.address) {
      this.#address = met.head
      met = await this.#options.mesh.meet(met.head)
    }
    this.#head = met.node
    this.#cluster = met.cluster
  }
}

/** True when the other machine says that nobody listens there; false when it takes the connection, or says nothing. */
function isRefused(address: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connectTo(address)
  const done = (refused: boolean): void => {
    socket.destroy()
    resolve(refused)
  }
  socket.setTimeout(PROBE_MS, () => done(false))
  socket.once('connect', () => done(false))
  socket.once('error', (error) => done((error as NodeJS.ErrnoException).code === 'ECONNREFUSED'))
  return promise
}

/** The address of this machine from which another one is reached. */
export function localAddressTo(address: string): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>()
  const socket = connectTo(address)
  const done = (local: string | undefined): void => {
    socket.destroy()
    resolve(local)
  }
  socket.setTimeout(PROBE_MS, () => done(undefined))
  socket.once('connect', () => done(socket.localAddress))
  socket.once('error', () => done(undefined))
  return promise
}

function connectTo(address: string): ReturnType<typeof connect> {
  const [host = '', port] = address.split(/:(?=\d+$)/)
  return connect({ host: host.replace(/^\[|\]$/g, ''), port: Number(port) })
}
