/**
 * The segment directory under random events: processes that write, read, free and die, spill files that are written, read and fail, copies that
 * arrive, and messages that cross. A model keeps what is in every block and file: whoever reads must see the bytes of its object all the time.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BlockAllocator, pageAlign } from '../../src/objects/block-allocator.ts'
import { SegmentDirectory } from '../../src/objects/segment-directory.ts'
import type { DirectoryEvent, DirectoryInstruction, ObjectMemory, StoredPlace, Use } from '../../src/objects/segment-directory-events.ts'
import { USES } from '../../src/objects/segment-directory-events.ts'
import { SPILL_RULES } from '../../src/objects/spiller.ts'

const MiB = 1_048_576
const CAPACITY = 32 * MiB
/** At any time three processes live; who dies is followed by another one. */
const SEATS = [0, 1, 2]

/** What the model knows of an object. Its name is its content. */
interface Known {
  readonly owner: string
  readonly object: number
  readonly bytes: number
  place: StoredPlace | undefined
  /** The owner sent that it is free; or died. */
  freed: boolean
  /** A file with it could not be read. */
  damaged: boolean
}

interface Reader {
  readonly process: string
  readonly pin: number
  readonly known: Known
  memory: ObjectMemory | undefined
  /** It reads a block of its own, whatever the node answers. */
  own: boolean
}

/** Segments that a process holds, as its own books have it. */
class Writer {
  readonly held = new Map<string, { readonly blocks: BlockAllocator; readonly objects: Map<number, Known> }>()
  /** Messages that have not arrived at the node. */
  readonly sent: DirectoryEvent[] = []
  /** Messages that have not arrived here. */
  readonly inbox: (() => void)[] = []
  /** Blocks that were freed while they are read here: by place, what lies there. */
  readonly kept = new Map<string, Known>()
  readonly granted: number[] = []
}

class World {
  readonly directory: SegmentDirectory
  readonly living = SEATS.map((seat) => `process-${seat}`)
  readonly writers = new Map<string, Writer>(this.living.map((process) => [process, new Writer()]))
  readonly objects: Known[] = []
  readonly readers: Reader[] = []
  readonly content = new Map<string, Map<number, Known>>()
  readonly files = new Map<number, { readonly parts: { readonly from: number; readonly known: Known | undefined }[] }>()
  readonly requests = new Map<number, string>()
  readonly making: string[] = []
  readonly timers: number[] = []
  readonly writing: Extract<DirectoryInstruction, { kind: 'writeObjects' }>[] = []
  readonly reading: Extract<DirectoryInstruction, { kind: 'readObject' }>[] = []
  readonly copies: { readonly known: Known; memory: ObjectMemory | undefined }[] = []
  readonly unpinned = new Set<number>()
  /** Copies of dead owners that were on their way. */
  readonly abandoned = new Set<Known>()
  next = 1

  constructor(spill: boolean) {
    const rules = { ...SPILL_RULES, fileBytes: 4 * MiB, fileObjectsMax: 3 }
    this.directory = new SegmentDirectory({
      directory: '/store',
      capacityBytes: CAPACITY,
      fullTimeoutMs: 2_500,
      orphanGraceMs: 100,
      spill: spill ? rules : undefined,
    })
  }

  tell(event: DirectoryEvent): void {
    for (const instruction of this.directory.handle(event)) this.run(instruction)
    this.directory.checkInvariants()
    this.check()
  }

  /** What every reader sees is its object. */
  check(): void {
    for (const { memory, known } of this.readers) {
      if (memory) expect(this.content.get(memory.segment)?.get(memory.offset), `${known.owner}:${known.object} as a reader sees it`).toBe(known)
    }
    const bytes = this.directory.usage.fileBytes
    expect(bytes).toBeLessThanOrEqual(CAPACITY)
  }

