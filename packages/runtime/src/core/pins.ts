/**
 * Objects whose memory this process reads: for each of them one open pin at the node daemon, shared by all readers here.
 *
 * A place only names an object. While the pin is open the daemon keeps the object in mapped memory of this machine, brought there
 * from another node or from a spill file if need be. The last reader's release closes the pin; closings travel in batches.
 *
 * What this process wrote itself, and still has, is read before the node answers: its block is not written again while it is read here,
 * whatever the node says. The node is still told, so that it makes room elsewhere first.
 */
import type { NodeMessage, ProcessMessage } from '../net/gen/node.ts'
import type { Place } from '../net/gen/peer.ts'
import { wireError } from './wire-error.ts'

type Pinned = Extract<NonNullable<NodeMessage['body']>, { $case: 'objectPinned' }>['value']

/** What the memory is for: who comes first when there is not room for all. */
export type PinUse = 'get' | 'argument'

/** Memory of this machine. */
export interface PinnedMemory {
  readonly path: string
  readonly offset: number
  readonly bytes: number
}

/** A block of this process that holds the object; it is kept until `release`. */
export interface OwnBlock {
  readonly memory: PinnedMemory
  release(): void
}

/** One reader's share of a pin. */
export interface Pin {
  /** Set once the object is here. */
  readonly memory: PinnedMemory | undefined
  /** Resolves when it is; rejects with `OBJECT_LOST` when its bytes are nowhere, or with why there is no room for them. */
  readonly ready: Promise<PinnedMemory>
  /** Once per reader, also after a failure. */
  release(): void
}

const NOBODYS = { owner: '', object: 0, address: '' }

class OpenPin implements Pin {
  readonly id: number
  readonly key: string
  readonly place: Place
  readonly ready: Promise<PinnedMemory>
  memory: PinnedMemory | undefined = undefined
  use: PinUse
  readers = 0
  resolve: (memory: PinnedMemory) => void
  reject: (error: Error) => void
  #own: OwnBlock | undefined
  readonly #closed: (pin: OpenPin) => void

  constructor(id: number, key: string, place: Place, use: PinUse, closed: (pin: OpenPin) => void) {
    this.id = id
    this.key = key
    this.place = place
    this.use = use
    this.#closed = closed
    const { promise, resolve, reject } = Promise.withResolvers<PinnedMemory>()
    this.ready = promise
    this.resolve = resolve
    this.reject = reject
    promise.catch(() => undefined) // readers that need it look; a prefetch does not
  }

  readOwn(block: OwnBlock): void {
    this.#own = block
    this.memory = block.memory
    this.resolve(block.memory)
  }

  release(): void {
    if (--this.readers > 0) return
    this.#own?.release()
    this.#closed(this)
  }
}

export class Pins {
  readonly #send: (message: ProcessMessage) => void
  readonly #ownBlock: (place: Place) => OwnBlock | undefined
  /** Open pins that may get more readers. */
  readonly #byObject = new Map<string, OpenPin>()
  readonly #unanswered = new Map<number, OpenPin>()
  readonly #closing: number[] = []
  #next = 1
  #failed: Error | undefined

  /** @param ownBlock - the block at a place, from now on kept, when this process wrote the object there and has not freed it */
  constructor(send: (message: ProcessMessage) => void, ownBlock: (place: Place) => OwnBlock | undefined) {
    this.#send = send
    this.#ownBlock = ownBlock
  }

  /** Open pins, for leak checks. */
  get size(): number {
    return this.#byObject.size
  }

  /** One more reader of the object at `place`. */
  take(place: Place, use: PinUse): Pin {
    const { owner, object } = place.object ?? NOBODYS
    const key = `${owner}:${object}@${place.node}:${place.segment}:${place.offset}`
    let pin = this.#byObject.get(key)
    if (!pin) {
      pin = new OpenPin(this.#next++, key, place, use, this.#closed)
      if (this.#failed) pin.reject(this.#failed)
      else {
        this.#byObject.set(key, pin)
        this.#unanswered.set(pin.id, pin)
        this.#ask(pin)
      }
    } else if (use === 'get' && pin.use !== 'get' && !pin.memory) {
      pin.use = use // somebody waits for it now: the daemon learns that it is urgent
      this.#ask(pin)
    }
    pin.readers++
    if (use === 'get' && !pin.memory && !this.#failed) {
      const block = this.#ownBlock(place)
      if (block) pin.readOwn(block)
    }
    return pin
  }

  #ask({ id, use, place: { segment, offset, bytes, node, object: name = NOBODYS } }: OpenPin): void {
    const { owner, object, address: ownerAddress } = name
    const place = { segment, offset, bytes, node, owner, object }
    this.#send({ body: { $case: 'objectPin', value: { pin: id, owner, object, node, place, use, ownerAddress } } })
  }

  pinned({ pin: id, path, offset, bytes, failure }: Pinned): void {
    const pin = this.#unanswered.get(id)
    if (!pin) return
    this.#unanswered.delete(id)
    if (pin.memory) return // it reads a block of its own
    if (failure) {
      this.#forget(pin)
      pin.reject(wireError(failure))
    } else {
      pin.memory = { path, offset, bytes }
      pin.resolve(pin.memory)
    }
  }

  #forget(pin: OpenPin): void {
    if (this.#byObject.get(pin.key) === pin) this.#byObject.delete(pin.key)
  }

  readonly #closed = (pin: OpenPin): void => {
    if (this.#byObject.get(pin.key) !== pin) return // it failed
    this.#forget(pin)
    this.#unanswered.delete(pin.id)
    if (this.#closing.push(pin.id) > 1) return
    setImmediate(() => this.#send({ body: { $case: 'objectUnpin', value: { pins: this.#closing.splice(0) } } }))
  }

  /** Another daemon has no pins of this process: what is read stays mapped, what is waited for is asked for again. */
  attachedAgain(): void {
    for (const pin of this.#byObject.values()) {
      if (!pin.memory) continue
      this.#byObject.delete(pin.key)
      this.#unanswered.delete(pin.id)
    }
    for (const pin of this.#unanswered.values()) this.#ask(pin)
  }

  /** The node is gone: what is pinned stays readable, nothing more comes. */
  fail(error: Error): void {
    this.#failed = error
    for (const pin of this.#unanswered.values()) {
      this.#forget(pin)
      pin.reject(error)
    }
    this.#unanswered.clear()
  }
}
