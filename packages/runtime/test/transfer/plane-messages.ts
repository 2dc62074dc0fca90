/** What a test and the processes of plane-node.ts say to each other, and what is in their objects. */
import { createCipheriv, createHash } from 'node:crypto'
import type { MeshMessage } from '../../src/net/gen/mesh.ts'
import type { NodeMessage, ObjectPin } from '../../src/net/gen/node.ts'
import type { ObjectName } from '../../src/transfer/copy-store.ts'
import type { PlaneCounts, PlaneNode } from '../../src/transfer/object-plane.ts'

type MeshBody = NonNullable<MeshMessage['body']>
type NodeBody = NonNullable<NodeMessage['body']>

export type Order =
  | { kind: 'nodes'; nodes: PlaneNode[] }
  | { kind: 'put'; order: number; name: ObjectName; bytes: number }
  | { kind: 'pin'; process: string; pin: ObjectPin }
  | { kind: 'unpin'; process: string; pin: number }
  | { kind: 'mesh'; from: string; body: MeshBody }
  | { kind: 'node-lost' | 'died-before'; node: string }
  | { kind: 'free' | 'freed-on-lost-node'; name: ObjectName }
  | { kind: 'recover'; process: string; request: number; object: number; lostNode: string }
  | { kind: 'process-gone'; process: string }
  | { kind: 'drain'; order: number; deadlineMs: number }
  | { kind: 'look' | 'close'; order: number }

export type Tale =
  | { kind: 'listening'; address: string }
  | { kind: 'to-node'; node: string; body: MeshBody }
  | { kind: 'to-process'; process: string; body: NodeBody }
  | { kind: 'done'; order: number; result: unknown }

export interface Look {
  readonly counts: PlaneCounts
  readonly objects: readonly { key: string; state: string; pins: number }[]
}

/** Bytes that nobody could have by chance, different for every object. */
export function contentOf({ owner, object }: ObjectName, bytes: number): Buffer {
  const key = createHash('sha256').update(`${owner}:${object}`).digest().subarray(0, 16)
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes))
}