  run(instruction: DirectoryInstruction): void {
    switch (instruction.kind) {
      case 'createFile':
        this.making.push(instruction.segment)
        this.content.set(instruction.segment, new Map())
        return
      case 'unlinkFile':
        for (const { memory } of this.readers) expect(memory?.segment).not.toBe(instruction.segment)
        // Of a dead writer; the time in which owners may still report objects in it is over.
        for (const { sent } of this.writers.values()) {
          for (const event of sent) if (event.kind === 'objectsAdded') this.lose(instruction.segment, event.objects)
        }
        this.content.delete(instruction.segment)
        return
      case 'grant':
      case 'fail':
        expect(this.requests.get(instruction.request)).toBe(instruction.process)
        this.requests.delete(instruction.request)
        if (instruction.kind === 'grant') {
          const { process, segment, bytes } = instruction
          const { held, inbox } = this.writers.get(process)!
          inbox.push(() => held.set(segment, { blocks: new BlockAllocator(bytes), objects: new Map() }))
        }
        return
      case 'pinned':
      case 'pinFailed': {
        const at = this.readers.findIndex(({ process, pin }) => process === instruction.process && pin === instruction.pin)
        const reader = this.readers[at]
        if (!reader && this.unpinned.has(instruction.pin)) return // the answer crosses the unpin
        if (!reader) throw new Error('nobody asked')
        if (reader.own) return
        expect(reader.memory).toBeUndefined()
        if (instruction.kind === 'pinned') {
          expect(instruction.memory.bytes).toBe(reader.known.bytes)
          reader.memory = instruction.memory
        } else {
          if (instruction.code === 'OBJECT_LOST') expect(reader.known.freed || reader.known.damaged, instruction.details.reason).toBe(true)
          this.readers.splice(at, 1)
        }
        return
      }
      case 'blocksFreed':
        this.writers.get(instruction.process)?.inbox.push(() => {
          for (const { segment, offset, owner, object } of instruction.blocks) this.free(instruction.process, segment, offset, owner, object)
          if (instruction.giveBack) this.giveBack(instruction.process)
        })
        return
      case 'writeObjects':
        this.writing.push(instruction)
        return
      case 'readObject':
        this.reading.push(instruction)
        return
      case 'removeFile':
        expect(this.files.delete(instruction.file)).toBe(true)
        return
      case 'copyGranted':
      case 'copyRefused': {
        const copy = this.copies.find(({ known }) => known.owner === instruction.owner && known.object === instruction.object)
        if (instruction.kind === 'copyGranted') {
          if (copy) copy.memory = instruction.memory
        } else if (copy) this.copies.splice(this.copies.indexOf(copy), 1)
        return
      }
      case 'startTimer':
        this.timers.push(instruction.timer)
        return
      default:
    }
  }

  lose(segment: string, objects: readonly (StoredPlace & { readonly object: number })[]): void {
    for (const { segment: name, offset, object } of objects) {
      const known = this.content.get(name)?.get(offset)
      if (name === segment && known?.object === object) known.damaged = true
    }
  }

  /** The creator's own books: a block that holds something else by now is left alone. */
  free(process: string, segment: string, offset: number, owner: string, object: number): void {
    const held = this.writers.get(process)?.held.get(segment)
    const known = held?.objects.get(offset)
    if (!held || known?.owner !== owner || known.object !== object) return
    held.objects.delete(offset)
    const isRead = this.readers.some((reader) => reader.own && reader.process === process && reader.known === known)
    if (isRead) this.writers.get(process)!.kept.set(`${segment}:${offset}`, known)
    else held.blocks.free(offset, known.bytes)
  }

  /** The last reader of a block of its own is gone. */
  letGo(process: string, { known, memory }: Reader): void {
    const writer = this.writers.get(process)!
    const { segment, offset } = memory!
    if (writer.kept.get(`${segment}:${offset}`) !== known) return
    writer.kept.delete(`${segment}:${offset}`)
    writer.held.get(segment)!.blocks.free(offset, known.bytes)
    this.giveBack(process)
  }

  giveBack(process: string): void {
    const writer = this.writers.get(process)!
    for (const [segment, { objects }] of writer.held) {
      if (objects.size > 0 || [...writer.kept.keys()].some((block) => block.startsWith(`${segment}:`))) continue
      writer.held.delete(segment)
      writer.sent.push({ kind: 'segmentReturned', process, segment })
    }
  }

