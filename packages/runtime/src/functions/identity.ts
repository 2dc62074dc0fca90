/**
 * One class, one object: a class that arrives in several payloads is the same class in a worker. Pure.
 *
 * Two class nodes are the same when everything that they lead to is. Captured data and handles may change, so classes that lead to
 * some are the same only within one payload.
 */
import { hash as digest } from 'node:crypto'
import { encodeInline } from '../objects/codec.ts'
import { type Node, type Ref, refsOf } from './payload.ts'

/** A hash of a node and all that it leads to; undefined where that is not constant. */
export function identityOf(nodes: readonly Node[], start: number): string | undefined {
  const order: number[] = [start]
  const local = new Map([[start, 0]])
  const rename = (ref: Ref): Ref | undefined => {
    if ('data' in ref || 'external' in ref) return undefined
    if (!('node' in ref)) return ref
    let index = local.get(ref.node)
    if (index === undefined) {
      index = order.push(ref.node) - 1
      local.set(ref.node, index)
    }
    return { node: index }
  }
  const parts: unknown[] = []
  for (const index of order) {
    const node = nodes[index] as Node
    if (node.kind === 'remote') {
      const options = node.options.map((option) => ({ ...option, ref: rename(option.ref) }))
      if (options.some((option) => option.ref === undefined)) return undefined
      parts.push({ ...node, target: rename({ node: node.target }), options })
      continue
    }
    if (node.kind === 'object') {
      const refs = refsOf(node).map(rename)
      // others may change, like data
      if (node.isExtensible || refs.includes(undefined)) return undefined
      parts.push({ ...node, prototype: undefined, properties: node.properties.map(({ key }) => key), refs })
      continue
    }
    if (node.kind !== 'function') {
      parts.push(node)
      continue
    }
    const refs = node.refs.map(rename)
    const properties = node.properties.map((property) => ({ ...property, ref: rename(property.ref) }))
    if (refs.includes(undefined) || properties.some((property) => property.ref === undefined)) return undefined
    parts.push({ ...node, refs, properties, identity: undefined })
  }
  return digest('sha256', encodeInline(parts, 'a class'), 'hex').slice(0, 32)
}
