/**
 * Which objects of other nodes this node pulls, when, and from where. Pure: events in, instructions out.
 *
 *   waiting ── admitted ──► allocating ── allocated ──► fetching ⇄ resting ── whole ──► sealed
 *      ▲                        │ refused                  │ no longer admitted
 *      └────────────────────────┴──────────────────────────┘
 *
 * - One pull per object, however many want it; its class is the best of theirs; it ends with the last of them.
 * - **Admission by bytes**: of each class, in order, the longest prefix that fits into the store's room is pulled at a time, so that pulls
 *   never block each other with half of what each needs. The first pull of all is always admitted: the store makes room for it.
 *   A better pull that needs the memory of a worse one gets it.
 * - **Sources**: the node of the primary copy first. A source that is busy names others: they hold the object or are getting it. A source that
 *   fails is tried again after a back-off that doubles, and only a node that says that it has nothing, or that is dead, is given up.
 *   `OBJECT_LOST` comes when that is true of all of them.
 */
import { BeamlineError } from '../errors.ts'
import { type FetchOutcome, type PullEvent, type PullFailure, type PullInstruction, type Use, USES } from './pull-events.ts'

/** Fetches from one node at a time: enough to hide the round trips of small objects. Blocked readers may use a few more. */
const STREAMS_PER_NODE = 4
const STREAMS_PER_NODE_GET = 6
/** Pulls that have memory at a time, however small they are: more would only wait for streams. */
const ACTIVE_MAX = 256
/** Back-off of a source that failed, and of one that is busy. */
const FAILED_REST_MS = 100
const FAILED_REST_MAX_MS = 5_000
const BUSY_REST_MS = 10
const BUSY_REST_MAX_MS = 640
/** A store without room is asked again after so long, and so many times; for a blocked reader only once, since the store has waited itself. */
const REFUSED_REST_MS = 1_000
const REFUSALS_MAX = 3

interface Source {
  readonly node: string
  failures: number
  busy: number
  resting: boolean
  /** Why it is given up. */
  gone: string | undefined
}

interface Pull {
  readonly key: string
  readonly bytes: number
  readonly wanters: Map<string, Use>
  use: Use
  state: 'waiting' | 'allocating' | 'fetching' | 'resting'
  /** In the order in which they were learnt. */
  readonly sources: Map<string, Source>
  /** While fetching. */
  source: Source | undefined
  attempt: number
  refusals: number
  /** Was refused and is not admitted until its timer rang. */
  refused: boolean
}

interface Timer {
  readonly pull: Pull
  readonly source: Source | undefined
}

export class PullManager {
  readonly #self: string
  readonly #pulls = new Map<string, Pull>()
  /** Pulls by class, each in the order in which they came into it. */
  readonly #classes: Readonly<Record<Use, Map<string, Pull>>> = { get: new Map(), wait: new Map(), argument: new Map() }
  /** Those that have memory or have asked for it, and their sum. */
  readonly #active = new Set<Pull>()
  #activeBytes = 0
  readonly #wanted = new Map<string, Pull>()
  readonly #lost = new Map<string, string>()
  readonly #streams = new Map<string, number>()
  readonly #timers = new Map<number, Timer>()
  #nextTimer = 1
  #out: PullInstruction[] = []

  /** @param self - this node, which is never a source */
  constructor(self: string) {
    this.#self = self
  }

  /** Pulls that are not whole yet. */
  get size(): number {
    return this.#pulls.size
  }

  /**
   * The only mutator. Events about pulls that are over are ignored: messages cross.
   *
   * @param roomBytes - what the store could give now, beside what pulls have or have asked for
   */
  handle(event: PullEvent, roomBytes: number): PullInstruction[] {
    this.#out = []
    switch (event.kind) {
      case 'wanted':
        this.#want(event)
        break
      case 'unwanted':
        this.#unwant(event.wanter)
        break
      case 'roomChanged':
        break
      case 'allocated':
        this.#allocated(event.key)
        break
      case 'refused':
        this.#refused(event)
        break
      case 'here':
        this.#here(event.key)
        break
      case 'ended':
        this.#ended(event.key, event.attempt, event.outcome)
        break
      case 'nodeLost':
        this.#nodeLost(event.node, event.reason)
        break
      case 'timerRang':
        this.#timerRang(event.timer)
        break
      default:
        event satisfies never
    }
    this.#admit(roomBytes)
    this.#dispatch()
    return this.#out
  }