  deliver(process: string): void {
    const event = this.writers.get(process)!.sent.shift()
    if (event) this.tell(event)
  }

  receive(process: string): void {
    this.writers.get(process)!.inbox.shift()?.()
  }

  request(process: string, bytes: number): void {
    const request = this.next++
    this.requests.set(request, process)
    this.writers.get(process)!.sent.push({ kind: 'segmentRequested', process, request, bytes })
  }

  write(process: string, owner: string, bytes: number, pick: number): void {
    this.make(process, pick, { owner, object: this.next++, bytes, place: undefined, freed: false, damaged: false })
  }

  /** The task that made an object runs again on this node, while a copy of that is arriving. It is excused when that fails and its writer dies. */
  remake(process: string, pick: number): void {
    const arriving = this.copies.filter(({ known }) => !known.place && !known.freed && this.writers.has(known.owner) && known.owner !== process)
    const copy = arriving[pick % arriving.length]
    if (copy) this.make(process, pick, copy.known)
  }

  make(process: string, pick: number, known: Known): void {
    const { owner, bytes } = known
    const held = [...this.writers.get(process)!.held]
    const [segment, { blocks, objects }] = held[pick % held.length] ?? [undefined, { blocks: undefined, objects: new Map<number, Known>() }]
    const offset = blocks?.allocate(bytes)
    if (segment === undefined || offset === undefined) return
    known.place = { segment, offset, bytes }
    const content = this.content.get(segment)!
    for (const [start, old] of content) if (start < offset + pageAlign(bytes) && start + pageAlign(old.bytes) > offset) content.delete(start)
    content.set(offset, known)
    objects.set(offset, known)
    this.objects.push(known)
    this.check()
    const added = { segment, offset, bytes, object: known.object, label: 'made' }
    this.writers.get(owner)!.sent.push({ kind: 'objectsAdded', process: owner, objects: [added] })
  }

  /** The owner frees what nobody reads: readers hold what they read. */
  freeObject(known: Known): void {
    if (known.freed || !known.place || !this.writers.has(known.owner) || this.readers.some((reader) => reader.known === known)) return
    known.freed = true
    const writer = this.writers.get(known.owner)!
    writer.sent.push({ kind: 'objectsFreed', process: known.owner, objects: [known.object] })
    this.free(known.owner, known.place.segment, known.place.offset, known.owner, known.object)
  }

  pin(process: string, known: Known, use: Use): void {
    if (known.freed || (!known.place && this.copies.some((copy) => copy.known === known))) return
    const pin = this.next++
    const writer = this.writers.get(process)!
    const own = use === 'get' && known.place && writer.held.get(known.place.segment)?.objects.get(known.place.offset) === known
    this.readers.push({ process, pin, known, memory: own ? { path: '', segmentBytes: 0, ...known.place! } : undefined, own: own === true })
    const event: DirectoryEvent = { kind: 'pinned', process, pin, owner: known.owner, object: known.object, place: known.place, use }
    writer.sent.push(event)
    this.check()
  }

  unpin(reader: Reader): void {
    const { process, pin } = reader
    this.readers.splice(this.readers.indexOf(reader), 1)
    const others = this.readers.some((each) => each.own && each.process === process && each.known === reader.known)
    if (reader.own && !others) this.letGo(process, reader)
    const { sent } = this.writers.get(process)!
    const at = sent.findIndex((event) => event.kind === 'pinned' && event.pin === pin)
    if (at >= 0) sent.splice(at, 1)
    else {
      this.unpinned.add(pin)
      sent.push({ kind: 'unpinned', process, pins: [pin] })
    }
  }

  die(seat: number): void {
    const process = this.living[seat]!
    // What it said before arrives; what it wrote and nobody was told of is gone with it.
    const { sent } = this.writers.get(process)!
    for (let event = sent.shift(); event; event = sent.shift()) this.tell(event)
    for (const [request, of] of this.requests) if (of === process) this.requests.delete(request)
    for (const reader of [...this.readers]) if (reader.process === process) this.readers.splice(this.readers.indexOf(reader), 1)
    for (const known of this.objects) if (known.owner === process) known.freed = true
    for (const { known } of this.copies) if (known.owner === process) this.abandoned.add(known)
    this.tell({ kind: 'processGone', process })
    this.writers.delete(process)
    this.living[seat] = `process-${SEATS.length + this.next++}`
    this.writers.set(this.living[seat]!, new Writer())
  }

