/**
 * What the head makes durable, one record per thing: JSON with a version, bytes as base64. Reading an older version is the work of the newer one.
 */
import type { NodeInfo } from '../net/gen/mesh.ts'
import type { ActorCreate, Failure, Resources } from '../net/gen/node.ts'
import type { Job } from './events.ts'

const VERSION = 1

export interface NodeRecord {
  readonly info: NodeInfo
  readonly state: 'ALIVE' | 'DRAINING' | 'DEAD'
  readonly reason: string
  /** That its head gave it: the next one may give shorter ones. */
  readonly leaseMs: number
}

export interface ActorRecord {
  readonly id: string
  readonly namespace: string
  readonly create: ActorCreate
  readonly owner: string
  readonly job: Job
  readonly node: string
  readonly attempt: number
  readonly incarnation: number
  readonly restarts: number
  readonly ran: boolean
  readonly dead: boolean
  readonly cause: Failure | undefined
  readonly error: Uint8Array
  readonly aliases: readonly string[]
}

export interface GroupRecord {
  readonly id: string
  readonly name: string
  readonly strategy: string
  readonly bundles: readonly Resources[]
  readonly selectors: readonly Readonly<Record<string, string>>[]
  readonly detached: boolean
  readonly owner: string
  readonly state: string
  readonly nodes: readonly string[]
  readonly committed: readonly number[]
  readonly attempt: number
}

export const encodeRecord = (record: object): string => JSON.stringify({ v: VERSION, ...record })

/** Undefined for what is no record of a version that is known. */
export function decodeRecord<T>(text: string): T | undefined {
  try {
    const record = JSON.parse(text) as T & { v: number }
    return record.v === VERSION ? record : undefined
  } catch {
    return undefined
  }
}

const toText = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
const toBytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'base64'))

interface ActorText extends Omit<ActorRecord, 'create' | 'error'> {
  readonly create: Omit<ActorCreate, 'creation' | 'handle'>
  readonly creation: string
  readonly handle: string
  readonly error: string
}

export function encodeActor(record: ActorRecord): string {
  const { creation, handle, ...create } = record.create
  return encodeRecord({ ...record, create, creation: toText(creation), handle: toText(handle), error: toText(record.error) })
}

export function decodeActor(text: string): ActorRecord | undefined {
  const record = decodeRecord<ActorText>(text)
  if (record === undefined) return undefined
  const { creation, handle, error, create, ...rest } = record
  return { ...rest, create: { ...create, creation: toBytes(creation), handle: toBytes(handle) }, error: toBytes(error) }
}