  #want({ wanter, key, bytes, use, node }: Extract<PullEvent, { kind: 'wanted' }>): void {
    let pull = this.#pulls.get(key)
    if (!pull) {
      const sources = new Map<string, Source>()
      pull = { key, bytes, wanters: new Map(), use, state: 'waiting', sources, source: undefined, attempt: 0, refusals: 0, refused: false }
      this.#pulls.set(key, pull)
      this.#classes[use].set(key, pull)
    }
    pull.wanters.set(wanter, use)
    this.#wanted.set(wanter, pull)
    this.#learn(pull, node)
    this.#classify(pull)
    this.#giveUpWithoutSource(pull)
  }

  #unwant(wanter: string): void {
    const pull = this.#wanted.get(wanter)
    if (!pull) return
    this.#wanted.delete(wanter)
    pull.wanters.delete(wanter)
    if (pull.wanters.size > 0) return this.#classify(pull)
    this.#leave(pull)
    this.#remove(pull)
  }

  #allocated(key: string): void {
    const pull = this.#pulls.get(key)
    if (pull?.state === 'allocating') pull.state = 'resting'
  }

  #refused({ key, failure, forGood }: Extract<PullEvent, { kind: 'refused' }>): void {
    const pull = this.#pulls.get(key)
    if (pull?.state !== 'allocating') return
    this.#deactivate(pull)
    pull.refusals++
    if (forGood || pull.use === 'get' || pull.refusals === REFUSALS_MAX) return this.#fail(pull, failure)
    pull.refused = true
    this.#startTimer({ pull, source: undefined }, REFUSED_REST_MS)
  }

  #here(key: string): void {
    const pull = this.#pulls.get(key)
    if (pull?.state !== 'allocating') return
    this.#out.push({ kind: 'pin', key, wanters: [...pull.wanters.keys()] })
    this.#remove(pull)
  }

  #ended(key: string, attempt: number, outcome: FetchOutcome): void {
    const pull = this.#pulls.get(key)
    const source = pull?.source
    if (!pull || !source || pull.attempt !== attempt) return
    this.#endStream(pull)
    switch (outcome.kind) {
      case 'whole':
        this.#out.push({ kind: 'seal', key, wanters: [...pull.wanters.keys()] })
        this.#remove(pull)
        return
      case 'cut':
        this.#rest(pull, source, Math.min(FAILED_REST_MS * 2 ** source.failures, FAILED_REST_MAX_MS))
        source.failures++
        return
      case 'gone':
        source.gone = outcome.reason
        this.#giveUpWithoutSource(pull)
        return
      case 'busy':
        for (const node of outcome.nodes) this.#learn(pull, node)
        this.#rest(pull, source, Math.min(BUSY_REST_MS * 2 ** source.busy, BUSY_REST_MAX_MS))
        source.busy++
        return
      default:
        outcome satisfies never
    }
  }

  #nodeLost(node: string, reason: string): void {
    this.#lost.set(node, reason)
    for (const pull of [...this.#pulls.values()]) {
      const source = pull.sources.get(node)
      if (!source) continue
      source.gone = reason
      if (pull.source === source) {
        this.#out.push({ kind: 'stop', key: pull.key })
        this.#endStream(pull)
      }
      this.#giveUpWithoutSource(pull)
    }
  }

  #timerRang(number: number): void {
    const timer = this.#timers.get(number)
    this.#timers.delete(number)
    if (!timer) return
    if (timer.source) timer.source.resting = false
    else timer.pull.refused = false
  }

  /** A node that is said to have the object, or to get it; what was known against it is forgotten, except its death. */
  #learn(pull: Pull, node: string): void {
    if (node === this.#self) return
    const source = pull.sources.get(node)
    const gone = this.#lost.get(node)
    if (source) source.gone = gone
    else pull.sources.set(node, { node, failures: 0, busy: 0, resting: false, gone })
  }

  #classify(pull: Pull): void {
    const uses = [...pull.wanters.values()]
    const use = USES.find((candidate) => uses.includes(candidate))
    if (!use || use === pull.use) return
    this.#classes[pull.use].delete(pull.key)
    pull.use = use
    this.#classes[use].set(pull.key, pull)
  }

  #giveUpWithoutSource(pull: Pull): void {
    const sources = [...pull.sources.values()]
    if (sources.some(({ gone }) => gone === undefined)) return
    const reasons = sources.map(({ node, gone }) => `node ${node}: ${gone}`)
    const reason = reasons.length === 0 ? 'no node is known to have it' : `no copy is left; ${reasons.join('; ')}`
    this.#fail(pull, { code: 'OBJECT_LOST', details: { object: pull.key, reason } })
  }

  #fail(pull: Pull, failure: PullFailure): void {
    this.#leave(pull)
    this.#out.push({ kind: 'fail', key: pull.key, wanters: [...pull.wanters.keys()], failure })
    this.#remove(pull)
  }

  /** Walks the pulls from the first: those that fit get memory. Behind one that does not, only those stay that fit beside all before them. */
  #admit(roomBytes: number): void {
    let left = roomBytes + this.#activeBytes
    let admitted = 0
    const seen = new Set<Pull>()
    const admit = (pull: Pull): boolean => {
      const first = admitted === 0
      const fits = first || (pull.bytes <= left && admitted < ACTIVE_MAX)
      if (fits) {
        left = Math.max(0, left - pull.bytes)
        admitted++
        if (pull.state === 'waiting') this.#allocate(pull, first || pull.use === 'get')
      } else if (pull.state !== 'waiting') this.#leave(pull)
      seen.add(pull)
      return fits
    }
    for (const pull of this.#inOrder()) if (!pull.refused && !admit(pull)) break
    for (const pull of this.#activeInOrder()) if (!seen.has(pull)) admit(pull)
  }

  /** Gives every pull that has memory and no stream a source, best class first. */
  #dispatch(): void {
    for (const pull of this.#activeInOrder()) {
      const source = pull.state === 'resting' ? this.#choose(pull) : undefined
      if (!source) continue
      pull.state = 'fetching'
      pull.source = source
      pull.attempt++
      this.#streams.set(source.node, (this.#streams.get(source.node) ?? 0) + 1)
      this.#out.push({ kind: 'fetch', key: pull.key, node: source.node, attempt: pull.attempt })
    }
  }

  *#inOrder(): Iterable<Pull> {
    for (const use of USES) yield* this.#classes[use].values()
  }

  #activeInOrder(): Pull[] {
    return USES.flatMap((use) => [...this.#active].filter((pull) => pull.use === use))
  }

  /** The one that failed least; of equals the one that was learnt first, which is the primary. */
  #choose(pull: Pull): Source | undefined {
    const streamsMax = pull.use === 'get' ? STREAMS_PER_NODE_GET : STREAMS_PER_NODE
    let best: Source | undefined
    for (const source of pull.sources.values()) {
      if (source.gone !== undefined || source.resting || (this.#streams.get(source.node) ?? 0) >= streamsMax) continue
      if (!best || source.failures < best.failures) best = source
    }
    return best
  }

  #rest(pull: Pull, source: Source, afterMs: number): void {
    source.resting = true
    this.#startTimer({ pull, source }, afterMs)
  }

  #startTimer(timer: Timer, afterMs: number): void {
    const number = this.#nextTimer++
    this.#timers.set(number, timer)
    this.#out.push({ kind: 'startTimer', timer: number, afterMs })
  }

  #allocate(pull: Pull, urgent: boolean): void {
    pull.state = 'allocating'
    this.#active.add(pull)
    this.#activeBytes += pull.bytes
    this.#out.push({ kind: 'allocate', key: pull.key, bytes: pull.bytes, urgent })
  }

  /** What it had goes: memory, stream, chunks. */
  #leave(pull: Pull): void {
    if (pull.state === 'waiting') return
    this.#endStream(pull)
    this.#deactivate(pull)
    this.#out.push({ kind: 'abandon', key: pull.key })
  }

  #deactivate(pull: Pull): void {
    pull.state = 'waiting'
    if (this.#active.delete(pull)) this.#activeBytes -= pull.bytes
  }

  #endStream(pull: Pull): void {
    const node = pull.source?.node
    if (node === undefined) return
    const streams = this.#streams.get(node)! - 1
    if (streams > 0) this.#streams.set(node, streams)
    else this.#streams.delete(node)
    pull.source = undefined
    pull.state = 'resting'
  }

  #remove(pull: Pull): void {
    this.#deactivate(pull)
    this.#pulls.delete(pull.key)
    this.#classes[pull.use].delete(pull.key)
    for (const wanter of pull.wanters.keys()) this.#wanted.delete(wanter)
  }

  /** @throws {@link BeamlineError} `INTERNAL` when the books do not balance; for tests and BEAMLINE_VALIDATE=1 */
  checkInvariants(): void {
    const wrong = (what: string): never => {
      throw new BeamlineError('INTERNAL', { what: `pull manager: ${what}` })
    }
    let wanters = 0
    let activeBytes = 0
    const streams = new Map<string, number>()
    for (const pull of this.#pulls.values()) {
      wanters += pull.wanters.size
      if (pull.wanters.size === 0) wrong(`nobody wants ${pull.key}`)
      if (USES.some((use) => this.#classes[use].has(pull.key) !== (use === pull.use))) wrong(`${pull.key} is not in its class alone`)
      if (pull.use !== USES.find((use) => [...pull.wanters.values()].includes(use))) wrong(`${pull.key} has not the class of its best wanter`)
      if ((pull.state === 'fetching') !== (pull.source !== undefined)) wrong(`${pull.key} is ${pull.state} from ${pull.source?.node}`)
      if (pull.source?.gone !== undefined) wrong(`${pull.key} is fetched from ${pull.source.node}, which was given up`)
      if (![...pull.sources.values()].some(({ gone }) => gone === undefined)) wrong(`${pull.key} has no source left`)
      if (this.#active.has(pull) !== (pull.state !== 'waiting')) wrong(`${pull.key} is ${pull.state} and ${this.#active.has(pull) ? '' : 'not '}active`)
      if (pull.state !== 'waiting') activeBytes += pull.bytes
      if (pull.source) streams.set(pull.source.node, (streams.get(pull.source.node) ?? 0) + 1)
    }
    if (wanters !== this.#wanted.size) wrong('wanters are off')
    if (activeBytes !== this.#activeBytes) wrong(`${activeBytes} bytes are active, ${this.#activeBytes} are counted`)
    for (const node of new Set([...streams.keys(), ...this.#streams.keys()])) {
      if (streams.get(node) !== this.#streams.get(node)) wrong(`streams from ${node} are off`)
    }
  }
}
