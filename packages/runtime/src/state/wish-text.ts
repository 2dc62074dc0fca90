/** Where something must run, in words. */
import { formatLabels } from './labels.ts'
import type { Wish } from './policy.ts'

/** " on a node with zone=a", or "" for any node. */
export function wishText(wish: Wish): string {
  const parts: string[] = []
  if (wish.node !== '' && !wish.soft) parts.push(` on node ${wish.node}`)
  if (Object.keys(wish.labels).length > 0) parts.push(` on a node with ${formatLabels(wish.labels)}`)
  return parts.join('')
}