  wrote(pick: number, ok: boolean): void {
    const [write] = this.writing.splice(pick % this.writing.length, 1)
    if (!write) return
    let from = 0
    const parts = write.objects.map(({ segment, offset, bytes }) => {
      const part = { from, known: this.content.get(segment)?.get(offset) }
      from += bytes
      return part
    })
    if (ok) this.files.set(write.file, { parts })
    this.tell({ kind: 'objectsWritten', file: write.file, ...(!ok && { error: 'ENOSPC' }) })
  }

  read(pick: number, ok: boolean): void {
    const [read] = this.reading.splice(pick % this.reading.length, 1)
    if (!read) return
    const { owner, object, memory } = read
    const known = this.files.get(read.file)?.parts.find(({ from }) => from === read.from)?.known
    expect(known).toMatchObject({ owner, object })
    if (ok) this.content.get(memory.segment)!.set(memory.offset, known!)
    else known!.damaged = true
    this.tell({ kind: 'objectRead', owner, object, ...(!ok && { error: 'EIO' }) })
  }

  copy(owner: string, bytes: number, urgent: boolean): void {
    const known: Known = { owner, object: this.next++, bytes, place: undefined, freed: false, damaged: true }
    this.copies.push({ known, memory: undefined })
    this.tell({ kind: 'copyRequested', owner, object: known.object, bytes, urgent })
  }

  copyEnds(pick: number, whole: boolean): void {
    const arriving = this.copies.filter(({ memory }) => memory)
    const copy = arriving[pick % arriving.length]
    if (!copy?.memory) return
    const { known, memory } = copy
    this.copies.splice(this.copies.indexOf(copy), 1)
    this.content.get(memory.segment)!.set(memory.offset, known)
    if (this.abandoned.has(known)) known.freed = true
    if (whole && !known.place) this.objects.push(known)
    this.tell({ kind: whole ? 'copySealed' : 'copyFailed', owner: known.owner, object: known.object })
  }
}

const process = fc.constantFrom(...SEATS)
const pick = fc.nat(1_000)
const bytes = fc.oneof(fc.integer({ min: 1, max: 300_000 }), fc.integer({ min: 1, max: 6 * MiB }))
const step = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(fc.constant('request'), process, fc.oneof(bytes, fc.integer({ min: 1, max: 34 * MiB }))) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('file'), pick, fc.integer({ min: 0, max: 9 })) },
  { weight: 6, arbitrary: fc.tuple(fc.constant('write'), process, process, bytes, pick) },
  { weight: 8, arbitrary: fc.tuple(fc.constant('deliver'), process) },
  { weight: 8, arbitrary: fc.tuple(fc.constant('receive'), process) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('free'), pick) },
  { weight: 4, arbitrary: fc.tuple(fc.constant('pin'), process, pick, fc.constantFrom(...USES)) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('unpin'), pick) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('return'), process) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('ring'), pick) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('wrote'), pick, fc.integer({ min: 0, max: 9 })) },
  { weight: 3, arbitrary: fc.tuple(fc.constant('read'), pick, fc.integer({ min: 0, max: 9 })) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('copy'), process, bytes, fc.boolean()) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('copyEnds'), pick, fc.boolean()) },
  { weight: 2, arbitrary: fc.tuple(fc.constant('remake'), process, pick) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('drop'), pick) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('role'), pick, fc.boolean()) },
  { weight: 1, arbitrary: fc.tuple(fc.constant('die'), process) },
)

