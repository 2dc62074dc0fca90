/**
 * Faults of the network on purpose, for tests: `BEAMLINE_TEST_FAULTS` loses, delays or doubles messages by probability and kind.
 *
 *     BEAMLINE_TEST_FAULTS='mesh.fromProcess:request=0.1,response=0.05,delay=5-20ms;peer.push:twice=1;bulk.chunk:request=0.05;seed=7'
 *
 * A kind is the service and the name of the message (`mesh.fromProcess`, `peer.push`, `bulk.chunk`), or `mesh.*`. `request`: it is lost before it
 * arrives. `response`: it arrives and its confirmation is lost. `delay`: it leaves that much later, and all that follows on its link after it; with
 * `@0.2` behind it only that often. On a link both losses break the connection at that point, as a network would. `twice`: its handler is called
 * twice, which links themselves never do; the first time of each kind is said on stderr. Links on unix sockets know no other fault than this one.
 * What is no message, as the chunks of objects, arrives damaged in place of a lost response. Without a seed one is drawn and printed, so that a run can be
 * repeated.
 */
import { randomInt } from 'node:crypto'
import { BeamlineError } from '../errors.ts'

export interface FaultRule {
  readonly request: number
  readonly response: number
  readonly twice: number
  readonly delay: { readonly minMs: number; readonly maxMs: number; readonly probability: number } | undefined
}

type Messages = readonly { body?: { $case: string } | undefined }[]

export class Faults {
  readonly seed: number
  readonly #rules: ReadonlyMap<string, FaultRule>
  readonly #doubled = new Set<string>()
  #random: number

  constructor(rules: ReadonlyMap<string, FaultRule>, seed: number) {
    this.#rules = rules
    this.seed = seed
    this.#random = seed
  }

  losesRequest(service: string, messages: Messages): boolean {
    return this.#some(service, messages, (rule) => rule.request)
  }

  losesResponse(service: string, messages: Messages): boolean {
    return this.#some(service, messages, (rule) => rule.response)
  }

  /** The longest delay of the messages in a frame; 0 for none. */
  delayMs(service: string, messages: Messages): number {
    let delayMs = 0
    for (const { body } of messages) {
      const delay = body && this.#rule(service, body.$case)?.delay
      if (delay && this.#next() < delay.probability) delayMs = Math.max(delayMs, delay.minMs + this.#next() * (delay.maxMs - delay.minMs))
    }
    return delayMs
  }

  /** Hands messages to their handler, some of them twice. */
  deliver<M extends { body?: { $case: string } | undefined }>(service: string, messages: readonly M[], handler: (message: M) => void): void {
    for (const message of messages) {
      handler(message)
      const kind = message.body?.$case ?? ''
      const twice = this.#rule(service, kind)?.twice ?? 0
      if (twice === 0 || this.#next() >= twice) continue
      if (!this.#doubled.has(`${service}.${kind}`)) process.stderr.write(`beamline: twice on purpose: ${service}.${kind}\n`)
      this.#doubled.add(`${service}.${kind}`)
      handler(message)
    }
  }

  /** Of something that is no message: does it get lost on its way? */
  loses(service: string, kind: string): boolean {
    return this.#happens(this.#rule(service, kind)?.request)
  }

  /** Of something that is no message: does it arrive with other bytes? */
  damages(service: string, kind: string): boolean {
    return this.#happens(this.#rule(service, kind)?.response)
  }

  #happens(probability: number = 0): boolean {
    return probability > 0 && this.#next() < probability
  }

  #some(service: string, messages: Messages, probability: (rule: FaultRule) => number): boolean {
    for (const { body } of messages) {
      const rule = body && this.#rule(service, body.$case)
      if (rule && probability(rule) > 0 && this.#next() < probability(rule)) return true
    }
    return false
  }

  #rule(service: string, kind: string): FaultRule | undefined {
    return this.#rules.get(`${service}.${kind}`) ?? this.#rules.get(`${service}.*`)
  }

  /** Uniform in [0, 1): the mulberry32 generator. */
  #next(): number {
    this.#random = (this.#random + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#random ^ (this.#random >>> 15), 1 | this.#random)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** @throws BeamlineError INVALID_ARGUMENT with the position of what is wrong */
export function parseFaults(text: string, drawSeed: () => number = () => randomInt(2 ** 31)): Faults {
  const rules = new Map<string, FaultRule>()
  let seed: number | undefined
  let position = 0
  const refuse = (at: number, expected: string): never => {
    throw new BeamlineError('INVALID_ARGUMENT', { what: `BEAMLINE_TEST_FAULTS at position ${at}`, got: JSON.stringify(text.slice(at, at + 20)), expected })
  }
  for (const entry of text.split(';')) {
    const start = position
    position += entry.length + 1
    if (entry.trim() === '') continue
    const seeded = /^\s*seed=(\d+)\s*$/.exec(entry)
    if (seeded) {
      seed = Number(seeded[1])
      continue
    }
    const colon = entry.indexOf(':')
    const kind = entry.slice(0, Math.max(colon, 0)).trim()
    if (!/^\w+\.(\w+|\*)$/.test(kind)) refuse(start, 'SERVICE.MESSAGE:ACTION=VALUE,… or seed=N')
    const rule: { -readonly [K in keyof FaultRule]: FaultRule[K] } = { request: 0, response: 0, twice: 0, delay: undefined }
    let at = start + colon + 1
    for (const action of entry.slice(colon + 1).split(',')) {
      const loss = /^\s*(request|response|twice)=(\d*\.?\d+)\s*$/.exec(action)
      const delay = /^\s*delay=(\d+)-(\d+)ms(?:@(\d*\.?\d+))?\s*$/.exec(action)
      const probability = Number(loss?.[2] ?? delay?.[3] ?? 1)
      if (probability > 1) refuse(at, 'a probability from 0 to 1')
      if (loss) rule[loss[1] as 'request' | 'response' | 'twice'] = probability
      else if (delay) rule.delay = { minMs: Number(delay[1]), maxMs: Number(delay[2]), probability }
      else refuse(at, 'request=P, response=P, twice=P or delay=MIN-MAXms[@P]')
      at += action.length + 1
    }
    rules.set(kind, rule)
  }
  return new Faults(rules, seed ?? drawSeed())
}

let parsed: { readonly faults: Faults | undefined } | undefined

/** What BEAMLINE_TEST_FAULTS asks of this process; says on stderr how to repeat it. */
export function faultsOfEnvironment(): Faults | undefined {
  if (parsed) return parsed.faults
  const text = process.env['BEAMLINE_TEST_FAULTS']
  const faults = text ? parseFaults(text) : undefined
  parsed = { faults }
  if (faults) process.stderr.write(`beamline: faults on purpose, with seed=${faults.seed}: ${text}\n`)
  return faults
}