function act(world: World, [what, ...args]: readonly unknown[]): void {
  const [first, second, third, fourth] = args as [never, never, never, never]
  const chosen = <T>(all: readonly T[], at: number): T | undefined => all[at % all.length]
  switch (what) {
    case 'request':
      return world.request(world.living[first]!, second)
    case 'file': {
      const [segment] = world.making.splice((first as number) % world.making.length, 1)
      if (segment === undefined) return
      const fails = (second as number) === 0
      if (fails) world.content.delete(segment)
      return world.tell({ kind: 'fileCreated', segment, ...(fails && { error: 'ENOSPC' }) })
    }
    case 'write':
      return world.write(world.living[first]!, world.living[second]!, third, fourth)
    case 'deliver':
      return world.deliver(world.living[first]!)
    case 'receive':
      return world.receive(world.living[first]!)
    case 'free': {
      const known = chosen(world.objects, first)
      if (known) world.freeObject(known)
      return
    }
    case 'pin': {
      const known = chosen(world.objects, second)
      if (known) world.pin(world.living[first]!, known, third)
      return
    }
    case 'unpin': {
      const reader = chosen(world.readers, first)
      if (reader) world.unpin(reader)
      return
    }
    case 'return':
      return world.giveBack(world.living[first]!)
    case 'ring': {
      const [timer] = world.timers.splice((first as number) % world.timers.length, 1)
      if (timer !== undefined) world.tell({ kind: 'timerRang', timer })
      return
    }
    case 'wrote':
      return world.wrote(first, (second as number) > 0)
    case 'read':
      return world.read(first, (second as number) > 0)
    case 'copy':
      return world.copy(world.living[first]!, second, third)
    case 'copyEnds':
      return world.copyEnds(first, second)
    case 'remake':
      return world.remake(world.living[first]!, second)
    case 'drop': {
      // The node of the primary copy says so when its owner freed it: nobody reads it then.
      const known = chosen(
        world.objects.filter(({ place, freed }) => !place && !freed),
        first,
      )
      if (!known || world.readers.some((reader) => reader.known === known)) return
      known.freed = true
      return world.tell({ kind: 'copiesDropped', names: [known] })
    }
    case 'role': {
      const known = chosen(
        world.objects.filter(({ place, freed }) => !place && !freed),
        first,
      )
      if (known) world.tell(second ? { kind: 'promoted', owner: known.owner, object: known.object, label: 'moved' } : { kind: 'demoted', ...known })
      return
    }
    case 'die':
      return world.die(first)
    default:
      throw new Error(String(what))
  }
}

/** Lets everything come to rest: messages arrive, files get made, timers ring. */
function rest(world: World): void {
  for (let i = 0; i < 3_000; i++) {
    const before = world.writing.length + world.reading.length + world.making.length
    for (const each of world.living) {
      const { sent, inbox } = world.writers.get(each)!
      while (sent.length + inbox.length > 0) {
        if (inbox.length > 0) world.receive(each)
        else world.deliver(each)
      }
    }
    if (world.making.length > 0) act(world, ['file', 0, 1])
    else if (world.writing.length > 0) world.wrote(0, true)
    else if (world.reading.length > 0) world.read(0, true)
    else if (world.copies.some(({ memory }) => memory)) world.copyEnds(0, true)
    else if (world.timers.length > 0) world.tell({ kind: 'timerRang', timer: world.timers.shift()! })
    else if (before === 0) return
  }
  throw new Error('it does not come to rest')
}

test.each([true, false])(
  'whatever happens in whatever order, readers see their objects, the books balance, and everybody is answered (spilling: %s)',
  (spill) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 250, size: 'max' }), (steps) => {
        const world = new World(spill)
        for (const each of steps) act(world, each)
        rest(world)
        expect(world.requests.size).toBe(0)
        expect(world.directory.usage.waiting).toBe(0)
        while (world.readers.length > 0) {
          // Some wait for others to end, as arguments of tasks that have not started do.
          const reading = world.readers.filter(({ memory }) => memory)
          expect(reading).not.toEqual([])
          for (const reader of reading) world.unpin(reader)
          rest(world)
        }
        for (const seat of SEATS) world.die(seat)
        rest(world)
        expect(world.directory.usage).toMatchObject({ objects: 0, liveBytes: 0, spilledBytes: 0, spillFileBytes: 0, pinnedBytes: 0, copyBytes: 0 })
        expect(world.files.size).toBe(0)
      }),
      { numRuns: 200 },
    )
  },
)
